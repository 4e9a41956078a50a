"""What can be told before a run directory exists: options that can't work, alone or together."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from offrl import plugins
from offrl.errors import RecipeError
from offrl.feeds import feed_of
from offrl.feeds.problem import NO_ENVIRONMENT, Problem
from offrl.feeds.warm_start import take_over
from offrl.runs.load import fresh_policy, resolve_device
from offrl.runs.loggers import require_loggers
from offrl.training.cross_validation import check_candidates
from offrl.types import CriticOnly, Validates


def check_buildable(problem: Problem, asked: Collection[str] = ()) -> None:
    """Raise what would go wrong later.

    Args:
        problem: of the run to be.
        asked: the recipe's sections and keys that somebody asked for, and that don't come from a recipe or defaults.

    Raises:
        OffrlError: the device, the agent's options, the metric writers, the run to start from or the cross-validation
            don't fit, or an option asks for what the algorithm can't do here.
    """
    recipe = problem.recipe
    device = resolve_device(recipe.device)
    agent = problem.agent
    for objection in _objections(problem, asked):
        raise objection
    if recipe.start is not None:
        take_over(fresh_policy(problem.algorithm, agent, recipe, device, None), problem)
    require_loggers(recipe.writers)
    check_candidates(problem)


def _objections(problem: Problem, asked: Collection[str]) -> Iterator[RecipeError]:
    """What is asked for and can't be had, in the order of the recipe's sections."""
    recipe, algorithm, kind = problem.recipe, problem.algorithm, feed_of(problem.recipe)
    if recipe.priority.kind != "none" and not algorithm.td_errors:
        yield RecipeError(
            f"{recipe.algo} has no TD errors to draw by",
            where="priority.kind",
            hint="leave priorities out (priority.kind=none), or choose one that has: "
            f"{', '.join(plugins.algorithms.able(lambda record: record.td_errors))}",
        )
    if kind.online:
        yield from _online_objections(problem)
    if "evaluation" in asked and recipe.evaluation.every and recipe.env in (None, NO_ENVIRONMENT):
        yield RecipeError(
            "no environment is known to evaluate in",
            where="evaluation (--eval-every, --eval-episodes)",
            hint="name one with --env, or leave these options out",
        )
    yield from _early_stopping_objections(problem, kind.holds_out)


def _online_objections(problem: Problem) -> Iterator[RecipeError]:
    """Of learning by own steps."""
    recipe, online = problem.recipe, problem.recipe.online
    if online.critic_warmup and not problem.learner.can(CriticOnly):
        yield RecipeError(
            f"{recipe.algo} has no critics apart from its policy",
            where="online.critic_warmup",
            hint="set online.critic_warmup=0",
        )
    if online.stop_at is not None and not recipe.evaluation.every:
        yield RecipeError(
            "training is to stop at a mean return, and evaluates nothing on the way",
            where="online.stop_at",
            hint="set evaluation.every (--eval-every) to the steps between evaluations, or leave online.stop_at out",
        )


def _early_stopping_objections(problem: Problem, holds_out: bool) -> Iterator[RecipeError]:
    """Of stopping by a validation loss."""
    recipe, data = problem.recipe, problem.data
    if not recipe.early_stopping.patience:
        return
    if not problem.algorithm.can(Validates) or not holds_out:
        yield RecipeError(
            f"{recipe.algo} has no validation loss to stop by",
            where="early_stopping.patience",
            hint="leave it at 0, and choose a checkpoint by --eval-every",
        )
    elif data is None or data.num_episodes < 2 or not recipe.data.validation_fraction:
        yield RecipeError(
            "training is to stop by the loss on held-out episodes, and none are held out",
            where="early_stopping.patience",
            hint="add --set early_stopping.patience=0, or hold episodes out (data.validation_fraction) of two or more",
        )
