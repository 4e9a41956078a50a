"""Processes from arrays: what goes in is what comes out, and what isn't a process is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from offrl.errors import RequestError
from offrl.mdp import TabularMDP

TRANSITION = np.array([[[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], [[0.0, 0.0, 1.0]] * 2])
INITIAL = np.array([0.5, 0.5, 0.0])


def process(**changed: Any) -> TabularMDP:
    arguments: dict[str, Any] = {"transition": TRANSITION, "initial": INITIAL, "terminal": [False, False, True]}
    return TabularMDP.from_arrays(**{**arguments, **changed})


def test_sums_over_transitions_are_products_with_the_dense_array() -> None:
    mdp = process()
    value = torch.tensor([[1.0, 10.0, 100.0], [2.0, 3.0, 4.0]], dtype=torch.float64)
    going_on = TRANSITION * np.array([1.0, 1.0, 0.0])
    assert np.allclose(mdp.expected_next(value), np.einsum("san,kn->ksa", going_on, value))
    visited = torch.from_numpy(np.random.default_rng(0).random((2, 3, 2)))
    assert np.allclose(mdp.entered(visited), np.einsum("ksa,san->kn", visited, TRANSITION))
    assert np.allclose(mdp.entered(visited, going_on=True), np.einsum("ksa,san->kn", visited, going_on))
    policy = visited / visited.sum(-1, keepdim=True)
    assert np.allclose(mdp.policy_matrix(policy), np.einsum("ksa,san->ksn", policy, going_on))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 3)])
def test_rewards_may_be_of_states_entered_of_actions_or_of_transitions(shape: tuple[int, ...]) -> None:
    reward = np.random.default_rng(1).random(shape)
    mdp = process(reward=reward)
    assert mdp.reward is not None
    dense = {1: lambda: reward[None, None], 2: lambda: reward[:, :, None], 3: lambda: reward}[len(shape)]()
    assert np.allclose(mdp.expected_reward(mdp.reward), (TRANSITION * dense).sum(-1))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"discount": 1.0}, "may have no bound"),
        ({"discount": 0.0}, "discount of 0"),
        ({"horizon": 0}, "horizon of 0"),
        ({"transition": TRANSITION * 0.9}, "add up to 0.9, not 1"),
        ({"transition": TRANSITION[:, :, :2]}, "don't fit each other"),
        ({"initial": INITIAL / 2}, "first state add up to 0.5"),
        ({"initial": np.array([1.5, -0.5, 0.0])}, "first state"),
        ({"initial": INITIAL[:2]}, "don't fit each other"),
        ({"reward": np.zeros(2)}, "don't fit 3 states"),
        ({"terminal": [True]}, "'terminal' has the shape"),
    ],
)
def test_what_is_no_process_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        process(**changed)


def test_a_negative_probability_is_refused() -> None:
    transition = TRANSITION.copy()
    transition[0, 0] = [1.25, -0.25, 0.0]
    with pytest.raises(RequestError, match="below zero"):
        process(transition=transition)
