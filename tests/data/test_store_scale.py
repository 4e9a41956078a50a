"""Stores at size, and stores whose writer is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import DatasetNotFoundError
from offrl.types import Spec
from tests.data.stores import SPEC, make_block, make_store

HOPPER = Spec(gym.spaces.Box(-np.inf, np.inf, (11,), np.float32), gym.spaces.Box(-1.0, 1.0, (3,), np.float32))


def hopper_block(episodes: int, length: int = 999) -> EpisodeBlock:
    """Truncated episodes of the size that Hopper's have."""
    rng = np.random.default_rng(0)
    rows = episodes * (length + 1)
    columns: dict[str, NDArray[Any]] = {
        "observation": rng.standard_normal((rows, 11), np.float32),
        "action": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "reward": rng.standard_normal(rows, np.float32),
        "terminated": np.zeros(rows, np.bool_),
        "truncated": np.zeros(rows, np.bool_),
    }
    columns["action"][length :: length + 1] = 0
    columns["reward"][length :: length + 1] = 0
    columns["truncated"][length - 1 :: length + 1] = True
    return EpisodeBlock(columns, np.full(episodes, length))


def write_hopper(path: Path, million_rows: int) -> None:
    block = hopper_block(1000)
    with StoreWriter(path, HOPPER) as writer:
        for _ in range(million_rows):
            writer.append(block)


def in_process(script: str, path: Path) -> dict[str, float]:
    """What a script, run in a process of its own with `path`, prints as JSON on its last line."""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_opening_touches_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "s", [30] * 50, shard_bytes=500)

    def refuse(*args: Any) -> None:
        raise AssertionError("a shard was mapped")

    monkeypatch.setattr(pa, "memory_map", refuse)
    store = TrajectoryStore.open(tmp_path / "s")
    assert (store.num_steps, store.num_episodes, store.num_rows) == (1500, 50, 1550)
    assert len(store.metadata.shards) == 50
    assert store.statistics["reward"].count == 1500
    with pytest.raises(AssertionError, match="mapped"):
        store.read("reward", 0, 1)


OPEN = """
import json, sys, time
from offrl.data.store import TrajectoryStore

def resident() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

before = resident()
times = []
for _ in range(5):
    start = time.perf_counter()
    store = TrajectoryStore.open(sys.argv[1])
    times.append(time.perf_counter() - start)
print(json.dumps({"seconds": min(times), "first": times[0], "megabytes": resident() - before, "rows": store.num_rows}))
"""


@pytest.mark.slow
def test_ten_million_rows_open_at_once(tmp_path: Path) -> None:
    write_hopper(tmp_path / "s", 10)
    result = in_process(OPEN, tmp_path / "s")
    print(result)
    assert result["rows"] == 10_000_000
    assert result["seconds"] < 0.05
    assert result["megabytes"] < 50


@pytest.mark.slow
def test_a_million_rows_are_written_in_a_second(tmp_path: Path) -> None:
    block, times = hopper_block(1000), []
    for repeat in range(5):
        start = time.perf_counter()
        with StoreWriter(tmp_path / str(repeat), HOPPER) as writer:
            writer.append(block)
        times.append(time.perf_counter() - start)
    print(times)
    assert min(times) < 1.0


SAMPLE = """
import json, sys, threading, time
from offrl.replay.normalization import ActionMap, ObservationNormalizer
from offrl.replay.sampler import ReplaySampler, split_by_episode
from offrl.data.store import TrajectoryStore

peak, done = 0.0, False

def watch() -> None:
    global peak
    while not done:
        with open("/proc/self/status") as status:
            peak = max(peak, next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon")))
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
store = TrajectoryStore.open(sys.argv[1])
train, _ = split_by_episode(store, 0.1, seed=0)
sampler = ReplaySampler(
    [train], batch_size=256, seeds=[0], action_map=ActionMap.from_space(store.spec.action_space),
    observation_normalizer=ObservationNormalizer.from_store(train),
)
start = time.perf_counter()
for _ in range(20):
    batch = sampler.sample(64)
seconds = time.perf_counter() - start
sampler.sample_windows(4, 32)
sampler.sample_episodes(1)
done = True
watcher.join()
print(json.dumps({"megabytes": peak, "transitions_per_second": 20 * 64 * 256 / seconds, "steps": store.num_steps}))
"""


@pytest.mark.slow
def test_twenty_million_rows_are_sampled_within_a_gigabyte(tmp_path: Path) -> None:
    write_hopper(tmp_path / "s", 20)
    result = in_process(SAMPLE, tmp_path / "s")
    print(result)
    assert result["steps"] == 20_000 * 999
    assert result["megabytes"] < 1000


def append_until_killed(path: Path, report: int) -> None:
    """Append episode after episode; after each commit, write the number of episodes committed to a pipe."""
    with StoreWriter(path, SPEC, shard_bytes=1500, append=True) as writer:
        os.write(report, b"\0\0\0\0")
        while True:
            count = writer.num_episodes
            writer.append(episode(count))
            if count % 3 == 0:
                writer.commit()
                os.write(report, (count + 1).to_bytes(4, "little"))


def episode(number: int) -> EpisodeBlock:
    return make_block([1 + number * 7 % 23], seed=number)


def kill_a_writer(path: Path, delay: float) -> int:
    """Start a writer, kill it after `delay` seconds of writing; returns how many episodes it said were committed."""
    receive, send = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=append_until_killed, args=(path, send))
    process.start()
    os.close(send)
    os.read(receive, 4)  # it has opened the store
    time.sleep(delay)
    process.kill()
    process.join()
    reported = b""
    while part := os.read(receive, 4096):
        reported += part
    os.close(receive)
    whole = reported[: len(reported) // 4 * 4]
    return int.from_bytes(whole[-4:], "little")


def assert_holds_the_first_episodes(path: Path, at_least: int) -> int:
    store = TrajectoryStore.open(path)
    assert store.num_episodes >= at_least
    assert validate(store) == []
    for i in range(store.num_episodes):
        found, block = store.episode(i), episode(i)
        np.testing.assert_array_equal(found.observation, block.columns["observation"])
        np.testing.assert_array_equal(found.reward, block.columns["reward"][:-1])
        assert found.seed == i
    return store.num_episodes


def survive_kills(path: Path, kills: int) -> None:
    rng = np.random.default_rng(0)
    committed = 0
    for _ in range(kills):
        reported = kill_a_writer(path, float(rng.uniform(0.0, 0.3)))
        committed = assert_holds_the_first_episodes(path, max(committed, reported))
    assert committed
    with StoreWriter(path, SPEC, append=True) as writer:
        writer.append(episode(committed))
    assert assert_holds_the_first_episodes(path, committed + 1) == committed + 1
    assert len(os.listdir(path / "shards")) == len(TrajectoryStore.open(path).metadata.shards)


def test_a_killed_writer_loses_no_committed_episode(tmp_path: Path) -> None:
    survive_kills(tmp_path / "s", 4)


@pytest.mark.slow
def test_fifty_killed_writers_lose_no_committed_episode(tmp_path: Path) -> None:
    survive_kills(tmp_path / "s", 50)


def append_until_call(path: Path, step: int) -> None:
    """Append one episode, but stop for good at the n-th sync or rename."""
    calls = 0

    def counting(original: Any) -> Any:
        def counted(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os._exit(0)
            return original(*args)

        return counted

    os.fsync, os.replace = counting(os.fsync), counting(os.replace)
    with StoreWriter(path, SPEC, append=True) as writer:
        writer.append(make_block([5], seed=1))
    assert step == 13, "twelve calls open a store and commit"


@pytest.mark.parametrize("step", range(1, 14))
def test_a_writer_that_dies_at_any_system_call_leaves_a_store(tmp_path: Path, step: int) -> None:
    path = tmp_path / "s"
    make_store(path, [3, 4])
    process = multiprocessing.get_context("fork").Process(target=append_until_call, args=(path, step))
    process.start()
    process.join()
    assert process.exitcode == 0
    store = TrajectoryStore.open(path)
    assert validate(store) == []
    assert store.episodes.length.tolist() in ([3, 4], [3, 4, 5])
    with StoreWriter(path, SPEC, append=True) as writer:
        writer.append(make_block([6], seed=2))
    assert validate(TrajectoryStore.open(path)) == []


def test_a_writer_that_dies_before_its_first_metadata_can_start_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for folder in ("shards", "episodes"):
        (path / folder).mkdir(parents=True)
    (path / "lock").touch()
    (path / f".metadata.json.partial-{2**22 + 1}-00000000.json").write_text("{")
    with pytest.raises(DatasetNotFoundError):
        TrajectoryStore.open(path)
    StoreWriter(path, SPEC).close()
    assert TrajectoryStore.open(path).num_episodes == 0
