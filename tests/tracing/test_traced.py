"""What a traced update promises beyond the values: the same bits whenever it was traced, and inputs of any kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from offrl.errors import DataError
from offrl.nn import MLP, Schedule, seed_generators
from offrl.tracing import Traced
from offrl.tracing.traced import MOST_TRACES
from offrl.types import Batch
from tests.tracing.running import Learner, Store, assert_close, check, tensors_in, traced


def forward(network: MLP, x: Tensor) -> Tensor:
    for depth, layer in enumerate(network.layers):
        weight, bias = layer.weight.flatten(0, 1), layer.bias.flatten(0, 1)
        x = torch.baddbmm(bias, x, weight.mT)
        x = x.relu() if depth < len(network.layers) - 1 else x
    return x


def step(state: Learner, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """A gradient step and one of the target network."""
    with torch.no_grad():
        goal = forward(state.target, x).tanh() + y
    value = forward(state.network, x)
    loss = (value - goal).square().mean((1, 2))
    state.optimizer.minimize(loss.sum())
    state.target.move_towards(state.network, 0.1)
    return {"loss": loss.detach(), "value": value.detach()}


def pairs(count: int, rows: int = 16, seeds: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(rows)
    return [
        (torch.randn(seeds, rows, 3, generator=generator), torch.randn(seeds, rows, 2, generator=generator))
        for _ in range(count)
    ]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"seeds": 2},
    {"max_gradient_norm": 0.1},
    {"max_gradient_norm": 0.1, "seeds": 3},
    {"schedule": Schedule(decay_steps=5), "weight_decay": 0.1},
    {"schedule": Schedule(warmup_steps=3, decay_steps=4, decay_shape="cosine"), "seeds": 2},
    {"hidden": (300, 300)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_learning_is_the_same(options: dict[str, Any]) -> None:
    # Adam makes much of the last digits of small gradients.
    check(step, pairs(6, seeds=options.get("seeds", 1)), Learner.fresh(**options), tolerance=2e-5)
    check(step, pairs(3, rows=300, seeds=options.get("seeds", 1)), Learner.fresh(**options), tolerance=2e-5)


def test_the_same_bits_whenever_it_was_traced() -> None:
    """Half of the steps, then the rest by another process: it traces in the middle, and when the shapes change."""
    draws = [pair for n in range(6) for pair in (*pairs(2, 16 + n // 3), *pairs(1, 24))]
    whole = Learner.fresh(max_gradient_norm=0.5)
    run = traced(step, whole)
    metrics = [run(*pair) for pair in draws]
    for kill in (1, 4, 9):
        first = Learner.fresh(max_gradient_norm=0.5)
        run = traced(step, first)
        for pair in draws[:kill]:
            run(*pair)
        second = copy.deepcopy(first)
        run = traced(step, second)
        resumed = [run(*pair) for pair in draws[kill:]]
        for one, other in zip(tensors_in(second), tensors_in(whole), strict=True):
            assert torch.equal(one, other)
        for one, other in zip(resumed, metrics[kill:], strict=True):
            assert torch.equal(one["loss"], other["loss"])


def test_metrics_are_not_overwritten() -> None:
    state = Learner.fresh()
    run = traced(step, state)
    results = [run(*pair) for pair in pairs(4)]
    copies = copy.deepcopy(results)
    run(*pairs(1)[0])
    assert_close(results, copies, tolerance=0.0)
    assert len({result["value"].data_ptr() for result in results}) == 4
    (results[0]["value"] * 2.0).add_(1.0)
    assert (torch.ones(1, requires_grad=True) * results[1]["value"].sum()).requires_grad


def test_an_error_leaves_the_state_as_it_was() -> None:
    def function(state: Store, x: Tensor, wrong: bool) -> Tensor:
        state.x.add_(x)
        if wrong:
            raise DataError("no")
        return state.x * 2.0

    state = Store()
    run = traced(function, state)
    with pytest.raises(DataError):
        run(torch.ones(3, 4), True)
    assert torch.equal(state.x, torch.zeros(3, 4))
    for n in range(1, 4):
        assert torch.equal(run(torch.ones(3, 4), False), torch.full((3, 4), 2.0 * n))
    with pytest.raises(DataError):
        run(torch.ones(3, 4), True)
    assert torch.equal(state.x, torch.full((3, 4), 3.0))


def test_a_few_traces_are_kept() -> None:
    runs: list[int] = []

    def function(state: Store, x: Tensor) -> Tensor:
        runs.append(len(x))
        return x * 2.0

    run = traced(function, Store())
    for length in [*range(1, MOST_TRACES + 1), *range(1, MOST_TRACES + 1)]:
        assert torch.equal(run(torch.ones(length)), torch.full((length,), 2.0))
    assert len(runs) == len(run.traces) == MOST_TRACES
    run(torch.ones(99))
    run(torch.ones(MOST_TRACES))
    assert len(runs) == MOST_TRACES + 1
    run(torch.ones(1))
    assert runs[-1] == 1
    assert len(run.traces) == MOST_TRACES


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    values: Tensor
    name: str = "rows"
    parts: tuple[Tensor, ...] = ()


def test_inputs_and_outputs_of_any_structure() -> None:
    def function(state: Store, pair: Pair, rows: Rows, rest: dict[str, Any]) -> Any:
        result = pair.left * 2.0 if pair.right is None else pair.left + pair.right
        result = result + sum(rest["list"]) * rest["factor"]
        return {
            "z": result,
            "a": [rows.values * 1.0, None],
            "m": Rows(result - 1.0, rows.name, (result,)),
            "n": Pair(result),
        }

    def inputs(right: bool, factor: float, name: str = "rows", count: int = 2) -> list[Any]:
        x = torch.randn(4)
        parts = [torch.randn(4) for _ in range(count)]
        return [
            Pair(x, torch.randn(4) if right else None),
            Rows(torch.randn(2), name),
            {"list": parts, "factor": factor},
        ]

    calls = [inputs(True, 1.0), inputs(True, 1.0), inputs(False, 1.0), inputs(True, 2.0), inputs(True, 1.0)]
    calls += [inputs(True, 1.0, "other"), inputs(True, 1.0, count=3), inputs(True, 1, count=3)]
    run = check(function, calls)
    assert len(run.traces) == 6
    result = run(*inputs(True, 1.0, "other"))
    assert list(result) == ["z", "a", "m", "n"]
    assert (type(result["m"]), result["m"].name, type(result["n"])) == (Rows, "other", Pair)


def test_inputs_lie_in_any_way() -> None:
    """Views of blocks, repeated and transposed tensors, other strides than when it was traced, one tensor twice."""

    def function(state: Store, x: Tensor, y: Tensor) -> Any:
        state.x.add_(x.mT.reshape(3, 4) + y.view_as(x).T.reshape(3, 4))
        return x.sum(0), (x * y).mT @ x, x.flatten()[:3], x.mT.contiguous(), x.clone(), y[1:]

    block = torch.randn(3, 2, 4, 3)
    same, row = torch.randn(4, 3), torch.randn(3)
    calls = [
        (block[0, 0], block[0, 1]),
        (block[1, 0], block[1, 1]),
        (same, same),
        (torch.randn(4, 3), torch.randn(4, 3)),
        (torch.randn(3, 4).mT, torch.randn(4, 3)),
        (torch.randn(4, 6)[:, ::2], torch.randn(4, 3)),
        (row.expand(4, 3), torch.randn(4, 3)),
        (block[2, 0], block[2, 0]),
    ]
    check(function, calls)


def test_returned_copies_of_inputs_are_copies() -> None:
    def function(state: Store, x: Tensor) -> Any:
        return x.clone(), state.x.clone(), state.x, x

    state = Store()
    run = traced(function, state)
    x = torch.ones(2)
    run(x)
    copied, copied_state, itself, given = run(x)
    assert itself.data_ptr() == state.x.data_ptr()
    x.add_(1.0)
    state.x.add_(1.0)
    assert (float(copied.sum()), float(copied_state.sum()), float(given.sum())) == (2.0, 0.0, 4.0)


def test_a_copy_of_the_state_keeps_what_was_there() -> None:
    def function(state: Store, x: Tensor) -> Any:
        before = state.x.clone()
        twice = state.x * 2.0
        state.x.add_(x)
        return before, state.x.clone(), twice, state.x * 2.0, (state.x - before).sum()

    check(function, [(torch.randn(3, 4),) for _ in range(3)])


def test_inference_mode_makes_no_difference() -> None:
    @torch.inference_mode()
    def function(state: Store, x: Tensor) -> Any:
        state.x.lerp_(x, x.sigmoid())
        state.x[0].copy_(x[0])
        return state.x.cumsum(0), x * 1.0

    with torch.inference_mode():
        state = Store()
        inputs = [(torch.randn(3, 4),) for _ in range(3)]
    run, other = traced(function, state), Store()
    for x in (*inputs, (torch.randn(3, 4),)):
        assert_close(run(*x), function(other, *x))
        assert_close(state.x, other.x)
    assert run.traces[0].replay is not None


def test_parts_of_a_flat_tensor_that_live_on() -> None:
    """They are computed where they will lie in it; then either is changed, or overwritten once it isn't needed."""

    def function(state: Store, x: Tensor, overwrites: bool) -> Any:
        one, other = x.tanh() * 2.0, (x.mT @ x) * 0.5
        flat = torch.cat([one.reshape(-1), other.mT.reshape(-1), one.flatten()])
        if overwrites:
            flat.mul_(3.0)
        third = one * 2.0
        fourth = other.sin() + 1.0
        state.x.add_(flat[:12].view(3, 4))
        return flat * 1.0, third.exp(), fourth

    check(function, [(torch.randn(3, 4), overwrites) for overwrites in (False, False, True, True)])


def test_numbers_in_the_source_that_are_written_to() -> None:
    def function(state: Store, x: Tensor) -> Any:
        total = torch.tensor(2.0)
        total.mul_(x.sum()).add_(1.0)
        zeros, ones = torch.zeros(3), torch.tensor([1.0, 2.0])
        zeros[1:].add_(x.sum())
        ones[0] = x.mean()
        return total, zeros, ones * 1.0

    check(function, [(torch.randn(4),) for _ in range(4)])


def test_numbers_of_the_state_that_change_between_calls_are_heeded() -> None:
    ours, theirs = Learner.fresh(), Learner.fresh()
    run = traced(step, ours)
    for n, pair in enumerate(pairs(6)):
        ours.optimizer.learning_rate = theirs.optimizer.learning_rate = 0.01 if n < 3 else 0.001
        run(*pair)
        step(theirs, *pair)
        assert_close(tensors_in(ours), tensors_in(theirs))


def test_tensors_of_the_state_that_are_replaced_between_calls_are_heeded() -> None:
    def function(state: Store, x: Tensor) -> Tensor:
        return state.x.add_(x) * 1.0

    state = Store()
    run = traced(function, state)
    run(torch.ones(3, 4))
    state.x = torch.full((3, 4), 5.0)
    assert float(run(torch.ones(3, 4))[0, 0]) == 6.0
    assert float(state.x[0, 0]) == 6.0


@dataclass
class Lazy:
    """A state with an optimizer of PyTorch's, which makes its own at its first step."""

    network: torch.nn.Linear
    optimizer: torch.optim.Optimizer


@pytest.mark.parametrize(
    ("make", "replayed"),
    [
        (lambda p: torch.optim.Adam(p, 0.1, fused=True), True),
        (lambda p: torch.optim.SGD(p, 0.1), True),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), True),
        (lambda p: torch.optim.Adam(p, 0.1), False),
    ],
)
def test_optimizers_of_torch(make: Callable[[Any], torch.optim.Optimizer], replayed: bool) -> None:
    def function(state: Lazy, x: Tensor) -> Tensor:
        loss = state.network(x).square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        return loss.detach()

    torch.manual_seed(0)
    ours = torch.nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    one, other = Lazy(ours, make(ours.parameters())), Lazy(theirs, make(theirs.parameters()))
    run = traced(function, one)
    for _ in range(6):
        x = torch.randn(5, 3)
        assert_close(run(x), function(other, x))
        assert_close(list(ours.parameters()), list(theirs.parameters()))
    assert (run.traces[0].replay is not None) is replayed, run.explain()


class Doubling:
    """An agent of one line."""

    factor = 2.0

    def __init__(self) -> None:
        self.offset = torch.ones(3, 4)

    def update(self, state: Store, batches: list[Batch], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        state.x.mul_(self.factor).add_(self.offset)
        return {"first": state.x.sum() + batches[0].reward.sum(), "noise": noise["n"] * 2.0}

    def update_half(self, state: Store, batches: list[Batch], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        state.x.mul_(0.5)
        return {"x": state.x[0] * 1.0}


def test_an_agents_update() -> None:
    def batch() -> Batch:
        s = torch.randn(1, 4, 2)
        return Batch(s, s[..., :1], torch.randn(1, 4), torch.ones(1, 4), s + 1.0, torch.zeros(1, 4))

    agent, ours, theirs = Doubling(), Store(), Store()
    run = Traced(agent, ours)  # type: ignore[arg-type]
    for _ in range(4):
        inputs = [batch()], {"n": torch.randn(2)}
        assert_close(run(*inputs), agent.update(theirs, *inputs))
        assert_close(ours.x, theirs.x)
    other = Traced(agent, ours, agent.update_half)  # type: ignore[arg-type]
    assert_close([other.update(*inputs), other.update(*inputs)], [{"x": ours.x[0] / 0.5}, {"x": ours.x[0]}])
    assert "Doubling.update_half: " in other.explain()
    assert "Doubling.update: " in run.explain()
    assert "replayed" in run.explain()


def test_threads_do_not_write_over_each_others_results() -> None:
    """A policy may be asked by a server's threads; large products let others run in their midst."""
    network = MLP(64, 64, (256, 256), seed_generators([0]))
    run = traced(lambda state, x: state(x).tanh(), network)
    inputs = [torch.randn(1, 128, 64) for _ in range(8)]
    with torch.no_grad():
        expected = [network(x).tanh() for x in inputs]
        run(inputs[0])
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: (i % 8, run(inputs[i % 8])), range(200)))
    for i, result in found:
        assert_close(result, expected[i], 1e-6)
