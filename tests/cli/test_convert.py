"""`offrl convert`: what it reports, what it writes, and each bad source that it refuses."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from offrl import plugins
from offrl.data.store import TrajectoryStore
from tests.cli.conftest import Offrl

MAPPING = ("--map", "episode=trip", "--map", "observation=x,y", "--map", "action=torque", "--map", "reward=gain")
FLAGS = ("--map", "terminated=done")


def write_table(path: Path, *, gain: str = "1.5", torque: float = 0.5) -> Path:
    """Two trips of three steps; only the first one ends in a terminal state."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["trip", "x", "y", "torque", "gain", "done"])
        for trip in range(2):
            for step in range(3):
                odd = (trip, step) == (1, 1)
                done = int(trip == 0 and step == 2)
                rows.writerow([trip, trip + step, -step, torque if odd else 0.5, gain if odd else "1.5", done])
    return path


def write_d4rl(path: Path) -> Path:
    """Two episodes of five steps: one terminates, one runs into the time limit; next observations are there."""
    rows = 10
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        file["next_observations"] = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + 2
        file["actions"] = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
        file["rewards"] = np.ones(rows, np.float32)
        file["terminals"] = np.arange(rows) == 4
        file["timeouts"] = np.arange(rows) == 9
    return path


def test_a_dry_run_says_what_it_understood_and_writes_nothing(offrl: Offrl, tmp_path: Path) -> None:
    source = write_table(tmp_path / "logs.csv")
    before = sorted(tmp_path.rglob("*"))
    result = offrl("convert", source, "./store", *MAPPING, *FLAGS, "--dry-run")
    assert result.code == 0
    assert sorted(tmp_path.rglob("*")) == before
    for words in (r"rows               6", "episodes           2", "1 terminated, 1 truncated", "dropped: last step"):
        assert words in result.stdout
    report = offrl("convert", source, *MAPPING, *FLAGS, "--dry-run", "--json").json
    assert (report["rows"], report["episodes"], report["steps"], report["written"]) == (6, 2, 5, None)


def test_a_table_becomes_a_store(offrl: Offrl, tmp_path: Path) -> None:
    source = write_table(tmp_path / "logs.csv")
    report = offrl("convert", source, "./store", *MAPPING, *FLAGS, "--action-bounds", "-1,1", "--json").json
    store = TrajectoryStore.open(Path(report["written"]))
    assert store.num_episodes == 2
    first = store.episode(0)
    np.testing.assert_array_equal(first.observation[:3], [[0, 0], [1, -1], [2, -2]])
    assert first.terminated.tolist() == [False, False, True]
    assert float(store.spec.action_space.low[0]) == -1.0  # type: ignore[attr-defined]


def test_d4rl_is_recognized_and_reported(offrl: Offrl, tmp_path: Path) -> None:
    result = offrl("convert", write_d4rl(tmp_path / "logs.hdf5"), "./store")
    assert result.code == 0
    assert "format             d4rl" in result.stdout
    assert "written  store" in result.stdout
    assert TrajectoryStore.open("store").num_steps == 10


def test_a_destination_that_exists_is_kept_unless_told_otherwise(offrl: Offrl, tmp_path: Path) -> None:
    source = write_d4rl(tmp_path / "logs.hdf5")
    offrl("convert", source, "./store")
    fingerprint = TrajectoryStore.open("store").fingerprint
    refused = offrl("convert", write_table(tmp_path / "logs.csv"), "./store", *MAPPING, *FLAGS)
    assert refused.code == 2
    assert "--overwrite" in refused.stderr
    assert TrajectoryStore.open("store").fingerprint == fingerprint
    replaced = offrl("convert", tmp_path / "logs.csv", "./store", *MAPPING, *FLAGS, "--overwrite")
    assert replaced.code == 0
    assert TrajectoryStore.open("store").num_steps == 5


def truncated_hdf5(folder: Path) -> Path:
    path = write_d4rl(folder / "cut.hdf5")
    path.write_bytes(path.read_bytes()[:1500])
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.hdf5"
    path.touch()
    return path


def header_only(folder: Path) -> Path:
    path = folder / "header.csv"
    path.write_text("trip,x,y,torque,gain,done\n")
    return path


def pickled(folder: Path) -> Path:
    path = folder / "paths.pkl"
    path.write_bytes(pickle.dumps([{"observations": np.zeros((2, 1))}]))
    return path


def of_no_format(folder: Path) -> Path:
    path = folder / "notes.xyz"
    path.write_text("hello")
    return path


@pytest.mark.parametrize(
    ("make", "options", "code", "words"),
    [
        (lambda folder: folder / "nosuch.csv", (), 2, ["nosuch.csv", "no such file"]),
        (empty_file, (), 2, ["empty.hdf5", "empty"]),
        (header_only, (*MAPPING, *FLAGS), 1, ["header.csv", "no rows"]),
        (truncated_hdf5, (), 2, ["cut.hdf5"]),
        (of_no_format, (), 2, ["notes.xyz", "--from"]),
        (pickled, (), 2, ["paths.pkl", "--allow-pickle"]),
        (lambda f: write_table(f / "t.csv"), (*MAPPING[:-1], "reward=profit", *FLAGS), 2, ["t.csv", "profit", "gain"]),
        (lambda f: write_table(f / "t.csv"), ("--map", "rewrad=gain"), 2, ["rewrad", "reward"]),
        (lambda f: write_table(f / "t.csv"), ("--map", "reward"), 2, ["'reward'", "reward=cost"]),
        (lambda f: write_table(f / "t.csv", gain="nan"), (*MAPPING, *FLAGS), 1, ["t.csv", "reward", "NaN"]),
        (
            lambda f: write_table(f / "t.csv", torque=3.0),
            (*MAPPING, *FLAGS, "--action-bounds", "-1,1"),
            1,
            ["t.csv", "action", "outside", "--out-of-bounds"],
        ),
        (lambda f: write_table(f / "t.csv"), (*MAPPING, *FLAGS, "--action-bounds", "1"), 2, ["'1'", "LOW,HIGH"]),
        (lambda f: write_table(f / "t.csv"), (*MAPPING, *FLAGS, "--from", "excel"), 2, ["excel", "csv"]),
        (lambda f: write_table(f / "t.csv"), (*MAPPING, *FLAGS, "--env", "NoSuchEnv-v0"), 2, ["NoSuchEnv"]),
        (lambda f: write_table(f / "t.csv"), (*MAPPING, *FLAGS, "--env", "Pendulum-v1"), 2, ["t.csv"]),
    ],
)
def test_a_bad_source_is_refused_with_its_name_and_leaves_nothing(
    offrl: Offrl,
    tmp_path: Path,
    make: Callable[[Path], Path],
    options: tuple[str, ...],
    code: int,
    words: list[str],
) -> None:
    source = make(tmp_path)
    result = offrl("convert", source, "./store", *options, "--json")
    assert result.code == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word.lower() in result.stderr.lower()
    assert list(Path.cwd().iterdir()) == []


def test_no_destination_is_refused(offrl: Offrl, tmp_path: Path) -> None:
    result = offrl("convert", write_d4rl(tmp_path / "logs.hdf5"))
    assert result.code == 2
    assert "--dry-run" in result.stderr


def test_a_dry_run_lists_problems_and_exits_with_1(offrl: Offrl, tmp_path: Path) -> None:
    result = offrl("convert", write_table(tmp_path / "t.csv", gain="nan"), *MAPPING, *FLAGS, "--dry-run")
    assert result.code == 1
    assert "problem: " in result.stdout
    assert "nan" in result.stdout


def test_pickles_are_read_with_permission(offrl: Offrl, tmp_path: Path) -> None:
    path = tmp_path / "paths.pkl"
    episode = {
        "observations": np.zeros((3, 2)),
        "actions": np.zeros((3, 1)),
        "rewards": np.ones(3),
        "terminals": np.array([0, 0, 1]),
    }
    path.write_bytes(pickle.dumps([episode, episode]))
    options = ("--allow-pickle", "--time-limit", "3", "--action-bounds", "-1,1")
    report = offrl("convert", path, "./store", *options, "--json").json
    assert (report["episodes"], report["terminated"], report["truncated"]) == (2, 0, 2)


def test_help_names_every_format(offrl: Offrl) -> None:
    text = offrl("convert", "--help").stdout
    assert [name for name in plugins.formats if name not in text] == []
