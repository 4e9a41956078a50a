"""What policies are worth and where they go in a finite Markov decision process, exactly and without sampling.

Rewards, values and policies may carry leading axes (such as seeds), which are solved at once. All is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from offrl.errors import DivergenceError
from offrl.mdp.mdp import TabularMDP

MAX_ITERATIONS = 200
TOLERANCE = 1e-9
"""Largest error of the Bellman equation that is taken for none, relative to the values."""


class SoftSolution(NamedTuple):
    """The policy of maximum entropy for a reward, and its soft value.

    Attributes:
        value: [..., n], or [..., T, n] with a horizon: V(s), and V_t(s).
        log_policy: [..., n, m], or [..., T, n, m]: log π(a | s), and log π_t(a | s).
    """

    value: Tensor
    log_policy: Tensor


def soft_values(mdp: TabularMDP, reward: Tensor, start: Tensor | None = None) -> SoftSolution:
    """Soft value iteration (Ziebart, 2010): Q = r + γ E[V(s')], V = log Σ_a exp Q, π = exp(Q − V).

    With a horizon T it is the backward recursion from V_T = 0. Without one it is Newton's method on the fixed point:
    the soft policy of the last values is evaluated exactly, until the values no longer change.

    Args:
        mdp: the process; its own reward is not read.
        reward: [..., n, m], r(s, a).
        start: [..., n], values to start from without a horizon; close ones save iterations.

    Raises:
        DivergenceError: the rewards are too large for the fixed point to be found.
    """
    if mdp.horizon is not None:
        return _soft_recursion(mdp, reward)
    value = reward.new_zeros(reward.shape[:-1]) if start is None else start
    for _ in range(MAX_ITERATIONS):
        q = reward + mdp.discount * mdp.expected_next(value)
        following = q.logsumexp(-1)
        log_policy = q - following.unsqueeze(-1)
        if (following - value).abs().max() <= TOLERANCE * (1.0 + value.abs().max()):
            return SoftSolution(following, log_policy)
        policy = log_policy.exp()
        gain = (policy * (reward - log_policy)).sum(-1)
        value = _evaluated(mdp, policy, gain)
    raise DivergenceError(
        f"soft values didn't settle within {MAX_ITERATIONS} iterations; the largest reward is "
        f"{float(reward.abs().max()):g}",
        hint="lower the learning rate, raise l2, or lower the discount",
    )


def _soft_recursion(mdp: TabularMDP, reward: Tensor) -> SoftSolution:
    assert mdp.horizon is not None
    value = reward.new_zeros(reward.shape[:-1])
    values, log_policies = [], []
    for _ in range(mdp.horizon):
        q = reward + mdp.discount * mdp.expected_next(value)
        value = q.logsumexp(-1)
        values.append(value)
        log_policies.append(q - value.unsqueeze(-1))
    return SoftSolution(torch.stack(values[::-1], -2), torch.stack(log_policies[::-1], -3))


def path_values(mdp: TabularMDP, reward: Tensor) -> SoftSolution:
    """The backward pass of maximum entropy IRL (Ziebart et al., 2008) over paths of up to T steps, undiscounted.

    P(path) is proportional to Π P(s' | s, a) · exp Σ r, so Q_t(s, a) = log Σ_s' P(s' | s, a) exp(r + V_{t+1}(s')).
    Where dynamics are random this prefers actions that *may* turn out well: luck is weighed like skill.

    Args:
        mdp: a process with a horizon T.
        reward: [..., N], of the transitions.

    Returns:
        log Z_t(s), [..., T, n], and log π_t(a | s), [..., T, n, m].
    """
    assert mdp.horizon is not None
    value = reward.new_zeros((*reward.shape[:-1], mdp.states))
    values, log_policies = [], []
    for _ in range(mdp.horizon):
        q = _log_sum(mdp, _path_weight(mdp, reward, value))
        value = q.logsumexp(-1)
        values.append(value)
        log_policies.append(q - value.unsqueeze(-1))
    return SoftSolution(torch.stack(values[::-1], -2), torch.stack(log_policies[::-1], -3))


def path_visits(mdp: TabularMDP, reward: Tensor, solution: SoftSolution) -> Tensor:
    """How often paths of that distribution take each transition, expected over T steps: [..., N].

    This is the derivative of log Z by the reward. What follows an action is distributed as it is among the paths,
    P(s' | s, a) exp(r + V(s') − Q(s, a)), which is the process's own distribution where dynamics are deterministic.
    """
    assert mdp.horizon is not None
    here = mdp.initial.expand(*reward.shape[:-1], mdp.states)
    total = torch.zeros_like(reward)
    final = torch.zeros_like(here)
    for t in range(mdp.horizon):
        value = solution.value[..., t + 1, :] if t + 1 < mdp.horizon else final
        weight = _path_weight(mdp, reward, value)
        acted = (here.unsqueeze(-1) * solution.log_policy[..., t, :, :].exp()).flatten(-2)
        share = (weight - _log_sum(mdp, weight).flatten(-2).index_select(-1, mdp.origin)).exp()
        taken = acted.index_select(-1, mdp.origin) * share
        total = total + taken
        here = mdp.by_target(taken * ~mdp.ends)
    return total


def _path_weight(mdp: TabularMDP, reward: Tensor, value: Tensor) -> Tensor:
    """log P(s' | s, a) + r + V(s') of each transition, [..., N]."""
    return mdp.probability.log() + reward + value.index_select(-1, mdp.target) * ~mdp.ends


def _log_sum(mdp: TabularMDP, weight: Tensor) -> Tensor:
    """log Σ exp over the transitions [..., N] of each state and action: [..., n, m]."""
    count = mdp.states * mdp.actions
    shape = (*weight.shape[:-1], count)
    places = mdp.origin.expand(weight.shape)
    greatest = weight.new_full(shape, -torch.inf).scatter_reduce(-1, places, weight, "amax")
    scaled = (weight - greatest.index_select(-1, mdp.origin)).exp()
    total: Tensor = weight.new_zeros(shape).index_add_(-1, mdp.origin, scaled)
    return (greatest + total.log()).view(*shape[:-1], mdp.states, mdp.actions)


def visits(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """Expected discounted visits Σ_t γ^t P(s_t = s, a_t = a), [..., n, m], by forward recursion.

    Args:
        mdp: the process.
        policy: π(a | s), [..., n, m]; with a horizon T, π_t(a | s), [..., T, n, m].

    With a horizon the recursion takes T steps; without one its limit is the solution of a linear system.
    """
    if mdp.horizon is None:
        states = _solve(mdp, policy, mdp.initial.expand(policy.shape[:-1]), transposed=True)
        return states.unsqueeze(-1) * policy
    here, factor = mdp.initial.expand(*policy.shape[:-3], mdp.states), 1.0
    total = policy.new_zeros((*policy.shape[:-3], mdp.states, mdp.actions))
    for t in range(mdp.horizon):
        acted = here.unsqueeze(-1) * policy[..., t, :, :]
        total = total + factor * acted
        here, factor = mdp.entered(acted, going_on=True), factor * mdp.discount
    return total


def evaluate_policy(mdp: TabularMDP, policy: Tensor, reward: Tensor) -> Tensor:
    """The expected discounted return of a policy from the initial states, [...].

    Args:
        mdp: the process.
        policy: as for `visits`.
        reward: [..., n, m], r(s, a).
    """
    return (visits(mdp, policy) * reward).sum((-2, -1))


def optimal_policy(mdp: TabularMDP, reward: Tensor) -> Tensor:
    """A policy of greatest expected discounted return, one action in each state: [..., n, m], or [..., T, n, m].

    Policy iteration without a horizon, the backward recursion with one. Of actions that are equally good the first one
    is chosen.
    """
    if mdp.horizon is not None:
        value, policies = reward.new_zeros(reward.shape[:-1]), []
        for _ in range(mdp.horizon):
            q = reward + mdp.discount * mdp.expected_next(value)
            value = q.amax(-1)
            policies.append(_greedy(q))
        return torch.stack(policies[::-1], -3)
    policy = _greedy(reward)
    for _ in range(MAX_ITERATIONS):
        value = _evaluated(mdp, policy, (policy * reward).sum(-1))
        q = reward + mdp.discount * mdp.expected_next(value)
        # An action is exchanged only for one that is better by more than rounding: ties would go round for ever.
        gain = q.amax(-1) - (q * policy).sum(-1)
        better = gain > TOLERANCE * (1.0 + value.abs().max())
        if not better.any():
            break
        policy = torch.where(better.unsqueeze(-1), _greedy(q), policy)
    return policy


def _greedy(q: Tensor) -> Tensor:
    near = q >= q.amax(-1, keepdim=True) - TOLERANCE * (1.0 + q.abs().amax())
    return torch.nn.functional.one_hot(near.int().argmax(-1), q.shape[-1]).to(q.dtype)


def _evaluated(mdp: TabularMDP, policy: Tensor, gain: Tensor) -> Tensor:
    """V = gain + γ P_π V, [..., n]."""
    return _solve(mdp, policy, gain, transposed=False)


def _solve(mdp: TabularMDP, policy: Tensor, right: Tensor, *, transposed: bool) -> Tensor:
    matrix = mdp.policy_matrix(policy)
    identity = torch.eye(mdp.states, dtype=matrix.dtype)
    solution: Tensor = torch.linalg.solve(identity - mdp.discount * (matrix.mT if transposed else matrix), right)
    return solution
