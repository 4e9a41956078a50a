"""Selections of episodes read like stores that hold only these episodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.data.store import StoreView, Trajectories, TrajectoryStore
from offrl.errors import RequestError
from tests.data.stores import make_store

LENGTHS = [3, 1, 5, 8, 2, 4]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return make_store(tmp_path_factory.mktemp("views") / "s", LENGTHS, shard_bytes=200)


def assert_is_selection(view: Trajectories, store: TrajectoryStore, chosen: list[int]) -> None:
    """Every way of reading gives the chosen episodes of the store, in their order."""
    assert view.num_episodes == len(chosen)
    assert view.num_rows == sum(LENGTHS[i] + 1 for i in chosen)
    assert view.num_steps == sum(LENGTHS[i] for i in chosen)
    expected = [store.episode(i) for i in chosen]
    observations = np.concatenate([np.empty((0, 2)), *(episode.observation for episode in expected)])
    np.testing.assert_array_equal(view.read("observation", 0, view.num_rows), observations)
    for i, episode in enumerate(expected):
        found = view.episode(i)
        np.testing.assert_array_equal(found.observation, episode.observation)
        np.testing.assert_array_equal(found.reward, episode.reward)
        assert (found.seed, found.source) == (episode.seed, episode.source)
        assert view.episodes.return_[i] == pytest.approx(episode.reward.sum())
    rng = np.random.default_rng(0)
    if view.num_rows:
        rows = rng.integers(0, view.num_rows, 30)
        np.testing.assert_array_equal(view.gather("observation", rows), observations[rows])
        several = view.gather_columns(["reward", "observation"], rows)
        np.testing.assert_array_equal(several["observation"], observations[rows])
        np.testing.assert_array_equal(several["reward"], view.gather("reward", rows))
    for start, stop in np.sort(rng.integers(0, view.num_rows + 1, (15, 2)), axis=1).tolist():
        np.testing.assert_array_equal(view.read("observation", start, stop), observations[start:stop])


@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(st.integers(0, len(LENGTHS) - 1), max_size=8))
def test_any_selection_reads_like_its_episodes(store: TrajectoryStore, chosen: list[int]) -> None:
    assert_is_selection(store.select(np.array(chosen, np.int64)), store, chosen)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_selection_of_a_selection(store: TrajectoryStore, data: st.DataObject) -> None:
    outer = data.draw(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=6))
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), max_size=6))
    view = store.select(np.array(outer)).select(np.array(inner, np.int64))
    assert_is_selection(view, store, [outer[i] for i in inner])


def test_a_mask_selects(store: TrajectoryStore) -> None:
    assert_is_selection(store.select(store.episodes.length > 3), store, [2, 3, 5])
    with pytest.raises(RequestError, match="6 episodes"):
        store.select(np.ones(5, np.bool_))
    with pytest.raises(RequestError, match="episode 6"):
        store.select(np.array([0, 6]))


def test_the_whole_reads_like_all_its_episodes(store: TrajectoryStore) -> None:
    assert_is_selection(store, store, list(range(len(LENGTHS))))


def test_neighbors_are_read_without_a_copy(store: TrajectoryStore) -> None:
    view = store.select(np.array([3]))
    assert np.shares_memory(view.read("reward", 2, 5), view.read("reward", 0, 9))


@pytest.mark.parametrize("max_rows", [1, 6, 9, 1000])
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4, 5], [5, 1, 1, 2], []])
def test_blocks_are_whole_episodes_and_bounded(store: TrajectoryStore, max_rows: int, chosen: list[int]) -> None:
    view = store.select(np.array(chosen, np.int64))
    blocks = list(view.iterate_blocks(max_rows))
    lengths = [int(length) for block in blocks for length in block.lengths]
    assert lengths == [LENGTHS[i] for i in chosen]
    for block in blocks:
        assert block.num_rows <= max_rows or len(block.lengths) == 1
        assert all(len(array) == block.num_rows for array in block.columns.values())
    if blocks:
        rewards = np.concatenate([block.columns["reward"] for block in blocks])
        np.testing.assert_array_equal(rewards, view.read("reward", 0, view.num_rows))
        assert [source for block in blocks for source in block.sources or []] == [f"f#{i}" for i in chosen]


def test_statistics_are_those_of_the_chosen_transitions(store: TrajectoryStore) -> None:
    view = store.select(np.array([1, 3]))
    steps = np.concatenate([store.episode(i).observation[:-1] for i in (1, 3)]).astype(np.float64)
    np.testing.assert_allclose(view.statistics["observation"].mean, steps.mean(axis=0))
    np.testing.assert_allclose(view.statistics["observation"].std, steps.std(axis=0))
    np.testing.assert_allclose(view.statistics["return"].mean, store.episodes.return_[[1, 3]].mean())


def test_fingerprints_tell_selections_apart(store: TrajectoryStore) -> None:
    prints = {store.select(np.array(chosen)).fingerprint for chosen in ([0, 1], [1, 0], [0], [0, 1])}
    assert len(prints) == 3
    assert store.fingerprint not in prints


def test_a_score_needs_references(store: TrajectoryStore) -> None:
    with pytest.raises(RequestError, match="reference scores"):
        store.normalized_score(1.0)
    equal = replace(store.metadata, reference_scores={"random": 2.0, "expert": 2.0})
    with pytest.raises(RequestError, match="equal reference scores"):
        TrajectoryStore(store.path, equal).normalized_score(1.0)
    assert isinstance(store.select(np.array([0])), StoreView)


def test_a_selection_checks_what_is_read(store: TrajectoryStore, tmp_path: Path) -> None:
    view = store.select(np.array([0]))
    with pytest.raises(RequestError, match="4 rows"):
        view.read("reward", 0, 5)
    with pytest.raises(RequestError, match="row 4"):
        view.gather("reward", np.array([4]))


def test_a_store_is_a_sequence_of_episodes(store: TrajectoryStore) -> None:
    assert len(store) == len(LENGTHS)
    assert [episode.length for episode in store] == LENGTHS
    assert [episode.length for episode in reversed(store)] == LENGTHS[::-1]  # type: ignore[call-overload]
    for index in range(len(store)):
        for key in (index, index - len(store), np.int64(index)):
            np.testing.assert_array_equal(store[key].observation, store.episode(index).observation)
    for outside in (6, -7):
        with pytest.raises(RequestError, match=f"episode {outside} is out of range: there are 6"):
            store[outside]


@pytest.mark.parametrize(
    ("key", "chosen"),
    [
        (slice(2), [0, 1]),
        (slice(-2, None), [4, 5]),
        (slice(None, None, -2), [5, 3, 1]),
        (slice(4, 2), []),
        ([3, -1, 3], [3, 5, 3]),
        ([], []),
        (np.array(LENGTHS) > 3, [2, 3, 5]),
    ],
)
def test_a_selection_by_indexing(store: TrajectoryStore, key: Any, chosen: list[int]) -> None:
    view = store[key]
    assert_is_selection(view, store, chosen)
    assert [episode.length for episode in view] == [LENGTHS[index] for index in chosen]
    assert len(view) == len(chosen)
    for outside in ([6], [-7]):
        with pytest.raises(RequestError, match=f"episode {outside[0]} is out of range"):
            store[outside]


def test_an_episode_says_what_is_known_of_it(store: TrajectoryStore) -> None:
    episode = store[2]
    assert (episode.length, len(episode), len(episode.observation), len(episode.action)) == (5, 5, 6, 5)
    assert episode.return_ == pytest.approx(episode.reward.sum())
    assert (episode.seed, episode.source) == (2, "f#2")
    assert np.shares_memory(episode.observation, store[2].observation), "episodes are views of the memory map"
    assert repr(episode) == (
        f"Episode(length=5, return={episode.return_:g}, observation=float32 [6, 2], action=float32 [5, 1], terminated)"
    )
    assert repr(store[1]).endswith(", truncated)")


def test_columns_tell_dtypes_and_shapes(store: TrajectoryStore) -> None:
    assert list(store.columns) == store.column_names
    assert (store.columns["observation"].dtype, store.columns["observation"].shape) == (np.float32, (2,))
    assert store.num_bytes == store.num_rows * (2 * 4 + 4 + 8 + 1 + 1)


def test_a_store_and_a_selection_show_what_they_hold(store: TrajectoryStore) -> None:
    assert repr(store).splitlines() == [
        "TrajectoryStore 's': 6 episodes, 23 steps, 0.0 MB",
        "  environment  not named",
        "  observation  Box(-inf, inf, (2,), float32)",
        "  action       Box(-1.0, 3.0, (1,), float32)",
        "  columns      observation float32[2], action float32[1], reward float64, terminated bool, truncated bool",
    ]
    assert repr(store[:2]).startswith("StoreView 's': 2 episodes, 4 steps, ")
