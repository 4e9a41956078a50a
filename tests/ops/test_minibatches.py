"""Rows are shuffled and cut without losing or repeating any."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from offrl.ops.minibatches import Rows, by_part, merge_axes, shuffled_minibatches, take_rows, without_time
from tests.agents.batches import continuous, random_batches, random_rollouts

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


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_each_part_is_looked_at_by_itself(parts: int) -> None:
    whole = numbered()
    expected = [part.value - part.value.mean(dim=1, keepdim=True) for part in whole.split(parts)]
    found = by_part(lambda values: values - values.mean(dim=-1, keepdim=True), whole.value, parts)
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


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


def test_each_seed_s_transitions_are_taken_at_its_indices() -> None:
    (batch,) = random_batches(continuous(), 1, 2)
    index = torch.tensor([[3, 0, 7], [1, 1, 5]])
    nested = replace(batch, observation={"a": batch.observation})
    taken = take_rows(nested, index)
    assert taken.truncated is None
    assert isinstance(taken.observation, dict)
    for seed in range(2):
        assert torch.equal(taken.observation["a"][seed], batch.observation[seed, index[seed]])
        assert torch.equal(taken.action[seed], batch.action[seed, index[seed]])
        assert torch.equal(taken.reward[seed], batch.reward[seed, index[seed]])


def test_a_rollout_loses_its_time_and_a_batch_has_none_to_lose() -> None:
    (rollout,), (batch,) = random_rollouts(continuous(), 1, 2), random_batches(continuous(), 1, 2)
    flat = without_time(rollout)
    assert flat.truncated is None
    for name in ("observation", "action", "reward", "discount", "next_observation", "terminated"):
        whole, rows = getattr(rollout, name), getattr(flat, name)
        assert torch.equal(rows[:, 9 + 4], whole[:, 1, 4])
        assert rows.shape == (2, 18, *whole.shape[3:])
    assert without_time(batch) is batch


def test_every_pass_is_over_all_rows_in_an_order_of_its_own() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = {"order": torch.randn(2, 3, 10, generator=generator), "entropy": torch.randn(2, 3, 10, 4)}
    minibatches = list(shuffled_minibatches(numbered()._replace(draws={}), noise, 4, standardized=True))
    assert [part.value.shape[1] for part in minibatches] == [3, 3, 4] * 3
    for part in minibatches:
        torch.testing.assert_close(part.advantage.mean(dim=1), torch.zeros(2), rtol=0.0, atol=1e-5)
        torch.testing.assert_close(part.advantage.std(dim=1, correction=0), torch.ones(2))
    for epoch in range(3):
        passed = minibatches[3 * epoch : 3 * epoch + 3]
        values = torch.cat([part.value for part in passed], dim=1)
        order = noise["order"][:, epoch].argsort(dim=-1)
        assert torch.equal(values, (order + torch.tensor([[0], [10]])).float())
        draws = torch.cat([part.draws["entropy"] for part in passed], dim=1)
        for seed in range(2):
            assert torch.equal(draws[seed], noise["entropy"][seed, epoch, order[seed]]), "each row has its draws"
