"""Losses by hand, and what descends them."""

from __future__ import annotations

import pytest
import torch

from offrl.ops.losses import log_sum_exp_gap, quantile_huber_loss, squared_error


def test_squared_error_by_hand() -> None:
    prediction = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]], requires_grad=True)
    target = torch.tensor([[[0.0, 4.0], [0.5, -1.0]]])
    loss = squared_error(prediction, target)
    assert loss.tolist() == [[5.0, 0.25]]
    (slope,) = torch.autograd.grad(loss.sum(), prediction)
    assert slope.tolist() == [[[2.0, -4.0], [-1.0, 0.0]]]


def test_the_gap_by_hand() -> None:
    values = torch.tensor([[[0.0, 0.0, 5.0], [1.0, 3.0, 1.0]]], requires_grad=True)
    choice = torch.tensor([[0, 1]])
    mask = torch.tensor([[[True, True, False], [False, True, False]]])
    gap = log_sum_exp_gap(values, choice, mask)
    # log(e⁰ + e⁰) − 0, and log(e³) − 3; softmax less the chosen one.
    assert gap.flatten().tolist() == pytest.approx([0.693147, 0.0], rel=1e-5, abs=1e-6)
    (slope,) = torch.autograd.grad(gap.sum(), values)
    torch.testing.assert_close(slope, torch.tensor([[[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]]))


@pytest.mark.parametrize("masked", [False, True])
def test_the_gap_is_that_of_the_allowed_values(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = 3.0 * torch.randn(3, 7, 4, generator=generator)
    choice = torch.randint(4, (3, 7), generator=generator)
    mask = torch.rand(3, 7, 4, generator=generator) < 0.5
    mask |= torch.nn.functional.one_hot(choice, 4).bool()
    gap = log_sum_exp_gap(values, choice, mask if masked else None)
    for place in [(seed, row) for seed in range(3) for row in range(7)]:
        possible = values[place][mask[place]] if masked else values[place]
        expected = possible.exp().sum().log() - values[place][choice[place]]
        torch.testing.assert_close(gap[place], expected, rtol=1e-4, atol=1e-5)


def test_the_gap_is_never_negative_even_where_the_data_did_what_its_mask_forbids() -> None:
    values, choice = torch.tensor([[[1.0, 1.0, 9.0]]], requires_grad=True), torch.tensor([[1]])
    gap = log_sum_exp_gap(values, choice, torch.tensor([[[True, False, False]]]))
    # log(e¹ + e¹) − 1: the third action stays out, the second one doesn't.
    assert gap.item() == pytest.approx(0.693147)
    torch.testing.assert_close(torch.autograd.grad(gap.sum(), values)[0], torch.tensor([[[0.5, -0.5, 0.0]]]))
    higher = log_sum_exp_gap(torch.tensor([[[1.0, 50.0, 9.0]]]), choice, torch.tensor([[[True, False, False]]]))
    assert higher.item() == 0.0


def test_the_quantile_huber_loss_by_hand() -> None:
    """θ = (0, 2) at τ = 1/4 and 3/4 against y = (−0.5, 1, 4).

    Of θ₁: u = −0.5, 1, 4 weigh 3/4, 1/4, 1/4 and lose 0.125, 0.5, 3.5; of θ₂: u = −2.5, −1, 2 weigh 1/4, 1/4, 3/4 and
    lose 2, 0.5, 1.5.
    """
    quantiles = torch.tensor([[[0.0, 2.0]]], requires_grad=True)
    loss = quantile_huber_loss(quantiles, torch.tensor([[[-0.5, 1.0, 4.0]]]))
    first, second = 0.75 * 0.125 + 0.25 * 0.5 + 0.25 * 3.5, 0.25 * 2.0 + 0.25 * 0.5 + 0.75 * 1.5
    assert loss.shape == (1, 1)
    assert loss.item() == pytest.approx((first + second) / 3)
    (slope,) = torch.autograd.grad(loss.sum(), quantiles)
    expected = [-(0.75 * -0.5 + 0.25 + 0.25) / 3, -(-0.25 - 0.25 + 0.75) / 3]
    assert slope.flatten().tolist() == pytest.approx(expected)


def test_its_minimum_is_at_the_quantiles() -> None:
    """Of 0, …, 1000, so far apart that Huber's parabola is narrow: the middles of four quarters."""
    data = torch.linspace(0.0, 1000.0, 1001).view(1, 1, -1)
    best = torch.tensor([[[125.0, 375.0, 625.0, 875.0]]])
    least = quantile_huber_loss(best, data).item()
    for place in range(4):
        for step in (-10.0, 10.0):
            moved = best.clone()
            moved[..., place] += step
            assert quantile_huber_loss(moved, data).item() > least
