"""Rollouts: what is handed out is what was put in, by seed, environment and time."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.replay.row_layout import RowLayout
from offrl.types import Spec

SEEDS, ENVIRONMENTS, STEPS = 2, 3, 4
STREAMS = SEEDS * ENVIRONMENTS
SPEC = Spec(
    gym.spaces.Dict({"place": gym.spaces.Box(-9, 9, (2,)), "pixels": gym.spaces.Box(0, 255, (1, 2), np.uint8)}),
    gym.spaces.Box(-1, 1, (1,)),
)


def shown(time: float) -> dict[str, np.ndarray]:
    """Observations that say in which stream and when they were made."""
    streams = np.arange(STREAMS)
    return {
        "observation.place": np.stack([streams, np.full(STREAMS, time)], axis=1).astype(np.float32),
        "observation.pixels": np.full((STREAMS, 1, 2), int(10 * time), np.uint8),
    }


def fill(buffer: RolloutBuffer, start: int) -> None:
    for t in range(start, start + STEPS):
        buffer.append(
            action=np.full((STREAMS, 1), t / 10, np.float32),
            reward=np.arange(STREAMS) + 100.0 * t,
            terminated=np.arange(STREAMS) == t,
            truncated=np.arange(STREAMS) == t + 1,
            next_observation=shown(t + 0.5),
            reset_observation=shown(t + 1),
        )


def test_steps_come_back_in_order() -> None:
    buffer = RolloutBuffer(RowLayout.of(SPEC), SEEDS, ENVIRONMENTS, STEPS, 0.9)
    buffer.begin(shown(0))
    for start in (0, STEPS):
        fill(buffer, start)
        batch = buffer.take()
        times = torch.arange(start, start + STEPS, dtype=torch.float32).expand(SEEDS, ENVIRONMENTS, -1)
        streams = torch.arange(STREAMS, dtype=torch.float32).view(SEEDS, ENVIRONMENTS, 1).expand(-1, -1, STEPS)
        assert isinstance(batch.observation, dict)
        assert isinstance(batch.next_observation, dict)
        assert torch.equal(batch.observation["place"], torch.stack([streams, times], dim=-1))
        assert torch.equal(batch.next_observation["place"], torch.stack([streams, times + 0.5], dim=-1))
        assert torch.equal(batch.observation["pixels"][..., 0, 1].float(), 10 * times)
        assert torch.equal(batch.next_observation["pixels"][..., 0, 0].float(), 10 * times + 5)
        torch.testing.assert_close(batch.action[..., 0], times / 10)
        assert torch.equal(batch.reward, streams + 100 * times)
        assert torch.equal(batch.terminated, (streams == times).float())
        assert torch.equal(batch.truncated, (streams == times + 1).float())
        torch.testing.assert_close(batch.discount, 0.9 * (streams != times).float())


def test_a_batch_keeps_its_values_when_the_next_steps_are_written() -> None:
    buffer = RolloutBuffer(RowLayout.of(SPEC), SEEDS, ENVIRONMENTS, STEPS, 0.9)
    buffer.begin(shown(0))
    fill(buffer, 0)
    batch = buffer.take()
    before = batch.reward.clone()
    fill(buffer, STEPS)
    assert torch.equal(batch.reward, before)


def test_a_cut_forgets_a_rollout_that_is_not_full() -> None:
    buffer = RolloutBuffer(RowLayout.of(SPEC), SEEDS, ENVIRONMENTS, STEPS, 0.9)
    buffer.begin(shown(0))
    fill(buffer, 20)
    buffer.cut()
    buffer.begin(shown(7))
    fill(buffer, 7)
    assert buffer.take().reward[0, 0].tolist() == [700.0, 800.0, 900.0, 1000.0]
