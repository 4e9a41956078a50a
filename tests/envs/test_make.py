"""Vector environments: their making, and what an episode's last step shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offrl.envs.make import environment_spec, final_observation, make_environments
from offrl.errors import RequestError
from offrl.types import Spec
from tests.envs.counting import ACTIONS, COUNTING, NESTED, PARTS, PLACES, Counting


def test_the_spec_of_a_registered_environment() -> None:
    assert environment_spec(COUNTING) == Spec(PLACES, ACTIONS)
    assert environment_spec(NESTED) == Spec(PARTS, ACTIONS)


@pytest.mark.parametrize("name", ["NoSuchTask-v0", "Hopper-v99", "not an id at all", "no_such_module:Task-v0", ""])
def test_unknown_environments_are_named(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        environment_spec(name)
    assert repr(name) in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("name", [COUNTING, NESTED])
def test_final_observations_are_those_before_the_reset(name: str) -> None:
    """Each copy beside a single environment of its own, stepped by hand."""
    copies = 5
    environments = make_environments(name, copies)
    singles = [Counting(nested=name == NESTED) for _ in range(copies)]
    stacked, _ = environments.reset(seed=list(range(copies)))
    shown = [single.reset(seed=seed)[0] for seed, single in enumerate(singles)]
    action = np.zeros((copies, 2), np.float32)
    ends = 0
    for _ in range(20):
        assert_stacked(stacked, shown)
        stacked, _, terminated, truncated, infos = environments.step(action)
        steps = [single.step(action[0]) for single in singles]
        assert terminated.tolist() == [step[2] for step in steps]
        assert truncated.tolist() == [step[3] for step in steps]
        kept = final_observation(stacked, infos)
        assert_stacked(kept, [step[0] for step in steps])
        done = terminated | truncated
        ends += int(done.sum())
        pairs = zip(singles, steps, done, strict=True)
        shown = [single.reset()[0] if end else step[0] for single, step, end in pairs]
        # Keeping the final observations leaves the ones to act on alone.
        assert_stacked(stacked, shown)
    assert ends > copies
    environments.close()


def assert_stacked(stacked: Any, singles: list[Any]) -> None:
    if isinstance(stacked, dict):
        for key, part in stacked.items():
            np.testing.assert_array_equal(part, np.stack([single[key] for single in singles]))
    else:
        np.testing.assert_array_equal(stacked, np.stack(singles))


def test_tuples_of_final_observations_are_put_in_place() -> None:
    stacked = (np.zeros((3, 2)), np.zeros(3))
    final = np.array([None, (np.array([5.0, 6.0]), 7.0), None], object)
    kept = final_observation(stacked, {"final_obs": final, "_final_obs": np.array([False, True, False])})
    assert kept[0].tolist() == [[0, 0], [5, 6], [0, 0]]
    assert kept[1].tolist() == [0, 7, 0]
    assert not stacked[0].any()
