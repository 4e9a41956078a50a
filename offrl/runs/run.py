"""The run directory: recipe, metrics, evaluations, checkpoints, plots. What every later command reads."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from torch import Tensor

from offrl.config.recipe import Recipe, load_recipe, recipe_from_dict, to_toml
from offrl.errors import RunError, RunInUseError, RunNotFoundError
from offrl.files import naming, write_whole
from offrl.runs.checkpoint import write_checkpoint


class Run:
    """One run on disk.

    `checkpoints/index.json` names the last and the best checkpoint; it is replaced atomically after the checkpoint that
    it names is complete, and only then are older ones removed.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Run:
        """Start a run in a directory that holds none yet; it is made if need be.

        Raises:
            RunError: the directory holds something already, or can't be made.
        """
        _make_directory(path)
        run = cls(path, recipe)
        with run.lock():
            if (path / "recipe.toml").exists():
                raise RunError(
                    "there is a run in this directory already",
                    where=str(path),
                    hint=f"continue it with --resume {path}, or choose another directory with --out",
                )
            write_whole(path / "recipe.toml", to_toml(recipe))
        return run

    @classmethod
    def create_default(cls, recipe: Recipe, now: datetime) -> Run:
        """Start a run in `default_path`, numbered from 2 on where other runs began in the same second.

        Raises:
            RunError: the directory can't be made.
        """
        first = cls.default_path(recipe, now)
        names = chain([first.name], (f"{first.name}-{number}" for number in count(2)))
        return cls.create(next(path for path in map(first.with_name, names) if _make_directory(path)), recipe)

    @classmethod
    def open(cls, path: Path) -> Run:
        """A run made earlier.

        Raises:
            RunNotFoundError: there is none.
            RecipeError: its recipe is damaged.
        """
        recipe = path / "recipe.toml"
        if not recipe.is_file():
            raise RunNotFoundError(
                "there is no run in this directory (no recipe.toml)",
                where=str(path),
                hint="name a directory that offrl train wrote, such as one under runs/",
            )
        return cls(path, recipe_from_dict(load_recipe(recipe), str(recipe)))

    def discard(self) -> None:
        """Take back what `create` left, where nothing came of the run."""
        (self.path / "recipe.toml").unlink()
        (self.path / ".lock").unlink()
        with suppress(OSError):
            # Where there were other files in it, it stays.
            self.path.rmdir()

    def change_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe, as continuing for longer does."""
        write_whole(self.path / "recipe.toml", to_toml(recipe))
        self.recipe = recipe

    @staticmethod
    def default_path(recipe: Recipe, now: datetime) -> Path:
        """`runs/<algo>-<dataset or environment>-<time>`; fine-tuning `runs/<algo>-finetune-<environment>-<time>`."""
        task = f"finetune-{recipe.env}" if recipe.start else recipe.dataset or recipe.env or ""
        subject = task.replace(":", "-").replace("/", "-") if ":" in task else Path(task).name
        return Path("runs") / f"{recipe.algo}-{subject}-{now:%Y%m%d-%H%M%S}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run.

        Raises:
            RunInUseError: another process holds it.
        """
        with open(self.path / ".lock", "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunInUseError(
                    "another process is writing to this run",
                    where=str(self.path),
                    hint="wait for it, stop it, or choose another directory with --out",
                ) from error
            yield

    def log(self, file: str, line: Mapping[str, Any]) -> None:
        """Append one JSON line to `metrics.jsonl` or `evaluations.jsonl`."""
        path = self.path / file
        with naming(path), open(path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")

    def lines(self, file: str) -> list[dict[str, Any]]:
        """The whole lines of such a file; a last one cut short by a kill is left out."""
        path = self.path / file
        if not path.exists():
            return []
        parsed = []
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                parsed.append(json.loads(text))
            except ValueError:
                continue
        return parsed

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run is about to repeat."""
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            if (self.path / file).exists():
                kept = [line for line in self.lines(file) if line["step"] <= step and not line.get("final")]
                write_whole(self.path / file, "".join(json.dumps(line) + "\n" for line in kept))
        table = self.path / "metrics.csv"
        if table.exists() and table.stat().st_size:
            header, *rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
            # A kill may have cut the last row short.
            whole = [row for row in rows if row.endswith("\n") and int(row.partition(",")[0]) <= step]
            write_whole(table, "".join([header, *whole]))

    def save_checkpoint(
        self, kind: str, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint as the new `last` or `best`, then remove what is not named any more."""
        name = f"step-{step}" if kind == "last" else f"{kind}-step-{step}"
        index = self._index()
        if kind == "last" and index.get(kind) == name:
            return self._checkpoints / name
        if index.get(kind) == name:
            # A resumed run is back where it was: what the index names stays whole until the index names another.
            name += "-again"
        write_checkpoint(self._checkpoints / name, parts, facts)
        index[kind] = name
        write_whole(self._checkpoints / "index.json", json.dumps(index))
        for path in self._checkpoints.iterdir():
            if path.is_dir() and path.name not in index.values():
                shutil.rmtree(path, ignore_errors=True)
        return self._checkpoints / name

    def checkpoint(self, kind: str) -> Path:
        """The directory of the `last` or `best` checkpoint.

        Raises:
            RunNotFoundError: the run has none yet.
        """
        name = self._index().get(kind)
        if name is None:
            raise RunNotFoundError(
                f"the run has no '{kind}' checkpoint",
                where=str(self.path),
                hint="let it train longer, or ask for the other kind (--checkpoint last|best)",
            )
        return self._checkpoints / name

    def has_checkpoint(self, kind: str) -> bool:
        """Whether there is such a checkpoint."""
        return kind in self._index()

    @property
    def reported_checkpoint(self) -> str:
        """The kind of the one whose returns end training: `best`, as early stopping chose it, or else `last`."""
        return "best" if self.recipe.early_stopping.patience and self.has_checkpoint("best") else "last"

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _index(self) -> dict[str, str]:
        path = self._checkpoints / "index.json"
        if not path.exists():
            return {}
        try:
            index: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(
                "the list of checkpoints is damaged",
                where=str(path),
                hint='write {"last": "step-N"} into it, where step-N is the newest directory beside it',
            ) from error
        return index


def _make_directory(path: Path) -> bool:
    """Make a run's directory; returns whether it is new, which is true for one of several processes at most."""
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.is_dir():
            return False
        raise RunError(f"the run directory can't be made: {error}", where=str(path), hint="choose --out") from error
    return True
