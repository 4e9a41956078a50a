"""Running moments against those of all the data at once."""

from __future__ import annotations

import torch

from offrl.ops.running_moments import fresh_moments, merge_moments, normalize, scale_rewards, standardize


def test_merged_moments_are_those_of_all_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, scale = (5, 1, 40, 3), torch.tensor([1.0, 100.0, 1e-3])
    parts = [scale * (torch.randn(2, n, 3, generator=generator) + 5.0 * i) for i, n in enumerate(sizes)]
    moments = fresh_moments(2, 3)
    for part in parts:
        moments = merge_moments(moments, part)
    data = torch.cat(parts, dim=1).double()
    mean, variance, count = moments.double().unbind(dim=1)
    torch.testing.assert_close(mean, data.mean(dim=1), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(variance, data.var(dim=1, correction=0), rtol=1e-5, atol=0.0)
    assert count.eq(sum(sizes)).all()


def test_merging_by_hand() -> None:
    moments = merge_moments(fresh_moments(1, 1), torch.tensor([[[1.0], [3.0]]]))
    assert moments.flatten().tolist() == [2.0, 1.0, 2.0]
    moments = merge_moments(moments, torch.tensor([[[8.0]]]))
    # Mean 4, squared deviations 9 + 1 + 16.
    torch.testing.assert_close(moments.flatten(), torch.tensor([4.0, 26.0 / 3.0, 3.0]))


def test_seeds_have_moments_of_their_own() -> None:
    values = torch.randn(3, 10, 2, generator=torch.Generator().manual_seed(1))
    together = merge_moments(fresh_moments(3, 2), values)
    for seed in range(3):
        alone = merge_moments(fresh_moments(1, 2), values[seed : seed + 1])
        assert torch.equal(together[seed], alone[0])


def test_a_small_spread_around_a_large_mean_survives() -> None:
    moments = fresh_moments(1, 1)
    values = 1e4 + torch.randn(100, 1, 50, 1, generator=torch.Generator().manual_seed(2))
    for part in values:
        moments = merge_moments(moments, part)
    torch.testing.assert_close(moments[0, 1, 0], values.double().var(correction=0).float(), rtol=1e-2, atol=0.0)


def test_normalizing_by_hand() -> None:
    moments = torch.tensor([[[1.0, 0.0], [4.0, 1.0], [9.0, 9.0]]])
    values = torch.tensor([[[5.0, 0.5], [-7.0, 40.0]]])
    expected = torch.tensor([[[2.0, 0.5], [-4.0, 10.0]]])
    torch.testing.assert_close(normalize(values, moments, limit=10.0), expected)


def test_moments_of_nothing_change_nothing() -> None:
    values = torch.tensor([[[0.5, -9.0]]])
    torch.testing.assert_close(normalize(values, fresh_moments(1, 2), limit=10.0), values)


def test_a_component_that_never_varies_stays_finite() -> None:
    values = torch.full((1, 4, 1), 7.0)
    moments = merge_moments(fresh_moments(1, 1), values)
    assert normalize(values, moments, limit=10.0).eq(0.0).all()
    assert normalize(values + 1.0, moments, limit=10.0).eq(10.0).all()


def test_standardizing_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0, 5.0, 7.0], [2.0, 2.0, 2.0, 2.0]])
    expected = torch.tensor([[-3.0, -1.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]) / 5.0**0.5
    torch.testing.assert_close(standardize(values), expected)


def test_rewards_are_scaled_by_the_spread_of_all_returns_so_far() -> None:
    carry, moments = torch.tensor([[2.0]]), fresh_moments(1, 1)
    # Returns 1 + 2/2 and 4 + 2/2; there the episode ends, and 3.
    scaled = scale_rewards(torch.tensor([[[1.0, 4.0, 3.0]]]), torch.tensor([[[0.0, 1.0, 0.0]]]), carry, moments, 0.5)
    variance = torch.tensor([2.0, 5.0, 3.0]).var(correction=0)
    torch.testing.assert_close(scaled, torch.tensor([[[1.0, 4.0, 3.0]]]) / variance.sqrt())
    assert carry.tolist() == [[3.0]]
    torch.testing.assert_close(moments.flatten(), torch.tensor([10.0 / 3.0, variance.item(), 3.0]))
    scale_rewards(torch.tensor([[[1.0]]]), torch.tensor([[[1.0]]]), carry, moments, 0.5)
    assert carry.tolist() == [[0.0]]
    assert moments[0, 2].item() == 4.0
