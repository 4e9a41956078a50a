"""Demonstrations as counts of what an expert did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offrl.errors import OffrlError
from offrl.mdp import visits_of
from tests.mdp.test_planning import two_states


def test_visits_are_discounted_and_averaged_over_episodes() -> None:
    found = visits_of(
        two_states(0.5), [np.array([0, 0, 1]), np.array([0, 0, 0, 0])], [np.array([0, 1]), np.zeros(3, int)]
    )
    assert found.visits.tolist() == [[(1.0 + 1.75) / 2, 0.25], [0.0, 0.0]]
    assert found.entered.tolist() == [(1.0 + 1.75) / 2, 0.25]
    assert found.mdp.initial.tolist() == [1.0, 0.0]


def test_steps_behind_the_horizon_do_not_count() -> None:
    found = visits_of(replace(two_states(0.5), horizon=2), [np.zeros(5, int)], [np.zeros(4, int)])
    assert found.visits.tolist() == [[1.5, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("states", "actions", "words"),
    [
        ([], [], "no demonstrations"),
        ([[0, 1], [0]], [[1], []], "an episode has no steps"),
        ([[0, 0, 1]], [[0, 0]], "action 0 in state 0 led to state 1, which can't happen"),
        ([[0, 2]], [[1]], "led to state 2"),
        ([[0, 1]], [[3]], "action 3 in state 0"),
        ([[-1, 0]], [[0]], "state -1"),
    ],
)
def test_what_is_no_demonstration_is_refused(states: list[list[int]], actions: list[list[int]], words: str) -> None:
    with pytest.raises(OffrlError, match=words) as caught:
        visits_of(two_states(), [np.array(s) for s in states], [np.array(a, int) for a in actions], "demos")
    assert "demos" in str(caught.value)


def test_the_place_of_an_impossible_step_is_named() -> None:
    with pytest.raises(OffrlError, match="demos, episode 1, step 2"):
        visits_of(two_states(), [np.array([0, 1]), np.array([0, 0, 0, 1])], [np.array([1]), np.zeros(3, int)], "demos")
