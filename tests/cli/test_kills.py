"""SIGKILL and Ctrl-C at random moments, in every command that writes: nothing is lost, and nothing half-made is left.

Whatever happens, under the final name is nothing, what was there before, or the whole; the same command works again,
and takes away what the killed one left.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from offrl.converters.catalog import local_path, open_dataset
from offrl.data.parquet import content_of
from offrl.data.store import TrajectoryStore
from offrl.files import _TEMPORARY, home
from offrl.runs.checkpoint import verify_checkpoint
from offrl.runs.run import Run
from offrl_cli.main import main
from tests.cli.conftest import Offrl

pytestmark = pytest.mark.slow
KILLS = 9
LAKE, DRAWN = "FrozenLake-v1", "DrawnLake-v0"


class DrawnLake(FrozenLakeEnv):
    """Drawn without the packages that draw it elsewhere."""

    def render(self) -> Any:
        return np.full((64, 64, 3), 15 * self.s, np.uint8)


gym.register(DRAWN, DrawnLake, max_episode_steps=100)


@dataclass(frozen=True)
class Writing:
    """A command that writes.

    Attributes:
        arguments: those of `offrl`, but for what lets it replace what is there.
        final: the names that it gives.
        look: what is told of a whole one of these; raises where it isn't whole.
        more: what lets the command replace what is there.
        other: the command that goes on with what is there, where it isn't the same one.
    """

    arguments: tuple[str, ...]
    final: Callable[[], list[Path]]
    look: Callable[[Path], Any]
    more: tuple[str, ...] = ("--overwrite",)
    other: tuple[str, ...] = ()

    def command(self) -> tuple[str, ...]:
        """What a user would write now."""
        if not self.final():
            return self.arguments
        return self.other or self.arguments + self.more


def store(path: Path) -> tuple[str, int]:
    opened = TrajectoryStore.open(path)
    opened.verify()
    return opened.fingerprint, len(opened)


def picture(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.size


def page(path: Path) -> bool:
    return path.read_text(encoding="utf-8").endswith("</html>\n")


def policy(path: Path) -> Any:
    import torch

    return sorted(torch.jit.load(path).state_dict())


def onnx(path: Path) -> Any:
    import onnxruntime

    return [each.name for each in onnxruntime.InferenceSession(str(path)).get_inputs()]


def film(path: Path) -> int:
    import imageio.v2 as imageio

    return sum(1 for _ in imageio.get_reader(path))


def minari(path: Path) -> int:
    import h5py

    with h5py.File(path / "data" / "main_data.hdf5") as file:
        return len(file)


def trained(path: Path) -> bool:
    """A run grows on purpose: what it has of checkpoints is whole."""
    run = Run.open(path)
    for kind in ("last", "best"):
        if run.has_checkpoint(kind):
            verify_checkpoint(run.checkpoint(kind))
    return True


def unpacked() -> list[Path]:
    cache = home() / "datasets"
    return list(cache.glob("hopper-medium-*")) if cache.is_dir() else []


def named(*names: str) -> Callable[[], list[Path]]:
    return lambda: [Path(name) for name in names if os.path.lexists(name)]


def local(name: str) -> Callable[[], list[Path]]:
    return lambda: [local_path(name)] if local_path(name).exists() else []


WRITINGS = {
    "collect a run": Writing(("collect", "lake-run", "--episodes", "60", "--out", "mine"), local("mine"), store),
    "collect --random": Writing(
        ("collect", "--random", "--env", "CartPole-v1", "--episodes", "200", "--out", "mine"), local("mine"), store
    ),
    "collect --optimal": Writing(
        ("collect", "--optimal", "--env", LAKE, "--episodes", "100", "--out", "./mine"), named("mine"), store
    ),
    "relabel": Writing(("relabel", "lake", "--reward", "lake-run", "--out", "mine"), local("mine"), store),
    "convert": Writing(("convert", "log.csv", "mine", "--action-bounds", "-1,1"), local("mine"), store),
    "datasets make": Writing(("datasets", "make", "chance.toml"), local("chance"), store),
    "datasets make --out": Writing(
        ("datasets", "make", "chance.toml", "--out", "mine"), named("mine"), lambda path: store(open_dataset(path).path)
    ),
    "datasets export": Writing(("datasets", "export", "cartpole-expert", "./mine"), named("mine"), content_of),
    "datasets export --format minari": Writing(
        ("datasets", "export", "lake", "mine-v0", "--format", "minari"), named("minari/mine-v0"), minari
    ),
    "datasets pull": Writing(("datasets", "pull", "hopper-medium"), unpacked, store, ()),
    "export": Writing(
        ("export", "pole-run", "--format", "torchscript", "--out", "mine.pt"), named("mine.pt"), policy
    ),
    "export to ONNX": Writing(("export", "pole-run", "--out", "mine.onnx"), named("mine.onnx"), onnx),
    "plot": Writing(
        ("plot", "pole-run", "--metric", "imitation_loss", "--out", "mine.png"), named("mine.png"), picture, ()
    ),
    "ope --plot": Writing(
        ("ope", "lake-run", "--dataset", "lake-log", "--estimators", "wis", "--plot", "mine"),
        named("mine.png", "mine.html"),
        lambda path: picture(path) if path.suffix == ".png" else page(path),
        (),
    ),
    "evaluate --video": Writing(
        ("evaluate", "lake-run", "--episodes", "1", "--env", DRAWN, "--video", "mine"),
        named("mine/seed-0.mp4"), film, ()
    ),
    "train": Writing(
        (*("train", "bc", "--dataset", "cartpole-expert", "--steps", "300", "--set", "env=none"),
         *("--set", "checkpoint_every=30", "--out", "mine")),
        named("mine/recipe.toml"),
        lambda path: trained(path.parent),
        other=("train", "--resume", "mine"),
    ),
}  # fmt: skip


@pytest.fixture
def workplace(offrl: Offrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the commands work on; and a store, a picture and a folder of somebody's own that must stay as they are."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "work" / "minari"))
    Path("log.csv").write_text(
        "episode,observation,action,reward,terminated\n"
        + "".join(f"{i // 10},{i % 10},{(i % 7) / 7},1.5,{int(i % 10 == 9)}\n" for i in range(20_000))
    )
    Path("chance.toml").write_text('# Chance.\n[[sources]]\nkind = "random"\nenv = "CartPole-v1"\nepisodes = 60\n')
    for command in (
        ("collect", "--optimal", "--env", LAKE, "--episodes", "30", "--out", "lake"),
        ("collect", "--random", "--env", LAKE, "--episodes", "300", "--out", "lake-log"),
        ("train", "irl", "--features", "state_action", "--dataset", "lake", "--steps", "20", "--out", "lake-run"),
        ("train", "bc", "--dataset", "cartpole-expert", "--steps", "20", "--set", "env=none", "--out", "pole-run"),
        ("collect", "--random", "--env", "CartPole-v1", "--episodes", "3", "--out", "kept"),
    ):
        done = offrl(*command)
        assert done.code == 0, done.stderr
    (local_path("thesis")).mkdir()
    (local_path("thesis") / ".chapter.partial-1").write_text("years of work")
    return tmp_path / "work"


def digests(*folders: Path) -> dict[str, str]:
    """Of all files in folders."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def child(arguments: tuple[str, ...]) -> None:
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(list(arguments))


def run(arguments: tuple[str, ...], seconds: float | None = None, number: int = signal.SIGKILL) -> int | None:
    """Run a command in a process of its own, and send it a signal after some seconds, if it takes so long."""
    process = multiprocessing.get_context("fork").Process(target=child, args=(arguments,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode is not None, f"{arguments} goes on after signal {number}"
    return process.exitcode


def leftovers(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob(".*") if _TEMPORARY.fullmatch(path.name)]


def remove(path: Path) -> None:
    if path.name == "recipe.toml":
        path = path.parent
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("name", WRITINGS)
def test_a_kill_loses_nothing_and_leaves_nothing(name: str, workplace: Path) -> None:
    writing = WRITINGS[name]
    others = (local_path("kept"), local_path("thesis"), local_path("lake"), workplace / "pole-run")
    before = digests(*others)
    # Twice: the first time, modules are read from the disk.
    for _ in range(2):
        for path in writing.final():
            remove(path)
        started = time.perf_counter()
        assert run(writing.command()) == 0, writing.command()
        duration = time.perf_counter() - started
    whole = {path: writing.look(path) for path in writing.final()}
    assert whole
    rng, interrupted, absent = np.random.default_rng(list(WRITINGS).index(name)), 0, 0
    for attempt in range(KILLS):
        if attempt % 3:
            for path in writing.final():
                remove(path)
        there = writing.final()
        sent = signal.SIGINT if attempt % 4 == 3 else signal.SIGKILL
        code = run(writing.command(), rng.uniform(0.0, 1.05) * duration, sent)
        interrupted += code != 0
        found = writing.final()
        absent += not found
        assert set(there) <= set(found) or any(".replaced-" in path.name for path in leftovers(home(), workplace))
        for path in found:
            assert writing.look(path) == whole[path], f"{path} is half-made"
    assert run(writing.command()) == 0, f"{writing.command()} doesn't work again"
    assert {path: writing.look(path) for path in writing.final()} == whole
    assert leftovers(home(), workplace) == []
    assert digests(*others) == before
    print(f"{name}: {KILLS} tries, {interrupted} cut short, {absent} left nothing")
