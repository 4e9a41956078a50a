"""What each command does to a link at each place that it writes to: what is behind it stays as it is."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import offrl as library
from offrl.errors import OffrlError
from tests.cli.conftest import Offrl

LAKE = "FrozenLake-v1"
TABLE = Path(__file__).parents[2] / "docs" / "links.md"
MAKE_RUN = ("train", "bc", "--dataset", "cartpole-expert", "--steps", "20", "--set", "env=none", "--out", "run")
LOGGED = (*MAKE_RUN, "--set", 'writers=["csv", "tensorboard"]')
MAKE_LAKE = ("collect", "--optimal", "--env", LAKE, "--episodes", "3", "--out", "lake")
MAKE_LOG = ("collect", "--random", "--env", LAKE, "--episodes", "20", "--out", "log")
MAKE_REWARD = ("train", "irl", "--dataset", "lake", "--steps", "2", "--eval-episodes", "1", "--out", "lake-run")
MAKE_STORE = ("collect", "--random", "--env", "CartPole-v1", "--episodes", "2", "--out", "./store")
MAKE_REPLAY = (
    *("train", "dqn", "--env", "CartPole-v1", "--steps", "40", "--set", "online.record=true", "--set"),
    *("evaluation.final_episodes=1", "--out", "run"),
)
COLLECT = ("collect", "--random", "--env", "CartPole-v1", "--episodes", "2", "--out", "./mine")
RELABEL = ("relabel", "lake", "--reward", "lake-run", "--out", "./mine")
CONVERT = ("convert", "log.csv", "./mine")
MAKE = ("datasets", "make", "chance.toml")
PARQUET = ("datasets", "export", "./store", "./mine")
MINARI = ("datasets", "export", "./store", "mine-v0", "--format", "minari")
EXPORT = ("export", "run", "--format", "torchscript", "--out", "mine.pt")
PLOT = ("plot", "run", "--metric", "imitation_loss")
OPE = ("ope", "lake-run", "--dataset", "log", "--estimators", "wis", "--plot", "mine")
RESUME = ("train", "--resume", "run", "--steps", "30")
GROW = ("train", "--resume", "run", "--steps", "60")
OVERWRITE = "--overwrite"
RECORD = ("record",)

Command = tuple[str, ...]
ROWS: dict[tuple[str, str], tuple[tuple[Command, ...], Command, str, str]] = {
    ("`collect`", "the dataset"): ((MAKE_STORE,), COLLECT, "mine", "refused"),
    ("`collect --overwrite`", "the dataset"): ((MAKE_STORE,), (*COLLECT, OVERWRITE), "mine", "replaced"),
    ("`relabel`", "the dataset"): ((MAKE_STORE, MAKE_LAKE, MAKE_REWARD), RELABEL, "mine", "refused"),
    ("`relabel --overwrite`", "the dataset"): (
        (MAKE_STORE, MAKE_LAKE, MAKE_REWARD),
        (*RELABEL, OVERWRITE),
        "mine",
        "replaced",
    ),
    ("`convert`", "the dataset"): ((MAKE_STORE,), CONVERT, "mine", "refused"),
    ("`convert --overwrite`", "the dataset"): ((MAKE_STORE,), (*CONVERT, OVERWRITE), "mine", "replaced"),
    ("`datasets make`", "the dataset"): ((MAKE_STORE,), MAKE, "home/stores/chance", "refused"),
    ("`datasets make --overwrite`", "the dataset"): (
        (MAKE_STORE,),
        (*MAKE, OVERWRITE),
        "home/stores/chance",
        "replaced",
    ),
    ("`datasets export`", "the folder"): ((MAKE_STORE,), PARQUET, "mine", "refused"),
    ("`datasets export --overwrite`", "the folder"): ((MAKE_STORE,), (*PARQUET, OVERWRITE), "mine", "replaced"),
    ("`datasets export --format minari`", "the dataset"): ((MAKE_STORE,), MINARI, "minari/mine-v0", "refused"),
    ("`datasets export --format minari --overwrite`", "the dataset"): (
        (MAKE_STORE,),
        (*MINARI, OVERWRITE),
        "minari/mine-v0",
        "replaced",
    ),
    ("`export`", "the file"): ((MAKE_RUN,), EXPORT, "mine.pt", "refused"),
    ("`export --overwrite`", "the file"): ((MAKE_RUN,), (*EXPORT, OVERWRITE), "mine.pt", "replaced"),
    ("`plot`", "the picture"): ((MAKE_RUN,), (*PLOT, "--out", "mine.png"), "mine.png", "replaced"),
    ("`plot`", "`plots` of a run"): ((MAKE_RUN,), PLOT, "run/plots", "refused"),
    ("`ope --plot`", "the picture"): ((MAKE_LAKE, MAKE_REWARD, MAKE_LOG), OPE, "mine.png", "replaced"),
    ("`ope --plot`", "the page"): ((MAKE_LAKE, MAKE_REWARD, MAKE_LOG), OPE, "mine.html", "replaced"),
    ("`train --resume`", "`checkpoints`"): ((MAKE_RUN,), RESUME, "run/checkpoints", "refused"),
    ("`train --resume`", "the checkpoint that is written"): (
        (MAKE_RUN,),
        RESUME,
        "run/checkpoints/step-30",
        "replaced",
    ),
    ("`train --resume`", "another checkpoint"): ((MAKE_RUN,), RESUME, "run/checkpoints/step-7", "left alone"),
    ("`train --resume`", "`checkpoints/index.json`"): ((MAKE_RUN,), RESUME, "run/checkpoints/index.json", "replaced"),
    ("`train --resume`", "`recipe.toml`"): ((MAKE_RUN,), RESUME, "run/recipe.toml", "replaced"),
    ("`train --resume`", "`.lock`"): ((MAKE_RUN,), RESUME, "run/.lock", "refused"),
    ("`train --resume`", "`metrics.jsonl`"): ((MAKE_RUN,), RESUME, "run/metrics.jsonl", "replaced"),
    ("`train --resume`", "`metrics.csv`"): ((LOGGED,), RESUME, "run/metrics.csv", "replaced"),
    ("`train --resume`", "`tensorboard`"): ((LOGGED,), RESUME, "run/tensorboard", "refused"),
    ("`train --resume`", "`tensorboard/seed-N`"): ((LOGGED,), RESUME, "run/tensorboard/seed-0", "refused"),
    ("`train --resume`", "`replay`"): ((MAKE_REPLAY,), GROW, "run/replay", "refused"),
    ("`offrl.record`", "the dataset"): ((MAKE_STORE,), RECORD, "mine", "refused"),
    ("`offrl.record`, append", "`lock` of the store"): ((RECORD,), RECORD, "store/lock", "refused"),
    ("`offrl.record`, append", "`shards`"): ((RECORD,), RECORD, "store/shards", "refused"),
    ("`offrl.record`, append", "`episodes`"): ((RECORD,), RECORD, "store/episodes", "refused"),
    ("`offrl.record`, append", "a shard that is written"): (
        (RECORD,),
        RECORD,
        "store/shards/00001.arrow",
        "replaced",
    ),
    ("`offrl.record`, append", "`metadata.json`"): ((RECORD,), RECORD, "store/metadata.json", "replaced"),
    ("all", "a temporary name of a process that has ended"): (
        (MAKE_STORE,),
        COLLECT,
        ".mine.partial-4194305-1-00000000-00000000",
        "left alone",
    ),
}  # fmt: skip
"""Command and place, as the page has them: what is made before, the command, the place, and the link's fate."""


@pytest.fixture
def workplace(offrl: Offrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.setenv("OFFRL_HOME", str(folder / "home"))
    rows = "".join(f"{i // 5},{i % 5},{(i % 7) / 7},1.5,{int(i % 5 == 4)}\n" for i in range(20))
    (folder / "log.csv").write_text(f"episode,observation,action,reward,terminated\n{rows}")
    (folder / "chance.toml").write_text('# Chance.\n[[sources]]\nkind = "random"\nenv = "CartPole-v1"\nepisodes = 2\n')
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Of a file, or of all in a folder."""
    files = [path for path in (folder, *folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def put_link(place: Path, behind: Path) -> None:
    """Move what is at a place elsewhere, or put something of the right kind there, and a link in its place."""
    if place.exists():
        place.rename(behind)
    elif place.suffix in (".pt", ".png", ".html", ".arrow"):
        behind.write_text("years of work")
    elif place.name == "mine-v0":
        (behind / "data").mkdir(parents=True)
        (behind / "data" / "main_data.hdf5").write_text("years of work")
    elif place.name in ("mine", "chance"):
        shutil.copytree("store", behind)
        shutil.copy("chance.toml", behind / "steps.parquet")
    else:
        behind.mkdir()
        (behind / "chapter").write_text("years of work")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(behind)


def record(place: Path) -> tuple[int, str]:
    """A recorded episode: the exit code and message that the command line would give."""
    new = place.name == "mine"
    try:
        with library.record("CartPole-v1", place if new else Path("store").absolute(), append=not new) as env:
            env.reset(seed=0)
            env.step(1)
    except OffrlError as error:
        return error.exit_code, str(error)
    return 0, ""


@pytest.mark.parametrize("row", ROWS, ids=[f"{command} {place}".replace("`", "") for command, place in ROWS])
def test_what_becomes_of_a_link(row: tuple[str, str], offrl: Offrl, workplace: Path) -> None:
    before, command, name, outcome = ROWS[row]
    if command == MINARI or command == (*MINARI, OVERWRITE):
        pytest.importorskip("jax")
    for each in before:
        if each == RECORD:
            assert record(Path("store")) == (0, "")
        else:
            done = offrl(*each)
            assert done.code == 0, done.stderr
    place, behind = workplace / name, workplace / "behind"
    put_link(place, behind)
    kept = contents(behind)
    assert kept
    if command == RECORD:
        code, message = record(place)
    else:
        result = offrl(*command)
        code, message = result.code, result.stderr
    assert contents(behind) == kept
    if outcome == "refused":
        assert code in (1, 2)
        assert re.search("is a link|destination exists|such a dataset already", message), message
    else:
        assert code == 0, message
    assert place.is_symlink() == (outcome != "replaced")
    assert os.path.lexists(place)


def rows_of_the_page() -> Iterator[tuple[str, str, str]]:
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[-1] in ("refused", "replaced", "left alone"):
            yield cells[0], cells[1], cells[2]


def test_the_page_has_what_is_tested() -> None:
    assert list(rows_of_the_page()) == [(*row, outcome) for row, (*_, outcome) in ROWS.items()]


def test_what_the_user_named_may_be_a_link(offrl: Offrl, workplace: Path) -> None:
    """A run, a dataset to append to and the folders above are where the user says that they are."""
    assert offrl(*MAKE_RUN).code == 0
    assert record(Path("store")) == (0, "")
    for name in ("run", "store"):
        Path(name).rename(f"real-{name}")
        Path(name).symlink_to(workplace / f"real-{name}")
    assert offrl(*RESUME).code == 0
    assert Path("real-run/checkpoints/step-30").is_dir()
    assert record(Path("store")) == (0, "")
    assert library.open_dataset("./real-store").num_episodes == 2
    Path("folder").mkdir()
    Path("linked").symlink_to(workplace / "folder")
    assert offrl(*COLLECT[:-1], "linked/mine").code == 0
    assert Path("folder/mine/metadata.json").is_file()
