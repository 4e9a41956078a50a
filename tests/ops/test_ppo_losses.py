"""PPO's losses and their slopes by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from offrl.ops.ppo_losses import clipped_error, clipped_gain, divergence_estimate


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "slope"),
    [
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # a good action is likely enough
        (0.5, 2.0, 1.0, 1.0),
        (1.1, -2.0, -2.2, -2.2),
        (1.5, -2.0, -3.0, -3.0),
        (0.5, -2.0, -1.6, 0.0),  # a bad one is unlikely enough
        (1.0, 0.0, 0.0, 0.0),
    ],
)
def test_ratios_pay_off_within_the_clip_only(ratio: float, advantage: float, gain: float, slope: float) -> None:
    log_ratio, advantages = torch.tensor([[math.log(ratio)]]), torch.tensor([[advantage]])
    assert clipped_gain(log_ratio, advantages, 0.2).item() == pytest.approx(gain)
    found = slope_of(lambda x: clipped_gain(x, advantages, 0.2), log_ratio)
    assert found.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "error", "slope"),
    [
        # The old value is 1, the target 3, the limit 0.5.
        (1.2, 3.24, -3.6),
        (2.0, 2.25, 0.0),  # nearer to the target than the held 1.5, which doesn't move
        (0.0, 9.0, -6.0),  # farther than the held 0.5
        (6.0, 9.0, 6.0),
        (4.0, 2.25, 0.0),
    ],
)
def test_values_pay_off_within_the_limit_only(value: float, error: float, slope: float) -> None:
    arguments = [torch.tensor([[x]]) for x in (value, 1.0, 3.0)]
    assert clipped_error(*arguments, 0.5).item() == pytest.approx(error)
    value_, *others = arguments
    found = slope_of(lambda x: clipped_error(x, *others, 0.5), value_)
    assert found.item() == pytest.approx(slope)


def test_without_a_limit_errors_are_squares() -> None:
    arguments = [torch.tensor([[x]]) for x in (6.0, 1.0, 3.0)]
    assert clipped_error(*arguments, 0.0).item() == 9.0
    value, *others = arguments
    assert slope_of(lambda x: clipped_error(x, *others, 0.0), value).item() == 6.0


def test_without_a_clip_ratios_pay_off_anywhere() -> None:
    log_ratio, advantage = torch.tensor([[math.log(3.0)]]), torch.tensor([[2.0]])
    assert clipped_gain(log_ratio, advantage, math.inf).item() == pytest.approx(6.0)
    assert slope_of(lambda x: clipped_gain(x, advantage, math.inf), log_ratio).item() == pytest.approx(6.0)


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize("clip", [0.2, 3.0])
def test_gains_are_the_papers_minimum(clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantage = torch.randn(2, 2, 300, dtype=torch.float64, generator=generator)
    ratio = log_ratio.exp()
    expected = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
    torch.testing.assert_close(clipped_gain(log_ratio, advantage, clip), expected)


def test_divergences_are_estimated_without_a_sign() -> None:
    log_ratio = torch.tensor([[0.0, math.log(2.0)], [0.0, 0.0]])
    expected = torch.tensor([(2.0 - 1.0 - math.log(2.0)) / 2.0, 0.0])
    torch.testing.assert_close(divergence_estimate(log_ratio), expected)


def test_values_within_the_limit_keep_their_slope_whatever_the_rounding() -> None:
    old = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0)).mul(100.0)
    value, target = old + torch.linspace(-0.4, 0.4, 2000), old + 3.0
    slope = slope_of(lambda x: clipped_error(x, old, target, 0.5), value)
    torch.testing.assert_close(slope, 2.0 * (value - target), rtol=1e-4, atol=1e-4)
