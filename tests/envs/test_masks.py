"""Acting where only some actions are allowed: what is collected, kept and drawn, beside what the observation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.config.recipe import recipe_from_dict
from offrl.data import schema
from offrl.data.store import TrajectoryStore
from offrl.envs.collector import Collector, StepSink
from offrl.envs.episodes import single_episode
from offrl.envs.evaluator import evaluate, evaluate_random
from offrl.envs.exploration import random_actions
from offrl.envs.make import environment_spec, tells_of_masks
from offrl.envs.policy import Actor, Policy
from offrl.envs.starts import Purpose, Starts
from offrl.plugins import algorithms
from offrl.replay.ring import OnlineRing
from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.replay.row_layout import RowLayout
from offrl.replay.sampler import ReplaySampler
from offrl.runs.load import fresh_policy
from offrl.runs.recorder import EpisodeRecorder
from tests.envs.menus import DISHES, MENU, STEPS, VALUES, Menu

SEEDS, COPIES = [3, 8], 2
MASKED = RowLayout.of(environment_spec(MENU), [schema.ColumnSpec(schema.ACTION_MASK, np.dtype(np.bool_), (DISHES,))])


def menu_policy(algo: str = "dqn") -> Policy:
    algorithm = algorithms[algo]
    agent = algorithm.build(algorithm.config(), environment_spec(MENU))
    recipe = recipe_from_dict({"algo": algo, "env": MENU, "seeds": SEEDS})
    return fresh_policy(algorithm, agent, recipe, torch.device("cpu"), None)


def collect(sink: StepSink, steps: int, recorder: EpisodeRecorder | None = None) -> Collector:
    """Random allowed dishes, restarted once on the way; the environment itself objects to others."""
    collector = Collector(MENU, menu_policy(), sink, SEEDS, COPIES, recorder=recorder)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step in (0, steps // 2):
            collector.restart(step)
        draws = torch.randn(len(SEEDS), COPIES, DISHES, generator=generator)
        collector.step(random_actions(collector.policy.agent.spec, draws, collector.action_mask))
    return collector


def offered(observation: Tensor) -> Tensor:
    """What the observation says; all, where nothing is offered any more."""
    mask = observation[..., :DISHES] == 1.0
    return mask | ~mask.any(dim=-1, keepdim=True)


@pytest.mark.parametrize("capacity", [400, 26])
def test_a_ring_gives_every_transition_its_masks(capacity: int) -> None:
    """Of two environments for each seed; 26 rows are overwritten many times, 400 never."""
    ring = OnlineRing(MASKED, len(SEEDS), COPIES, capacity)
    collect(ring, 90)
    sampler = ReplaySampler([ring], batch_size=64, seeds=SEEDS)
    batch = sampler.sample(20)
    assert isinstance(batch.observation, Tensor)
    assert isinstance(batch.next_observation, Tensor)
    assert batch.action_mask is not None
    assert batch.next_action_mask is not None
    torch.testing.assert_close(batch.action_mask, offered(batch.observation))
    torch.testing.assert_close(batch.next_action_mask, offered(batch.next_observation))
    assert batch.action_mask.gather(-1, batch.action.unsqueeze(-1) - 2).all()
    assert not batch.action_mask.all()
    assert not batch.next_action_mask.all()


def test_a_ring_without_masks_takes_steps_with_them() -> None:
    ring = OnlineRing(RowLayout.of(environment_spec(MENU)), len(SEEDS), COPIES, 400)
    collect(ring, 30)
    assert ReplaySampler([ring], batch_size=8, seeds=SEEDS).sample(1).action_mask is None


def test_a_ring_with_masks_takes_steps_without_them() -> None:
    """As in fine-tuning on a dataset that has masks in an environment that tells of none: all actions are allowed."""
    ring = OnlineRing(MASKED, 1, 1, 20)
    shown = {"observation": np.zeros((1, DISHES + 2), np.float32)}
    ring.begin(shown)
    flag = np.zeros(1, np.bool_)
    ring.append(np.array([3]), np.zeros(1), flag, flag, shown, shown)
    batch = ReplaySampler([ring], batch_size=2, seeds=[0]).sample(1)
    assert batch.action_mask is not None
    assert batch.next_action_mask is not None
    assert batch.action_mask.all()
    assert batch.next_action_mask.all()


def test_a_rollout_has_its_masks() -> None:
    buffer = RolloutBuffer(MASKED, len(SEEDS), COPIES, 15, 0.99)
    collect(buffer, 30)
    batch = buffer.take()
    assert batch.action_mask is not None
    torch.testing.assert_close(batch.action_mask, offered(torch.as_tensor(batch.observation)))
    assert not batch.action_mask.all()


def test_masks_are_recorded(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path / "replay", environment_spec(MENU), MENU, SEEDS, COPIES, {})
    collect(OnlineRing(MASKED, len(SEEDS), COPIES, 400), 40, recorder)
    recorder.commit()
    recorder.close()
    store = TrajectoryStore.open(tmp_path / "replay")
    rows = store.num_rows
    masks, shown = store.read("action_mask", 0, rows), store.read("observation", 0, rows)
    np.testing.assert_array_equal(masks, shown[:, :DISHES] == 1.0)


class Deaf:
    """Takes whatever comes first, and is not told what is allowed."""

    spec = environment_spec("CliffWalking-v1")

    def initial_carry(self, state: None, count: int) -> tuple[()]:
        return ()

    def act(
        self,
        state: None,
        observation: Tensor,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        assert action_mask is None
        return torch.zeros(observation.shape[:2], dtype=torch.int64), carry


def test_an_agent_that_knows_no_masks_is_told_of_none() -> None:
    agent: Any = Deaf()
    policy = Policy(agent, None, 1, torch.device("cpu"), None, None)
    assert Actor(policy, 3).greedy(np.zeros(3, np.int64), np.zeros((3, 4), np.bool_)).tolist() == [0, 0, 0]
    assert not policy.masks


def test_an_evaluation_takes_what_is_allowed() -> None:
    evaluation = evaluate(menu_policy(), MENU, 12, Starts(Purpose.FINAL, tuple(SEEDS)))
    assert (evaluation.lengths == STEPS).all()
    random = evaluate_random(MENU, 200)
    assert abs(random.returns.mean() / STEPS - expected_random()) < 0.02


def expected_random() -> float:
    """Mean reward of a random allowed dish: a mask has one dish for certain and each other with a chance of a half."""
    total = 0.0
    for certain in range(DISHES):
        for others in np.ndindex(*[2] * DISHES):
            mask = np.array(others, bool)
            mask[certain] = True
            total += VALUES[mask].mean() / DISHES / 2**DISHES
    return total


def test_a_single_episode_takes_what_is_allowed() -> None:
    environment = gym.make(MENU)
    assert isinstance(environment.unwrapped, Menu)
    assert len(list(single_episode(menu_policy(), 1, environment, 0))) == STEPS


def test_environments_are_asked_for_masks() -> None:
    assert tells_of_masks(MENU)
    assert tells_of_masks("Taxi-v4")
    assert not tells_of_masks("CartPole-v1")
    assert not tells_of_masks("Pendulum-v1")


def test_random_actions_are_allowed_ones_and_equally_likely() -> None:
    spec = environment_spec(MENU)
    masks = np.tile([True, False, True, True], (3_000, 1))
    draws = torch.randn(1, 3_000, DISHES, generator=torch.Generator().manual_seed(1))
    shares = random_actions(spec, draws, masks).flatten().bincount(minlength=6)[2:] / 3_000
    np.testing.assert_allclose(shares, [1 / 3, 0.0, 1 / 3, 1 / 3], atol=0.03)
