"""Losses by hand, and their derivatives against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offrl.ops.losses import chosen_huber, log_sum_exp_gap, squared_error


def draws(*shape: int, seed: int = 0) -> Tensor:
    return 3.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_huber_by_hand() -> None:
    values = torch.tensor([[[0.5, 9.0], [9.0, 4.0], [-2.0, 9.0], [1.0, 9.0]]])
    choice, target = torch.tensor([[0, 1, 0, 0]]), torch.tensor([[0.0, 1.0, 1.5, 1.0]])
    loss, slope, error = chosen_huber(values, choice, target)
    assert error.tolist() == [[0.5, 3.0, -3.5, 0.0]]
    # δ²/2 = 0.125 inside, |δ| − 1/2 = 2.5 and 3 outside; the slopes δ, clipped to ±1, over four transitions.
    assert loss.tolist() == [[0.125, 2.5, 3.0, 0.0]]
    assert slope.tolist() == [[[0.125, 0.0], [0.0, 0.25], [-0.25, 0.0], [0.0, 0.0]]]


def test_huber_weighs_transitions() -> None:
    values, choice = torch.tensor([[[3.0], [0.5]]]), torch.tensor([[0, 0]])
    loss, slope, error = chosen_huber(values, choice, torch.zeros(1, 2), torch.tensor([[0.5, 0.1]]))
    assert loss.flatten().tolist() == pytest.approx([0.5 * 2.5, 0.1 * 0.125])
    assert slope.flatten().tolist() == pytest.approx([0.25, 0.025])
    assert error.tolist() == [[3.0, 0.5]]


def test_the_gap_by_hand() -> None:
    values = torch.tensor([[[0.0, 0.0, 5.0], [1.0, 3.0, 1.0]]])
    choice = torch.tensor([[0, 1]])
    mask = torch.tensor([[[True, True, False], [False, True, False]]])
    gap, slope = log_sum_exp_gap(values, choice, mask)
    # log(e⁰ + e⁰) − 0, and log(e³) − 3.
    assert gap.flatten().tolist() == pytest.approx([0.693147, 0.0], rel=1e-5, abs=1e-6)
    torch.testing.assert_close(slope, torch.tensor([[[-0.25, 0.25, 0.0], [0.0, 0.0, 0.0]]]))


def test_squared_error_by_hand() -> None:
    prediction, target = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]]), torch.tensor([[[0.0, 4.0], [0.5, -1.0]]])
    loss, slope = squared_error(prediction, target)
    # (1 + 4) and 0.25, over two transitions; the slope of each component is 2 (prediction − target) / 2.
    assert loss.tolist() == [[5.0, 0.25]]
    assert slope.tolist() == [[[1.0, -2.0], [-0.5, 0.0]]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_slopes_are_those_of_autograd(weighted: bool, masked: bool) -> None:
    seeds, batch, actions = 3, 7, 4
    values = draws(seeds, batch, actions).requires_grad_()
    choice = draws(seeds, batch, actions, seed=1).argmax(dim=-1)
    target = draws(seeds, batch, seed=2)
    weight = draws(seeds, batch, seed=3).abs() if weighted else None
    mask = (draws(seeds, batch, actions, seed=4) > -1.0) | torch.nn.functional.one_hot(choice, actions).bool()
    chosen = values.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    factor = 1.0 if weight is None else weight
    huber = factor * torch.nn.functional.smooth_l1_loss(chosen, target, reduction="none")
    possible = torch.where(mask, values, -torch.inf) if masked else values
    gap = factor * (possible.exp().sum(dim=-1).log() - chosen)
    for loss, (found, slope) in (
        (huber, chosen_huber(values.detach(), choice, target, weight)[:2]),
        (gap, log_sum_exp_gap(values.detach(), choice, mask if masked else None, weight)),
    ):
        torch.testing.assert_close(found, loss.detach())
        torch.testing.assert_close(slope, torch.autograd.grad(loss.mean(dim=1).sum(), values, retain_graph=True)[0])
        assert not slope.requires_grad


def test_the_gap_is_never_negative_even_where_the_data_did_what_its_mask_forbids() -> None:
    values, choice = torch.tensor([[[1.0, 1.0, 9.0]]]), torch.tensor([[1]])
    gap, slope = log_sum_exp_gap(values, choice, torch.tensor([[[True, False, False]]]))
    # log(e¹ + e¹) − 1: the third action stays out, the second one doesn't.
    assert gap.item() == pytest.approx(0.693147)
    torch.testing.assert_close(slope, torch.tensor([[[0.5, -0.5, 0.0]]]))
    higher = log_sum_exp_gap(torch.tensor([[[1.0, 50.0, 9.0]]]), choice, torch.tensor([[[True, False, False]]]))[0]
    assert higher.item() == 0.0
