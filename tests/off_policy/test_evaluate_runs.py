"""Runs valued from logs: an agent's probabilities at the log's rows, and what it earns where it acts itself."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.agents.bc import BC, BCConfig
from offrl.collection.collect import collect, collect_random
from offrl.config.recipe import recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.envs.policy import Policy
from offrl.errors import RequestError, SpaceMismatchError
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.off_policy.behavior_policy import BehaviorConfig
from offrl.off_policy.choices import Choices
from offrl.off_policy.dataset import read_log
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.evaluate import Plan, Target, evaluate
from offrl.off_policy.evaluate_runs import Acting, Trial, evaluate_policies, true_returns
from offrl.off_policy.features import one_hot_each
from offrl.off_policy.fqe import FQEConfig, fit_q
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from offrl.types import Spec
from tests.training.runs import bc_recipe, make_demonstrations, sac_recipe

PLAN = Plan(estimators=["is", "wis"], horizon=10, resamples=60, fqe=FQEConfig(hidden=(8,), steps=20))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random actions in CartPole; a stochastic PPO's of two seeds; and Pendulum's."""
    root = tmp_path_factory.mktemp("ope")
    collect_random("CartPole-v1", episodes=30, destination=root / "random")
    ppo = {
        "algo": "ppo",
        "env": "CartPole-v1",
        "steps": 128,
        "seeds": [0, 1],
        "agent": {"rollout_steps": 64, "hidden": [8], "initial_log_std": 0.0},
        "online": {"environments": 1},
        "evaluation": {"every": 0, "final_episodes": 1},
    }
    run = train(recipe_from_dict(ppo), root / "ppo")
    collect(run, episodes=4, destination=root / "own", stochastic=True)
    make_demonstrations(root / "pendulum", episodes=6, length=20)
    train(bc_recipe(root / "pendulum", steps=20, env="none"), root / "bc")
    train(sac_recipe(steps=80, seeds=[0]), root / "sac")
    collect(Run.open(root / "sac"), episodes=2, destination=root / "by-sac", stochastic=True)
    return root


def policies(logs: Path, name: str, **options: float) -> AgentPolicies:
    policy, _ = load_policy(Run.open(logs / name), "last")
    return AgentPolicies(policy, [f"seed {i}" for i in range(policy.seeds)], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "log"), [("ppo", "own"), ("sac", "by-sac")])
def test_logged_probabilities_are_found_again(logs: Path, run: str, log: str) -> None:
    """What a policy logged while it acted is what is found for it at the log's rows."""
    store = TrajectoryStore.open(logs / log)
    choices = policies(logs, run, stochastic=True).choices(store, draws=2, seed=0)
    own = [int(str(store.episodes.source(i)).split()[-1]) for i in range(store.num_episodes)]
    steps = np.repeat(own, store.episodes.length)
    rows = np.arange(store.num_steps) + np.repeat(np.arange(store.num_episodes), store.episodes.length)
    logged = store.read("behavior_log_prob", 0, store.num_rows)[rows]
    found = np.stack([each.log_prob for each in choices])[steps, np.arange(store.num_steps)]
    np.testing.assert_allclose(found, logged, atol=2e-3)


def test_probabilities_of_all_actions_and_of_greedy_ones(logs: Path) -> None:
    store = TrajectoryStore.open(logs / "random")
    sampled = policies(logs, "ppo", stochastic=True).choices(store, draws=1, seed=0)
    greedy = policies(logs, "ppo").choices(store, draws=1, seed=0)
    mixed = policies(logs, "ppo", epsilon=0.5).choices(store, draws=1, seed=0)
    for s, g, m in zip(sampled, greedy, mixed, strict=True):
        assert s.probabilities is not None
        assert g.probabilities is not None
        assert m.probabilities is not None
        np.testing.assert_allclose(s.probabilities.sum(axis=1), 1.0, rtol=1e-5)
        np.testing.assert_array_equal(g.probabilities, np.eye(2)[s.probabilities.argmax(axis=1)])
        np.testing.assert_allclose(m.probabilities, 0.5 * g.probabilities + 0.25)


def test_continuous_greedy_actions_are_the_agents(logs: Path) -> None:
    store = TrajectoryStore.open(logs / "pendulum")
    loaded = policies(logs, "bc")
    for position, each in enumerate(loaded.choices(store, draws=1, seed=0)):
        assert each.log_prob is None
        assert each.actions is not None
        observation = np.concatenate([store.read("observation", 0, store.num_rows)] * 2)
        acted = loaded.policy.act_greedily(observation).reshape(2, -1)[position]
        np.testing.assert_allclose(2.0 * each.actions[0, :, 0], acted, atol=1e-5)


def test_several_choices_at_once(tmp_path: Path) -> None:
    """Of logged actions, probabilities: a product for sampled ones, 0 or 1 for greedy ones. Of others, vectors."""
    spec = Spec(gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiDiscrete([2, 3]))
    generator = np.random.default_rng(0)
    action = np.stack([generator.integers(0, 2, 22), generator.integers(0, 3, 22)], axis=1)
    steps = ~np.isin(np.arange(22), [10, 21])
    columns = {
        "observation": generator.uniform(-1, 1, (22, 2)).astype(np.float32),
        "action": action * steps[:, None],
        "reward": 1.0 * steps,
        "terminated": np.zeros(22, bool),
        "truncated": np.isin(np.arange(22), [9, 20]),
        "behavior_log_prob": -np.log(6.0) * steps,
    }
    with StoreWriter(tmp_path / "log", spec) as writer:
        writer.append(EpisodeBlock(columns, np.array([10, 10])))
    agent = BC(BCConfig(hidden=(8,)), spec)
    policy = Policy(agent, agent.init([0], torch.device("cpu")), 1, torch.device("cpu"), None, None)
    store = TrajectoryStore.open(tmp_path / "log")
    logged = read_log(store)
    (sampled,) = AgentPolicies(policy, ["bc"], stochastic=True).choices(store, draws=1, seed=0)
    (greedy,) = AgentPolicies(policy, ["bc"]).choices(store, draws=1, seed=0)
    assert sampled.log_prob is not None
    assert greedy.log_prob is not None
    seen = torch.from_numpy(np.asarray(logged.observation)[logged.row])[None]
    wanted = agent.log_prob(policy.state, seen, torch.from_numpy(logged.action)[None])[0]
    np.testing.assert_allclose(sampled.log_prob, wanted, rtol=1e-5)
    same = (agent.act(policy.state, seen)[0].numpy() == logged.action).all(axis=1)
    np.testing.assert_array_equal(greedy.log_prob == 0.0, same)
    acted = agent.act(policy.state, torch.from_numpy(np.asarray(logged.observation))[None])[0].numpy()
    wanted_vectors = np.concatenate([np.eye(2)[acted[:, 0]], np.eye(3)[acted[:, 1]]], axis=1)
    assert greedy.actions is not None
    np.testing.assert_array_equal(greedy.actions, wanted_vectors[None])
    assert sampled.actions is not None
    assert sampled.actions.shape == (1, 22, 5)
    names = ["is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "fqe"]
    found = evaluate(logged, [Target("bc", sampled)], Plan(resamples=60, fqe=FQEConfig(steps=20)))
    assert [each.name for each in found.policies[0].estimates] == names


def test_values_of_several_choices_at_once() -> None:
    """A reward of 1 for one pair of six: the policy that always takes it earns 1, one that never does 0."""
    space = gym.spaces.MultiDiscrete([2, 3], start=[0, 1])
    count = 600
    generator = np.random.default_rng(0)
    action = np.stack([generator.integers(0, 2, count), generator.integers(1, 4, count)], axis=1)
    assert one_hot_each(space, np.array([[1, 1], [0, 3]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    log = EpisodeLog(
        1.0 * (action == [1, 2]).all(axis=1),
        None,
        None,
        np.arange(count + 1),
        np.ones(count, bool),
        np.zeros(count, bool),
        spaces=Spec(gym.spaces.Box(-1, 1, (1,)), space),
        observations=np.zeros((2 * count, 1), np.float32),
        taken=action,
    )
    choices = [
        Choices(actions=np.broadcast_to(one_hot_each(space, np.array(pair)), (1, 2 * count, 5)))
        for pair in ([1, 2], [0, 2])
    ]
    values = fit_q(log, choices, FQEConfig(hidden=(32,), steps=1_500), discount=1.0)
    np.testing.assert_allclose(values.v.mean(axis=1), [1.0, 0.0], atol=0.1)


def test_every_seed_is_a_policy_unless_one_is_chosen(logs: Path) -> None:
    found = evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN)
    assert [policy.name for policy in found.policies] == ["ppo seed 0", "ppo seed 1"]
    one = evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN, Acting(seed_index=1))
    assert one.policies[0].name == "ppo seed 1"
    assert one.policies[0].estimates[0].value == found.policies[1].estimates[0].value
    twice = evaluate_policies([logs / "ppo"] * 2, str(logs / "random"), PLAN, Acting(seed_index=0))
    assert [policy.name for policy in twice.policies] == ["0: ppo seed 0", "1: ppo seed 0"]
    with pytest.raises(RequestError, match="no seed 2"):
        evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN, Acting(seed_index=2))


def test_the_truth_is_discounted_and_cut_at_the_horizon(logs: Path) -> None:
    loaded = policies(logs, "ppo")
    plan = Plan(discount=0.5, horizon=3)
    returns = true_returns(loaded, (0, 1), Trial("CartPole-v1", 4), plan)
    np.testing.assert_allclose(returns, np.full((2, 4), 1.75))
    long = true_returns(loaded, (0, 1), Trial("CartPole-v1", 4), Plan(discount=1.0))
    assert long.min() > 5
    random = true_returns(policies(logs, "ppo", epsilon=1.0), (0, 1), Trial("CartPole-v1", 40), Plan(discount=1.0))
    assert random.mean() == pytest.approx(22.0, abs=5.0)
    found = evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN, trial=Trial("CartPole-v1", 4))
    assert found.policies[0].truth is not None
    assert found.policies[0].truth.value == pytest.approx((1 - 0.99**10) / 0.01, abs=1.5)
    assert found.agreement is None or math.isfinite(found.agreement.regret[0])


def test_what_cannot_be_valued_is_refused(logs: Path) -> None:
    random, pendulum = str(logs / "random"), str(logs / "pendulum")
    with pytest.raises(RequestError, match="no policy is named"):
        evaluate_policies([], random, PLAN)
    with pytest.raises(RequestError, match="no column 'behavior'"):
        evaluate_policies([], random, PLAN, column="behavior")
    with pytest.raises(SpaceMismatchError, match="the log"):
        evaluate_policies([logs / "ppo"], pendulum, PLAN)
    with pytest.raises(SpaceMismatchError, match="have no density"):
        evaluate_policies([logs / "bc"], pendulum, PLAN, Acting(stochastic=True))
    with pytest.raises(SpaceMismatchError, match="only discrete actions are mixed"):
        evaluate_policies([logs / "bc"], pendulum, PLAN, Acting(epsilon=0.1))
    with pytest.raises(RequestError, match="only runs can be tried out"):
        evaluate_policies([], random, PLAN, column="behavior_log_prob", trial=Trial("CartPole-v1"))


def test_the_behaviors_own_column_is_worth_its_own_return(logs: Path) -> None:
    found = evaluate_policies([], str(logs / "random"), PLAN, column="behavior_log_prob")
    (policy,) = found.policies
    assert policy.estimates[0].value == pytest.approx(found.behavior.value)
    assert policy.estimates[0].effective_sample_size == pytest.approx(found.episodes)


def test_smoothing_gives_a_density(logs: Path) -> None:
    behavior = BehaviorConfig(folds=2, hidden=(8,), steps=100, check_every=50)
    plan = dataclasses.replace(PLAN, estimators=["wis", "fqe"], may_estimate_behavior=True, behavior=behavior)
    found = evaluate_policies([logs / "bc"], str(logs / "pendulum"), plan, Acting(kernel_bandwidth=0.5))
    for policy in found.policies:
        assert policy.smoothing_bias is not None
        assert policy.estimates[0].effective_sample_size is not None
