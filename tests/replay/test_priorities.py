"""Priorities against plain sums, plain sorting and the paper's formulas."""

from __future__ import annotations

import copy
import math
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.config.recipe import PriorityConfig
from offrl.data.store import TrajectoryStore
from offrl.replay.priorities import FAN, LEAST_ERROR, ProportionalTable, RankTable, SumTree, Table
from offrl.replay.ring import OnlineRing
from offrl.replay.sampler import ReplaySampler, RowLayout
from offrl.types import Batch
from tests.data.stores import SPEC, make_store
from tests.replay.test_ring import World

Kind = Literal["proportional", "rank"]
KINDS: tuple[Kind, ...] = ("proportional", "rank")
LENGTHS = [3, 1, 5, 8, 2, 4]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return make_store(tmp_path_factory.mktemp("priorities") / "s", LENGTHS)


# The sum tree


@settings(max_examples=40, deadline=None)
@given(
    leaves=st.sampled_from([1, 5, FAN, FAN + 1, FAN * FAN + 3]),
    writes=st.integers(1, 6),
    random=st.integers(0, 2**32 - 1),
)
def test_the_tree_finds_what_a_running_sum_finds(leaves: int, writes: int, random: int) -> None:
    rng = np.random.default_rng(random)
    tree, plain = SumTree(2, leaves), np.zeros((2, leaves))
    for _ in range(writes):
        row, leaf = rng.integers(0, 2, 40), rng.integers(0, leaves, 40)
        # Whole numbers have exact sums, whatever the order.
        value = rng.integers(0, 4, 40).astype(np.float64)
        tree.write(row, leaf, value)
        for r, at, v in zip(row, leaf, value, strict=True):
            plain[r, at] = v
    np.testing.assert_array_equal(tree.leaves[:, :leaves], plain)
    np.testing.assert_array_equal(tree.totals(), plain.sum(axis=1))
    plain[:, 0] += 1.0
    tree.write(np.array([0, 1]), np.array([0, 0]), plain[:, 0])
    target = rng.random((2, 50)) * plain.sum(axis=1)[:, None]
    expected = np.stack([np.searchsorted(p.cumsum(), t, side="right") for p, t in zip(plain, target, strict=True)])
    np.testing.assert_array_equal(tree.find(target), expected)


def test_the_tree_never_finds_an_empty_leaf() -> None:
    rng = np.random.default_rng(0)
    tree, leaves = SumTree(1, 10_000), 10_000
    filled = rng.permutation(leaves)[:700]
    tree.write(np.zeros_like(filled), filled, rng.random(700) ** 8 + 1e-12)
    total = tree.totals()[0]
    target = np.concatenate([rng.random(20_000) * total, [0.0, total, np.nextafter(total, 9e9)]])
    assert set(tree.find(target[None])[0].tolist()) <= set(filled.tolist())


def test_a_restored_tree_has_the_same_sums() -> None:
    rng = np.random.default_rng(0)
    tree, other = SumTree(2, 5_000), SumTree(2, 5_000)
    for _ in range(50):
        tree.write(rng.integers(0, 2, 300), rng.integers(0, 5_000, 300), rng.random(300))
    other.restore(tree.leaves[:, :5_000])
    for one, two in zip(tree.levels, other.levels, strict=True):
        np.testing.assert_array_equal(one, two)


# Probabilities


def probabilities(table: Table, places: int, draws: int = 200_000) -> NDArray[np.float64]:
    """How often each place of the first seed comes up, for evenly spread quantiles; the reported chances agree."""
    place, probability = table.draw((np.arange(draws)[None] + 0.5) / draws)
    found = np.bincount(place[0], minlength=places) / draws
    np.testing.assert_allclose(probability[0], found[place[0]], rtol=0, atol=2.0 / draws)
    return found


def write(table: Table, places: list[int], errors: list[float]) -> None:
    table.write(np.zeros(len(places), np.int64), np.array(places), np.array(errors))


def test_proportional_chances_by_hand() -> None:
    table = ProportionalTable(1, 6, 0.5)
    write(table, [0, 2, 3, 5], [4.0, 1.0, 0.0, 9.0])
    # √4, √1, √0 (all but nothing) and √9 of 6.
    np.testing.assert_allclose(probabilities(table, 6), [2 / 6, 0, 1 / 6, 0.0, 0, 3 / 6], atol=5e-4)
    table.remove(np.array([0]), np.array([5]))
    write(table, [2, 2], [99.0, 16.0])
    np.testing.assert_allclose(probabilities(table, 6), [2 / 6, 0, 4 / 6, 0.0, 0, 0], atol=5e-4)
    _, chance = table.draw(np.array([[0.999999]]))
    assert chance[0, 0] == pytest.approx(LEAST_ERROR**0.5 / (6.0 + LEAST_ERROR**0.5), rel=1e-3) or chance[0, 0] > 0.6


def test_rank_chances_by_hand() -> None:
    table = RankTable(1, 6, 1.0)
    write(table, [0, 2, 3, 5], [4.0, 1.0, 0.0, 9.0])
    # Ranks 2, 3, 4 and 1: 1/2, 1/3, 1/4 and 1 of 25/12.
    np.testing.assert_allclose(probabilities(table, 6), np.array([6, 0, 4, 3, 0, 12]) / 25, atol=1e-5)
    table.remove(np.array([0]), np.array([5]))
    write(table, [4, 2], [4.0, 16.0])
    # 2 comes first, then 0 before 4, its equal, then 3.
    np.testing.assert_allclose(probabilities(table, 6), np.array([6, 0, 12, 3, 4, 0]) / 25, atol=1e-5)


@pytest.mark.parametrize("kind", [ProportionalTable, RankTable])
def test_an_exponent_of_zero_is_uniform(kind: type[ProportionalTable | RankTable]) -> None:
    table = kind(1, 5, 0.0)
    write(table, [0, 1, 4], [1e-3, 7.0, 2.0])
    np.testing.assert_allclose(probabilities(table, 5), [1 / 3, 1 / 3, 0, 0, 1 / 3], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    places=st.sampled_from([3, 40, 600]),
    changes=st.integers(1, 60),
    restored=st.booleans(),
    random=st.integers(0, 2**32 - 1),
)
def test_ranks_are_those_of_plain_sorting(places: int, changes: int, restored: bool, random: int) -> None:
    rng = np.random.default_rng(random)
    table = RankTable(2, places, 0.7)
    errors: list[dict[int, float]] = [{}, {}]
    for step in range(12):
        seed = rng.integers(0, 2, changes)
        place = rng.integers(0, places, changes)
        error = rng.integers(0, 9, changes) / 4
        removed = rng.random(changes) < 0.3
        for s, p, e, gone in zip(seed.tolist(), place.tolist(), error.tolist(), removed.tolist(), strict=True):
            one = [np.array([s]), np.array([p])]
            if gone:
                table.remove(*one)
                errors[s].pop(p, None)
            else:
                table.write(*one, np.array([e]))
                errors[s][p] = e
        if not all(errors):
            continue
        if restored and step == 6:
            twin = RankTable(2, places, 0.7)
            twin.restore(table.values().copy())
            table = twin
        quantiles = rng.random((2, 64))
        found, chance = table.draw(quantiles)
        for s in range(2):
            in_order = sorted(errors[s], key=lambda p: (-errors[s][p], p))
            power = np.arange(1, len(in_order) + 1) ** -0.7
            rank = np.searchsorted(power.cumsum(), quantiles[s] * power.sum(), side="right")
            np.testing.assert_array_equal(found[s], np.array(in_order)[np.minimum(rank, len(in_order) - 1)])
            np.testing.assert_allclose(chance[s], power[rank] / power.sum(), rtol=1e-12)
            held = table.holds(np.full(places, s), np.arange(places))
            assert set(np.flatnonzero(held).tolist()) == set(errors[s])


@pytest.mark.parametrize("kind", [ProportionalTable, RankTable])
def test_a_million_places_are_drawn_from_in_batches(kind: type[ProportionalTable | RankTable]) -> None:
    rng, places = np.random.default_rng(0), 1_000_000
    table, everywhere = kind(1, places, 0.6), np.arange(places)
    table.write(np.zeros_like(everywhere), everywhere, np.ones(places))
    few = rng.permutation(places)[:1000]
    table.write(np.zeros_like(few), few, np.full(1000, 1000.0))
    place, _ = table.draw((np.arange(20_000)[None] + 0.5) / 20_000)
    mass = np.arange(1, places + 1) ** -0.6
    share = mass[:1000].sum() / mass.sum()
    if kind is ProportionalTable:
        share = 1000 * 1000**0.6 / (1000 * 1000**0.6 + places - 1000)
    assert np.isin(place, few).mean() == pytest.approx(share, rel=0.02)


# Sampling


def sampler_of(*sources: Any, kind: Kind = "proportional", batch_size: int = 8, **options: Any) -> ReplaySampler:
    settings = {"exponent": 0.6, "importance_exponent": 0.4, "importance_steps": 10}
    settings |= {name: options.pop(name) for name in list(settings) if name in options}
    priority = PriorityConfig(kind=kind, **settings)  # type: ignore[arg-type]
    return ReplaySampler(
        sources, batch_size=batch_size, seeds=options.pop("seeds", [0, 1]), priority=priority, **options
    )


def learn(sampler: ReplaySampler, batch: Batch, errors: NDArray[Any]) -> None:
    """Tell the sampler errors that depend on the place drawn: [S, places]."""
    assert batch.index is not None
    index = batch.index.numpy()
    error = np.stack([errors[s][index[:, s]] for s in range(index.shape[1])], axis=1)
    sampler.learned(batch.unbind(), torch.from_numpy(error))


def assert_same(one: Batch, two: Batch) -> None:
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(two, field.name)
        assert (a is None) == (b is None), field.name
        if a is not None:
            assert torch.equal(a, b), field.name


def drawn_often(sampler: ReplaySampler, draws: int = 5_000) -> tuple[NDArray[Any], NDArray[Any]]:
    """How often the first seed's places come up, and the weight of each, before the division by the greatest."""
    rng = np.random.default_rng(0)
    place, relative = sampler.priorities[0].draw(rng.random((1, len(sampler.seeds), draws)))
    found = np.bincount(place[0, 0], minlength=sampler.sources[0].num_places()) / draws
    weights = np.zeros(len(found))
    weights[place[0, 0]] = relative[0, 0]
    return found, weights


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_all_of_a_store_has_the_same_priority(store: TrajectoryStore, kind: Kind) -> None:
    sampler = sampler_of(store, kind=kind, exponent=0.0 if kind == "rank" else 0.6)
    batch = sampler.sample(50)
    assert batch.weight is not None
    assert batch.weight.dtype == torch.float32
    torch.testing.assert_close(batch.weight, torch.ones(50, 2, 8))
    found, _ = drawn_often(sampler)
    np.testing.assert_allclose(found, 1 / store.num_steps, atol=0.02)


def test_the_transitions_are_those_of_the_uniform_sampler(store: TrajectoryStore) -> None:
    options: dict[str, Any] = {"batch_size": 500, "seeds": [0], "n_step": 3, "discount": 0.9}
    uniform = ReplaySampler([store], **options).sample(1)
    prioritized = sampler_of(store, **options).sample(1)
    assert uniform.index is not None
    assert prioritized.index is not None

    def table(batch: Batch) -> dict[int, tuple[float, ...]]:
        parts = (batch.observation, batch.action, batch.reward[..., None], batch.discount[..., None])
        rows = torch.cat([*parts, batch.next_observation], dim=-1)  # type: ignore[arg-type, list-item]
        return {int(i): tuple(row.tolist()) for i, row in zip(batch.index[0, 0], rows[0, 0], strict=True)}  # type: ignore[index]

    assert table(uniform) == table(prioritized)
    assert len(table(uniform)) == store.num_steps


@pytest.mark.parametrize("kind", KINDS)
def test_chances_and_weights_follow_the_errors(store: TrajectoryStore, kind: Kind) -> None:
    sampler = sampler_of(store, kind=kind, batch_size=200)
    errors = np.random.default_rng(3).exponential(size=(2, store.num_steps))
    learn(sampler, sampler.sample(2), errors)
    batch = sampler.sample(3)
    assert batch.index is not None
    assert batch.weight is not None
    for s in range(2):
        if kind == "proportional":
            chance = (errors[s] + LEAST_ERROR) ** 0.6
        else:
            chance = (np.argsort(np.argsort(-errors[s])) + 1.0) ** -0.6
        chance /= chance.sum()
        for k in range(3):
            # Two batches were drawn before; β grows from 0.4 by 0.06 a batch.
            beta = 0.4 + 0.06 * (2 + k)
            place = batch.index[k, s].numpy()
            weight = (store.num_steps * chance[place]) ** -beta
            np.testing.assert_allclose(batch.weight[k, s], weight / weight.max(), rtol=1e-5)
            # Each two-hundredth of the distribution is drawn from once.
            counts = np.bincount(place, minlength=store.num_steps)
            assert (np.abs(counts - 200 * chance) < 2).all()


def test_importance_weights_end_at_full_correction(store: TrajectoryStore) -> None:
    sampler = sampler_of(store, seeds=[0], importance_exponent=0.0, importance_steps=4)
    learn(sampler, sampler.sample(1), np.arange(1.0, store.num_steps + 1)[None])
    weights = sampler.sample(6).weight
    assert weights is not None
    assert sampler_of(store, importance_exponent=0.0).sample(1).weight.eq(1.0).all()  # type: ignore[union-attr]
    spread = [float(w.min().log()) for w in weights]
    relative = sampler.priorities[0].draw(np.full((1, 1, 1), 0.5))[1]
    assert relative.shape == (1, 1, 1)
    # From the fourth batch on β is 1: the least weight no longer falls with β, only with what was drawn.
    assert sampler.batches_drawn == 7
    np.testing.assert_allclose(sampler._importance_exponents(1), [1.0])
    assert spread[0] > min(spread[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_calls_may_be_blocked_as_one_likes_and_seeds_be_in_any_company(store: TrajectoryStore, kind: Kind) -> None:
    errors = np.random.default_rng(3).exponential(size=(1, store.num_steps)).repeat(3, axis=0)
    together, again, alone = (sampler_of(store, kind=kind, seeds=seeds) for seeds in ([4, 9, 2], [4, 9, 2], [9]))
    for sampler in (together, again, alone):
        learn(sampler, sampler.sample(3), errors)
    whole = together.sample(4)
    for one, two in zip(whole.unbind(), [*again.sample(1).unbind(), *again.sample(3).unbind()], strict=True):
        assert_same(one, two)
    single = alone.sample(4)
    assert torch.equal(whole.index[:, 1:2], single.index)  # type: ignore[index, arg-type]
    assert torch.equal(whole.weight[:, 1:2], single.weight)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_restoring_continues_exactly(store: TrajectoryStore, kind: Kind) -> None:
    errors = np.random.default_rng(3).exponential(size=(2, store.num_steps))
    sampler, other = sampler_of(store, kind=kind), sampler_of(store, kind=kind)
    for _ in range(4):
        learn(sampler, sampler.sample(2), errors)
        errors = errors[:, ::-1] * 0.9
    other.sample(1)
    other.restore({name: tensor.clone() for name, tensor in sampler.named_tensors().items()})
    for _ in range(3):
        one, two = sampler.sample(2), other.sample(2)
        assert_same(one, two)
        learn(sampler, one, errors)
        learn(other, two, errors)


def test_errors_that_are_not_finite_change_nothing(store: TrajectoryStore) -> None:
    sampler = sampler_of(store)
    batch = sampler.sample(1)
    before = sampler.named_tensors()
    sampler.learned(batch.unbind(), torch.full((1, 2, 8), math.nan))
    sampler.learned(batch.unbind(), torch.full((1, 2, 8), math.inf))
    for name, tensor in sampler.named_tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_without_a_kind_draws_are_uniform(store: TrajectoryStore) -> None:
    plain = ReplaySampler([store], batch_size=8, seeds=[0, 1])
    none = ReplaySampler([store], batch_size=8, seeds=[0, 1], priority=PriorityConfig(kind="none"))
    assert_same(plain.sample(3), none.sample(3))
    assert plain.named_tensors().keys() == none.named_tensors().keys()


# Rings


def held_places(ring: OnlineRing, seed: int) -> set[int]:
    first = seed * ring.num_places()
    rows = ring.slots[seed, : ring.counts()[seed]]
    return {int(row) - first for row in rows}


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seeds=st.integers(1, 2),
    environments=st.integers(1, 3),
    rows=st.integers(3, 12),
    every=st.integers(1, 20),
    random=st.integers(0, 2**32 - 1),
)
def test_priorities_follow_the_ring(
    kind: Kind, seeds: int, environments: int, rows: int, every: int, random: int
) -> None:
    """What the ring holds can be drawn, and nothing else; new transitions have the greatest error so far."""
    rng = np.random.default_rng(random)
    world = World(seeds, environments, rows * environments, rng)
    sampler = sampler_of(world.ring, kind=kind, seeds=list(range(seeds)), batch_size=4)
    error_at: list[dict[tuple[int, int], float]] = [{} for _ in range(seeds)]
    greatest = [1.0] * seeds
    world.step(0.1)
    for step in range(5 * rows):
        world.step(0.1)
        if rng.random() < 0.05:
            world.cut()
        # A cut behind the end of an episode leaves a ring of three rows without a transition.
        if step % every or not world.ring.counts().all():
            continue
        batch = sampler.sample(2)
        table, seed_of = sampler.priorities[0].table, np.full(world.ring.num_places(), 0)
        for s in range(seeds):
            holds = table.holds(seed_of + s, np.arange(world.ring.num_places()))
            assert set(np.flatnonzero(holds).tolist()) == held_places(world.ring, s)
            for place in held_places(world.ring, s):
                row = world.ring.take(torch.tensor([place + s * world.ring.num_places()]), 0, 2)[0].int().tolist()
                expected = error_at[s].setdefault((row[0], row[1]), greatest[s])
                assert error_of(table, s, place) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        errors = torch.from_numpy(rng.exponential(size=(2, seeds, 4)))
        sampler.learned(batch.unbind(), errors)
        assert isinstance(batch.observation, torch.Tensor)
        for k, s, b in np.ndindex(2, seeds, 4):
            stream, number = batch.observation[k, s, b].int().tolist()
            error_at[s][stream, number] = float(errors[k, s, b])
            greatest[s] = max(greatest[s], float(errors[k, s, b]))


def error_of(table: Table, seed: int, place: int) -> float:
    if isinstance(table, ProportionalTable):
        return float(table.tree.leaves[seed, place] ** (1 / 0.6) - LEAST_ERROR)
    assert isinstance(table, RankTable)
    bits = np.int32((2**31 - 1) - (int(table.keys[seed, place]) >> 32))
    return float(bits.view(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_ring_and_its_priorities_go_on_as_the_saved_ones(kind: Kind) -> None:
    world, other = (World(2, 2, 24, np.random.default_rng(random)) for random in (0, 5))
    sampler, twin = (sampler_of(w.ring, kind=kind, n_step=2) for w in (world, other))
    errors = np.random.default_rng(3).exponential(size=(2, world.ring.num_places()))
    for step in range(50):
        world.step(0.2)
        if step % 4 == 0:
            learn(sampler, sampler.sample(1), errors)
    other.step(0.5)
    twin.sample(1)
    other.step(0.5)
    saved = {name: tensor.clone() for name, tensor in sampler.named_tensors().items()}
    twin.restore(saved)
    other.ring.restore({name: tensor.clone() for name, tensor in world.ring.named_tensors().items()})
    other.oracles = copy.deepcopy(world.oracles)
    world.rng, other.rng = np.random.default_rng(9), np.random.default_rng(9)
    for step in range(40):
        for w in (world, other):
            w.step(0.2)
            if step == 20:
                w.cut()
        if step % 3 == 0:
            one, two = sampler.sample(1), twin.sample(1)
            assert_same(one, two)
            learn(sampler, one, errors)
            learn(twin, two, errors)


def test_a_store_and_a_ring_have_priorities_of_their_own(store: TrajectoryStore) -> None:
    ring = OnlineRing(RowLayout.of(SPEC), seeds=2, environments=1, capacity=50)
    observation, no = {"observation": np.zeros((2, 2), np.float32)}, np.zeros(2, np.bool_)
    ring.begin(observation)
    for t in range(20):
        ring.append(np.zeros((2, 1)), np.full(2, 1000.0 + t), no, no, observation, observation)
    sampler = sampler_of(store, ring, batch_size=40, fractions=[0.25, 0.75])
    batch = sampler.sample(3)
    assert batch.weight is not None
    assert batch.weight.shape == (3, 2, 40)
    assert (batch.reward[..., :10] < 900).all()
    assert (batch.reward[..., 10:] >= 1000).all()
    errors = torch.cat([torch.full((3, 2, 10), 0.5), torch.full((3, 2, 30), 4.0)], dim=-1)
    sampler.learned(batch.unbind(), errors)
    assert [p.greatest.tolist() for p in sampler.priorities] == [[1.0, 1.0], [4.0, 4.0]]
    ring_leaves = sampler.priorities[1].table.values()
    assert ring_leaves[ring_leaves > 0].min() > 1.0
    # Half the store's transitions were drawn: they now come up less often than the others.
    drawn = np.unique(batch.index[:, 0, :10])  # type: ignore[index]
    again = sampler.sample(400).index[:, 0, :10].numpy()  # type: ignore[index]
    others = store.num_steps - len(drawn)
    rate = np.isin(again, drawn).mean() / len(drawn)
    assert rate < (1 - np.isin(again, drawn).mean()) / others
