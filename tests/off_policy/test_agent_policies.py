"""An agent's actions and probabilities at the rows of a log."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.agents.bc import BC, BCConfig
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.envs.policy import Actor, Policy
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.read_log import read_log
from offrl.types import Spec
from tests.off_policy.runs import make_logs, policies


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_logs` makes."""
    return make_logs(tmp_path_factory.mktemp("ope"))


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
        acted = Actor(loaded.policy, store.num_rows).greedy(observation).reshape(2, -1)[position]
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
    (sampled,) = AgentPolicies(policy, ["bc"], stochastic=True, has_density=True).choices(store, draws=1, seed=0)
    (greedy,) = AgentPolicies(policy, ["bc"]).choices(store, draws=1, seed=0)
    assert sampled.log_prob is not None
    assert greedy.log_prob is not None
    seen = torch.from_numpy(np.asarray(logged.observation)[logged.row])[None]
    wanted = agent.log_prob(policy.state, seen, torch.from_numpy(logged.action)[None], ())[0]
    np.testing.assert_allclose(sampled.log_prob, wanted, rtol=1e-5)
    same = (agent.act(policy.state, seen, ())[0][0].numpy() == logged.action).all(axis=1)
    np.testing.assert_array_equal(greedy.log_prob == 0.0, same)
    acted = agent.act(policy.state, torch.from_numpy(np.asarray(logged.observation))[None], ())[0][0].numpy()
    wanted_vectors = np.concatenate([np.eye(2)[acted[:, 0]], np.eye(3)[acted[:, 1]]], axis=1)
    assert greedy.actions is not None
    np.testing.assert_array_equal(greedy.actions, wanted_vectors[None])
    assert sampled.actions is not None
    assert sampled.actions.shape == (1, 22, 5)
    names = ["is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "fqe"]
    found = evaluate(logged, [Target("bc", sampled)], Plan(resamples=60, fqe=FQEConfig(steps=20)))
    assert [each.name for each in found.policies[0].estimates] == names
