"""Functions that can't be replayed run as they are, and say why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tracing.running import Store, assert_close, check, tensors_in, traced

SOMEWHERE = torch.ones(4)


def branches(state: Store, x: Tensor) -> Tensor:
    return x * 2.0 if x.sum() > 0 else x * 3.0


def asks(state: Store, x: Tensor) -> Tensor:
    state.count += 1
    if state.count.item() % 2 == 0:
        state.x.add_(1.0)
    return state.x * x.sum()


def converts(state: Store, x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 2.0)


def lists(state: Store, x: Tensor) -> Tensor:
    return torch.tensor(x.tolist())


def selects(state: Store, x: Tensor) -> Tensor:
    return x[x > 0].sum()


def counts(state: Store, x: Tensor) -> Tensor:
    return (x > 0).nonzero().sum() + x.masked_select(x > 0).sum()


def compares(state: Store, x: Tensor) -> Tensor:
    return x * float(torch.equal(x, x))


def knows(state: Store, x: Tensor) -> Tensor:
    return x + SOMEWHERE


def changes(state: Store, x: Tensor) -> Tensor:
    return x.add_(1.0) * 1.0


def works_behind(state: Store, x: Tensor) -> Tensor:
    np.add(np.asarray(state.x), 1.0, out=state.x.detach().numpy())
    return x * 1.0


CASES: list[tuple[Callable[..., Any], str]] = [
    (branches, "asks for a tensor's value"),
    (asks, "asks for a tensor's value"),
    (converts, "numpy()"),
    (lists, "tolist()"),
    (selects, "depends on values"),
    (counts, "depends on values"),
    (compares, "asks for a tensor's value"),
    (knows, "nobody knows"),
    (changes, "changes an input"),
    (works_behind, "__array__"),
]


@pytest.mark.parametrize(("function", "reason"), CASES)
def test_they_run_as_they_are(function: Callable[..., Any], reason: str) -> None:
    torch.manual_seed(0)
    run = check(function, [(torch.randn(4),) for _ in range(5)], replayed=False)
    assert reason in run.explain(), run.explain()
    assert len(run.traces) == 1


def test_random_draws() -> None:
    run = traced(lambda state, x: x + torch.randn(3), Store())
    draws = [run(torch.zeros(3)) for _ in range(4)]
    assert not any(torch.equal(draws[0], other) for other in draws[1:])
    assert "noise" in run.explain()


@dataclass
class Counting:
    x: Tensor = field(default_factory=lambda: torch.zeros(3))
    calls: int = 0
    carry: Tensor | None = None


def test_numbers_that_an_update_changes() -> None:
    def function(state: Counting, x: Tensor) -> Tensor:
        state.calls += 1
        return state.x.add_(x * state.calls) * 1.0

    state = Counting()
    run = traced(function, state)
    for n in range(1, 7):
        run(torch.ones(3))
        assert (state.calls, float(state.x[0])) == (n, n * (n + 1) / 2)
    assert "state.calls" in run.explain()


def test_tensors_that_an_update_replaces() -> None:
    def function(state: Counting, x: Tensor) -> Tensor:
        state.x = state.x + x
        return state.x * 1.0

    state = Counting()
    run = traced(function, state)
    assert [float(run(torch.ones(3))[0]) for _ in range(6)] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert "state.x" in run.explain()


def test_what_is_made_once_is_waited_for() -> None:
    runs: list[int] = []

    def function(state: Counting, x: Tensor) -> Tensor:
        runs.append(0)
        if state.carry is None:
            state.carry = torch.zeros(3)
        return state.carry.add_(x) * 1.0

    run = traced(function, Counting())
    assert [float(run(torch.ones(3))[0]) for _ in range(6)] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert run.traces[0].replay is not None
    assert len(runs) == 2


def test_inputs_of_unknown_kinds() -> None:
    state, other = Store(), Store()
    function = lambda state, x: torch.from_numpy(x) + state.x.add_(1.0)  # noqa: E731
    run = traced(function, state)
    for _ in range(3):
        x = np.ones((3, 4), np.float32)
        assert_close(run(x), function(other, copy.deepcopy(x)))
        assert_close(tensors_in(state), tensors_in(other))
    assert "ndarray" in run.explain()


def test_inputs_that_are_a_part_of_the_state() -> None:
    def function(state: Store, x: Tensor) -> Tensor:
        state.x.add_(1.0)
        return x * 1.0

    state = Store()
    run = traced(function, state)
    assert [float(run(state.x)[0, 0]) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert "a part of the state" in run.explain()


def test_what_autograd_would_go_on_from() -> None:
    leaf = torch.ones(3, requires_grad=True)
    run = traced(lambda state, x: x * 2.0, Store())
    for _ in range(3):
        (slope,) = torch.autograd.grad(run(leaf).sum(), leaf)
        assert torch.equal(slope, torch.full((3,), 2.0))
