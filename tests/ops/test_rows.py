"""Rows are shuffled and cut without losing or repeating any."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offrl.ops.rows import Rows, merge_axes

NAMES = ("observation", "encoded", "log_prob", "advantage", "value", "target")


def numbered(seeds: int = 2, count: int = 10) -> Rows:
    """Each row of a seed has a number of its own in every part."""
    number = torch.arange(seeds * count).view(seeds, count)
    parts = dict.fromkeys(NAMES, number * 1.0)
    return Rows(**parts, mask=number % 2 == 0, old=(number * 2.0, number * 3.0), draws={"entropy": number * 4.0})


def parts_of(rows: Rows) -> list[Tensor]:
    """All of them, as the numbers of their rows."""
    mask, (one, other), entropy = rows.mask, rows.old, rows.draws["entropy"]
    assert mask is not None
    assert torch.equal(mask, rows.value % 2 == 0)
    return [*(getattr(rows, name) for name in NAMES), one / 2.0, other / 3.0, entropy / 4.0]


def test_every_part_is_put_into_each_seeds_order() -> None:
    order = torch.stack([torch.randperm(10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    expected = order + torch.tensor([[0], [10]])
    for part in parts_of(numbered().shuffled(order)):
        assert torch.equal(part, expected.float())


@pytest.mark.parametrize(
    ("parts", "sizes"), [(1, [10]), (2, [5, 5]), (3, [3, 3, 4]), (4, [2, 3, 2, 3]), (10, [1] * 10)]
)
def test_parts_are_as_even_as_can_be_and_hold_all(parts: int, sizes: list[int]) -> None:
    whole = numbered()
    cut = list(whole.split(parts))
    assert [part.value.shape[1] for part in cut] == sizes
    for pieces, part in zip(zip(*map(parts_of, cut), strict=True), parts_of(whole), strict=True):
        assert torch.equal(torch.cat(pieces, dim=1), part)


def test_what_is_not_there_stays_away() -> None:
    rows = numbered()._replace(mask=None, old=(), draws={}).shuffled(torch.arange(10).expand(2, 10))
    assert rows.mask is None
    assert rows.old == ()
    assert rows.draws == {}


def test_environments_and_steps_become_rows() -> None:
    observation = torch.arange(24).view(1, 2, 3, 4)
    assert torch.equal(merge_axes(observation), observation.view(1, 6, 4))
    merged = merge_axes({"a": observation, "b": observation[..., 0]})
    assert isinstance(merged, dict)
    assert torch.equal(merged["a"], observation.view(1, 6, 4))
    assert merged["b"].shape == (1, 6)
