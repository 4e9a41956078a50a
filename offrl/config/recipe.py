"""Recipes: everything that a training run depends on, as TOML on disk and as frozen, validated dataclasses here."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from offrl import plugins
from offrl.config.fields import (
    STRICT,
    CheckpointKind,
    Count,
    CountOrZero,
    Finite,
    NonNegative,
    PositiveFraction,
    Probability,
    ProbabilityBelowOne,
)
from offrl.config.toml import write_toml
from offrl.config.validation import validated
from offrl.documents import parse_toml, read_toml
from offrl.errors import RecipeError, TableGivenError


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is named twice")
    return seeds


def _known_logger(name: str) -> str:
    if name not in plugins.loggers:
        raise ValueError(f"there is no such logger; {plugins.loggers.suggestion(name)}")
    return name


LoggerName = Annotated[str, AfterValidator(_known_logger)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1), AfterValidator(_distinct)]
UpdateRatio = Annotated[float, Field(ge=1 / 64, le=1_000.0)]
"""Update rounds are whole numbers of environment steps and updates; 64 steps are the longest round."""


@dataclass(frozen=True)
class DataConfig:
    """How a dataset becomes batches.

    Attributes:
        top_fraction: train on this share of the episodes, those of highest return.
        episodes: of those, train on this many, the first ones; 0 takes all.
        validation_fraction: share of the episodes held out for the validation loss, where the algorithm has one (bc);
            0 holds none out.
        normalize_observation: shift and scale observations by the training episodes' mean and standard deviation.
        reward_scale: factor on every reward.
        reward_shift: added to every reward once it is scaled; -1 makes a reward at the goal alone a cost of each step.
        n_step: rewards summed before the bootstrap.
        frame_stack: newest observations that are shown together, as one with a leading axis, to let a policy see
            motion; online too.
        memory_budget: bytes up to which steps are packed in memory; larger stores are read through the memory map.
    """

    __pydantic_config__ = STRICT

    top_fraction: PositiveFraction = 1.0
    episodes: CountOrZero = 0
    validation_fraction: ProbabilityBelowOne = 0.1
    normalize_observation: bool = True
    reward_scale: Finite = 1.0
    reward_shift: Finite = 0.0
    n_step: Annotated[int, Field(ge=1, le=10_000)] = 1
    frame_stack: Annotated[int, Field(ge=1, le=1_000)] = 1
    memory_budget: CountOrZero = 512 * 2**20


@dataclass(frozen=True)
class PriorityConfig:
    """Prioritized replay (Schaul et al., 2016), for algorithms that tell their TD errors, such as dqn, sac and td3.

    Attributes:
        kind: "proportional" draws transitions by (|TD error| + ε)^exponent, "rank" by their rank in it, to the power
            -exponent; "none" draws them uniformly.
        exponent: 0 is uniform again.
        importance_exponent: of the importance weights, at first: how much of the bias they take back.
        importance_steps: batches until that exponent has grown to 1, linearly: all of it.
    """

    __pydantic_config__ = STRICT

    kind: Literal["none", "proportional", "rank"] = "none"
    exponent: NonNegative = 0.6
    importance_exponent: Probability = 0.4
    importance_steps: Count = 100_000


@dataclass(frozen=True)
class OnlineConfig:
    """How an agent collects its own experience, and how it is mixed with a dataset's.

    Attributes:
        environments: copies per seed that step side by side.
        processes: how many processes step them, the training's own among them; the results don't depend on it.
        capacity: rows per seed that the replay ring holds.
        warmup_steps: environment steps before the first update; with random actions, or, in fine-tuning, with
            the policy's own, or, with an expert to ask, with that one's.
        critic_warmup: environment steps behind these in which the critics alone are updated: they catch up with what
            the policy does before it changes.
        updates_per_step: gradient steps per environment step.
        offline_fraction: the dataset's share of every batch, in fine-tuning and, above 0, from nothing; the others are
            the agent's own steps.
        offline_fraction_end: that share at last.
        offline_fraction_steps: environment steps in which it goes from one to the other, linearly; 0 leaves it as it
            is.
        fixed_horizon: every episode of own steps takes this many: where the environment's own ends earlier, it starts
            anew without telling; for imitation, where an episode's length would leak into the reward. 0 leaves episodes
            as they are.
        stop_at: training ends once every seed has had an evaluation with at least this mean return; None never ends it.
        record: keep every step, as the environment sees it, in the run's folder `replay`, a dataset by its path.
    """

    __pydantic_config__ = STRICT

    environments: Count = 1
    processes: Count = 1
    capacity: Count = 1_000_000
    warmup_steps: CountOrZero = 10_000
    critic_warmup: CountOrZero = 0
    updates_per_step: UpdateRatio = 1.0
    offline_fraction: Probability = 0.0
    offline_fraction_end: Probability = 0.0
    offline_fraction_steps: CountOrZero = 0
    fixed_horizon: CountOrZero = 0
    stop_at: Finite | None = None
    record: bool = False


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how long the greedy policy is tried in the environment; see `offrl.envs.starts` for from where.

    Attributes:
        every: steps between evaluations; 0 evaluates at the end only.
        episodes: per seed, in each evaluation on the way.
        final_episodes: per seed, at the end: what the run is reported to be worth.
        max_episode_steps: cut evaluated and collected episodes there; 0 leaves the environment's own limit.
    """

    __pydantic_config__ = STRICT

    every: CountOrZero = 5_000
    episodes: Count = 10
    final_episodes: Count = 100
    max_episode_steps: CountOrZero = 0


@dataclass(frozen=True)
class EarlyStopping:
    """Stop on held-out episodes.

    Attributes:
        every: steps between two validation losses.
        patience: validations without improvement after which a seed is done; 0 never stops.
    """

    __pydantic_config__ = STRICT

    every: Count = 500
    patience: CountOrZero = 0


def _dotted(options: Any) -> dict[str, Any]:
    """Candidates by dotted keys, from mappings as nested as a recipe is."""
    if not isinstance(options, Mapping):
        raise ValueError("should be a table of keys and the values to try")
    dotted: dict[str, Any] = {}
    for key, value in options.items():
        inner = _dotted(value) if isinstance(value, Mapping) else {"": value}
        dotted |= {f"{key}.{rest}".rstrip("."): values for rest, values in inner.items()}
    return dotted


PENALTIES = ("l1", "l2")
"""Whose coefficients have candidates by themselves."""
Candidates = Annotated[tuple[Any, ...], Field(min_length=1)]


@dataclass(frozen=True)
class CrossValidation:
    """Choose options before training: those of least mean loss on held-out episodes.

    Attributes:
        options: keys of the recipe and for each the values to try, which make a grid:
            `options.agent.hidden = [[64, 64], [256, 256]]`.
        kind: one of bc's penalties to choose as well; "none" chooses none.
        coefficients: its values to try.
        folds: parts that the episodes are split into; each is held out once.
        steps: gradient steps for each candidate and fold.
    """

    __pydantic_config__ = STRICT

    options: Annotated[dict[str, Candidates], BeforeValidator(_dotted)] = field(default_factory=dict)
    kind: Literal["none", "l1", "l2"] = "none"
    coefficients: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)
    folds: Annotated[int, Field(ge=2)] = 5
    steps: Count = 2_000

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Dotted keys of the recipe to values, for each candidate; none where nothing is to be chosen."""
        tried = {} if self.kind == "none" else {f"agent.{self.kind}": self.coefficients}
        tried |= self.options
        return [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())] if tried else []


@dataclass(frozen=True)
class Recipe:
    """One training run, complete: the same recipe gives the same run.

    Attributes:
        algo: a name in `offrl.plugins.algorithms`.
        agent: that algorithm's options.
        dataset: name, path or prefixed id of the data; None learns online only.
        start: a run directory whose policies are the start of a fine-tuning, which learns online; None trains from
            scratch.
        start_checkpoint: which of that run's checkpoints; None takes the one that its training reported.
        expert: a run directory whose policies say what to do, for dagger: those of the checkpoint that its training
            reported.
        env: Gymnasium id to evaluate, and learn online, in; None takes the dataset's own, if it names one; "none"
            evaluates nowhere.
        steps: gradient steps offline, environment steps (per seed) online.
        batch_size: transitions per seed and gradient step.
        seeds: one trained agent for each.
        device: "cpu", "cuda", "cuda:1", or "auto": CUDA where there is one.
        checkpoint_every: steps between checkpoints.
        checkpoints_kept: how many of the newest stay, each to be named as `step-N`, for `offrl select` to choose among;
            0 keeps all. The best one stays beside them.
        log_every: steps between two lines of metrics.
        writers: names in `offrl.plugins.loggers`: where metrics go beside metrics.jsonl.
    """

    __pydantic_config__ = STRICT

    algo: str
    agent: Any
    dataset: str | None = None
    start: str | None = None
    start_checkpoint: CheckpointKind | None = None
    expert: str | None = None
    env: str | None = None
    steps: Count = 20_000
    batch_size: Count = 256
    seeds: Seeds = (0,)
    device: str = "auto"
    checkpoint_every: Count = 5_000
    checkpoints_kept: CountOrZero = 1
    log_every: Count = 500
    writers: tuple[LoggerName, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    priority: PriorityConfig = field(default_factory=PriorityConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    cross_validation: CrossValidation = field(default_factory=CrossValidation)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as TOML and JSON know them; options that are None are left out."""

        def told(options: list[tuple[str, Any]]) -> dict[str, Any]:
            return {name: value for name, value in options if value is not None}

        return dataclasses.asdict(self, dict_factory=told)

    def __str__(self) -> str:
        return to_toml(self)


def recipe_from_dict(values: Mapping[str, Any], where: str = "") -> Recipe:
    """Validate plain values.

    Raises:
        RecipeError: a key is unknown, missing, or has a value of the wrong kind; the message names it.
        TableGivenError: they are a table's.
    """
    require_one_training(values, where)
    algo = values.get("algo")
    if not isinstance(algo, str) or algo not in plugins.algorithms:
        raise RecipeError(f"there is no algorithm {algo!r}", where=where, hint=plugins.algorithms.suggestion(str(algo)))
    agent = plugins.algorithms[algo].options(values.get("agent", {}), where)
    recipe: Recipe = validated(Recipe, {**values, "agent": None}, where)
    return dataclasses.replace(recipe, agent=agent)


def require_one_training(values: Mapping[str, Any], where: str = "") -> None:
    """Raise `TableGivenError` where plain values are those of a table of many trainings."""
    if "algorithms" in values and "algo" not in values:
        raise TableGivenError(
            "this is a table of many trainings, not a recipe", where=where, hint="offrl recipes run trains them all"
        )


def load_recipe(path: Path) -> dict[str, Any]:
    """The plain values in a TOML recipe, for `recipe_from_dict`.

    Raises:
        RecipeError: the file can't be read, or isn't TOML.
    """
    try:
        return read_toml(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"the recipe can't be read: {error}", where=str(path), hint="correct the file") from error


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe values with some of them changed.

    Args:
        values: plain values, nested as a recipe is.
        changes: dotted keys (`agent.discount`), or nested mappings, to values.

    Raises:
        RecipeError: a key is below something that isn't a table.

    Example:
        >>> merged({"algo": "bc", "agent": {"ema": 0.9}}, {"agent.hidden": [64, 64], "steps": 100})
        {'algo': 'bc', 'agent': {'ema': 0.9, 'hidden': [64, 64]}, 'steps': 100}
    """
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *sections, name = key.split(".")
        table = changed
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise RecipeError(
                    f"'{key}' can't be set: '{section}' is {table!r}, not a table of options",
                    hint="offrl recipes show prints every key of a recipe with its value",
                )
        nested = isinstance(value, Mapping) and isinstance(table.get(name), dict)
        table[name] = merged(table[name], value) if nested else value
    return changed


def parsed_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Dotted keys to values, from `key=value` texts; values are TOML, or bare text.

    Raises:
        RecipeError: a text has no `=`.

    Example:
        >>> parsed_settings(["agent.discount=0.98", "device=cpu"])
        {'agent.discount': 0.98, 'device': 'cpu'}
    """
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"the setting {setting!r} has no '='", hint="write --set key=value")
        values[key.strip()] = _parse_value(text.strip())
    return values


def parsed_candidates(texts: Sequence[str]) -> dict[str, Any]:
    """Changes of a recipe that cross-validate, from `KEY=VALUE,VALUE` texts, or a penalty's name.

    Raises:
        RecipeError: a text has no `=`, and is no penalty's name.

    Example:
        >>> parsed_candidates(["agent.hidden=[64,64],[256,256]", "agent.activation=relu,tanh"])
        {'cross_validation.options': {'agent.hidden': [[64, 64], [256, 256]], 'agent.activation': ['relu', 'tanh']}}
        >>> parsed_candidates(["l2"])
        {'cross_validation.kind': 'l2'}
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if equals and key:
            changes.setdefault("cross_validation.options", {})[key] = _parse_values(values)
        elif key in PENALTIES and "cross_validation.kind" not in changes:
            changes["cross_validation.kind"] = key
        else:
            raise RecipeError(
                f"{text!r} doesn't say which values to try",
                where="--cross-validate",
                hint="write KEY=VALUE,VALUE such as agent.hidden=[64,64],[256,256], for each key; or l1 or l2 once",
            )
    return changes


def with_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Recipe values changed by `key=value` texts; see `parsed_settings` and `merged`."""
    return merged(values, parsed_settings(settings))


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML that `load_recipe` reads back to the same recipe."""
    return write_toml(recipe.to_dict())


def _parse_values(text: str) -> list[Any]:
    """Values with commas between them: TOML, or bare text."""
    listed = _parse_value(f"[{text}]")
    return listed if isinstance(listed, list) else [_parse_value(part.strip()) for part in text.split(",")]


def _parse_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text
