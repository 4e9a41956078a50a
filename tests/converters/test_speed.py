"""How long conversions take beside plain reading, and how much memory: medians of runs in turns, in one process.

Run with `pytest -m slow -s tests/converters/test_speed.py` to see the figures.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from offrl.converters import convert

pytestmark = pytest.mark.slow

ROUNDS = 7
HOPPER = (11, 3)
HOPPER_INFOS = (
    *("x_position", "z_distance_from_origin", "x_velocity"),
    *("reward_forward", "reward_ctrl", "reward_survive"),
)


class Taken(NamedTuple):
    """Seconds by the clock, and of processor time, which other processes on the machine disturb less."""

    clock: float
    processor: float


def medians(reading: Callable[[], object], source: str, folder: Path) -> tuple[Taken, Taken]:
    """What reading a source takes, and converting it: medians over rounds in turns, after one to warm up."""
    rounds: tuple[list[Taken], list[Taken]] = ([], [])
    works = (reading, lambda: convert(source, folder / "store"))
    for _ in range(ROUNDS + 1):
        for work, taken in zip(works, rounds, strict=True):
            time.sleep(0.3)  # until the threads that the other left behind have come to rest
            clock, processor = time.perf_counter(), time.process_time()
            work()
            taken.append(Taken(time.perf_counter() - clock, time.process_time() - processor))
        shutil.rmtree(folder / "store")
    read, converted = (Taken(*map(statistics.median, zip(*taken[1:], strict=True))) for taken in rounds)
    return read, converted


def write_d4rl(path: Path, rows: int, compression: str | None) -> Path:
    """Rows of Hopper's size, with episodes of 100 to 1000 steps, laid out as D4RL's files are."""
    rng = np.random.default_rng(0)
    observed, acted = HOPPER
    states = rng.standard_normal((rows + 1, observed), np.float32).cumsum(0) * np.float32(0.01)
    ends = np.cumsum(rng.integers(100, 1001, rows // 100)) - 1
    ends = ends[ends < rows]
    timeouts = np.zeros(rows, np.bool_)
    timeouts[ends] = True
    following = states[1:].copy()
    following[ends] += 1
    with h5py.File(path, "w") as file:
        for key, array in {
            "observations": states[:-1],
            "next_observations": following,
            "actions": np.tanh(rng.standard_normal((rows, acted), np.float32)),
            "rewards": rng.standard_normal(rows, np.float32),
            "terminals": np.zeros(rows, np.bool_),
            "timeouts": timeouts,
        }.items():
            file.create_dataset(key, data=array, compression=compression)
    return path


def read_all(path: Path) -> None:
    with h5py.File(path, "r") as file:
        for key in file:
            file[key][()]


@pytest.mark.parametrize(("compression", "most"), [("gzip", 5.0), (None, 50.0)])
def test_a_million_transitions_of_d4rl(tmp_path: Path, compression: str | None, most: float) -> None:
    """Files are compressed in practice. Plain ones are read at the speed of memory, which nothing that writes is."""
    path = write_d4rl(tmp_path / "hopper.hdf5", 1_000_000, compression)
    read, converted = medians(lambda: read_all(path), str(path), tmp_path)
    ratio = converted.clock / read.clock
    print(f"\nD4RL, {compression}: {read.clock:.2f} s to read, {converted.clock:.2f} to convert: {ratio:.2f}×")
    assert ratio <= most


@pytest.mark.parametrize("format", ["hdf5", "arrow"])
def test_minari_converts_faster_than_it_iterates(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    rng = np.random.default_rng(0)
    observed, acted = HOPPER
    buffers = []
    for index, steps in enumerate(rng.integers(100, 900, 1000)):
        buffers.append(
            EpisodeBuffer(
                seed=index,
                observations=rng.standard_normal((steps + 1, observed)),
                actions=rng.uniform(-1, 1, (steps, acted)).astype(np.float32),
                rewards=rng.standard_normal(steps),
                terminations=np.zeros(steps, np.bool_),
                truncations=np.arange(steps) == steps - 1,
                infos={key: list(rng.standard_normal(steps + 1)) for key in HOPPER_INFOS},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            "toy/hopper-v0",
            buffers,
            observation_space=spaces.Box(-np.inf, np.inf, (observed,), np.float64),
            action_space=spaces.Box(-1, 1, (acted,), np.float32),
            data_format=format,
        )

    def iterate() -> None:
        for _ in dataset.iterate_episodes():
            pass

    iterated, converted = medians(iterate, "minari:toy/hopper-v0", tmp_path)
    clock, processor = (a / b for a, b in zip(iterated, converted, strict=True))
    print(f"\nMinari, {format}: {iterated.clock:.2f} s to iterate, {converted.clock:.2f} to convert: {clock:.2f}×")
    print(f"  processor time {iterated.processor:.2f} s and {converted.processor:.2f} s: {processor:.2f}×")
    assert processor >= 5.0


_WATCHED = """
import re, sys, threading
from offrl.converters import convert
import offrl.converters.readers.d4rl
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before, peak, done = anonymous(), 0.0, threading.Event()
def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
convert(sys.argv[1], sys.argv[2])
done.set()
watcher.join()
print(peak - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A shard and a few blocks at a time, whether the file has one or three million rows."""
    growth = []
    for rows in (1_000_000, 3_000_000):
        path = write_d4rl(tmp_path / f"{rows}.hdf5", rows, None)
        run = [sys.executable, "-c", _WATCHED, str(path), str(tmp_path / f"store{rows}")]
        growth.append(float(subprocess.run(run, check=True, capture_output=True, text=True).stdout))
    print(f"\nmemory: {growth[0]:.0f} MB more for 1 M rows, {growth[1]:.0f} MB for 3 M")
    assert max(growth) < 200
