"""A finite Markov decision process as a list of its possible transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.errors import RequestError

ROUNDING = 1e-8
"""Probabilities may miss 1 by this much."""


@dataclass(frozen=True)
class TabularMDP:
    """States 0 … n-1, actions 0 … m-1, and the N transitions that have a probability above zero.

    Whether an episode ends is a property of the transition, as Gymnasium's toy-text environments have it: nothing
    follows one that ends, whatever the state that it enters looks like from elsewhere.

    Attributes:
        states, actions: n and m.
        origin: int64 [N], ascending; the state and action that the transition starts from, as state · m + action.
        target: int64 [N]; the state that it enters.
        probability: float64 [N]; of the target, given the origin.
        ends: bool [N]; whether the episode terminates with it.
        initial: float64 [n]; probabilities of the first state.
        reward: float64 [N]; the true reward, where it is known.
        discount: γ, in (0, 1].
        horizon: steps after which every episode is cut; None never cuts one.
    """

    states: int
    actions: int
    origin: Tensor
    target: Tensor
    probability: Tensor
    ends: Tensor
    initial: Tensor
    reward: Tensor | None = None
    discount: float = 0.99
    horizon: int | None = None

    def __post_init__(self) -> None:
        """Raises RequestError unless this is a Markov decision process whose values are finite."""
        if not 0.0 < self.discount <= 1.0:
            raise RequestError(f"a discount of {self.discount} can't be", hint="choose one above 0 and up to 1")
        if self.discount == 1.0 and self.horizon is None:
            raise RequestError(
                "without a discount, the values of endless episodes may have no bound",
                hint="give a discount below 1, or a horizon",
            )
        if self.horizon is not None and self.horizon < 1:
            raise RequestError(f"a horizon of {self.horizon} steps can't be", hint="give at least 1")
        _check_initial(self.initial)
        self._check_probabilities()

    @classmethod
    def from_arrays(
        cls,
        transition: NDArray[Any],
        initial: NDArray[Any],
        *,
        terminal: NDArray[Any] | None = None,
        reward: NDArray[Any] | None = None,
        discount: float = 0.99,
        horizon: int | None = None,
    ) -> TabularMDP:
        """A process given by dense arrays.

        Args:
            transition: [n, m, n], P(s' | s, a).
            initial: [n], probabilities of the first state.
            terminal: bool [n]; entering such a state ends the episode.
            reward: of the state entered [n], of state and action [n, m], or of the transition [n, m, n].
            discount: γ.
            horizon: steps after which every episode is cut.

        Raises:
            RequestError: shapes don't fit each other, or probabilities don't add up to 1.
        """
        transition, initial = np.asarray(transition, np.float64), np.asarray(initial, np.float64)
        if transition.ndim != 3 or transition.shape[0] != transition.shape[2] or initial.shape != transition.shape[:1]:
            raise RequestError(
                f"transitions {transition.shape} and initial probabilities {initial.shape} don't fit each other",
                hint="give arrays of the shapes [states, actions, states] and [states]",
            )
        states, actions, _ = transition.shape
        state, action, target = np.nonzero(transition)
        ends = np.zeros(states, np.bool_) if terminal is None else _shaped(terminal, (states,), "terminal").astype(bool)
        return cls(
            states=states,
            actions=actions,
            origin=torch.from_numpy(state * actions + action),
            target=torch.from_numpy(target),
            probability=torch.from_numpy(transition[state, action, target]),
            ends=torch.from_numpy(ends[target]),
            initial=torch.from_numpy(initial.copy()),
            reward=None if reward is None else _entry_rewards(np.asarray(reward), state, action, target, states),
            discount=discount,
            horizon=horizon,
        )

    def expected_next(self, value: Tensor) -> Tensor:
        """E[V(s')], nothing following an end: values [..., n] to [..., n, m]."""
        return self._by_origin(value.index_select(-1, self.target) * self._going_on)

    def expected_reward(self, reward: Tensor) -> Tensor:
        """Rewards of transitions [..., N] to E[r | s, a], [..., n, m]."""
        return self._by_origin(reward * self.probability)

    def entered(self, visits: Tensor, *, going_on: bool = False) -> Tensor:
        """How often states are entered, [..., n], where visits [..., n, m] count states and actions.

        Args:
            visits: of states and actions.
            going_on: count only where the episode doesn't end there.
        """
        probability = self._going_on if going_on else self.probability
        return self.by_target(visits.flatten(-2).index_select(-1, self.origin) * probability)

    def by_target(self, values: Tensor) -> Tensor:
        """Sums [..., n] of what transitions [..., N] have, by the state entered."""
        sums: Tensor = values.new_zeros((*values.shape[:-1], self.states))
        return sums.index_add_(-1, self.target, values)

    def policy_matrix(self, policy: Tensor) -> Tensor:
        """P(s' | s) under a policy [..., n, m], ends left out: [..., n, n]."""
        weight: Tensor = policy.flatten(-2).index_select(-1, self.origin) * self._going_on
        place = self.origin // self.actions * self.states + self.target
        flat: Tensor = weight.new_zeros((*weight.shape[:-1], self.states * self.states)).index_add_(-1, place, weight)
        return flat.view(*flat.shape[:-1], self.states, self.states)

    @property
    def _going_on(self) -> Tensor:
        return self.probability * ~self.ends

    def _by_origin(self, values: Tensor) -> Tensor:
        sums: Tensor = values.new_zeros((*values.shape[:-1], self.states * self.actions))
        sums.index_add_(-1, self.origin, values)
        return sums.view(*values.shape[:-1], self.states, self.actions)

    def _check_probabilities(self) -> None:
        total = self._by_origin(self.probability)
        wrong = ((total - 1.0).abs() > ROUNDING) | ~total.isfinite()
        if wrong.any() or not (self.probability > 0.0).all():
            places = wrong.nonzero().tolist()
            where = f"state {places[0][0]}, action {places[0][1]}" if places else ""
            raise RequestError(
                f"the probabilities of what follows add up to {float(total[tuple(places[0])]):g}, not 1"
                if places
                else "a transition has a probability below zero",
                where=where,
                hint="give P(s' | s, a) for every state and action; terminal states may lead to themselves",
            )


def _check_initial(initial: Tensor) -> None:
    if not bool((initial >= 0.0).all()) or abs(float(initial.sum()) - 1.0) > ROUNDING:
        raise RequestError(
            f"the probabilities of the first state add up to {float(initial.sum()):g}, not 1",
            hint="give a probability for each state",
        )


def _shaped(array: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    array = np.asarray(array)
    if array.shape != shape:
        raise RequestError(f"'{name}' has the shape {array.shape}, {shape} is expected")
    return array


def _entry_rewards(
    reward: NDArray[Any], state: NDArray[np.int64], action: NDArray[np.int64], target: NDArray[np.int64], states: int
) -> Tensor:
    places = {1: (target,), 2: (state, action), 3: (state, action, target)}
    if reward.ndim not in places or reward.shape[0] != states:
        raise RequestError(
            f"rewards of the shape {reward.shape} don't fit {states} states",
            hint="give [states], [states, actions] or [states, actions, states]",
        )
    return torch.from_numpy(reward[places[reward.ndim]].astype(np.float64))
