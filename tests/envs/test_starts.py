"""Starts of evaluations: the same for the same question, and never those of another one."""

from __future__ import annotations

from itertools import product

import numpy as np

from offrl.envs.starts import Purpose, Starts

SEEDS = tuple(range(20))


def test_the_same_three_values_give_the_same_starts() -> None:
    asked = Starts(Purpose.FINAL, (3, 8), 5)
    assert asked.reset_seeds(4) == Starts(Purpose.FINAL, (3, 8), 5).reset_seeds(4)
    assert asked.reset_seeds(4) == [
        seed for each in (3, 8) for seed in Starts(Purpose.FINAL, (each,), 5).reset_seeds(4)
    ]
    # A film shows the first episode, however many were asked for.
    assert asked.reset_seeds(1) == asked.reset_seeds(4)[::4]


def test_no_purpose_shares_a_start_with_another() -> None:
    starts = {
        purpose: {
            seed for step in range(0, 100_000, 1_000) for seed in Starts(purpose, SEEDS[:3], step).reset_seeds(10)
        }
        for purpose in Purpose
    }
    for one, other in product(Purpose, Purpose):
        assert one is other or not starts[one] & starts[other]
    # By construction, not by luck: the first bits are the purpose.
    assert all({seed >> 29 for seed in starts[purpose]} == {purpose} for purpose in Purpose)


def test_seeds_and_numbers_have_starts_of_their_own() -> None:
    seeds = (*SEEDS, 2**32, 2**32 + 1, 2**62)
    drawn = [seed for number in range(50) for seed in Starts(Purpose.FINAL, seeds, number).reset_seeds(10)]
    assert len(set(drawn)) == len(drawn)
    assert 0 <= min(drawn) <= max(drawn) < 2**32


def test_starts_are_spread_over_all_that_a_purpose_has() -> None:
    drawn = np.array(Starts(Purpose.TRUTH, SEEDS).reset_seeds(500)) % 2**29 / 2**29
    np.testing.assert_allclose(np.histogram(drawn, 10, (0.0, 1.0))[0], 1_000, atol=5 * 30)
