"""Draws: standard normal, a stream for each seed, and resumable."""

from __future__ import annotations

import numpy as np
import torch

from offrl.ops.noise import AHEAD, NoiseSource

CPU = torch.device("cpu")


def test_draws_are_standard_normal() -> None:
    count = 100_000
    draws = NoiseSource([0], CPU, 1).draw((count,))[0].double()
    assert abs(draws.mean().item()) < 5 / count**0.5
    assert abs(draws.var().item() - 1.0) < 5 * (2 / count) ** 0.5
    assert abs((draws < 1.0).double().mean().item() - 0.841345) < 5 * (0.16 * 0.84 / count) ** 0.5


def test_a_seeds_draws_do_not_depend_on_the_other_seeds() -> None:
    together, alone = NoiseSource([4, 9, 2], CPU, 1), NoiseSource([9], CPU, 1)
    for _ in range(3):
        assert torch.equal(together.draw((5, 2))[1], alone.draw((5, 2))[0])


def test_seeds_and_streams_draw_apart() -> None:
    draws = [NoiseSource([seed], CPU, stream).draw((1000,))[0] for seed in (0, 1, 2) for stream in (1, 2, 3)]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / 1000**0.5


def test_any_seed_of_64_bits_will_do() -> None:
    for seed in (0, 2**31, 2**63 - 1):
        assert NoiseSource([seed], CPU, 3).draw((2,)).isfinite().all()


def test_updates_get_a_draw_of_each_shape() -> None:
    source = NoiseSource([0, 1], CPU, 1)
    updates = source.draw_updates({"dropout": (4, 3), "entropy": (2,)}, 5)
    assert len(updates) == 5
    assert all(draws["dropout"].shape == (2, 4, 3) and draws["entropy"].shape == (2, 2) for draws in updates)
    everything = torch.cat([draws["dropout"].flatten() for draws in updates])
    assert len(everything.unique()) == 5 * 2 * 12


def test_an_update_without_draws_gets_none() -> None:
    assert NoiseSource([0], CPU, 1).draw_updates({}, 3) == [{}, {}, {}]


def test_a_restored_source_goes_on_where_it_was() -> None:
    source = NoiseSource([3, 5], CPU, 1)
    source.draw((7,))
    saved = {name: tensor.clone() for name, tensor in source.named_tensors().items()}
    expected = [source.draw((3, 2)) for _ in range(3)]
    other = NoiseSource([3, 5], CPU, 1)
    other.restore(saved)
    for draws in expected:
        assert torch.equal(other.draw((3, 2)), draws)


def test_draws_of_single_steps_are_new_ones_each_time() -> None:
    together, alone = NoiseSource([3, 5], CPU, 1), NoiseSource([5], CPU, 1)
    seen = []
    for _ in range(2 * AHEAD + 3):
        draws = together.next((2, 4))
        assert draws.shape == (2, 2, 4)
        assert np.array_equal(draws[1], alone.next((2, 4))[0])
        seen.append(draws.ravel())
    assert len(np.unique(np.concatenate(seen))) == len(seen) * 16
    assert together.next((3,)).shape == (2, 3)


def test_what_was_drawn_ahead_is_skipped_at_a_checkpoint() -> None:
    source = NoiseSource([3, 5], CPU, 1)
    source.next((2,))
    saved = {name: tensor.clone() for name, tensor in source.named_tensors().items()}
    source.forget()
    other = NoiseSource([3, 5], CPU, 1)
    other.next((2,))
    other.restore(saved)
    for _ in range(AHEAD + 1):
        assert np.array_equal(other.next((2,)), source.next((2,)))
