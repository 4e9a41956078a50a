"""The list of datasets: what is wrong with one keeps no other from being listed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import offrl
from offrl.converters.listing import DatasetEntry, list_datasets
from offrl.data.metadata_file import read_metadata, write_metadata


def nested(store: Path) -> None:
    (store / "metadata.json").write_text("[" * 100_000)


def null(store: Path) -> None:
    (store / "metadata.json").write_text("null")


def huge(store: Path) -> None:
    metadata = json.loads((store / "metadata.json").read_text())
    box = {"type": "Box", "shape": [2_000_000_000], "dtype": "float32", "low": 0.0, "high": 1.0}
    (store / "metadata.json").write_text(json.dumps(metadata | {"observation_space": box}))


def pipe(store: Path) -> None:
    (store / "metadata.json").unlink()
    os.mkfifo(store / "metadata.json")


def more_rows_than_bytes(store: Path) -> None:
    metadata = read_metadata(store)
    write_metadata(store, replace(metadata, shards=(replace(metadata.shards[0], rows=10**12),)))


def nested_card(store: Path) -> None:
    (store / "card.toml").write_text("a = " + "[" * 100_000)


def binary_card(store: Path) -> None:
    (store / "card.toml").write_bytes(b"\xff\xfe")


FAULTS = [
    (nested, "nested too deeply"),
    (null, "can't be understood"),
    (huge, "2,000,000,000 numbers"),
    (pipe, "no regular file"),
    (more_rows_than_bytes, "1,000,000,000,000 rows"),
    (nested_card, "the card can't be read"),
    (binary_card, "the card can't be read"),
]


@pytest.fixture
def stores(offrl_home: Path) -> Path:
    offrl.collect(random=True, env="CartPole-v1", episodes=2, out="good")
    return offrl_home / "stores"


def entries() -> dict[str, DatasetEntry]:
    return {entry.name: entry for entry in list_datasets()}


@pytest.mark.parametrize(("damage", "words"), FAULTS, ids=[damage.__name__ for damage, _ in FAULTS])
def test_a_bad_one_is_listed_with_what_is_wrong(stores: Path, damage: Callable[[Path], None], words: str) -> None:
    shutil.copytree(stores / "good", stores / "bad")
    damage(stores / "bad")
    found = entries()
    assert words in str(found["bad"].error)
    assert (found["good"].error, found["good"].episodes) == (None, 2)
    assert "hopper-expert" in found


def test_what_is_being_written_is_not_listed(stores: Path) -> None:
    (stores / ".bad.partial-1-ab").mkdir()
    assert ".bad.partial-1-ab" not in entries()
