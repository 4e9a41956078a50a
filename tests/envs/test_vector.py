"""Copies of an environment, in one process or several, beside single ones stepped by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.envs.make import Environments, make_environments
from offrl.envs.vector import masks_told, tells_masks
from offrl.envs.worker_processes import ParallelEnvironments
from offrl.errors import EnvironmentFailedError
from tests.envs.counting import COUNTING, NESTED, Counting
from tests.envs.faulty import FAULT_STEP, HANGING, ends
from tests.envs.menus import DISHES, MENU, ODD, SHUT, STEPS

COPIES = 5


def assert_stacked(stacked: Any, singles: list[Any]) -> None:
    if isinstance(stacked, dict):
        for key, part in stacked.items():
            np.testing.assert_array_equal(part, np.stack([single[key] for single in singles]))
    else:
        np.testing.assert_array_equal(stacked, np.stack(singles))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("name", [COUNTING, NESTED])
def test_each_copy_is_an_environment_of_its_own(name: str, processes: int) -> None:
    environments = make_environments(name, COPIES, processes)
    singles = [Counting(nested=name == NESTED) for _ in range(COPIES)]
    shown = [single.reset(seed=seed)[0] for seed, single in enumerate(singles)]
    observation, mask = environments.reset(range(COPIES))
    assert_stacked(observation, shown)
    assert mask is None
    ends = 0
    for number in range(20):
        action = np.arange(2 * COPIES, dtype=np.float32).reshape(COPIES, 2) + number
        step = environments.step(action)
        taken = [single.step(each) for single, each in zip(singles, action, strict=True)]
        assert step.reward.tolist() == [reward for _, reward, *_ in taken]
        assert step.terminated.tolist() == [terminated for _, _, terminated, *_ in taken]
        assert step.truncated.tolist() == [truncated for *_, truncated, _ in taken]
        assert_stacked(step.next_observation, [following for following, *_ in taken])
        done = step.terminated | step.truncated
        ends += int(done.sum())
        pairs = zip(singles, taken, done, strict=True)
        assert_stacked(step.observation, [single.reset()[0] if end else taken[0] for single, taken, end in pairs])
        assert (step.observation is step.next_observation) == (not done.any())
        assert step.action_mask is step.next_action_mask is None
    assert ends > COPIES
    environments.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_horizon_hides_where_episodes_end(processes: int) -> None:
    """The first episodes of identity 2 take 7 and 5 steps, and the third one 3: rewards tell which one it is."""
    environments = make_environments(COUNTING, 2, processes, horizon=10)
    environments.reset([2, 2])
    steps = [environments.step(np.zeros((2, 2), np.float32)) for _ in range(20)]
    assert not any(step.terminated.any() for step in steps)
    assert [bool(step.truncated.all()) for step in steps] == [number in (9, 19) for number in range(20)]
    rewards = [*range(7), *range(100, 103), *range(200, 203), *range(300, 301), *range(400, 406)]
    assert [step.reward.tolist() for step in steps] == [[reward, reward] for reward in rewards]
    # Within an episode, what is shown next is what is acted on; behind the horizon it is the next episode's start.
    assert steps[6].next_observation is steps[6].observation
    assert steps[6].observation[0].tolist() == [2.0, 1.0, 0.0]
    assert steps[9].next_observation[0].tolist() == [2.0, 1.0, 3.0]
    assert steps[9].observation[0].tolist() == [2.0, 2.0, 0.0]
    environments.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_actions_are_handed_out_whole(processes: int) -> None:
    environments = make_environments("CartPole-v1", 3, processes)
    environments.reset([1, 2, 3])
    step = environments.step(np.array([0, 1, 0]))
    # Pushed to the left, the cart's velocity falls; to the right it rises.
    assert np.sign(step.observation[:, 1]).tolist() == [-1.0, 1.0, -1.0]
    environments.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_newest_observations_are_shown_together(processes: int) -> None:
    environments = make_environments(COUNTING, 2, processes, frame_stack=3)
    assert environments.single_observation_space.shape == (3, 3)
    shown, _ = environments.reset([3, 3])
    # Identity 3, episode 0: the step count is the last component; the first observation fills the stack.
    assert shown[:, :, 2].tolist() == [[0, 0, 0]] * 2
    for _ in range(2):
        step = environments.step(np.zeros((2, 2)))
    assert step.next_observation[:, :, 2].tolist() == [[0, 1, 2]] * 2
    environments.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_allowed_comes_with_what_is_shown(processes: int) -> None:
    environments = make_environments(MENU, 3, processes)
    observation, mask = environments.reset([1, 2, 3])
    closed = 0
    for _ in range(4 * STEPS):
        np.testing.assert_array_equal(mask, observation[:, :DISHES] == 1.0)
        step = environments.step(2 + mask.argmax(axis=1))
        np.testing.assert_array_equal(step.next_action_mask, step.next_observation[:, :DISHES] == 1.0)
        closed += int((~step.next_action_mask.any(axis=1)).sum())
        observation, mask = step.observation, step.action_mask
    assert 0 < closed < 3 * 4
    environments.close()


def test_a_horizon_leaves_the_mask_of_the_episode_that_begins() -> None:
    environments = make_environments(MENU, 1, horizon=4 * STEPS)
    observation, mask = environments.reset([5])
    for _ in range(4 * STEPS):
        np.testing.assert_array_equal(mask, observation[:, :DISHES] == 1.0)
        assert mask is not None
        step = environments.step(2 + mask.argmax(axis=1))
        observation, mask = step.observation, step.action_mask


def test_where_nothing_is_allowed_nothing_can_be_done() -> None:
    environments = make_environments(SHUT, 2)
    _, mask = environments.reset([1, 2])
    assert mask is not None
    with pytest.raises(EnvironmentFailedError, match="forbids every action"):
        environments.step(2 + mask.argmax(axis=1))


def test_a_mask_of_other_actions_is_refused() -> None:
    with pytest.raises(EnvironmentFailedError, match="not of its 4 actions"):
        make_environments(ODD, 2).reset([1, 2])


def test_infos_of_that_name_say_nothing_of_actions_that_are_not_single() -> None:
    assert not tells_masks(gym.spaces.MultiDiscrete([2, 3]), [{"action_mask": [1, 1, 0, 0, 1]}])
    assert tells_masks(gym.spaces.Discrete(3), [{}, {"action_mask": [1, 1, 0]}])
    assert masks_told(gym.spaces.Discrete(3), [{}, {"action_mask": [1, 1, 0]}]).tolist() == [
        [True] * 3,
        [True, True, False],
    ]


class Failing(Counting):
    """Fails at an action above 99; ends its process at one above 999."""

    def step(self, action: Any) -> Any:
        if action[1] > 999:
            os._exit(3)
        if action[1] > 99:
            raise ValueError("the joint is broken")
        return super().step(action)


gym.register("offrl-test/Failing-v0", entry_point=Failing, disable_env_checker=True)


def failing(action: float) -> tuple[Environments, np.ndarray[Any, Any]]:
    environments = make_environments("offrl-test/Failing-v0", 2, 2)
    assert isinstance(environments, ParallelEnvironments)
    environments.reset([0, 1])
    return environments, np.array([[0.0, 0.0], [0.0, action]])


def test_an_error_in_another_process_is_told() -> None:
    environments, action = failing(100.0)
    with pytest.raises(EnvironmentFailedError, match="the joint is broken"):
        environments.step(action)
    environments.step(np.zeros((2, 2)))
    environments.close()


def test_the_end_of_another_process_is_told() -> None:
    environments, action = failing(1000.0)
    with pytest.raises(EnvironmentFailedError, match="has ended"):
        environments.step(action)
    environments.close()


def test_a_copy_that_hangs_keeps_nobody_from_closing() -> None:
    environments = make_environments(HANGING, 2, 2)
    assert isinstance(environments, ParallelEnvironments)
    environments.reset([0, 1])
    environments._send(environments.connections[0], ("step", np.zeros(1, np.int64)))
    for _ in range(FAULT_STEP - 1):
        environments._send(environments.connections[0], ("step", np.zeros(1, np.int64)))
    started = time.monotonic()
    environments.close()
    assert time.monotonic() - started < 5.0
    assert not any(worker.is_alive() for worker in environments.workers)


PARENT = """
import sys
from tests.envs import faulty
from offrl.envs.make import make_environments

if __name__ == "__main__":
    environments = make_environments(faulty.HANGING, 2, 2)
    environments.reset([0, 1])
    print(environments.workers[0].pid, flush=True)
    for _ in range(faulty.FAULT_STEP):
        environments._send(environments.connections[0], ("step", [0]))
    sys.stdin.read()
"""


def test_no_process_outlives_the_one_that_was_killed(tmp_path: Path) -> None:
    """The other one hangs in a step by then."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.5)
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert ends(worker, 10.0)
