"""What the names in a recipe stand for: data, spaces, environment, and the agent, built once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe
from offrl.converters.catalog import name_anywhere, open_dataset
from offrl.data.schema import INFO, OBSERVATION
from offrl.data.store import TrajectoryStore
from offrl.data.trajectories import Trajectories
from offrl.data.validate import LARGEST, TOO_LARGE
from offrl.envs.make import environment_spec
from offrl.envs.spaces import check_spaces
from offrl.errors import DataError, RecipeError
from offrl.replay.sampler import top_by_return
from offrl.types import Agent, Spec

NO_ENVIRONMENT = "none"
"""As a recipe's `env`: evaluate nowhere, whatever environment the dataset names."""

_EPISODES_AT_ONCE = 65_536


@dataclass(frozen=True)
class Problem:
    """What a recipe's names stand for.

    Attributes:
        recipe: with the environment filled in from the dataset where it named none.
        spec: the spaces.
        data: the episodes to train on, before any are held out; None where there are own steps alone.
        dataset_facts: name and fingerprint of the data, and its reference scores.
        origin: in fine-tuning, the checkpoint whose observation normalizer the policies go on with.
    """

    recipe: Recipe
    spec: Spec
    data: Trajectories | None
    dataset_facts: dict[str, Any]
    origin: Path | None = None

    @cached_property
    def algorithm(self) -> Algorithm:
        """The recipe's."""
        found: Algorithm = plugins.algorithms[self.recipe.algo]
        return found

    @cached_property
    def learner(self) -> Algorithm:
        """What acts: the algorithm, or the one that it holds."""
        return self.algorithm.learner(self.recipe.agent)

    @cached_property
    def learner_options(self) -> Any:
        """Those of what acts."""
        return self.algorithm.learner_options(self.recipe.agent)

    @property
    def doubts(self) -> list[str]:
        """What the algorithm has to say of its options beside the data."""
        if self.data is None or self.algorithm.doubts is None:
            return []
        return self.algorithm.doubts(self.recipe.agent, *returns_and_lengths(self.recipe, self.data))

    @cached_property
    def agent(self) -> Agent[Any, Any]:
        """The algorithm's agent for these spaces.

        Raises:
            SpaceMismatchError: it can't act in them.
            RecipeError: options don't go together.
        """
        return self.algorithm.build(self.recipe.agent, self.spec)


def dataset_problem(recipe: Recipe) -> Problem:
    """A dataset, and the environment that it or the recipe names, if any.

    Raises:
        SpaceMismatchError: the two don't belong together.
        DataError: the dataset has no episodes, or an observation, action or reward of it isn't finite.
    """
    assert recipe.dataset is not None
    store = open_finite(recipe.dataset)
    environment = store.metadata.environment if recipe.env is None else recipe.env
    recipe = dataclasses.replace(recipe, env=environment, dataset=name_anywhere(recipe.dataset))
    if recipe.env not in (None, NO_ENVIRONMENT):
        check_spaces(store.spec, environment_spec(recipe.env), recipe.env)
    spec, data = store.spec.stacked(recipe.data.frame_stack), chosen_episodes(store, recipe)
    algorithm: Algorithm = plugins.algorithms[recipe.algo]
    options = algorithm.completed(recipe.agent, *returns_and_lengths(recipe, data))
    return Problem(dataclasses.replace(recipe, agent=options), spec, data, facts_of(store, recipe))


def returns_and_lengths(recipe: Recipe, data: Trajectories) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of each episode, [N]: what it earned, in rewards as agents have them, and its steps."""
    return data.episodes.return_ * recipe.data.reward_scale, data.episodes.length


def online_problem(recipe: Recipe) -> Problem:
    """An environment, and nothing else.

    Raises:
        RecipeError: none is named.
        RequestError: it can't be made.
    """
    if recipe.env in (None, NO_ENVIRONMENT):
        raise RecipeError("the recipe names neither a dataset nor an environment", hint="add --dataset or --env")
    spec = environment_spec(recipe.env).stacked(recipe.data.frame_stack)
    facts: dict[str, Any] = {"dataset": None, "fingerprint": None, "reference_scores": {}}
    return Problem(recipe, spec, None, facts)


def mixed_problem(recipe: Recipe) -> Problem:
    """A dataset, and the environment whose steps its transitions are mixed with.

    Raises:
        RecipeError: either isn't named.
        SpaceMismatchError: the two don't belong together.
        DataError: see `dataset_problem`.
    """
    if recipe.dataset is None:
        raise RecipeError(
            "there is no data to mix in: no dataset is named",
            where="online.offline_fraction",
            hint="add --dataset NAME, or set online.offline_fraction=0",
        )
    problem = dataset_problem(recipe)
    if problem.recipe.env in (None, NO_ENVIRONMENT):
        raise RecipeError(
            "data is to be mixed with own steps, and no environment is named to take them in",
            where="online.offline_fraction",
            hint="add --env ID, or set online.offline_fraction=0",
        )
    return problem


def objection_to_mixing(recipe: Recipe) -> RecipeError | None:
    """Why an algorithm whose batches are of one kind doesn't learn by a recipe; None where no data is to be mixed."""
    if not mixes_data(recipe):
        return None
    able = plugins.algorithms.able(lambda record: any(plugins.feeds[name].mixes_data for name in record.feeds))
    return RecipeError(
        f"{recipe.algo} has no batches of data and own steps together",
        where="online.offline_fraction",
        hint="leave online.offline_fraction and online.offline_fraction_end out, or choose one that has: "
        f"{', '.join(able)}",
    )


def mixes_data(recipe: Recipe) -> bool:
    """Whether batches hold a dataset's transitions beside own steps, at any time of a training."""
    online = recipe.online
    return online.offline_fraction > 0.0 or (online.offline_fraction_steps > 0 and online.offline_fraction_end > 0.0)


def facts_of(store: TrajectoryStore, recipe: Recipe) -> dict[str, Any]:
    """What checkpoints say of a dataset."""
    return {
        "dataset": recipe.dataset,
        "fingerprint": store.metadata.fingerprint,
        "reference_scores": store.metadata.reference_scores,
    }


def open_finite(dataset: str) -> TrajectoryStore:
    """Open a dataset to train on.

    Raises:
        DataError: there is no episode, or an observation, action, reward or return isn't finite in single precision.
        CorruptStoreError: a file's content has changed.
    """
    store = open_dataset(dataset)
    if not store.num_episodes:
        raise DataError(
            f"the dataset '{dataset}' has no episodes: nothing can be learned from it",
            hint="collect or convert some, or name another one",
        )
    store.verify()
    # Rewards before what they add up to.
    for name, column in sorted(store.metadata.statistics.items(), key=lambda named: named[0] == "return"):
        if column.count:
            _require_finite(dataset, name, np.array([column.min, column.max]))
    # The statistics leave out the final observations, which bootstrapping reads.
    floats = [c.name for c in store.metadata.columns if c.name.split(".")[0] == OBSERVATION and c.dtype.kind == "f"]
    final = store.episodes.first_row + store.episodes.length
    for start in range(0, len(final), _EPISODES_AT_ONCE):
        for name, rows in store.gather_columns(floats, final[start : start + _EPISODES_AT_ONCE]).items():
            _require_finite(dataset, name, rows)
    return store


def _require_finite(dataset: str, column: str, values: NDArray[Any]) -> None:
    """Raise `DataError` unless training, in single precision, can take a column's values, or its least and greatest."""
    hint = f"see where with offrl datasets validate {dataset}, correct the source, and convert it again"
    if column == "return":
        what = f"the return, {values.flat[np.abs(values).argmax()]:g},"
    elif not np.isfinite(values).all():
        raise DataError(
            f"the column '{column}' of the dataset '{dataset}' holds NaN or infinity: nothing can be learned from it",
            hint=hint,
        )
    else:
        what = f"the value in the column '{column}'"
    if column.split(".")[0] != INFO and not (np.abs(values) <= LARGEST).all():
        raise DataError(f"{what} {TOO_LARGE}", where=f"the dataset '{dataset}'", hint=hint)


def chosen_episodes(store: TrajectoryStore, recipe: Recipe) -> Trajectories:
    """The episodes to learn from, as the agent is to see them."""
    chosen: Trajectories = store
    fraction, count, frames = recipe.data.top_fraction, recipe.data.episodes, recipe.data.frame_stack
    if fraction != 1.0:
        chosen = top_by_return(store, fraction)
    if count > chosen.num_episodes:
        raise RecipeError(
            f"there are {chosen.num_episodes} episodes to choose from in '{recipe.dataset}', and {count} are asked for",
            where="data.episodes (--demos)",
            hint="ask for fewer, or raise data.top_fraction",
        )
    if count:
        chosen = chosen.select(np.arange(count))
    if frames == 1:
        return chosen
    from offrl.replay.frame_stack import StackedFrames

    return StackedFrames(chosen, frames)
