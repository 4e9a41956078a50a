"""The run directory: recipe, metrics, evaluations, checkpoints, plots. What every later command reads."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offrl.config.fields import CheckpointKind, Count, CountOrZero
from offrl.config.recipe import Recipe, load_recipe, recipe_from_dict
from offrl.config.toml import write_toml
from offrl.config.validation import require_kind
from offrl.errors import RunError, RunExistsError, RunInUseError, RunNotFoundError, StoreError
from offrl.files import appending, own_folder, remove_leftovers, require_no_link, take_lock, write_whole
from offrl.runs.records import (
    CHECKPOINT_NAME,
    CROSS_VALIDATION,
    EVALUATIONS,
    METRICS,
    CheckpointName,
    Choice,
    ChosenCoefficient,
    WholeEvaluation,
    choice_of_coefficient,
    read_lines,
    read_metrics,
    read_record,
)
from offrl.trust import allowing, remembered

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from offrl.runs.acting import ActingPolicy
    from offrl.runs.scores import Scores


class Run:
    """One run on disk.

    `checkpoints/index.json` names the last and the best checkpoint, and older ones that stay; it is replaced atomically
    after the checkpoint that it names is complete, and only then are those removed that it names no more.

    Attributes:
        path: its directory.
        recipe: all that it depends on.

    Example:
        >>> run = offrl.open_run("runs/clone")
        >>> run.evaluate(episodes=100)["mean_return"]
        >>> policy = run.policy()
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe, self._checkpoints = path, recipe, path / "checkpoints"

    def __repr__(self) -> str:
        recipe = self.recipe
        what = f"{recipe.algo} on {recipe.dataset or recipe.env}"
        seeds = f"seed {recipe.seeds[0]}" if len(recipe.seeds) == 1 else f"seeds {list(recipe.seeds)}"
        scores = self.final_scores()
        worth = "" if scores is None else f", mean return {scores.summary()['mean return']}"
        return f"<Run {self.path}: {what}, {seeds}, {recipe.steps:,} steps{worth}>"

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> Run:
        """Start a run in a directory that holds none yet; it is made if need be.

        Raises:
            RunExistsError: there is a run in the directory already, or a file of that name.
            RunError: the directory can't be made.
            StoreError: the recipe can't be written; then there is no directory either.
        """
        _make_directory(path)
        run = cls(path, recipe)
        with run.lock():
            cls.require_new(path)
            try:
                write_whole(path / "recipe.toml", write_toml(dataclasses.asdict(recipe)))
            except StoreError:
                run.discard()
                raise
        return run

    @staticmethod
    def require_new(path: Path) -> None:
        """Raise `RunExistsError` where no run can be made, because there is one already, or a file of that name."""
        if (path / "recipe.toml").exists():
            raise RunExistsError(
                "there is a run in this directory already",
                where=str(path),
                hint=f"continue it with --resume {path}, or choose another directory with --out",
            )
        if path.exists() and not path.is_dir():
            raise RunExistsError("there is a file of this name", where=str(path), hint="choose another --out")

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
        (self.path / "recipe.toml").unlink(missing_ok=True)
        (self.path / ".lock").unlink(missing_ok=True)
        with suppress(OSError):
            # Where there were other files in it, it stays.
            self.path.rmdir()

    def change_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe, as continuing for longer does."""
        write_whole(self.path / "recipe.toml", write_toml(dataclasses.asdict(recipe)))
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
        lock = take_lock(self.path / ".lock")
        if lock is None:
            raise RunInUseError(
                "another process is writing to this run",
                where=str(self.path),
                hint="wait for it, stop it, or choose another directory with --out",
            )
        try:
            # Before hours of training, not after them.
            require_no_link(self._checkpoints)
            remove_leftovers(self.path)
            yield
        finally:
            os.close(lock)

    def log(self, file: str, line: Mapping[str, Any]) -> None:
        """Append one JSON line to `metrics.jsonl` or `evaluations.jsonl`."""
        with appending(self.path / file) as lines:
            lines.write(json.dumps(line) + "\n")

    def lines(self, file: str) -> list[dict[str, Any]]:
        """The whole lines of such a file; a last one cut short by a kill is left out.

        Raises:
            RunError: the file can't be read, or has a line of something else.
        """
        return read_lines(self.path / file)

    def acting_by(self, **options: Any) -> Run:
        """The same run, whose policies act by other options than those that they were trained with.

        Args:
            options: of the algorithm, some of those that no weights depend on, such as the return that Decision
                Transformer is asked for.

        Raises:
            RecipeError: weights depend on one of them, or a value is of the wrong kind.

        Example:
            >>> run.acting_by(target_return=2_000.0).evaluate()["mean_return"]
        """
        from offrl import plugins

        algorithm = plugins.algorithms[self.recipe.algo]
        agent = algorithm.acting_by(self.recipe.agent, options)
        return Run(self.path, dataclasses.replace(self.recipe, agent=agent))

    def evaluate(
        self,
        episodes: int = 100,
        *,
        checkpoint: str | None = None,
        seed: int = 0,
        env: str | None = None,
        max_episode_steps: int | None = None,
        video: str | os.PathLike[str] | None = None,
        progress: bool = True,
        trust: bool = False,
    ) -> Scores:
        """Greedy returns of every seed's policy, from starts that neither training nor the choice of a checkpoint saw.

        Args:
            episodes: complete episodes per seed.
            checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
            seed: picks the initial states: with 0, those of the evaluation that ends training.
            env: a Gymnasium id in place of the run's own.
            max_episode_steps: cut episodes there, whatever limit the environment has; None for the recipe's
                evaluation.max_episode_steps. Without any limit, an episode of 50,000 steps is refused.
            video: a folder for one film per seed.
            progress: say on stderr how filming gets on.
            trust: import the module of the environment that the run names, though you didn't train it here: only of
                authors whom you'd let run code.

        Returns:
            what `offrl.runs.scores.summarize` returns, with the `checkpoint` it is of, and the files in `videos`.

        Raises:
            RunError: there is no such checkpoint.
            RequestError: there is no environment to evaluate in, or an episode of it doesn't end.

        Example:
            >>> run.evaluate(episodes=100)["mean_return"]
        """
        from offrl.runs.evaluate_run import evaluate_run
        from offrl.runs.scores import Scores

        require_kind(Count, episodes=episodes)
        require_kind(CountOrZero, seed=seed)
        require_kind(Count | None, max_episode_steps=max_episode_steps)
        require_kind(CheckpointKind | None, checkpoint=checkpoint)
        films = None if video is None else Path(video)
        with allowing(env, remembered(self.path), everything=trust):
            return Scores(
                evaluate_run(
                    self,
                    episodes=episodes,
                    checkpoint=checkpoint,
                    seed=seed,
                    env=env,
                    max_episode_steps=max_episode_steps,
                    video=films,
                    tell=_say if progress else lambda text: None,
                )
            )

    def final_scores(self) -> Scores | None:
        """What the evaluation that ended training found; None before, or where no environment is known.

        Example:
            >>> run.final_scores()["mean_return"]
        """
        from offrl.runs.scores import Scores

        finals = [line for line in read_lines(self.path / EVALUATIONS, WholeEvaluation) if line.get("final")]
        return Scores.of_line(finals[-1]) if finals else None

    def metrics(self) -> pd.DataFrame:
        """What was logged in training: a row for each step and seed, a column for each metric.

        Example:
            >>> run.metrics().groupby("step")["loss"].mean()
        """
        import pandas as pd

        rows: dict[tuple[int, int], dict[str, Any]] = {}
        for line in read_metrics(self.path / METRICS, self.recipe.seeds):
            values = {name: value for name, value in line.items() if name != "step"}
            for position, seed in enumerate(self.recipe.seeds):
                row = rows.setdefault((line["step"], seed), {"step": line["step"], "seed": seed})
                row |= {name: value[position] if isinstance(value, list) else value for name, value in values.items()}
        return pd.DataFrame(list(rows.values()), columns=None if rows else ["step", "seed"])

    def evaluations(self) -> pd.DataFrame:
        """What each evaluation found, those on the way and at the end: a row for each step and seed.

        Example:
            >>> run.evaluations().query("final")["mean_return"]
        """
        import pandas as pd

        columns = ["step", "seed", "final", "environment", "episodes", "mean_return", "mean_length", "normalized_score"]
        rows = []
        for line in read_lines(self.path / EVALUATIONS, WholeEvaluation):
            normalized = line["normalized_score_per_seed"] or [None] * len(line["seeds"])
            for position, seed in enumerate(line["seeds"]):
                returns, lengths = line["returns"][position], line["lengths"][position]
                figures = (len(returns), sum(returns) / len(returns), sum(lengths) / len(lengths), normalized[position])
                rows.append((line["step"], seed, bool(line.get("final")), line["environment"], *figures))
        return pd.DataFrame(rows, columns=columns)

    def policy(
        self, seed: int | None = None, checkpoint: str | None = None, *, stochastic: bool = False
    ) -> ActingPolicy:
        """The trained policy, to be called with what the environment shows.

        Args:
            seed: which of the run's seeds; None for the first one.
            checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
            stochastic: sample actions, where the algorithm does; greedy ones otherwise.

        Raises:
            RunError: there is no such checkpoint.
            RequestError: the run has no such seed.

        Example:
            >>> policy = run.policy()
            >>> action = policy(observation)
        """
        from offrl.runs.acting import acting_policy

        chosen = self.recipe.seeds[0] if seed is None else seed
        return acting_policy(self, self.choose_checkpoint(checkpoint), chosen, stochastic=stochastic)

    def cross_validation(self) -> dict[str, Any]:
        """The choice of options by cross-validation: `folds`, what was `chosen`, and a `table` of what was tried.

        Of each candidate the table has its `settings`, the mean `held_out_loss`, the `standard_error` over folds, and
        the losses `per_fold`; None where a loss isn't finite. Empty where nothing was chosen.
        """
        found = self._cross_validation()
        return {} if found.get("chosen") is None else found

    def tried_options(self) -> list[dict[str, Any]]:
        """The table of candidates so far, of a choice that may not be made yet; see `cross_validation`."""
        rows: list[dict[str, Any]] = self._cross_validation().get("table", [])
        return rows

    def _cross_validation(self) -> dict[str, Any]:
        path = self.path / CROSS_VALIDATION
        if not path.exists():
            return {}
        hint = "restore the file, or remove it"
        values = read_record(path, Choice | ChosenCoefficient, "the choice by cross-validation", hint)
        return values if "chosen" in values else choice_of_coefficient(values)

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run is about to repeat."""
        for file in (METRICS, EVALUATIONS):
            if (self.path / file).exists():
                kept = [line for line in self.lines(file) if line["step"] <= step and not line.get("final")]
                write_whole(self.path / file, "".join(json.dumps(line) + "\n" for line in kept))
        table = self.path / "metrics.csv"
        if table.exists() and table.stat().st_size:
            header, *rows = table.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            # A kill may have cut the last row short.
            steps = [row.partition(",")[0] if row.endswith("\n") else "" for row in rows]
            whole = [row for row, text in zip(rows, steps, strict=True) if text.isdecimal() and int(text) <= step]
            write_whole(table, "".join([header, *whole]))

    def save_checkpoint(
        self, kind: str, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint as the new `last` or `best`, then remove what is not named any more."""
        # Reading a run's recipe and figures needs no PyTorch.
        from offrl.runs.checkpoint import write_checkpoint

        name = f"step-{step}" if kind == "last" else f"{kind}-step-{step}"
        index = self._index()
        if kind == "last" and index.get(kind) == name:
            return self._checkpoints / name
        if index.get(kind) == name:
            # A resumed run is back where it was: what the index names stays whole until the index names another.
            name += "-again"
        own_folder(self._checkpoints)
        write_checkpoint(self._checkpoints / name, parts, facts)
        if kind == "last":
            index = self._with_older(index)
        index[kind] = name
        write_whole(self._checkpoints / "index.json", json.dumps(index))
        for path in self._checkpoints.iterdir():
            ours = CHECKPOINT_NAME.fullmatch(path.name) and not path.is_symlink()
            if ours and path.name not in index.values():
                shutil.rmtree(path, ignore_errors=True)
        return self._checkpoints / name

    def _with_older(self, index: dict[str, str]) -> dict[str, str]:
        """The index where a new checkpoint is about to be the last: the one before stays, if so many are kept."""
        older = {name for kind, name in index.items() if kind != "best"}
        newest_first = sorted(older, key=_step_of, reverse=True)
        kept = self.recipe.checkpoints_kept
        stay = newest_first[: kept - 1] if kept else newest_first
        return {kind: name for kind, name in index.items() if kind in ("last", "best")} | {name: name for name in stay}

    def kept_checkpoints(self) -> list[str]:
        """The names of those that the run keeps, oldest first, such as `step-5000`; the best one has none of its own.

        Example:
            >>> run.kept_checkpoints()
            ['step-5000', 'step-10000']
        """
        return sorted({name for kind, name in self._index().items() if kind != "best"}, key=_step_of)

    def checkpoint(self, kind: str) -> Path:
        """The directory of the `last` or `best` checkpoint, or of one that is kept, by its name.

        Raises:
            RunNotFoundError: the run has none yet, or doesn't keep that one.
        """
        index = self._index()
        name = index.get(kind) or next((name for name in index.values() if name == kind), None)
        if name is None:
            there = [kind for kind in ("last", "best") if kind in index] + self.kept_checkpoints()
            raise RunNotFoundError(
                f"the run has no '{kind}' checkpoint",
                where=str(self.path),
                hint=f"ask for another one: --checkpoint {'|'.join(there)}" if there else "let it train longer",
            )
        return self._checkpoints / name

    def has_checkpoint(self, kind: str) -> bool:
        """Whether there is such a checkpoint."""
        index = self._index()
        return kind in index or kind in index.values()

    @property
    def reported_checkpoint(self) -> str:
        """The kind of the one whose returns end training: `best`, as early stopping chose it, or else `last`."""
        return "best" if self.recipe.early_stopping.patience and self.has_checkpoint("best") else "last"

    def picture_path(self, name: str) -> Path:
        """Where a picture of the run goes that isn't given another place.

        Raises:
            StoreError: the folder of such pictures is a link.
        """
        require_no_link(self.path / "plots")
        return self.path / "plots" / f"{name}.png"

    def choose_checkpoint(self, asked: str | None = None) -> str:
        """The kind that was asked for, or else the one that training reported, if the last and the best are whole.

        Raises:
            RunError: none was asked for, and a file of one of them has changed since it was written.
        """
        if asked is not None:
            return asked
        from offrl.runs.checkpoint import verify_checkpoint

        index = self._index()
        for name in (index[kind] for kind in ("last", "best") if kind in index):
            verify_checkpoint(self._checkpoints / name)
        return self.reported_checkpoint

    def _index(self) -> dict[str, str]:
        path = self._checkpoints / "index.json"
        if not path.exists():
            return {}
        hint = 'write {"last": "step-N"} into it, where step-N is the newest directory beside it'
        return read_record(path, dict[str, CheckpointName], "the list of checkpoints", hint)


def _step_of(name: str) -> int:
    """Of a checkpoint's directory."""
    return int(name.removesuffix("-again").rpartition("-")[2])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def path_of(run: str | os.PathLike[str] | Run) -> Path:
    """The directory of a run, or the one that was named."""
    return run.path if isinstance(run, Run) else Path(run)


def _make_directory(path: Path) -> bool:
    """Make a run's directory; returns whether it is new, which is true for one of several processes at most."""
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.is_dir():
            return False
        raise RunError(f"the run directory can't be made: {error}", where=str(path), hint="choose --out") from error
    return True
