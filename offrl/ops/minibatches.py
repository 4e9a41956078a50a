"""A rollout's transitions as rows without order, to be shuffled and cut into minibatches."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from offrl.ops.running_moments import standardize
from offrl.ops.trees import tree_map
from offrl.types import Batch, Noise, Observation


class Rows(NamedTuple):
    """A rollout's transitions in any order, [S, N, …] each; values, targets and advantages in scaled rewards.

    Attributes:
        observation: normalized, or with images as it is.
        encoded: actions, as the actor's densities take them.
        log_prob, value: before the update.
        target: what the values are regressed on.
        mask: the actions that were allowed.
        old: the action distributions before the update.
        draws: standard normal ones for a gradient step.
    """

    observation: Observation
    encoded: Tensor
    log_prob: Tensor
    advantage: Tensor
    value: Tensor
    target: Tensor
    mask: Tensor | None
    old: tuple[Tensor, ...]
    draws: dict[str, Tensor]

    def shuffled(self, order: Tensor) -> Rows:
        """Each seed's rows in its order, int64 [S, N]."""
        seeds, rows = order.shape
        index = (order + rows * torch.arange(seeds, device=order.device).unsqueeze(1)).flatten()
        return self._map(lambda part: part.flatten(0, 1).index_select(0, index).view(part.shape))

    def split(self, parts: int) -> Iterator[Rows]:
        """Consecutive rows, in parts as even as can be."""
        bounds = even_bounds(self.log_prob.shape[1], parts)
        sizes = [end - start for start, end in itertools.pairwise(bounds)]
        columns = self._map(lambda part: part.split(sizes, dim=1))
        for number in range(parts):
            yield columns._map(operator.itemgetter(number))

    def _map(self, function: Callable[[Any], Any]) -> Rows:
        return Rows(
            observation={key: function(part) for key, part in self.observation.items()}
            if isinstance(self.observation, Mapping)
            else function(self.observation),
            encoded=function(self.encoded),
            log_prob=function(self.log_prob),
            advantage=function(self.advantage),
            value=function(self.value),
            target=function(self.target),
            mask=None if self.mask is None else function(self.mask),
            old=tuple(map(function, self.old)),
            draws={name: function(part) for name, part in self.draws.items()},
        )


def shuffled_minibatches(rows: Rows, noise: Noise, size: int, *, standardized: bool) -> Iterator[Rows]:
    """Minibatches of several passes over the rows, every pass in an order of its own, each seed its own.

    Args:
        rows: a whole rollout's.
        noise: "order", [S, passes, N], by which rows are sorted; other draws for each row of a pass, [S, passes, N, …].
        size: most rows of a minibatch; a pass is split evenly.
        standardized: whether each minibatch's advantages are shifted and scaled to mean 0 and standard deviation 1.
    """
    parts = -(-rows.log_prob.shape[1] // size)
    for epoch, order in enumerate(noise["order"].argsort(dim=-1, stable=True).unbind(1)):
        draws = {name: part[:, epoch] for name, part in noise.items() if name != "order"}
        shuffled = rows._replace(draws=draws).shuffled(order)
        if standardized:
            shuffled = shuffled._replace(advantage=by_part(standardize, shuffled.advantage, parts))
        yield from shuffled.split(parts)


def even_bounds(rows: int, parts: int) -> list[int]:
    """Where parts as even as can be begin and end, parts + 1 of them."""
    return [part * rows // parts for part in range(parts + 1)]


def by_part(function: Callable[[Tensor], Tensor], values: Tensor, parts: int) -> Tensor:
    """A function of rows, [..., N] to [..., N], of each part of [S, N] by itself; in one call where they are even."""
    rows = values.shape[1]
    if rows % parts == 0:
        return function(values.unflatten(1, (parts, -1))).flatten(1)
    bounds = itertools.pairwise(even_bounds(rows, parts))
    return torch.cat([function(values[:, start:end]) for start, end in bounds], dim=1)


def merge_axes(observation: Observation) -> Observation:
    """Rollouts or windows [S, E, T, …] to [S, E · T, …]."""
    if isinstance(observation, Tensor):
        return observation.flatten(1, 2)
    return {key: part.flatten(1, 2) for key, part in observation.items()}


def take_rows(batch: Batch, index: Tensor) -> Batch:
    """Each seed's transitions at its indices, int64 [S, K]."""
    seeds, rows = batch.reward.shape
    flat = (index + rows * torch.arange(seeds, device=index.device).unsqueeze(1)).flatten()

    def taken(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: taken(part) for key, part in value.items()}
        return None if value is None else value.flatten(0, 1).index_select(0, flat).unflatten(0, index.shape)

    return replace(batch, **{field.name: taken(getattr(batch, field.name)) for field in fields(batch)})


def without_time(batch: Batch) -> Batch:
    """A rollout [S, E, T, …] as transitions [S, E · T, …] without order; other batches as they are."""
    if batch.reward.dim() == 2:
        return batch
    rows: Batch = tree_map(lambda part: part.flatten(1, 2), replace(batch, truncated=None))
    return rows
