"""Makes datasets by their recipes: trains what they need, collects, puts it together, and writes the card."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from offrl import __version__
from offrl.collection.collect import collect, collect_random
from offrl.config.dataset_recipe import (
    MEASURED,
    DatasetRecipe,
    DatasetSource,
    RandomSource,
    ReplaySource,
    Source,
    Training,
    dataset_recipe_from_dict,
)
from offrl.config.library import RecipeFile, bundled_dataset_recipes, find_dataset_recipe, find_recipe
from offrl.config.recipe import Recipe, recipe_from_dict, with_settings
from offrl.config.toml import write_toml
from offrl.converters.catalog import local_path, open_dataset
from offrl.data.parquet import require_parquet_or_nothing, write_parquet
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.store_folder import CARD_FILE, require_store_or_nothing
from offrl.envs.evaluator import evaluate_random
from offrl.envs.spaces import check_spaces
from offrl.errors import DatasetNotFoundError, RecipeError
from offrl.files import home, temporary_folder, whole_folder, write_whole
from offrl.runs.checkpoint import read_facts
from offrl.runs.evaluate_run import evaluate_run
from offrl.runs.listener import Listener
from offrl.runs.recorder import FOLDER
from offrl.runs.run import Run
from offrl.training.run_training import resume, train
from offrl.trust import allowing

REFERENCE_EPISODES = 100
"""What each reference score is a mean over."""
ROWS_AT_ONCE = 100_000
PACKAGES = ("torch", "gymnasium", "mujoco", "numpy")
"""The data may depend on their versions."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Policy:
    """A training that has ended, and how good the checkpoint is that it was for.

    Attributes:
        run: the training.
        checkpoint: "last", "best" or a kept one ("step-5000").
        mean_return: undiscounted, greedy, over `REFERENCE_EPISODES` for each seed.
    """

    run: Run
    checkpoint: str
    mean_return: float


class Maker:
    """Makes datasets.

    Trainings lie in `$OFFRL_HOME/trainings`, named by all that their recipes say. So datasets that ask for the same
    one share it, and it goes on where an interruption left it.

    Args:
        listener: told of the trainings' progress.
        tell: told in words what is being done.
    """

    def __init__(self, listener: Listener | None = None, tell: Callable[[str], None] = lambda text: None) -> None:
        self.listener, self.tell = listener, tell

    def make(self, name: str, out: Path | None = None, *, overwrite: bool = False) -> Facts:
        """Make a dataset by its recipe, and first the datasets that this one names, where they aren't there yet.

        Args:
            name: the dataset's name, or the path of its recipe.
            out: a new folder for the Parquet files and the card; None makes a local dataset.
            overwrite: replace the dataset that is there, once the new one is whole.

        Returns:
            name, path, environment, episodes, steps, mean, least and greatest return, and the reference scores.

        Raises:
            RecipeError: there is no such recipe, or something in it is wrong.
            RequestError: there is a dataset at the destination.
            Interrupted: Ctrl-C during a training; made again, the dataset goes on from there.
        """
        file = find_dataset_recipe(name)
        recipe = dataset_recipe_from_dict(file.values, str(file.path))
        destination = out or local_path(file.name)
        (require_parquet_or_nothing if out else require_store_or_nothing)(destination, overwrite=overwrite)
        # Beside the local datasets, where a store is only renamed.
        with temporary_folder(local_path(file.name)) as folder, allowing(*_environments(recipe)):
            store = self._store(file, recipe, folder)
            card = _card(store, file, recipe)
            with whole_folder(destination, overwrite=overwrite) as made:
                if out:
                    write_parquet(store, made)
                else:
                    os.replace(store.path, made)
                write_whole(made / CARD_FILE, card)
        return {"name": file.name, "path": str(destination), **_summary(store)}

    def _store(self, file: RecipeFile, recipe: DatasetRecipe, folder: Path) -> TrajectoryStore:
        # A name that is wrong should be noticed before hours of training, not after them.
        for name in _named(recipe):
            self._existing(name)
        policy = None if recipe.training is None else self._policy(recipe.training, recipe.sources)
        parts = [self._part(s, policy, folder / f"part-{i}") for i, s in enumerate(recipe.sources)]
        for part in parts[1:]:
            _check_together(parts[0], part, file)
        writer = StoreWriter(
            folder / "whole",
            parts[0].spec,
            environment=parts[0].metadata.environment,
            provenance=_provenance(file, recipe, parts, policy),
            reference_scores=self._references(recipe, policy),
            name=file.name,
        )
        # What only some of the parts log would leave gaps in the others.
        columns = [name for name in parts[0].column_names if all(name in part.column_names for part in parts)]
        with writer:
            for source, part in zip(recipe.sources, parts, strict=True):
                for block in _blocks(part, columns, source.name if isinstance(source, DatasetSource) else None):
                    writer.append(block)
        return TrajectoryStore.open(writer.path)

    def _policy(self, training: Training, sources: Sequence[Source]) -> Policy:
        values = _training_values(training)
        recipe = recipe_from_dict(values, training.recipe)
        if recipe.dataset is not None and any(isinstance(source, ReplaySource) for source in sources):
            raise RecipeError(f"{training.recipe} learns from a dataset, so it leaves no replay")
        run = self._trained(recipe, training_path(recipe.algo, values))
        self.tell("Evaluating the policy")
        scores = evaluate_run(run, episodes=REFERENCE_EPISODES, checkpoint=training.checkpoint)
        return Policy(run, scores["checkpoint"], scores["mean_return"])

    def _trained(self, recipe: Recipe, path: Path) -> Run:
        if not (path / "recipe.toml").exists():
            self.tell(f"Training: {path}")
            return train(recipe, path, self.listener)
        run = Run.open(path)
        if any(line.get("final") for line in run.lines("evaluations.jsonl")):
            return run
        self.tell(f"Going on with the training: {path}")
        return resume(path, self.listener)

    def _part(self, source: Source, policy: Policy | None, folder: Path) -> TrajectoryStore:
        if isinstance(source, DatasetSource):
            return self._existing(source.name)
        if isinstance(source, RandomSource):
            self.tell(f"Collecting {source.episodes:,} random episodes")
            collect_random(source.env, episodes=source.episodes, destination=folder, seed=source.seed)
            return TrajectoryStore.open(folder)
        assert policy is not None
        if isinstance(source, ReplaySource):
            return TrajectoryStore.open(policy.run.path / FOLDER)
        self.tell(f"Collecting {source.episodes:,} episodes of the policy")
        collect(
            policy.run,
            episodes=source.episodes,
            destination=folder,
            checkpoint=policy.checkpoint,
            seed=source.seed,
            stochastic=source.stochastic,
        )
        return TrajectoryStore.open(folder)

    def _existing(self, name: str) -> TrajectoryStore:
        try:
            return open_dataset(name)
        except DatasetNotFoundError:
            if name not in {recipe.name for recipe in bundled_dataset_recipes()}:
                raise
        self.tell(f"Making {name} first")
        self.make(name)
        return open_dataset(name)

    def _references(self, recipe: DatasetRecipe, policy: Policy | None) -> Facts | None:
        if recipe.references is None:
            return None
        if recipe.references != MEASURED:
            return self._existing(recipe.references).metadata.reference_scores
        assert policy is not None
        environment = policy.run.recipe.env
        assert environment is not None
        self.tell("Evaluating random actions")
        return {
            "random": float(evaluate_random(environment, REFERENCE_EPISODES).returns.mean()),
            "expert": policy.mean_return,
            "measured_on": f"{environment}, {REFERENCE_EPISODES} episodes each",
        }


def _named(recipe: DatasetRecipe) -> list[str]:
    """The other datasets that a recipe asks for."""
    names = [source.name for source in recipe.sources if isinstance(source, DatasetSource)]
    return names if recipe.references in (None, MEASURED) else [*names, recipe.references]


def _environments(recipe: DatasetRecipe) -> list[str | None]:
    """What the recipe itself, and that of its training, name: the user named these files."""
    named: list[str | None] = [source.env for source in recipe.sources if isinstance(source, RandomSource)]
    return named if recipe.training is None else [*named, _training_values(recipe.training).get("env")]


def _training_values(training: Training) -> dict[str, Any]:
    return with_settings(find_recipe(training.recipe).values, [*training.set, "online.record=true"])


def training_path(algo: str, values: Mapping[str, Any]) -> Path:
    """Where the training by a recipe of these values lies."""
    digest = hashlib.sha256(f"{__version__} {json.dumps(values, sort_keys=True)}".encode()).hexdigest()[:12]
    task = Path(values.get("dataset") or values.get("env") or "").name
    return home() / "trainings" / f"{algo}-{task}-{digest}"


def _check_together(one: TrajectoryStore, other: TrajectoryStore, file: RecipeFile) -> None:
    first, second = one.metadata.environment, other.metadata.environment
    if first != second:
        raise RecipeError(
            f"its sources are of {first} and of {second}", where=str(file.path), hint="a dataset is of one environment"
        )
    check_spaces(one.spec, other.spec, f"the dataset '{other.metadata.name}'")


def _blocks(part: TrajectoryStore, columns: list[str], name: str | None) -> Iterator[EpisodeBlock]:
    """A part's episodes; those of another dataset are named as its."""
    first = 0
    for block in part.iterate_blocks(ROWS_AT_ONCE):
        following = first + len(block.lengths)
        yield EpisodeBlock(
            {column: _single(block.columns[column]) for column in columns},
            block.lengths,
            block.seeds,
            block.sources if name is None else [f"{name}#{index}" for index in range(first, following)],
        )
        first = following


def _single(values: Any) -> Any:
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _provenance(
    file: RecipeFile, recipe: DatasetRecipe, parts: Sequence[TrajectoryStore], policy: Policy | None
) -> Facts:
    made = {"made_by": f"offrl {__version__} datasets make", "recipe": file.name, "versions": _versions()}
    sources = []
    for source, part in zip(recipe.sources, parts, strict=True):
        origin = {"fingerprint": part.fingerprint} if isinstance(source, DatasetSource) else {}
        figures = {"episodes": part.num_episodes, "steps": part.num_steps, "mean_return": _rounded(_mean_return(part))}
        sources.append({**asdict(source), **figures, **origin})
    if policy is None or recipe.training is None:
        return {**made, "sources": sources}
    run = policy.run
    training = {
        "recipe": recipe.training.recipe,
        "set": list(recipe.training.set),
        "checkpoint": policy.checkpoint,
        "algo": run.recipe.algo,
        "seeds": list(run.recipe.seeds),
        "step": read_facts(run.checkpoint(policy.checkpoint))["step"],
        "mean_return": _rounded(policy.mean_return),
    }
    return {**made, "training": training, "sources": sources}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _mean_return(store: TrajectoryStore) -> float:
    return float(store.episodes.return_.mean())


def _rounded(value: float) -> float:
    """Six digits: enough for people."""
    return float(f"{value:.6g}")


def _summary(store: TrajectoryStore) -> Facts:
    returns = store.episodes.return_
    return {
        "environment": store.metadata.environment,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "mean_return": _mean_return(store),
        "least_return": float(returns.min()),
        "greatest_return": float(returns.max()),
        "reference_scores": store.metadata.reference_scores,
    }


def _card(store: TrajectoryStore, file: RecipeFile, recipe: DatasetRecipe) -> str:
    """The dataset's `card.toml`."""
    summary, made = _summary(store), dict(store.metadata.provenance)
    about = {
        "name": file.name,
        "description": file.purpose,
        "environment": summary.pop("environment"),
        "license": recipe.license,
    }
    scores, sections = summary.pop("reference_scores"), {key: made.pop(key, None) for key in ("training", "sources")}
    data = {name: _rounded(figure) if isinstance(figure, float) else figure for name, figure in summary.items()}
    values = {**about, "data": data, "made": made, **sections, "scores": scores}
    return write_toml({key: value for key, value in values.items() if value})
