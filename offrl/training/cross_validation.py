"""Choosing a regularization coefficient by k-fold cross-validation over episodes, every fold and candidate at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offrl.config.recipe import Recipe
from offrl.data.trajectories import Trajectories
from offrl.envs.policy import Policy
from offrl.errors import RecipeError
from offrl.ops.noise import NoiseSource
from offrl.replay.sampler import ReplaySampler

UPDATES_AT_ONCE = 16
VALIDATION_TRANSITIONS = 4_096


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


def cross_validate(recipe: Recipe, policy: Policy, data: Trajectories, samplers: dict[str, Any]) -> dict[str, Any]:
    """Train every candidate on every fold's complement, all of them side by side on the seed axis.

    All start from the same weights (the first seed's). Observations are normalized by the statistics of all episodes:
    the held-out ones' share in two moments is the one thing that the folds don't hide.

    Args:
        recipe: its `cross_validation` says what to try.
        policy: of candidates × folds positions; its agent is `offrl.types.Penalized`.
        data: the training episodes.
        samplers: keyword arguments that the run's samplers share.

    Returns:
        `kind`, the chosen `coefficient`, `folds`, and a `table`: for each candidate its mean held-out loss and the
        standard error over folds.
    """
    plan = recipe.cross_validation
    folds = fold_episodes(data.num_episodes, plan.folds)
    everything = np.arange(data.num_episodes)
    held_out = folds * len(plan.coefficients)
    training = [np.setdiff1d(everything, fold) for fold in held_out]
    state = policy.state
    agent: Any = policy.agent
    coefficients = torch.tensor(plan.coefficients, device=policy.device).repeat_interleave(plan.folds)
    agent.set_penalty(state, plan.kind, coefficients)
    seeds = [recipe.seeds[0]] * policy.seeds

    batches = ReplaySampler([data], batch_size=recipe.batch_size, seeds=seeds, seed_episodes=training, **samplers)
    noise = NoiseSource(seeds, policy.device, stream=0)
    shapes = agent.noise_shapes(recipe.batch_size)
    for start in range(0, plan.steps, UPDATES_AT_ONCE):
        count = min(UPDATES_AT_ONCE, plan.steps - start)
        drawn = zip(batches.sample(count).unbind(), noise.draw_updates(shapes, count), strict=True)
        for batch, draws in drawn:
            agent.update(state, [batch], draws)

    validation = ReplaySampler(
        [data], batch_size=VALIDATION_TRANSITIONS, seeds=seeds, seed_episodes=held_out, **samplers
    )
    (batch,) = validation.sample(1).unbind()
    losses = agent.validation_loss(state, batch).cpu().numpy().reshape(-1, plan.folds)
    means, errors = losses.mean(axis=1), losses.std(axis=1, ddof=1) / np.sqrt(plan.folds)
    return {
        "kind": plan.kind,
        "coefficient": plan.coefficients[int(means.argmin())],
        "folds": plan.folds,
        "table": [
            {"coefficient": candidate, "held_out_loss": float(mean), "standard_error": float(error)}
            for candidate, mean, error in zip(plan.coefficients, means, errors, strict=True)
        ],
    }


def with_coefficient(recipe: Recipe, result: dict[str, Any]) -> Recipe:
    """The recipe with the chosen coefficient, and the choice marked as made."""
    agent = dataclasses.replace(recipe.agent, **{result["kind"]: result["coefficient"]})
    plan = dataclasses.replace(recipe.cross_validation, kind="none")
    return dataclasses.replace(recipe, agent=agent, cross_validation=plan)
