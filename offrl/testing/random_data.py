"""Random observations, actions, batches and processes for a task, drawn from nothing but its spaces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from offrl.mdp import Demonstrations, TabularMDP, visits
from offrl.nn import FlatObservation
from offrl.types import NEXT_ACTION, RETURN_TO_GO, Batch, Observation, Spec

TERMINATED, TRUNCATED, ALLOWED, UNKNOWN = 0.25, 0.2, 0.6, 0.25
"""How likely a step ends an episode, a rollout's step cuts one, an action is allowed, and what comes is unknown."""
LARGEST_HORIZON = 5


class RandomData:
    """Draws, the same in the same order for the same seed.

    Args:
        spec: the spaces.
        seed: of the generator.
    """

    def __init__(self, spec: Spec, seed: int) -> None:
        self.spec = spec
        self.parts = FlatObservation(spec.observation_space).parts
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws, float32."""
        return torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """Draws from [0, 1), float32."""
        return torch.rand(*shape, generator=self.generator)

    def observation(self, *shape: int) -> Observation:
        """What agents see: floats in single precision, images as uint8; nested spaces by dotted key."""
        values = {key: self._value(part, shape) for key, part in self.parts.items()}
        return values.get("", values)

    def _value(self, space: gym.Space[Any], shape: tuple[int, ...]) -> Tensor:
        if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            low, high = (torch.from_numpy(bound.astype(np.float32)) for bound in (space.low, space.high))
            return self.normal(*shape, *space.shape).clamp(low, high)
        draws = self.uniform(*shape, *(space.shape or ()))
        if isinstance(space, gym.spaces.Box):
            low, high = (torch.from_numpy(bound.astype(np.float64)) for bound in (space.low, space.high))
            numbers = torch.from_numpy(np.zeros((), space.dtype))
            return (low + (draws * (high - low + 1.0)).floor()).clamp(low, high).to(numbers.dtype)
        if isinstance(space, gym.spaces.Discrete):
            return (draws * int(space.n)).long() + int(space.start)
        if isinstance(space, gym.spaces.MultiDiscrete):
            return (draws * torch.from_numpy(space.nvec)).long() + torch.from_numpy(space.start)
        return (draws < 0.5).to(torch.int8)

    def action(self, *shape: int) -> Tensor:
        """As in batches: float32 [..., A] within (-1, 1); int64 [...] or [..., K], in the environment's numbers."""
        space = self.spec.action_space
        if isinstance(space, gym.spaces.Box):
            return 1.9 * self.uniform(*shape, self.spec.action_dim) - 0.95
        return self._value(space, shape)

    def mask(self, action: Tensor) -> Tensor:
        """Masks, bool [..., A], that allow an action, int64 [...] or [..., K], and some others."""
        mask = self.uniform(*columns_of(self.spec, action).shape[:-1], self.spec.action_dim) < ALLOWED
        return mask | chosen(self.spec, action)

    def transitions(
        self,
        seeds: int,
        rows: int,
        discount: float,
        *,
        masks: bool = False,
        columns: Sequence[str] = (),
        running: bool = False,
    ) -> Batch:
        """A batch [S, B, …], some transitions of which terminate; every seed has its own.

        Args:
            seeds: S.
            rows: B.
            discount: γ.
            masks: whether it tells what was allowed.
            columns: what else it holds, some of `offrl.types.COLUMNS`.
            running: whether some of the episodes are running, so that their returns aren't known.
        """
        return self._with_columns(self._batch((seeds, rows), discount, masks=masks), columns, running)

    def rollout(self, seeds: int, environments: int, steps: int, discount: float, *, masks: bool = False) -> Batch:
        """Consecutive steps [S, E, T, …] with ends of both kinds."""
        batch = self._batch((seeds, environments, steps), discount, masks=masks)
        cut = (self.uniform(seeds, environments, steps) < TRUNCATED).float()
        following, fresh = batch.next_observation, batch.observation
        going_on = (batch.terminated + cut)[..., :-1] == 0.0

        def continued(begun: Tensor, came: Tensor) -> Tensor:
            """Observations [S, E, T, …] that are where the step before led to, but for the beginnings of episodes."""
            goes_on = going_on.view(*going_on.shape, *(1,) * (begun.dim() - 3))
            return torch.cat([begun[:, :, :1], torch.where(goes_on, came[:, :, :-1], begun[:, :, 1:])], dim=2)

        observation: Observation
        if isinstance(fresh, Tensor) and isinstance(following, Tensor):
            observation = continued(fresh, following)
        else:
            assert isinstance(fresh, dict)
            assert isinstance(following, dict)
            observation = {key: continued(part, following[key]) for key, part in fresh.items()}
        return Batch(
            observation=observation,
            action=batch.action,
            reward=batch.reward,
            discount=batch.discount,
            next_observation=following,
            terminated=batch.terminated,
            truncated=cut * (1.0 - batch.terminated),
            action_mask=batch.action_mask,
        )

    def windows(
        self,
        seeds: int,
        count: int,
        steps: int,
        discount: float,
        *,
        masks: bool = False,
        columns: Sequence[str] = (),
    ) -> Batch:
        """Windows [S, B, T, …] of episodes, the last steps of some of which are padding; `columns` as in batches."""
        batch = self._with_columns(self._batch((seeds, count, steps), discount, masks=masks), columns)
        filled = 1 + (self.uniform(seeds, count, 1) * 2 * steps).long()
        begin = (self.uniform(seeds, count, 1) * steps).long()
        timestep = torch.minimum(torch.arange(steps), filled - 1) + begin
        return replace(batch, mask=torch.arange(steps) < filled, timestep=timestep)

    def _batch(self, shape: tuple[int, ...], discount: float, *, masks: bool) -> Batch:
        terminated = (self.uniform(*shape) < TERMINATED).float()
        action = self.action(*shape)
        return Batch(
            observation=self.observation(*shape),
            action=action,
            reward=self.normal(*shape),
            discount=discount * (1.0 - terminated),
            next_observation=self.observation(*shape),
            terminated=terminated,
            action_mask=self.mask(action) if masks else None,
            next_action_mask=self.mask(self.action(*shape)) if masks else None,
        )

    def _with_columns(self, batch: Batch, columns: Sequence[str], running: bool = False) -> Batch:
        """The batch with columns that are to be asked for; returns of some `running` episodes are not known."""
        shape = batch.reward.shape
        if NEXT_ACTION in columns:
            known = (1.0 - batch.terminated) * (self.uniform(*shape) >= UNKNOWN).float()
            batch = replace(batch, next_action=self.action(*shape), next_action_known=known)
        if RETURN_TO_GO in columns:
            unknown = (self.uniform(*shape) < UNKNOWN) & running
            batch = replace(batch, return_to_go=self.normal(*shape).masked_fill(unknown, -torch.inf))
        return batch

    def demonstrations(self, discount: float) -> Demonstrations:
        """What a random policy does in a random process with the spaces' states and actions."""
        observed, acted = self.spec.observation_space, self.spec.action_space
        assert isinstance(observed, gym.spaces.Discrete)
        assert isinstance(acted, gym.spaces.Discrete)
        states, actions = int(observed.n), int(acted.n)
        transition = self.normal(states, actions, states).double().softmax(dim=-1)
        mdp = TabularMDP.from_arrays(
            transition.numpy(),
            self.normal(states).double().softmax(dim=-1).numpy(),
            terminal=np.arange(states) == states - 1,
            discount=discount,
            horizon=LARGEST_HORIZON,
        )
        policy = self.normal(states, actions).double().softmax(dim=-1)
        visited = visits(mdp, policy.expand(LARGEST_HORIZON, -1, -1))
        return Demonstrations(mdp, visited, mdp.entered(visited))


def columns_of(spec: Spec, action: Tensor) -> Tensor:
    """Integer actions [...] or [..., K] as one column for each choice, counted from 0, [..., K]."""
    space = spec.action_space
    if isinstance(space, gym.spaces.Discrete):
        return action.unsqueeze(-1) - int(space.start)
    assert isinstance(space, gym.spaces.MultiDiscrete)
    return action.flatten(action.dim() - space.nvec.ndim) - torch.from_numpy(space.start.flatten())


def choices_of(spec: Spec) -> list[int]:
    """How many actions each independent choice has."""
    space = spec.action_space
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    assert isinstance(space, gym.spaces.MultiDiscrete)
    return [int(count) for count in space.nvec.flat]


def chosen(spec: Spec, action: Tensor) -> Tensor:
    """Which of all choices' actions were taken, bool [..., A]."""
    columns = columns_of(spec, action).unbind(-1)
    parts = [column.unsqueeze(-1) == torch.arange(n) for column, n in zip(columns, choices_of(spec), strict=True)]
    return torch.cat(parts, dim=-1)


def every_action(spec: Spec) -> Tensor:
    """All actions of a Discrete or MultiDiscrete space in the environment's numbers, int64 [count] or [count, K]."""
    space = spec.action_space
    if isinstance(space, gym.spaces.Discrete):
        return torch.arange(int(space.start), int(space.start + space.n))
    assert isinstance(space, gym.spaces.MultiDiscrete)
    columns = torch.tensor(list(itertools.product(*(range(n) for n in choices_of(spec)))))
    numbers: Tensor = (columns + torch.from_numpy(space.start.flatten())).unflatten(-1, space.nvec.shape)
    return numbers
