"""What environments hand over is what their spaces promise, or an error by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.envs.episodes import single_episode
from offrl.envs.make import Environments, make_environments
from offrl.envs.vector import SerialEnvironments
from offrl.errors import EnvironmentFailedError
from tests.envs.counting import constant_policy
from tests.envs.faulty import BOX, FAULT_STEP, FAULTY, RIGHT, UNSAFE, Faulty, step_with

NAN = np.full(3, np.nan, np.float32)


def _parts(**changes: Any) -> Any:
    return {**RIGHT["parts"], **changes}


def _raises(right: Any) -> Any:
    raise ZeroDivisionError("no ground")


WRONG = [
    ("box", step_with(shown=NAN), "nan"),
    ("box", step_with(shown=np.array([0, np.inf, 0], np.float32)), "inf"),
    ("box", step_with(shown=np.array([0, 1e300, 0])), "1.e+300"),
    ("wide", step_with(shown=np.array([0, 1e300, 0])), "1.e+300"),
    ("box", step_with(shown=np.zeros(1, np.float32)), "shape (1,)"),
    ("box", step_with(shown=np.zeros((1, 3), np.float32)), "shape (1, 3)"),
    ("box", step_with(shown=np.zeros(4, np.float32)), "shape (4,)"),
    ("box", step_with(shown=0.0), "0.0"),
    ("box", step_with(shown=None), "None"),
    ("box", step_with(shown="abc"), "'abc'"),
    ("box", step_with(shown=[0.0, [1.0], 2.0]), "[0.0, [1.0], 2.0]"),
    ("box", step_with(shown=np.zeros(3, np.complex64)), "complex64"),
    ("box", step_with(shown=np.array([1, 2, 2**24 + 1])), "int64 doesn't become float32"),
    ("image", step_with(shown=np.full((2, 2), 0.5)), "float64 doesn't become uint8"),
    ("image", step_with(shown=np.full((2, 2), 256)), "int64 doesn't become uint8"),
    ("image", step_with(shown=np.full((2, 2), -1)), "int64 doesn't become uint8"),
    ("number", step_with(shown=0), "Discrete(4, start=1)"),
    ("number", step_with(shown=5), "Discrete(4, start=1)"),
    ("number", step_with(shown=1.5), "1.5"),
    ("number", step_with(shown=np.array([1])), "[1]"),
    ("numbers", step_with(shown=np.array([0, 3])), "MultiDiscrete"),
    ("bits", step_with(shown=np.array([0, 2])), "MultiBinary"),
    ("parts", step_with(shown={"camera": np.zeros(3, np.float32)}), "mode"),
    ("parts", step_with(shown=RIGHT["box"]), "camera"),
    ("parts", step_with(shown=_parts(camera=NAN)), "observation.camera [nan"),
    ("parts", step_with(shown=_parts(mode=(0, NAN))), "observation.mode.1 [nan"),
    ("parts", step_with(shown=_parts(mode=(0,))), "2 parts"),
    ("box", step_with(reward=float("nan")), "reward nan"),
    ("box", step_with(reward=float("-inf")), "reward -inf"),
    ("box", step_with(reward=1e308), "reward 1e+308"),
    ("box", step_with(reward="1"), "reward '1'"),
    ("box", step_with(reward=None), "reward None"),
    ("box", step_with(reward=np.ones(1)), "reward [1.]"),
    ("box", step_with(reward=[1.0, 2.0]), "reward [1.0, 2.0]"),
    ("box", step_with(reward=1 + 2j), "reward (1+2j)"),
    ("box", step_with(terminated=1), "terminated=1"),
    ("box", step_with(terminated=None), "terminated=None"),
    ("box", step_with(truncated="False"), "truncated='False'"),
    ("box", step_with(truncated=np.array([True])), "truncated=[ True]"),
    ("box", step_with(info=None), "info=None"),
    ("box", lambda right: (right, 1.0, False, {}), "4 values from step()"),
    ("box", lambda right: (right, 1.0, False, False, {}, 0), "6 values from step()"),
    ("box", lambda right: None, "None from step()"),
    ("box", lambda right: right, "from step()"),
    ("box", _raises, "ZeroDivisionError: no ground"),
]
TAKEN = [
    ("box", np.zeros(3), np.zeros(3, np.float32)),
    ("box", [0, 1, 0], np.float32([0, 1, 0])),
    ("box", np.array([True, False, True]), np.float32([1, 0, 1])),
    ("wide", np.float32([0.1, 0.2, 0.3]), np.float32([0.1, 0.2, 0.3]).astype(np.float64)),
    ("image", np.full((2, 2), 255.0), np.full((2, 2), 255, np.uint8)),
    ("number", np.array(4), 4),
    ("number", 2.0, 2),
    ("numbers", [1, 2], [1, 2]),
    ("bits", np.array([True, False]), [1, 0]),
]


@pytest.fixture(autouse=True)
def _repaired() -> Iterator[None]:
    yield
    Faulty.gives, Faulty.begins = step_with(), staticmethod(lambda shown: (shown, {}))


def faulty(space: str, copies: int = 3, frame_stack: int = 1) -> Environments:
    name = f"offrl-test/Faulty{space.capitalize()}-v0"
    if name not in gym.registry:
        gym.register(name, entry_point=Faulty, disable_env_checker=True, kwargs={"space": space})
    return make_environments(name, copies, frame_stack=frame_stack)


def stepped(environments: Environments, steps: int) -> Any:
    environments.reset(range(environments.count))
    for _ in range(steps):
        step = environments.step(np.zeros(environments.count, np.int64))
    return step.next_observation


@pytest.mark.parametrize(("space", "gives", "named"), WRONG, ids=str)
def test_what_is_wrong_is_told_with_name_value_and_step(space: str, gives: Any, named: str) -> None:
    environments = faulty(space)
    stepped(environments, FAULT_STEP - 1)
    Faulty.gives = staticmethod(gives)
    with pytest.raises(EnvironmentFailedError) as caught:
        environments.step(np.zeros(3, np.int64))
    text = str(caught.value)
    for word in (f"Faulty{space.capitalize()}-v0", f"in step {FAULT_STEP} of an episode", named, "hint"):
        assert word in text
    assert len(text) < 600


@pytest.mark.parametrize(("space", "shown", "taken"), TAKEN, ids=str)
def test_another_type_is_taken_where_no_number_changes(space: str, shown: Any, taken: Any) -> None:
    Faulty.gives = staticmethod(step_with(shown=shown))
    environments = faulty(space)
    seen = stepped(environments, FAULT_STEP)
    assert seen.dtype == environments.single_observation_space.dtype
    np.testing.assert_array_equal(seen, np.stack([np.asarray(taken)] * 3))


@pytest.mark.parametrize("reward", [2, np.float32(2.0), np.int64(2), np.array(2.0)], ids=repr)
def test_any_real_number_is_a_reward(reward: Any) -> None:
    Faulty.gives = staticmethod(step_with(reward=reward, terminated=np.bool_(True)))
    environments = faulty("box")
    environments.reset(range(3))
    steps = [environments.step(np.zeros(3, np.int64)) for _ in range(FAULT_STEP)]
    assert steps[-1].reward.tolist() == [2.0] * 3
    assert steps[-1].reward.dtype == np.float64
    assert steps[-1].terminated.tolist() == [True] * 3


@pytest.mark.parametrize(
    ("begins", "named"),
    [
        (lambda shown: shown, "from reset()"),
        (lambda shown: (shown,), "from reset()"),
        (lambda shown: (shown, None), "from reset()"),
        (lambda shown: (NAN, {}), "nan"),
        (lambda shown: (np.zeros(1, np.float32), {}), "shape (1,)"),
    ],
)
def test_what_an_episode_begins_with_is_looked_at_too(begins: Any, named: str) -> None:
    Faulty.begins = staticmethod(begins)
    with pytest.raises(EnvironmentFailedError) as caught:
        stepped(faulty("box"), 1)
    assert named in str(caught.value)
    assert "where an episode begins" in str(caught.value)


def test_steps_are_counted_from_where_the_episode_began() -> None:
    Faulty.gives = staticmethod(step_with(truncated=True))
    environments = faulty("box")
    stepped(environments, 2 * FAULT_STEP - 1)
    Faulty.gives = staticmethod(step_with(shown=NAN))
    with pytest.raises(EnvironmentFailedError, match=f"in step {FAULT_STEP} of an episode"):
        environments.step(np.zeros(3, np.int64))


def test_a_stack_of_frames_broadcasts_nothing() -> None:
    Faulty.gives = staticmethod(step_with(shown=np.zeros(1, np.float32)))
    with pytest.raises(EnvironmentFailedError, match=r"shape \(1,\)"):
        stepped(faulty("box", frame_stack=2), FAULT_STEP)


def test_a_filmed_episode_is_looked_at_too() -> None:
    Faulty.gives = staticmethod(step_with(reward="1"))
    with pytest.raises(EnvironmentFailedError, match="reward '1'"):
        list(single_episode(constant_policy([[0.0, 0.0]], space=BOX), 0, gym.make(FAULTY), 0))


def test_it_is_told_from_another_process_alike() -> None:
    messages = []
    for processes in (1, 2):
        environments = make_environments(UNSAFE, 2, processes)
        stepped(environments, FAULT_STEP - 1)
        with pytest.raises(EnvironmentFailedError) as caught:
            environments.step(np.zeros(2, np.int64))
        messages.append(str(caught.value))
        environments.close()
    assert messages[0] == messages[1]
    assert "Traceback" not in messages[0]


def test_the_copies_are_looked_at_one_by_one() -> None:
    environments = faulty("box", copies=2)
    assert isinstance(environments, SerialEnvironments)
    environments.reset([0, 1])
    environments.copies[1].unwrapped.steps = FAULT_STEP - 1  # type: ignore[attr-defined]
    Faulty.gives = staticmethod(step_with(reward=float("nan")))
    with pytest.raises(EnvironmentFailedError, match="in step 1 of an episode"):
        environments.step(np.zeros(2, np.int64))
