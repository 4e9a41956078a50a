"""Minari reads what is exported, and nothing has changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import minari
import numpy as np
import pytest

from offrl.converters import convert
from offrl.converters import export_minari as export
from offrl.converters.export_minari import export_minari
from offrl.data.store import TrajectoryStore
from offrl.errors import DiskFullError, RequestError
from tests.data.stores import make_store
from tests.data.test_parquet import make_nested


@pytest.fixture(autouse=True)
def minari_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_minari_loads_every_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_EPISODES_AT_ONCE", 2)
    store = make_store(tmp_path / "store", [3, 7, 1, 4, 2])
    export_minari(store, "toy/walk-v0")

    dataset = minari.load_dataset("toy/walk-v0")
    assert dataset.total_episodes == 5
    assert minari.namespace.list_local_namespaces() == ["toy"]
    assert dataset.total_steps == store.num_steps
    for index, read in enumerate(dataset.iterate_episodes()):
        episode = store.episode(index)
        np.testing.assert_array_equal(read.observations, episode.observation)
        np.testing.assert_array_equal(read.actions, episode.action)
        np.testing.assert_array_equal(read.rewards, episode.reward)
        np.testing.assert_array_equal(read.terminations, episode.terminated)
        np.testing.assert_array_equal(read.truncations, episode.truncated)


def test_images_and_nested_spaces_are_not_changed(tmp_path: Path) -> None:
    store = make_nested(tmp_path / "store")
    export_minari(store.select(np.array([0, 1])), "toy/nested-v0")

    for index, read in enumerate(minari.load_dataset("toy/nested-v0").iterate_episodes()):
        episode = store.episode(index)
        for key in ("camera", "joint"):
            np.testing.assert_array_equal(read.observations[key], episode.observation[key])
        np.testing.assert_array_equal(read.infos["temperature"], episode.extras["info.temperature"])


def test_there_and_back_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [3, 7, 1])
    export_minari(store, "toy/back-v0")
    convert("minari:toy/back-v0", tmp_path / "back")

    back = TrajectoryStore.open(tmp_path / "back")
    for name in store.column_names:
        np.testing.assert_array_equal(back.read(name, 0, back.num_rows), store.read(name, 0, store.num_rows))


def test_a_taken_or_malformed_id_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [3])
    export_minari(store, "toy/taken-v0")
    with pytest.raises(RequestError, match="can't create 'toy/taken-v0'"):
        export_minari(store, "toy/taken-v0")
    with pytest.raises(RequestError, match="can't create 'no version'"):
        export_minari(store, "no version")
    with pytest.raises(RequestError, match="not of the form name-vN"):
        export_minari(store, "toy/bad")


def test_too_little_room_is_found_before_anything_is_written(
    tmp_path: Path, minari_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", [3, 4])
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
        with pytest.raises(DiskFullError, match=r"takes [\d,]{3,} bytes, and there is room for 100"):
            export_minari(store, "toy/full-v0")
    assert not [path for path in minari_home.rglob("*") if "full-v0" in path.name]


def test_a_full_disk_leaves_nothing_and_the_export_can_be_tried_again(
    tmp_path: Path, minari_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = make_store(tmp_path / "store", [3, 4])
    with monkeypatch.context() as patch:
        patch.setattr("minari.dataset.minari_storage.MinariStorage.update_metadata", fail)
        with pytest.raises(DiskFullError, match="toy/full-v0"):
            export_minari(store, "toy/full-v0")
    assert not [path for path in minari_home.rglob("*") if "full-v0" in path.name]
    export_minari(store, "toy/full-v0")
    assert minari.load_dataset("toy/full-v0").total_episodes == 2
