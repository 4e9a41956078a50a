"""Dataset recipes: how a dataset comes about, as TOML on disk and as frozen, validated dataclasses here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from offrl.config.fields import STRICT, CheckpointKind, Count, CountOrZero
from offrl.config.validation import refuse_other_kinds
from offrl.errors import RecipeError

HINT = "recipes/README.md lists the keys of a dataset's recipe"
MEASURED = "measured"
"""As a dataset recipe's `references`: measure them."""


@dataclass(frozen=True)
class Training:
    """The training run whose policy, or whose replay, goes into the dataset; recipes that say the same share it.

    Attributes:
        recipe: the name or path of a training recipe.
        set: `key=value` settings over it, as `offrl train --set` takes them.
        checkpoint: which one is the policy; None for the one that training reported.
    """

    __pydantic_config__ = STRICT

    recipe: str
    set: tuple[str, ...] = ()
    checkpoint: CheckpointKind | None = None


@dataclass(frozen=True)
class RandomSource:
    """Complete episodes of random actions, as the space samples them.

    Attributes:
        env: a Gymnasium id.
        episodes: how many.
        seed: picks initial states and actions.
    """

    __pydantic_config__ = STRICT

    kind: Literal["random"]
    env: str
    episodes: Count
    seed: CountOrZero = 0


@dataclass(frozen=True)
class PolicySource:
    """Complete episodes of the policy that the training left.

    Attributes:
        episodes: how many, shared among the training's seeds.
        stochastic: explore, as in training; else act greedily.
        seed: picks initial states and samples.
    """

    __pydantic_config__ = STRICT

    kind: Literal["policy"]
    episodes: Count
    stochastic: bool = False
    seed: CountOrZero = 0


@dataclass(frozen=True)
class ReplaySource:
    """Every step that the training took."""

    __pydantic_config__ = STRICT

    kind: Literal["replay"]


@dataclass(frozen=True)
class DatasetSource:
    """Every episode of another dataset.

    Attributes:
        name: as `offrl.converters.catalog.open_dataset` takes it; a dataset that has only a recipe is made first.
    """

    __pydantic_config__ = STRICT

    kind: Literal["dataset"]
    name: str


Source = RandomSource | PolicySource | ReplaySource | DatasetSource


@dataclass(frozen=True)
class DatasetRecipe:
    """How a dataset comes about.

    Attributes:
        sources: what it is put together from, in this order.
        training: the run that policies and replay come from.
        references: where the reference scores come from: "measured" (a random policy's mean return, and that of the
            training's policy), or the name of a dataset that has them; None leaves them out.
        license: of the data.
    """

    __pydantic_config__ = STRICT

    sources: Annotated[tuple[Annotated[Source, Field(discriminator="kind")], ...], Field(min_length=1)]
    training: Training | None = None
    references: str | None = None
    license: str | None = None


def dataset_recipe_from_dict(values: Mapping[str, Any], where: str = "") -> DatasetRecipe:
    """Validate plain values.

    Raises:
        RecipeError: a key is unknown, missing, or has a value of the wrong kind, or a training is needed and none is
            named; the message names it.
    """
    refuse_other_kinds(DatasetRecipe, values, where, hint=HINT)
    try:
        recipe = TypeAdapter(DatasetRecipe).validate_python(values)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
        raise RecipeError("; ".join(problems), where=where, hint=HINT) from error
    kinds = {source.kind for source in recipe.sources}
    if recipe.training is None and (recipe.references == MEASURED or kinds & {"policy", "replay"}):
        raise RecipeError(
            "the recipe names no training, and its sources or references need one",
            where=where,
            hint="add [training] with recipe = NAME",
        )
    return recipe


def _problem(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "unexpected_keyword_argument":
        return f"unknown key '{key}'"
    return f"'{key}': {detail['msg']}"
