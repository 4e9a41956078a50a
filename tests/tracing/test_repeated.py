"""Parts of an update that are traced by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from offrl.errors import DataError
from offrl.tracing import Traced, repeated
from offrl.tracing.traced import MOST_PARTS
from tests.tracing.running import Learner, Store, assert_close, tensors_in
from tests.tracing.test_traced import forward


class Minibatches:
    """An agent whose update takes a step for each row of its batch."""

    def __init__(self, threshold: float = 1e9) -> None:
        self.runs: list[str] = []
        self.threshold = threshold

    def update(self, state: Learner, batches: list[Tensor], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        self.runs.append("update")
        losses = [self.step(state, rows, noise["n"]) for rows in batches[0].split(4, 1)]
        if float(losses[-1].sum()) > self.threshold:
            raise DataError("diverged")
        return {"loss": torch.stack(losses).mean(0)}

    @repeated
    def step(self, state: Learner, rows: Tensor, noise: Tensor) -> Tensor:
        """One step of the optimizer."""
        self.runs.append("step")
        loss = (forward(state.network, rows) - noise).square().mean((1, 2))
        state.optimizer.minimize(loss.sum())
        return loss.detach()


class Wrapper:
    """An agent that holds another one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def update(self, state: Any, batches: list[Tensor], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        scaled = self.scale(state, batches[0])
        return self.inner.update(state.inner, [scaled], noise) | {"scale": state.scale * 1.0}

    @repeated
    def scale(self, state: Any, rows: Tensor) -> Tensor:
        """Changes the outer state, and reads the inner one."""
        state.scale.mul_(0.5).add_(state.inner.network.flat.square().mean())
        return rows * state.scale


class Outer:
    def __init__(self, inner: Learner) -> None:
        self.inner, self.scale = inner, torch.ones(())


def draws(count: int, rows: int = 16) -> list[tuple[list[Tensor], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    return [
        ([torch.randn(1, rows, 3, generator=generator)], {"n": torch.randn(1, 1, 2, generator=generator)})
        for _ in range(count)
    ]


def as_it_is(update: Callable[..., Any], state: Any) -> Callable[..., Any]:
    return lambda batches, noise: update(state, batches, noise)


def test_a_part_is_traced_once_and_replayed() -> None:
    agent, plain = Minibatches(), Minibatches()
    ours, theirs = Learner.fresh(max_gradient_norm=0.5), Learner.fresh(max_gradient_norm=0.5)
    run = Traced(agent, ours)  # type: ignore[arg-type]
    for batches, noise in draws(3):
        assert_close(run.update(batches, noise), plain.update(theirs, batches, noise), 1e-5)  # type: ignore[arg-type]
        assert_close(tensors_in(ours), tensors_in(theirs), 1e-5)
    assert agent.runs == ["update", "step", "update", "update"]
    assert plain.runs.count("step") == 12
    for batches, noise in draws(2, rows=18):
        run.update(batches, noise)  # type: ignore[arg-type]
    assert agent.runs.count("step") == 2
    assert run.explain().count("Minibatches.step: ") == 2


def test_outside_of_a_traced_update_it_is_the_method() -> None:
    agent, state = Minibatches(), Learner.fresh()
    batches, noise = draws(1)[0]
    agent.update(state, batches, noise)
    agent.step(state, batches[0], noise["n"])
    assert agent.runs == ["update", *["step"] * 5]
    assert agent.step.__doc__ == "One step of the optimizer."


def test_agents_within_agents() -> None:
    agent, plain = Wrapper(Minibatches()), Wrapper(Minibatches())
    ours, theirs = Outer(Learner.fresh()), Outer(Learner.fresh())
    run = Traced(agent, ours)  # type: ignore[arg-type]
    for batches, noise in draws(4):
        assert_close(run.update(batches, noise), plain.update(theirs, batches, noise), 1e-5)  # type: ignore[arg-type]
        assert_close(tensors_in(ours.inner), tensors_in(theirs.inner), 1e-5)
    assert agent.inner.runs.count("step") == 1
    assert "Wrapper.scale: " in run.explain()


def test_the_same_bits_whenever_it_was_traced() -> None:
    whole = Learner.fresh()
    run = Traced(Minibatches(), whole)  # type: ignore[arg-type]
    for batches, noise in draws(6):
        run.update(batches, noise)  # type: ignore[arg-type]
    halves = Learner.fresh()
    for part in (slice(0, 2), slice(2, 6)):
        run = Traced(Minibatches(), halves)  # type: ignore[arg-type]
        for batches, noise in draws(6)[part]:
            run.update(batches, noise)  # type: ignore[arg-type]
    for one, other in zip(tensors_in(whole), tensors_in(halves), strict=True):
        assert torch.equal(one, other)


def test_an_error_ends_the_session() -> None:
    agent, state = Minibatches(threshold=0.0), Learner.fresh()
    run = Traced(agent, state)  # type: ignore[arg-type]
    batches, noise = draws(1)[0]
    with pytest.raises(DataError):
        run.update(batches, noise)  # type: ignore[arg-type]
    agent.step(state, batches[0], noise["n"])
    agent.step(state, batches[0], noise["n"])
    assert agent.runs.count("step") == 3


class OnStates:
    """An agent whose part changes one state after another."""

    def update(self, states: list[Store], batches: list[Tensor], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        for state in states:
            self.add(state, batches[0])
        return {}

    @repeated
    def add(self, state: Store, x: Tensor) -> None:
        state.x.add_(x)


def test_each_state_has_traces_of_its_own_and_few_are_kept() -> None:
    states = [Store() for _ in range(MOST_PARTS + 2)]
    run = Traced(OnStates(), states)  # type: ignore[arg-type]
    for _ in range(2):
        assert run.update([torch.ones(3, 4)], {}) == {}  # type: ignore[list-item]
    assert all(torch.equal(state.x, torch.full((3, 4), 2.0)) for state in states)
    assert len(run.parts) == MOST_PARTS
