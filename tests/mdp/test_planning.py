"""Exact solutions against closed forms, against every path there is, and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.errors import DivergenceError
from offrl.mdp import (
    TabularMDP,
    evaluate_policy,
    optimal_policy,
    path_values,
    path_visits,
    soft_values,
    visits,
)
from tests.mdp.processes import log_sum, paths, random_mdp

GOLDEN = (1.0 + math.sqrt(5.0)) / 2.0


def two_states(discount: float = 0.5) -> TabularMDP:
    """In state 0, action 0 stays and action 1 goes to state 1, where the episode ends."""
    transition = np.zeros((2, 2, 2))
    transition[0, 0, 0] = transition[0, 1, 1] = transition[1, :, 1] = 1.0
    return TabularMDP.from_arrays(transition, np.array([1.0, 0.0]), terminal=np.array([False, True]), discount=discount)


def rewards(mdp: TabularMDP, seed: int, leading: tuple[int, ...] = ()) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((*leading, mdp.states, mdp.actions)))


def test_two_states_by_hand() -> None:
    """V = log(exp(γV) + exp r): with γ = ½ and y = exp(V/2), y² = y + exp r."""
    mdp = two_states()
    solution = soft_values(mdp, torch.zeros(2, 2, dtype=torch.float64))
    assert float(solution.value[0]) == pytest.approx(2.0 * math.log(GOLDEN), abs=1e-9)
    assert solution.log_policy[0].exp().tolist() == pytest.approx([1.0 / GOLDEN, 1.0 / GOLDEN**2], abs=1e-9)
    stayed = 1.0 / (1.0 - 0.5 / GOLDEN)
    visited = visits(mdp, solution.log_policy.exp())
    assert visited[0].tolist() == pytest.approx([stayed / GOLDEN, stayed / GOLDEN**2], abs=1e-9)
    assert visited[1].tolist() == [0.0, 0.0]

    reward = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    y = (1.0 + math.sqrt(1.0 + 4.0 * math.e)) / 2.0
    assert float(soft_values(mdp, reward).value[0]) == pytest.approx(2.0 * math.log(y), abs=1e-9)
    assert float(soft_values(mdp, reward).log_policy[0, 1]) == pytest.approx(1.0 - 2.0 * math.log(y), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_with_deterministic_dynamics_soft_values_sum_over_all_paths(seed: int) -> None:
    mdp = random_mdp(seed, discount=1.0, sure=True)
    reward = rewards(mdp, seed)
    taken = reward.flatten()[mdp.origin]
    causal, by_path = soft_values(mdp, reward), path_values(mdp, taken)
    assert torch.allclose(causal.value, by_path.value, atol=1e-12)
    assert torch.allclose(causal.log_policy, by_path.log_policy, atol=1e-12)
    for state in range(mdp.states):
        gains = [sum(float(taken[entry]) for entry in path.entries) for path in paths(mdp, state)]
        assert float(causal.value[0, state]) == pytest.approx(log_sum(gains), abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_path_values_and_visits_sum_over_all_paths(seed: int) -> None:
    """P(path) ∝ luck · exp Σ r, from each first state with that state's probability."""
    mdp = random_mdp(seed, discount=1.0)
    reward = torch.from_numpy(np.random.default_rng(seed).standard_normal(len(mdp.origin)))
    solution = path_values(mdp, reward)
    taken = torch.zeros_like(reward)
    first_action = torch.zeros(mdp.states, mdp.actions, dtype=torch.float64)
    for state in range(mdp.states):
        weights = {
            path: path.luck * math.exp(sum(float(reward[entry]) for entry in path.entries))
            for path in paths(mdp, state)
        }
        total = sum(weights.values())
        assert float(solution.value[0, state]) == pytest.approx(math.log(total), abs=1e-10)
        for path, weight in weights.items():
            first_action[state, int(mdp.origin[path.entries[0]]) % mdp.actions] += weight / total
            for entry in path.entries:
                taken[entry] += float(mdp.initial[state]) * weight / total
    assert torch.allclose(solution.log_policy[0].exp(), first_action, atol=1e-10)
    assert torch.allclose(path_visits(mdp, reward, solution), taken, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_visits_and_values_average_over_all_paths_of_a_policy(seed: int) -> None:
    mdp = random_mdp(seed)
    reward = rewards(mdp, seed)
    solution = soft_values(mdp, reward)
    counted, gain = torch.zeros(mdp.states * mdp.actions, dtype=torch.float64), 0.0
    for state in range(mdp.states):
        for path in paths(mdp, state):
            origins = [int(mdp.origin[entry]) for entry in path.entries]
            chances = [float(solution.log_policy[t].flatten()[origin].exp()) for t, origin in enumerate(origins)]
            chance = float(mdp.initial[state]) * path.luck * math.prod(chances)
            for t, origin in enumerate(origins):
                counted[origin] += chance * 0.9**t
                gain += chance * 0.9**t * (float(reward.flatten()[origin]) - math.log(chances[t]))
    assert torch.allclose(visits(mdp, solution.log_policy.exp()).flatten(), counted, atol=1e-12)
    assert float((mdp.initial * solution.value[0]).sum()) == pytest.approx(gain, abs=1e-10)


def test_a_long_horizon_comes_close_to_none() -> None:
    endless, long = random_mdp(5, horizon=None), random_mdp(5, horizon=300)
    reward = rewards(endless, 5, (2,))
    without, within = soft_values(endless, reward), soft_values(long, reward)
    assert torch.allclose(without.value, within.value[:, 0], atol=1e-10)
    assert torch.allclose(without.log_policy, within.log_policy[:, 0], atol=1e-10)
    assert torch.allclose(visits(endless, without.log_policy.exp()), visits(long, within.log_policy.exp()), atol=1e-9)
    best = optimal_policy(endless, reward)
    assert torch.allclose(
        evaluate_policy(endless, best, reward), evaluate_policy(long, optimal_policy(long, reward), reward), atol=1e-9
    )


@pytest.mark.parametrize("horizon", [None, 3])
def test_the_optimal_policy_is_the_best_of_all(horizon: int | None) -> None:
    mdp = random_mdp(1, states=3, horizon=horizon)
    reward = rewards(mdp, 1)
    found = float(evaluate_policy(mdp, optimal_policy(mdp, reward), reward))
    stages = horizon or 1
    best = -math.inf
    for code in range(2 ** (3 * stages)):
        chosen = torch.tensor([(code >> bit) & 1 for bit in range(3 * stages)]).view(stages, 3)
        policy = torch.nn.functional.one_hot(chosen, 2).double()
        best = max(best, float(evaluate_policy(mdp, policy if horizon else policy[0], reward)))
    assert found == pytest.approx(best, abs=1e-12)


def test_ties_do_not_keep_policy_iteration_going() -> None:
    mdp = random_mdp(2, states=6, horizon=None, discount=0.99)
    reward = torch.zeros(6, 2, dtype=torch.float64)
    assert optimal_policy(mdp, reward).tolist() == [[1.0, 0.0]] * 6


def test_close_values_to_start_from_lead_to_the_same_ones() -> None:
    mdp = random_mdp(3, horizon=None)
    reward = rewards(mdp, 3)
    cold = soft_values(mdp, reward)
    warm = soft_values(mdp, reward, cold.value + 0.1)
    assert torch.allclose(cold.value, warm.value, atol=1e-8)


def test_rewards_without_end_are_an_error() -> None:
    mdp = random_mdp(3, horizon=None)
    with pytest.raises(DivergenceError, match="didn't settle"):
        soft_values(mdp, torch.full((4, 2), math.nan, dtype=torch.float64))
