"""Schedules of step sizes, against PyTorch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from offrl.errors import RecipeError
from offrl.nn import Adam, Schedule
from offrl.nn.adam import ended_schedule
from tests.nn.test_adam import loss_of, make_network

RATE = 0.1


def factors(schedule: Schedule, steps: int, stride: int = 1) -> list[float]:
    return [float(schedule.factor(torch.tensor(float(taken * stride)), stride)) for taken in range(steps)]


def of_torch(make: Callable[[Optimizer], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    schedule, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"] / RATE)
        optimizer.step()
        schedule.step()
    return rates


def warm_cosine(optimizer: Optimizer) -> Any:
    """Four steps up, five that stay, ten down."""
    rise = lr_scheduler.LinearLR(optimizer, 0.25, 1.0, total_iters=3)
    stay, fall = lr_scheduler.ConstantLR(optimizer, 1.0), lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    return lr_scheduler.SequentialLR(optimizer, [rise, stay, fall], milestones=[4, 9])


PARITY: dict[str, tuple[Schedule, Callable[[Optimizer], Any], int]] = {
    "constant": (Schedule(), lambda each: lr_scheduler.ConstantLR(each, 1.0), 5),
    "linear": (Schedule(decay_steps=8), lambda each: lr_scheduler.LinearLR(each, 1.0, 0.0, total_iters=8), 12),
    "cosine": (
        Schedule(decay_steps=8, decay_shape="cosine"),
        # PyTorch's goes up again behind its end.
        lambda each: lr_scheduler.CosineAnnealingLR(each, T_max=8),
        9,
    ),
    "warm-up": (Schedule(warmup_steps=5), lambda each: lr_scheduler.LinearLR(each, 0.2, 1.0, total_iters=4), 9),
    "all of them": (
        Schedule(warmup_steps=4, constant_steps=5, decay_steps=10, decay_shape="cosine"),
        warm_cosine,
        20,
    ),
    "a formula": (
        Schedule(warmup_steps=3, constant_steps=2, decay_steps=7, decay_shape="cosine"),
        lambda each: lr_scheduler.LambdaLR(
            each,
            lambda n: min(1.0, (n + 1) / 3) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, (n - 5) / 7)))),
        ),
        16,
    ),
}


@pytest.mark.parametrize(("schedule", "theirs", "steps"), PARITY.values(), ids=PARITY)
def test_step_sizes_are_those_of_torch(schedule: Schedule, theirs: Callable[[Optimizer], Any], steps: int) -> None:
    assert factors(schedule, steps) == pytest.approx(of_torch(theirs, steps), abs=1e-6)


def test_a_warm_up_begins_above_nothing_and_ends_at_the_whole() -> None:
    assert factors(Schedule(warmup_steps=4), 6) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_fall_ends_at_exactly_nothing(shape: Any) -> None:
    schedule = Schedule(warmup_steps=2, constant_steps=3, decay_steps=4, decay_shape=shape)
    assert factors(schedule, 13)[9:] == [0.0] * 4
    assert factors(schedule, 9)[-1] > 0.0
    assert schedule.last_step == 9


def test_what_never_falls_never_ends() -> None:
    assert Schedule(warmup_steps=5, constant_steps=5).last_step == 0


def test_a_stride_counts_several_steps_as_one() -> None:
    """Of twelve steps the slow optimizer takes every third: each has what its last one would have, or its first."""
    rising, falling = Schedule(warmup_steps=12), Schedule(decay_steps=12)
    assert factors(rising, 4, stride=3) == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors(falling, 5, stride=3) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_an_optimizer_goes_by_its_schedule_and_stride() -> None:
    schedule = Schedule(warmup_steps=4, decay_steps=4, decay_shape="cosine")
    optimizer = Adam(make_network(0), RATE, schedule=schedule, stride=2)
    moved, ended = [], []
    for _ in range(5):
        ended.append(ended_schedule((optimizer,)))
        before = optimizer.flat.clone()
        # Adam's first moment over the root of its second is 1 where all gradients are the same.
        optimizer.descend(torch.ones_like(before))
        moved.append(float((before - optimizer.flat).mean()) / RATE)
    assert moved == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0], abs=1e-5)
    assert ended == [0, 0, 0, 0, 8]


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_a_resumed_schedule_goes_on_bit_for_bit(stop: int) -> None:
    schedule = Schedule(warmup_steps=3, constant_steps=1, decay_steps=5, decay_shape="cosine")
    network = make_network(0, 1)
    optimizer = Adam(network, 1e-2, schedule=schedule)
    for step in range(stop):
        optimizer.minimize(loss_of(network, step, 2))
    resumed = network.clone()
    restored = Adam(resumed, 1e-2, schedule=schedule)
    for name, tensor in restored.named_tensors().items():
        tensor.copy_(optimizer.named_tensors()[name])
    for step in range(stop, 10):
        optimizer.minimize(loss_of(network, step, 2))
        restored.minimize(loss_of(resumed, step, 2))
    assert torch.equal(network.flat, resumed.flat)


def test_a_shape_without_a_fall_is_refused() -> None:
    with pytest.raises(RecipeError, match="'cosine', but step sizes never fall: decay_steps is 0"):
        Schedule(decay_shape="cosine")
