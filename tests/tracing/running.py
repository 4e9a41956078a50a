"""Functions of a state and inputs, run as they are and traced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from offrl.nn import MLP, Adam, seed_generators
from offrl.tracing.graph import leaves
from offrl.tracing.traced import Traces


@dataclass
class Store:
    """A state of nothing but tensors."""

    x: Tensor = field(default_factory=lambda: torch.zeros(3, 4))
    count: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))


@dataclass
class Learner:
    """A state as agents have it."""

    network: MLP
    optimizer: Adam
    target: MLP
    options: dict[str, Any]

    @classmethod
    def fresh(cls, hidden: Sequence[int] = (8, 8), seeds: int = 1, **options: Any) -> Learner:
        network = MLP(3, 2, hidden, seed_generators(range(seeds)))
        made = {"hidden": hidden, "seeds": seeds, **options}
        return cls(network, Adam(network, 1e-2, **options), network.clone(), made)

    def __deepcopy__(self, memo: Any) -> Learner:
        """Another one, whose parameters are views of its own flat tensors."""
        twin = Learner.fresh(**self.options)
        for one, other in zip(tensors_in(twin), tensors_in(self), strict=True):
            one.copy_(other)
        return twin


def traced(function: Callable[..., Any], state: Any) -> Traces:
    """The function of the state, traced."""
    return Traces("test", lambda *inputs: function(state, *inputs), state, {"state": state})


def tensors_in(state: Any) -> list[Tensor]:
    """All tensors of a state, wherever they are."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, Learner):
        return [state.network.flat, state.target.flat, *state.optimizer.named_tensors().values()]
    return [leaf for leaf in leaves(state) if isinstance(leaf, Tensor)]


def assert_close(ours: Any, theirs: Any, tolerance: float = 2e-6) -> None:
    """Two structures of tensors are the same to float tolerance, relative to the largest number of each tensor."""
    ours, theirs = list(leaves(ours)), list(leaves(theirs))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if not isinstance(other, Tensor):
            assert one == other
            continue
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        numbers = other.detach().double()
        finite = numbers[numbers.isfinite()].abs()
        scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def check(
    function: Callable[..., Any],
    calls: Sequence[Sequence[Any]],
    state: Any = None,
    *,
    replayed: bool = True,
    tolerance: float = 2e-6,
) -> Traces:
    """Traced, the function returns and leaves behind what it does when it runs as it is.

    Args:
        function: of the state and inputs.
        calls: the inputs of one call after another.
        state: is copied.
        tolerance: relative to the scale of each tensor.
        replayed: whether the last call must have been a replay, or one of the function as it is.
    """
    theirs, ours = (copy.deepcopy(Store() if state is None else state) for _ in range(2))
    traces = traced(function, ours)
    for inputs in calls:
        given = copy.deepcopy(inputs)
        expected = function(theirs, *given)
        assert_close(traces(*inputs), expected, tolerance)
        assert_close(list(inputs), list(given), tolerance)
        assert_close(tensors_in(ours), tensors_in(theirs), tolerance)
    assert (traces.traces[0].replay is not None) is replayed, traces.explain()
    return traces
