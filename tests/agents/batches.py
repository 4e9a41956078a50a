"""Random batches and draws for an agent, and one seed's part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from offrl.types import Agent, Batch, Noise, Spec

CPU = torch.device("cpu")


def continuous(observations: int = 3, actions: int = 2) -> Spec:
    return Spec(
        gym.spaces.Box(-np.inf, np.inf, (observations,), np.float32), gym.spaces.Box(-1.0, 1.0, (actions,), np.float32)
    )


def unbounded(observations: int = 3, actions: int = 2) -> Spec:
    spec = continuous(observations, actions)
    return Spec(spec.observation_space, gym.spaces.Box(-np.inf, np.inf, (actions,), np.float32))


def bounded_below(observations: int = 3, actions: int = 2) -> Spec:
    spec = continuous(observations, actions)
    return Spec(spec.observation_space, gym.spaces.Box(0.0, np.inf, (actions,), np.float32))


def discrete(observations: int = 3, actions: int = 4, start: int = 0) -> Spec:
    return Spec(continuous(observations).observation_space, gym.spaces.Discrete(actions, start=start))


def multi_discrete(observations: int = 3, choices: Sequence[int] = (3, 2)) -> Spec:
    return Spec(continuous(observations).observation_space, gym.spaces.MultiDiscrete(list(choices)))


def random_batches(spec: Spec, count: int, seeds: int, batch_size: int = 8) -> list[Batch]:
    """Batches [S, B, …] of transitions, a quarter of which terminate; every seed has its own."""
    rng = np.random.default_rng(7)
    shape = (count, seeds, batch_size)
    width = spec.observation_space.shape or (1,)

    def normal(*size: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(size).astype(np.float32))

    terminated = torch.from_numpy((rng.random(shape) < 0.25).astype(np.float32))
    return Batch(
        observation=normal(*shape, *width),
        action=_actions(spec.action_space, rng, shape),
        reward=normal(*shape),
        discount=0.9 * (1.0 - terminated),
        next_observation=normal(*shape, *width),
        terminated=terminated,
    ).unbind()


def masked(batch: Batch, spec: Spec, generator: torch.Generator) -> Batch:
    """The same with masks that leave the action taken, and some action for the next step."""
    assert isinstance(spec.action_space, gym.spaces.Discrete)
    first, actions = int(spec.action_space.start), int(spec.action_space.n)
    masks = torch.rand(2, *batch.reward.shape, actions, generator=generator) < 0.6
    masks[..., 0] |= ~masks.any(dim=-1)
    taken = torch.nn.functional.one_hot(batch.action - first, actions).bool()
    return replace(batch, action_mask=masks[0] | taken, next_action_mask=masks[1])


def random_rollouts(
    spec: Spec, count: int, seeds: int, environments: int = 2, steps: int = 9, with_masks: bool = False
) -> list[Batch]:
    """Rollouts [S, E, T, …] with ends of both kinds; masks forbid some of the actions that were not taken."""
    flat = random_batches(spec, count, seeds, environments * steps)
    rng = np.random.default_rng(11)
    rollouts = []
    for batch in flat:
        parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
        split = {name: part.unflatten(1, (environments, steps)) for name, part in parts.items() if part is not None}
        truncated = torch.from_numpy((rng.random((seeds, environments, steps)) < 0.2).astype(np.float32))
        mask = None
        if with_masks:
            mask = torch.from_numpy(rng.random((seeds, environments, steps, spec.action_dim)) < 0.5)
            mask |= torch.nn.functional.one_hot(split["action"], spec.action_dim).bool()
        rollouts.append(Batch(**split, truncated=truncated * (1.0 - split["terminated"]), action_mask=mask))
    return rollouts


def _actions(space: gym.Space[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    if isinstance(space, gym.spaces.Box):
        return torch.from_numpy(rng.uniform(-0.95, 0.95, (*shape, *space.shape)).astype(np.float32))
    if isinstance(space, gym.spaces.Discrete):
        return torch.from_numpy(rng.integers(space.start, space.start + space.n, shape))
    assert isinstance(space, gym.spaces.MultiDiscrete)
    return torch.from_numpy(rng.integers(0, space.nvec, (*shape, len(space.nvec))))


def random_noise(agent: Agent[Any, Any], updates: int, seeds: int, batch_size: int = 8) -> list[Noise]:
    """Draws for several updates."""
    generator = torch.Generator().manual_seed(13)
    shapes = agent.noise_shapes(batch_size)
    return [
        {name: torch.randn(seeds, *shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(updates)
    ]


def of_seed(batch: Batch, seed: int) -> Batch:
    """One seed's part of a batch, its axis kept."""
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: part[seed : seed + 1] for name, part in parts.items() if isinstance(part, Tensor)})


def noise_of_seed(noise: Noise, seed: int) -> Noise:
    return {name: draws[seed : seed + 1] for name, draws in noise.items()}


def run_updates(agent: Agent[Any, Any], state: Any, batches: Sequence[Batch], noise: Sequence[Noise]) -> list[Any]:
    """One update for each element of `noise`; returns the metrics of each."""
    size = agent.batches_per_update
    return [agent.update(state, batches[i * size : (i + 1) * size], draws) for i, draws in enumerate(noise)]


@torch.no_grad()
def act(
    agent: Agent[Any, Any], state: Any, observation: Any, noise: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The actions with which episodes begin, for observations [S, N, …]."""
    first = observation if isinstance(observation, Tensor) else next(iter(observation.values()))
    return agent.act(state, observation, agent.initial_carry(state, first.shape[1]), noise, mask)[0]


READING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
)
"""What asks for a tensor's values, or has a result whose shape goes by them."""


class _RefusingToRead(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in READING, f"{func} was called"
        by_masks = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
        assert not (by_masks and any(index is not None and index.dtype == torch.bool for index in args[1])), func
        return func(*args, **(kwargs or {}))


class _RefusingToLeave(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (Tensor.tolist, Tensor.numpy, Tensor.__array__), f"{func} was called"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_values_read() -> Iterator[None]:
    """Fail where anything within depends on tensors' values outside of tensors, by which it couldn't be traced."""
    with _RefusingToRead(), _RefusingToLeave():
        yield
