"""A run's policy as programs call it: one or many raw observations, its memory, its frames, its masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl import plugins
from offrl.config.recipe import recipe_from_dict
from offrl.data.space_encoding import space_to_json
from offrl.envs.evaluator import evaluate
from offrl.envs.make import environment_spec
from offrl.envs.starts import Purpose, Starts
from offrl.errors import RequestError, SpaceMismatchError
from offrl.nn.state import state_tensors
from offrl.replay.normalization import ObservationNormalizer
from offrl.runs.load import fresh_policy, load_policy
from offrl.runs.run import Run
from tests.envs.counting import NESTED
from tests.envs.menus import MENU
from tests.runs.facts import facts_of


def untrained(path: Path, algo: str, env: str, **changes: Any) -> Run:
    """A run of random policies for an environment, at step 5; frames as `data.frame_stack` says."""
    recipe = recipe_from_dict({"algo": algo, "env": env, "seeds": [2, 7], "device": "cpu", **changes})
    spec = environment_spec(env).stacked(recipe.data.frame_stack)
    algorithm = plugins.algorithms[algo]
    policy = fresh_policy(algorithm, algorithm.build(recipe.agent, spec), recipe, torch.device("cpu"), None)
    generator = torch.Generator().manual_seed(1)
    for tensor in state_tensors(policy.state).values():
        if tensor.is_floating_point() and tensor.dim():
            tensor.detach().add_(0.2 * torch.randn(tensor.shape, generator=generator))
    parts = {"state": state_tensors(policy.state)}
    if env == "Pendulum-v1" and recipe.data.frame_stack == 1:
        parts["normalizer"] = ObservationNormalizer(np.arange(3), np.arange(1, 4) / 3).named_tensors()
    run = Run.create(path, recipe)
    facts = facts_of(5) | {
        "environment": env,
        "normalized": "normalizer" in parts,
        "observation_space": space_to_json(spec.observation_space),
        "action_space": space_to_json(spec.action_space),
    }
    run.save_checkpoint("last", 5, parts, facts)
    return run


def returns(run: Run, seed: int, resets: list[int], **options: Any) -> list[float]:
    """What a policy earns where a program steps the environment."""
    env, policy = gym.make(str(run.recipe.env)), run.policy(seed, **options)
    found = []
    for reset in resets:
        (observation, _), total, done = env.reset(seed=reset), 0.0, False
        policy.reset()
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, done = total + float(reward), terminated or truncated
        found.append(total)
    return found


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("position", [0, 1])
def test_it_acts_as_evaluation_does(tmp_path: Path, frames: int, position: int) -> None:
    run = untrained(tmp_path / "run", "td3", "Pendulum-v1", data={"frame_stack": frames})
    policy, _ = load_policy(run, "last")
    wanted = evaluate(policy, "Pendulum-v1", 2, Starts(Purpose.FINAL, run.recipe.seeds, 4)).returns[position]
    resets = Starts(Purpose.FINAL, (run.recipe.seeds[position],), 4).reset_seeds(2)
    assert returns(run, run.recipe.seeds[position], resets) == pytest.approx(wanted.tolist(), rel=1e-3)


def test_one_observation_or_many_in_the_environment_s_units(tmp_path: Path) -> None:
    policy = untrained(tmp_path / "run", "td3", "Pendulum-v1").policy()
    space = gym.make("Pendulum-v1").observation_space
    space.seed(0)
    observations = space.sample()[None] * np.linspace(0, 1, 5)[:, None]
    actions = policy(observations)
    assert (actions.shape, actions.dtype) == ((5, 1), np.float32)
    assert np.abs(actions).max() <= 2.0
    one = policy(observations[3])
    assert one.shape == (1,)
    np.testing.assert_allclose(one, actions[3], rtol=1e-5)
    np.testing.assert_allclose(policy(observations[3].tolist()), one)
    assert "seed 2, step 5" in repr(policy)


def test_each_seed_has_its_own_policy(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "td3", "Pendulum-v1")
    observation = np.array([0.6, 0.8, 1.0])
    assert run.policy(2)(observation) == run.policy()(observation) != run.policy(7)(observation)
    with pytest.raises(RequestError, match="no seed 3"):
        run.policy(3)


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((2, 2)), np.zeros((1, 1, 3)), 0.0])
def test_what_is_no_observation_is_refused(tmp_path: Path, wrong: Any) -> None:
    policy = untrained(tmp_path / "run", "td3", "Pendulum-v1").policy()
    with pytest.raises(SpaceMismatchError, match=r"\[3\]"):
        policy(wrong)


def test_nested_observations(tmp_path: Path) -> None:
    policy = untrained(tmp_path / "run", "td3", NESTED).policy()
    one = gym.make(NESTED).reset(seed=5)[0]
    many = {key: np.stack([np.asarray(part)] * 3) for key, part in one.items()}
    assert policy(one).shape == (2,)
    np.testing.assert_allclose(policy(many), np.stack([policy(one)] * 3), rtol=1e-5)


def test_discrete_actions_and_masks(tmp_path: Path) -> None:
    policy = untrained(tmp_path / "run", "dqn", MENU).policy()
    observation = np.zeros(6, np.float32)
    free = policy(observation)
    assert (np.shape(free), free in range(2, 6)) == ((), True)
    mask = np.ones(4, np.int8)
    mask[free - 2] = 0
    other = policy(observation, action_mask=mask)
    assert other != free
    both = policy(np.stack([observation] * 2), action_mask=[mask, np.ones(4)])
    assert both.tolist() == [other, free]


def test_samples_differ_and_greedy_actions_don_t(tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", "sac", "Pendulum-v1")
    observation = np.array([0.6, 0.8, 1.0])
    greedy, sampling = run.policy(), run.policy(stochastic=True)
    assert greedy(observation) == greedy(observation)
    drawn = [sampling(observation) for _ in range(3)]
    assert len({float(action[0]) for action in drawn}) == 3
    again = run.policy(stochastic=True)
    assert [again(observation) for _ in range(3)] == drawn
    assert "sampling" in repr(sampling)


def test_what_acting_remembers_is_that_of_each_episode(tmp_path: Path) -> None:
    agent = {"sde": True}
    run = untrained(tmp_path / "run", "sac", "Pendulum-v1", agent=agent)
    observation = np.array([[0.6, 0.8, 1.0]] * 2)
    policy = run.policy(stochastic=True)
    first = policy(observation)
    np.testing.assert_allclose(policy(observation), first)  # one random function of the state for an episode
    policy.reset([True, False])
    after = policy(observation)
    assert after[0] != first[0]
    assert after[1] == pytest.approx(first[1])
    with pytest.raises(RequestError, match="remembers 2 episodes"):
        policy(observation[0])
    policy.reset()
    assert policy(observation[0]).shape == (1,)


def test_frames_of_episodes_side_by_side(tmp_path: Path) -> None:
    policy = untrained(tmp_path / "run", "td3", "Pendulum-v1", data={"frame_stack": 2}).policy()
    old, new = np.array([0.06, 0.08, 0.1]), np.array([0.1, 0.0, -0.3])
    policy(np.stack([old, old]))
    policy.reset([False, True])
    moving, begun = policy(np.stack([new, new]))
    policy.reset()
    assert policy(new) == pytest.approx(begun, rel=1e-5)
    policy.reset()
    policy(old)
    assert policy(new) == pytest.approx(moving, rel=1e-5)
    assert moving != pytest.approx(begun, rel=1e-3)
