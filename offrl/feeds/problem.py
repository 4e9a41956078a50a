"""What the names in a recipe stand for: data, spaces, environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offrl.agents import AGENTS
from offrl.config.recipe import Recipe
from offrl.converters.catalog import name_anywhere, open_dataset
from offrl.data.schema import OBSERVATION
from offrl.data.store import TrajectoryStore
from offrl.data.trajectories import Trajectories
from offrl.envs.make import environment_spec
from offrl.envs.spaces import check_spaces
from offrl.errors import DataError, RecipeError
from offrl.feeds.dagger import teacher_of
from offrl.feeds.demonstrations import check_imitation
from offrl.replay.frame_stack import StackedFrames, stacked_spec
from offrl.replay.sampler import top_by_return
from offrl.runs.checkpoint import read_facts
from offrl.runs.load import spec_of
from offrl.training.finetune import check_fine_tuning, mixes_data, starting_point
from offrl.types import Spec

NO_ENVIRONMENT = "none"
"""As a recipe's `env`: evaluate nowhere, whatever environment the dataset names."""

_EPISODES_AT_ONCE = 65_536


def learns_online(recipe: Recipe) -> bool:
    """Whether a recipe's agent learns from its own steps, be it among others."""
    return AGENTS[recipe.algo].wraps or recipe.dataset is None or recipe.start is not None


@dataclass(frozen=True)
class Task:
    """What a recipe's names stand for.

    Attributes:
        recipe: with the environment filled in from the dataset where it named none.
        spec: the spaces.
        data: the episodes to train on, before any are held out; None online.
        dataset_facts: name and fingerprint of the data, and its reference scores.
        origin: in fine-tuning, the checkpoint whose observation normalizer the policies go on with.
    """

    recipe: Recipe
    spec: Spec
    data: Trajectories | None
    dataset_facts: dict[str, Any]
    origin: Path | None = None

    @property
    def imitates(self) -> bool:
        """Whether the agent learns from its own steps, and the data shows it what to do."""
        return AGENTS[self.recipe.algo].wraps

    @property
    def tabular(self) -> bool:
        """Whether the agent learns from all demonstrations at once, and from the environment's table."""
        return AGENTS[self.recipe.algo].tabular

    @property
    def uses_all_data(self) -> bool:
        """Whether no episode is held out: demonstrations are few."""
        return self.imitates or self.tabular

    @property
    def online(self) -> bool:
        """Whether the agent learns from its own steps, be it among others."""
        return learns_online(self.recipe)

    @classmethod
    def of(cls, recipe: Recipe, checkpoint: Path | None = None) -> Task:
        """Open the dataset and compare it with the environment.

        Args:
            recipe: a valid one.
            checkpoint: the run's own last one, if there is one: a fine-tuning then needs no more of what it started
                from.

        Raises:
            RecipeError: neither a dataset nor an environment is named, or the algorithm can't learn from what is.
            RequestError: there is no policy to fine-tune.
            SpaceMismatchError: dataset, environment and policy don't belong together.
            DataError: the dataset has no episodes, or an observation, action or reward of it isn't finite.
        """
        if recipe.expert is not None and not AGENTS[recipe.algo].taught:
            raise RecipeError(f"{recipe.algo} has no use for an expert", hint="leave --expert out, or train dagger")
        if AGENTS[recipe.algo].wraps:
            return cls._imitating(recipe, checkpoint)
        if recipe.start is not None:
            return cls._fine_tuning(recipe, checkpoint)
        if mixes_data(recipe):
            raise RecipeError(
                "data and own steps are mixed in fine-tuning only, and the recipe names no run to start from",
                hint="set online.offline_fraction=0, or start with offrl finetune RUN",
            )
        if recipe.dataset is None:
            return cls._online(recipe)
        if not AGENTS[recipe.algo].offline:
            raise RecipeError(
                f"{recipe.algo} learns from its own steps only, and a dataset is named",
                hint="clone the dataset first (offrl train bc), then fine-tune that run (offrl finetune RUN --algo "
                f"{recipe.algo})",
            )
        store = _open(recipe.dataset)
        environment = store.metadata.environment if recipe.env is None else recipe.env
        recipe = dataclasses.replace(recipe, env=environment, dataset=name_anywhere(recipe.dataset))
        if recipe.env not in (None, NO_ENVIRONMENT):
            check_spaces(store.spec, environment_spec(recipe.env), recipe.env)
        facts = {
            "dataset": recipe.dataset,
            "fingerprint": store.fingerprint,
            "reference_scores": store.metadata.reference_scores,
        }
        return cls(recipe, stacked_spec(store.spec, recipe.data.frame_stack), _chosen(store, recipe), facts)

    @classmethod
    def _online(cls, recipe: Recipe) -> Task:
        if AGENTS[recipe.algo].online == "none":
            raise RecipeError(f"{recipe.algo} learns from a dataset, and none is named", hint="add --dataset NAME")
        if recipe.env in (None, NO_ENVIRONMENT):
            raise RecipeError("the recipe names neither a dataset nor an environment", hint="add --dataset or --env")
        spec = stacked_spec(environment_spec(recipe.env), recipe.data.frame_stack)
        if recipe.expert is not None:
            recipe = dataclasses.replace(recipe, expert=str(Path(recipe.expert).resolve()))
        if AGENTS[recipe.algo].taught:
            teacher_of(recipe, spec)
        facts: dict[str, Any] = {"dataset": None, "fingerprint": None, "reference_scores": {}}
        return cls(recipe, spec, None, facts)

    @classmethod
    def _imitating(cls, recipe: Recipe, checkpoint: Path | None) -> Task:
        """Own steps beside demonstrations, from scratch or from another run's policies."""
        check_imitation(recipe)
        assert recipe.dataset is not None
        store = _open(recipe.dataset)
        environment = store.metadata.environment if recipe.env is None else recipe.env
        if environment is None or environment == NO_ENVIRONMENT:
            raise RecipeError(f"{recipe.algo} learns by acting, and no environment is named", hint="add --env ID")
        start = None if recipe.start is None else str(Path(recipe.start).resolve())
        recipe = dataclasses.replace(recipe, env=environment, dataset=name_anywhere(recipe.dataset), start=start)
        check_spaces(store.spec, environment_spec(environment), environment)
        spec = stacked_spec(store.spec, recipe.data.frame_stack)
        origin = None
        if start is not None:
            origin = checkpoint or _origin(recipe, Path(start))
            check_spaces(spec_of(read_facts(origin)), spec, environment)
        data = _chosen(store, recipe)
        facts = {
            "dataset": recipe.dataset,
            "fingerprint": store.fingerprint,
            "reference_scores": store.metadata.reference_scores,
        }
        return cls(recipe, spec, data, facts, origin)

    @classmethod
    def _fine_tuning(cls, recipe: Recipe, checkpoint: Path | None) -> Task:
        assert recipe.start is not None
        start = Path(recipe.start).resolve()
        recipe = dataclasses.replace(recipe, start=str(start), dataset=recipe.dataset and name_anywhere(recipe.dataset))
        origin = checkpoint or _origin(recipe, start)
        facts = read_facts(origin)
        spec = spec_of(facts)
        if recipe.env in (None, NO_ENVIRONMENT):
            raise RecipeError("fine-tuning needs an environment, and none is named", hint="add --env ID")
        frames = recipe.data.frame_stack
        check_spaces(spec, stacked_spec(environment_spec(recipe.env), frames), recipe.env)
        told = {name: facts[name] for name in ("dataset", "fingerprint", "reference_scores")}
        if not mixes_data(recipe):
            return cls(recipe, spec, None, told, origin)
        assert recipe.dataset is not None
        store = _open(recipe.dataset)
        check_spaces(spec, stacked_spec(store.spec, frames), recipe.dataset)
        told |= {"dataset": recipe.dataset, "fingerprint": store.fingerprint}
        return cls(recipe, spec, _chosen(store, recipe), told, origin)


def _origin(recipe: Recipe, start: Path) -> Path:
    """The checkpoint to start from, of a run that the recipe can go on from."""
    run, kind = starting_point(start, recipe.start_checkpoint)
    check_fine_tuning(recipe, run.recipe)
    return run.checkpoint(kind)


def _open(dataset: str) -> TrajectoryStore:
    """Open a dataset to train on.

    Raises:
        DataError: there is no episode, or an observation, action or reward isn't finite.
    """
    store = open_dataset(dataset)
    if not store.num_episodes:
        raise DataError(
            f"the dataset '{dataset}' has no episodes: nothing can be learned from it",
            hint="collect or convert some, or name another one",
        )
    for name, column in store.statistics.items():
        if column.count and not np.isfinite([column.min, column.max]).all():
            raise _not_finite(dataset, name)
    # The statistics leave out the final observations, which bootstrapping reads.
    floats = [c.name for c in store.metadata.columns if c.name.split(".")[0] == OBSERVATION and c.dtype.kind == "f"]
    final = store.episodes.first_row + store.episodes.length
    for start in range(0, len(final), _EPISODES_AT_ONCE):
        for name, rows in store.gather_columns(floats, final[start : start + _EPISODES_AT_ONCE]).items():
            if not np.isfinite(rows).all():
                raise _not_finite(dataset, name)
    return store


def _not_finite(dataset: str, column: str) -> DataError:
    return DataError(
        f"the column '{column}' of the dataset '{dataset}' holds NaN or infinity: nothing can be learned from it",
        hint=f"see where with offrl datasets validate {dataset}, correct the source, and convert it again",
    )


def _chosen(store: TrajectoryStore, recipe: Recipe) -> Trajectories:
    """The episodes to learn from, as the agent is to see them."""
    chosen, frames = top_by_return(store, recipe.data.top_fraction), recipe.data.frame_stack
    count = recipe.data.episodes
    if count > chosen.num_episodes:
        raise RecipeError(
            f"there are {chosen.num_episodes} episodes to choose from in '{recipe.dataset}', and {count} are asked for",
            where="data.episodes (--demos)",
            hint="ask for fewer, or raise data.top_fraction",
        )
    if count:
        chosen = chosen.select(np.arange(count))
    return chosen if frames == 1 else StackedFrames(chosen, frames)
