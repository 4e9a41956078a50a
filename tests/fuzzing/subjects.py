"""Small valid files of every kind that offrl reads back, and what reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offrl
from offrl.checksums import file_sha256
from offrl.config.dataset_recipe import dataset_recipe_from_dict
from offrl.config.library import find_dataset_recipe
from offrl.data.schema import StoreMetadata
from offrl.errors import OffrlError
from offrl_cli.main import main

SMALL = (
    *("agent.hidden=[4]", "batch_size=4", "log_every=2", "evaluation.every=4", "evaluation.episodes=1"),
    *("evaluation.final_episodes=1", "checkpoint_every=4", "device=cpu"),
)
CARD = """name = "demos"
description = "a few episodes"
license = "MIT"

[data]
episodes = 8
mean_return = 20.5

[[sources]]
kind = "random"
env = "CartPole-v1"
"""
MAKING = """# a dataset of two kinds of policies
references = "measured"
license = "MIT"

[training]
recipe = "dqn/cartpole"
set = ["steps=10"]

[[sources]]
kind = "random"
env = "CartPole-v1"
episodes = 2

[[sources]]
kind = "policy"
episodes = 1
"""

Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Subject:
    """One kind of thing on disk.

    Attributes:
        name: what it is.
        files: patterns of the files, within a home that `OFFRL_HOME` names, that are to be damaged.
        readers: what reads it, given the home: commands, and functions of the Python API.
        repair: makes the checksums right again after a damage.
    """

    name: str
    files: tuple[str, ...]
    readers: tuple[Reader, ...]
    repair: Callable[[Path], None] = lambda home: None


def command(*arguments: str) -> Reader:
    """A reader that is a command; `{home}` in its arguments is the home."""
    return lambda home: main(["--debug", *(argument.format(home=home) for argument in arguments)])


def make_home(home: Path) -> None:
    """Every subject's files, in an empty folder that `OFFRL_HOME` names."""
    offrl.collect(random=True, env="CartPole-v1", episodes=8, out="demos")
    offrl.collect(optimal=True, env="FrozenLake-v1", episodes=8, out="lake")
    quiet: dict[str, Any] = {"progress": False, "seed": 0}
    stopping = ("early_stopping.every=2", "early_stopping.patience=9", "seeds=[0,1]")
    chosen = [f"cross_validation.{item}" for item in ("kind=l2", "coefficients=[0.0,0.1]", "folds=2", "steps=2")]
    online = ("online.warmup_steps=8", "online.capacity=64", "online.record=true", "writers=['csv']")
    learn: Any = offrl.train
    learn("bc", dataset="demos", steps=8, settings=(*SMALL, *stopping), out=home / "bc", **quiet)
    learn("bc", dataset="demos", steps=4, settings=(*SMALL, *chosen), out=home / "chosen", **quiet)
    learn("dqn", env="CartPole-v1", steps=16, settings=(*SMALL, *online), out=home / "dqn", **quiet)
    learn("irl", dataset="lake", steps=4, settings=("evaluation.final_episodes=1",), out=home / "irl", **quiet)
    offrl.export_dataset("demos", home / "exported", "parquet")
    for folder in ("exported", "stores/demos"):
        (home / folder / "card.toml").write_text(CARD, encoding="utf-8")
    (home / "training.toml").write_text(str(offrl.recipe("bc")), encoding="utf-8")
    (home / "making.toml").write_text(MAKING, encoding="utf-8")


def store_readers(path: str) -> tuple[Reader, ...]:
    """What reads a store at that path in the home, or a name."""
    return (
        command("datasets", "info", path),
        command("datasets", "info", path, "--json"),
        command("datasets", "validate", path),
        command("datasets", "export", path, "{home}/again"),
        command("train", "bc", "--dataset", path, "--steps", "2", *settings(), "--out", "{home}/new"),
        lambda home: offrl.open_dataset(path.format(home=home)).to_pandas(),
        lambda home: [str(episode) for episode in offrl.open_dataset(path.format(home=home))],
        command("ope", "{home}/bc", "--dataset", path, "--estimators", "wis,pdis", "--plot", "{home}/page"),
    )


def run_readers(name: str) -> tuple[Reader, ...]:
    """What reads a run, but for what goes on training by its recipe."""
    path = f"{{home}}/{name}"

    def opened(home: Path) -> offrl.Run:
        return offrl.open_run(home / name)

    return (
        command("evaluate", path, "--episodes", "1"),
        command("evaluate", path, "--episodes", "1", "--checkpoint", "last", "--json"),
        command("plot", path, "--out", "{home}/new.svg"),
        command("plot", path, "--x", "minutes", "--out", "{home}/new.svg", "--json"),
        command("plot", path, "--metric", "loss", "--out", "{home}/new.svg"),
        command("collect", path, "--episodes", "1", "--out", "new"),
        command("export", path, "--format", "torchscript", "--out", "{home}/policy.pt"),
        command("ope", path, "--dataset", "demos", "--estimators", "wis"),
        lambda home: repr(opened(home)),
        lambda home: opened(home).metrics(),
        lambda home: opened(home).evaluations(),
        lambda home: opened(home).policy(),
        lambda home: offrl.compare([home / name]),
    )


def settings() -> list[str]:
    """What makes a training small, as options."""
    return [part for setting in SMALL for part in ("--set", setting)]


def resuming(name: str, steps: int) -> Reader:
    """Training a run for some steps more."""
    return command("train", "--resume", f"{{home}}/{name}", "--steps", str(steps))


def repair_store(home: Path) -> None:
    """Let a store's metadata tell the sizes and checksums of its files, and its own."""
    folder = home / "stores" / "demos"
    path = folder / "metadata.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value.pop("checksum", None)
    with suppress(LookupError, TypeError, OSError):
        for shard in value["shards"]:
            for kind, part in (("shards", "rows"), ("episodes", "episodes")):
                file = folder / kind / f"{shard['name']}.arrow"
                shard[f"{part}_bytes"], shard[f"{part}_sha256"] = file.stat().st_size, file_sha256(file)
    with suppress(OffrlError):
        value["fingerprint"] = StoreMetadata.from_json(value, str(path)).fingerprint
    path.write_text(json.dumps({**value, "checksum": sha256_of(value)}), encoding="utf-8")


def repair_exported(home: Path) -> None:
    """Let the list of checksums beside Parquet files be theirs."""
    files = sorted((home / "exported").glob("*.parquet"))
    lines = [f"{file_sha256(file)}  {file.name}\n" for file in files]
    (home / "exported" / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def repair_checkpoints(home: Path) -> None:
    """Let the facts of each checkpoint tell the checksums of its files, and their own."""
    for path in home.glob("*/checkpoints/*/facts.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts.pop("checksums", None)
        checksums = {file.name: file_sha256(file) for file in path.parent.glob("*.safetensors") if file.is_file()}
        checksums["facts.json"] = sha256_of(facts)
        path.write_text(json.dumps({**facts, "checksums": checksums}), encoding="utf-8")


def sha256_of(value: Any) -> str:
    """The checksum of plain values, as metadata and facts hold it."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


STORE_FILES = ("stores/demos/metadata.json", "stores/demos/shards/*", "stores/demos/episodes/*")
RUN_FILES = ("checkpoints/index.json", "checkpoints/*/facts.json", "checkpoints/*/*.safetensors")
LOGS = ("metrics.jsonl", "evaluations.jsonl")

SUBJECTS = (
    Subject("store", STORE_FILES, store_readers("demos")),
    Subject("repaired store", STORE_FILES, store_readers("demos"), repair_store),
    Subject("exported dataset", ("exported/*.parquet", "exported/SHA256SUMS"), store_readers("{home}/exported")),
    Subject("repaired export", ("exported/*.parquet",), store_readers("{home}/exported"), repair_exported),
    Subject(
        "card",
        ("exported/card.toml", "stores/demos/card.toml"),
        (
            command("datasets", "list"),
            command("datasets", "list", "--json"),
            command("datasets", "info", "demos"),
            command("datasets", "info", "demos", "--json"),
            command("datasets", "info", "{home}/exported"),
            command("train", "bc", "--dataset", "unknown"),
        ),
    ),
    Subject("run", tuple(f"bc/{file}" for file in RUN_FILES), (*run_readers("bc"), resuming("bc", 10))),
    *(
        Subject(
            f"repaired run of {name}",
            tuple(f"{name}/{file}" for file in RUN_FILES[1:]),
            (*run_readers(name), *[resuming(name, steps)] * 6),
            repair_checkpoints,
        )
        for name, steps in (("bc", 10), ("dqn", 18), ("irl", 6))
    ),
    Subject("logs", tuple(f"bc/{file}" for file in LOGS), (*run_readers("bc"), resuming("bc", 10))),
    Subject("logs online", tuple(f"dqn/{file}" for file in LOGS), (*run_readers("dqn"), resuming("dqn", 18))),
    Subject("recipe of a run", ("bc/recipe.toml", "dqn/recipe.toml"), run_readers("bc") + run_readers("dqn")),
    Subject("choice", ("chosen/cross_validation.json",), (resuming("chosen", 6), *run_readers("chosen"))),
    Subject(
        "learned reward",
        ("irl/checkpoints/*/*",),
        (
            command("plot", "{home}/irl", "--metric", "reward", "--out", "{home}/new.svg"),
            command("relabel", "lake", "--reward", "{home}/irl", "--out", "new"),
        ),
        repair_checkpoints,
    ),
    Subject(
        "training recipe",
        ("training.toml",),
        (
            command("recipes", "show", "{home}/training.toml"),
            command("recipes", "show", "{home}/training.toml", "--json"),
        ),
    ),
    Subject(
        "dataset recipe",
        ("making.toml",),
        (
            lambda home: dataset_recipe_from_dict(find_dataset_recipe(str(home / "making.toml")).values),
            command("recipes", "show", "{home}/making.toml"),
        ),
    ),
    Subject(
        "recording",
        ("dqn/replay/metadata.json", "dqn/replay/*/*.arrow"),
        (resuming("dqn", 18), *store_readers("{home}/dqn/replay")),
    ),
)
