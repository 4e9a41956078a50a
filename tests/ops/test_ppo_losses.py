"""PPO's losses by hand, and their slopes against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offrl.ops.ppo_losses import clipped_error, clipped_error_slope, clipped_gain, clipped_gain_slope


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
    assert clipped_gain_slope(log_ratio, advantages, 0.2).item() == pytest.approx(slope)


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
    assert clipped_error_slope(*arguments, 0.5).item() == pytest.approx(slope)


def test_without_a_limit_errors_are_squares() -> None:
    arguments = [torch.tensor([[x]]) for x in (6.0, 1.0, 3.0)]
    assert clipped_error(*arguments, 0.0).item() == 9.0
    assert clipped_error_slope(*arguments, 0.0).item() == 6.0


def test_without_a_clip_ratios_pay_off_anywhere() -> None:
    log_ratio, advantage = torch.tensor([[math.log(3.0)]]), torch.tensor([[2.0]])
    assert clipped_gain(log_ratio, advantage, math.inf).item() == pytest.approx(6.0)
    assert clipped_gain_slope(log_ratio, advantage, math.inf).item() == pytest.approx(6.0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("clip", [0.2, math.inf])
def test_the_gains_slope_is_autograds(clip: float) -> None:
    log_ratio, advantage = random(2, 300).mul(0.3).requires_grad_(), random(2, 301)[:, 1:]
    (expected,) = torch.autograd.grad(clipped_gain(log_ratio, advantage, clip).sum(), log_ratio)
    torch.testing.assert_close(clipped_gain_slope(log_ratio.detach(), advantage, clip), expected)


@pytest.mark.parametrize("limit", [0.3, 0.0])
def test_the_errors_slope_is_autograds(limit: float) -> None:
    value, old, target = random(2, 300).requires_grad_(), random(2, 301)[:, 1:], random(2, 302)[:, 2:]
    (expected,) = torch.autograd.grad(clipped_error(value, old, target, limit).sum(), value)
    torch.testing.assert_close(clipped_error_slope(value.detach(), old, target, limit), expected)


def test_values_within_the_limit_keep_their_slope_whatever_the_rounding() -> None:
    old = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0)).mul(100.0)
    value, target = old + torch.linspace(-0.4, 0.4, 2000), old + 3.0
    torch.testing.assert_close(clipped_error_slope(value, old, target, 0.5), 2.0 * (value - target))
