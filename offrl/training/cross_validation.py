"""Choosing options by k-fold cross-validation over episodes: those of least mean loss on the episodes held out.

The folds of a candidate train side by side on the seed axis, and so do candidates that differ by penalties alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe, merged, recipe_from_dict
from offrl.documents import parse_json
from offrl.errors import DivergenceError, RecipeError
from offrl.feeds import feed_of, open_problem
from offrl.feeds.materials import cycles, sampling_options
from offrl.feeds.problem import Problem
from offrl.files import write_whole
from offrl.ops.noise import NoiseSource
from offrl.replay.normalization import ObservationNormalizer
from offrl.replay.sampler import ReplaySampler
from offrl.runs.load import fresh_policy, resolve_device
from offrl.runs.records import CROSS_VALIDATION
from offrl.runs.run import Run
from offrl.training.fast_update import fast_update
from offrl.training.threads import threads_for
from offrl.types import Penalized, Validates

if TYPE_CHECKING:
    from offrl.runs.listener import Listener

UPDATES_AT_ONCE = 16
VALIDATION_TRANSITIONS = 4_096
BESIDE_AGENT = ("batch_size", "data.normalize_observation", "data.frame_stack")
"""Keys that can be chosen beside the algorithm's options: the held-out episodes, and what is lost on them, stay."""


@dataclass(frozen=True)
class Group:
    """Candidates that differ by penalties alone, which one state holds side by side.

    Attributes:
        recipe: with all else that they have in common; penalties that differ are on.
        candidates: dotted keys to values, each one's.
        penalties: the coefficients that differ, by the option's name: one for each candidate.
    """

    recipe: Recipe
    candidates: list[dict[str, Any]]
    penalties: dict[str, list[float]]


def fold_episodes(episodes: int, folds: int) -> list[NDArray[np.int64]]:
    """A fixed random partition of the episodes into folds whose sizes differ by at most one.

    Raises:
        RecipeError: there are fewer episodes than folds, or fewer than two folds.
    """
    if not 2 <= folds <= episodes:
        raise RecipeError(
            f"{episodes} episodes can't be split into {folds} folds",
            where="cross_validation.folds",
            hint="use at least 2 folds, and no more than there are episodes",
        )
    order = np.random.Generator(np.random.Philox(0)).permutation(episodes)
    return [np.sort(fold) for fold in np.array_split(order, folds)]


def check_candidates(problem: Problem) -> None:
    """Raise what would go wrong with a candidate, before anything is trained.

    Raises:
        RecipeError: there is no loss to choose by, a key can't be chosen so, a candidate's options don't fit, or there
            are fewer episodes than folds.
        SpaceMismatchError: a candidate can't act in these spaces.
    """
    recipe, algorithm = problem.recipe, problem.algorithm
    candidates = recipe.cross_validation.candidates
    if not candidates:
        return
    if problem.data is None or not validates(algorithm) or not feed_of(recipe).holds_out:
        raise RecipeError(
            f"{recipe.algo} has no loss on held-out episodes to choose {', '.join(candidates[0])} by",
            where="cross_validation",
            hint=f"cross-validate one that has, on a dataset: {', '.join(plugins.algorithms.able(validates))}",
        )
    for key in candidates[0]:
        _check_key(key, algorithm, recipe.algo)
    fold_episodes(problem.data.num_episodes, recipe.cross_validation.folds)
    for group in grouped(recipe):
        # Building it tells what doesn't go together.
        _ = open_problem(group.recipe).agent


def validates(algorithm: Algorithm) -> bool:
    """Whether it learns from a dataset, and has a loss that tells on held-out episodes how well."""
    return algorithm.can(Validates) and any(plugins.feeds[name].holds_out for name in algorithm.feeds)


def _check_key(key: str, algorithm: Algorithm, algo: str) -> None:
    section, _, option = key.partition(".")
    if not (section == "agent" and option) and key not in BESIDE_AGENT:
        raise RecipeError(
            f"'{key}' can't be chosen by cross-validation",
            where="cross_validation.options",
            hint=f"choose among the algorithm's options (agent.KEY), or {', '.join(BESIDE_AGENT)}",
        )
    if section == "agent" and option in algorithm.loss_options:
        raise RecipeError(
            f"'{key}' changes what the loss of {algo} measures: held-out losses under it can't be compared",
            where="cross_validation.options",
            hint="train a run with each, and compare these by offrl evaluate or offrl ope",
        )


def grouped(recipe: Recipe) -> list[Group]:
    """The recipe's candidates, with those together that can train together.

    Raises:
        RecipeError: there is no such option, or a value is of the wrong kind; the message names it.
    """
    algorithm: Algorithm = plugins.algorithms[recipe.algo]
    agent: Any = algorithm.agent
    names = agent.penalties if algorithm.can(Penalized) else ()
    values = recipe.to_dict()
    groups: list[Group] = []
    for candidate in recipe.cross_validation.candidates:
        changed = recipe_from_dict(merged(values, candidate), "cross_validation.options")
        penalties = [name for name in names if f"agent.{name}" in candidate]
        # A coefficient above zero tells the agent to compute the penalty; the candidates replace its value.
        options = dataclasses.replace(changed.agent, **dict.fromkeys(penalties, 1.0))
        trial = dataclasses.replace(changed, agent=options)
        group = next((each for each in groups if each.recipe == trial), None)
        if group is None:
            group = Group(trial, [], {name: [] for name in penalties})
            groups.append(group)
        group.candidates.append(candidate)
        for name in penalties:
            group.penalties[name].append(candidate[f"agent.{name}"])
    return groups


def choose_options(run: Run, problem: Problem, listener: Listener) -> Problem:
    """Cross-validate, write `cross_validation.json`, and put the chosen options into the run's recipe.

    What an earlier process has tried is in the file already, and isn't tried again.

    Raises:
        DivergenceError: no candidate's loss is finite.
    """
    plan, tried = problem.recipe.cross_validation, run.tried_options()
    for group in grouped(problem.recipe):
        if any(row["settings"] == _plain(group.candidates[0]) for row in tried):
            continue
        losses = held_out_losses(group)
        for candidate, per_fold in zip(group.candidates, losses, strict=True):
            tried.append(_row(candidate, per_fold))
            listener.noted(f"Cross-validation: {_told(tried[-1])} ({len(tried)} of {len(plan.candidates)})")
        _write(run, plan.folds, None, tried)
    finite = [row for row in tried if row["held_out_loss"] is not None]
    if not finite:
        raise DivergenceError(
            "no candidate's loss on held-out episodes is finite",
            where=str(run.path),
            hint="lower agent.learning_rate, or normalize the observations",
        )
    chosen = min(finite, key=lambda row: row["held_out_loss"])["settings"]
    _write(run, plan.folds, chosen, tried)
    run.change_recipe(with_choice(problem.recipe, chosen))
    return open_problem(run.recipe)


def held_out_losses(group: Group) -> NDArray[np.float64]:
    """Train each candidate on each fold's complement, all of them side by side; each one's loss per fold, [C, folds].

    All start from the same weights (the first seed's) and see the same draws. Observations are normalized by the
    statistics of all episodes: the held-out ones' share in two moments is the one thing that the folds don't hide.
    """
    problem = open_problem(group.recipe)
    assert problem.data is not None
    plan, count = group.recipe.cross_validation, len(group.candidates)
    recipe = dataclasses.replace(group.recipe, seeds=(group.recipe.seeds[0],) * (count * plan.folds))
    normalizer = ObservationNormalizer.from_store(problem.data) if recipe.data.normalize_observation else None
    policy = fresh_policy(problem.algorithm, problem.agent, recipe, resolve_device(recipe.device), normalizer)
    agent: Any = policy.agent
    for name, values in group.penalties.items():
        coefficients = torch.tensor(values, dtype=torch.float32, device=policy.device)
        agent.set_penalty(policy.state, name, coefficients.repeat_interleave(plan.folds))

    held_out = fold_episodes(problem.data.num_episodes, plan.folds) * count
    everything = np.arange(problem.data.num_episodes)
    training = [np.setdiff1d(everything, fold) for fold in held_out]
    options = sampling_options(recipe, policy)
    sampler = ReplaySampler(
        [problem.data], batch_size=recipe.batch_size, seeds=recipe.seeds, seed_episodes=training, **options
    )
    noise, shapes = NoiseSource(recipe.seeds, policy.device, stream=0), agent.noise_shapes(recipe.batch_size)
    update, size = fast_update(agent, policy.state, policy.device), agent.batches_per_update
    with threads_for(feed_of(recipe).gradient_rows(recipe), policy), np.errstate(all="ignore"):
        for start in range(0, plan.steps, UPDATES_AT_ONCE * size):
            updates = math.ceil(min(UPDATES_AT_ONCE * size, plan.steps - start) / size)
            for batches, draws, _ in cycles(sampler.batches(updates * size), noise, shapes, updates):
                update(batches, draws)

    validation = ReplaySampler(
        [problem.data],
        batch_size=max(1, VALIDATION_TRANSITIONS // (options["window"] or 1)),
        seeds=recipe.seeds,
        seed_episodes=held_out,
        **options,
    )
    losses = agent.validation_loss(policy.state, validation.batches(1)[0])
    return np.asarray(losses.cpu().double().numpy().reshape(count, plan.folds))


def _row(candidate: Mapping[str, Any], per_fold: NDArray[np.float64]) -> dict[str, Any]:
    """A candidate's line in the table; None where a loss isn't finite."""
    mean, error = per_fold.mean(), per_fold.std(ddof=1) / np.sqrt(len(per_fold))
    return {
        "settings": _plain(candidate),
        "held_out_loss": _finite(mean),
        "standard_error": _finite(error),
        "per_fold": [_finite(loss) for loss in per_fold],
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _write(run: Run, folds: int, chosen: Mapping[str, Any] | None, table: Sequence[Mapping[str, Any]]) -> None:
    content = {"folds": folds, "chosen": chosen, "table": table}
    write_whole(run.path / CROSS_VALIDATION, json.dumps(content, indent=1))


def _plain(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate as JSON gives it back."""
    found: dict[str, Any] = parse_json(json.dumps(candidate))
    return found


def _told(row: Mapping[str, Any]) -> str:
    """A line of the table in words."""
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in row["settings"].items())
    loss, error = row["held_out_loss"], row["standard_error"]
    return f"{settings}: held-out loss " + ("not finite" if loss is None else f"{loss:.4g} ± {error:.2g}")


def with_choice(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    """The recipe with the chosen options, and the choice marked as made."""
    values = merged(recipe.to_dict(), chosen)
    plan = dataclasses.replace(recipe.cross_validation, kind="none", options={})
    return dataclasses.replace(recipe_from_dict(values), cross_validation=plan)
