"""From a recipe to a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from offrl.config.recipe import Recipe
from offrl.errors import RequestError
from offrl.feeds import open_problem
from offrl.feeds.problem import Problem
from offrl.feeds.warm_start import take_over
from offrl.runs.checkpoint import read_facts
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.cross_validation import choose_options
from offrl.training.loop import Loop
from offrl.training.option_checks import check_buildable
from offrl.trust import remember

if TYPE_CHECKING:
    from offrl.runs.listener import Listener


def train(
    recipe: Recipe, path: Path | None = None, listener: Listener | None = None, asked: Collection[str] = ()
) -> Run:
    """Train in a new run directory, and evaluate at the end if there is an environment.

    Args:
        recipe: what to train.
        path: the run directory; None makes one under `runs/`.
        listener: told of progress.
        asked: see `offrl.training.option_checks.check_buildable`.

    Raises:
        OffrlError: see the messages; what had been checkpointed is kept.
        Interrupted: Ctrl-C; continue with `resume`.
    """
    if path is not None:
        Run.require_new(path)
    problem = open_problem(recipe)
    check_buildable(problem, asked)
    listener = listener or _nobody()
    run = Run.create(path, problem.recipe) if path else Run.create_default(problem.recipe, datetime.now())
    listener.began(run.path)
    remember(run.path, problem.recipe.env)
    with run.lock():
        if recipe.cross_validation.candidates:
            problem = choose_options(run, problem, listener)
        try:
            loop = build_loop(run, problem, listener)
        except BaseException:
            run.discard()
            raise
        if recipe.start is not None:
            _begin_from_another(loop, problem)
        return _finish(loop)


def resume(path: Path, listener: Listener | None = None, steps: int | None = None) -> Run:
    """Continue a run from its last checkpoint (from the start, where it has none yet).

    Args:
        path: the run directory.
        listener: told of progress.
        steps: train up to this step in place of the recipe's.

    Raises:
        RunInUseError: another process is writing to the run.
        RunError: there is no run, or its checkpoint is damaged.
        RequestError: it has taken more steps already.
    """
    listener = listener or _nobody()
    run = Run.open(path)
    listener.began(run.path)
    with run.lock():
        if steps is not None:
            _require_ahead(run, steps)
            run.change_recipe(dataclasses.replace(run.recipe, steps=steps))
        problem = open_problem(run.recipe, run.checkpoint("last") if run.has_checkpoint("last") else None)
        remember(run.path, problem.recipe.env)
        if run.recipe.cross_validation.candidates:
            problem = choose_options(run, problem, listener)
        loop = build_loop(run, problem, listener)
        if run.has_checkpoint("last"):
            loop.resume()
        else:
            run.forget_after(-1)
            if run.recipe.start is not None:
                _begin_from_another(loop, problem)
        return _finish(loop)


def _nobody() -> Listener:
    from offrl.runs.listener import SilentListener

    return SilentListener()


def _require_ahead(run: Run, steps: int) -> None:
    taken = read_facts(run.checkpoint("last"))["step"] if run.has_checkpoint("last") else 0
    if taken > steps:
        raise RequestError(
            f"the run has taken {taken:,} steps already, and {steps:,} are asked for",
            where=str(run.path),
            hint="ask for more: --steps counts from the run's first step",
        )


def _begin_from_another(loop: Loop, problem: Problem) -> None:
    """Take over what another run has learned, before the first step."""
    take_over(loop.policy, problem)
    loop.start()


def _finish(loop: Loop) -> Run:
    """Train, then evaluate what early stopping, or else the last step, left."""
    try:
        loop.train()
    finally:
        loop.feed.close()
        if loop.recorder is not None:
            loop.recorder.close()
        for writer in loop.writers:
            writer.close()
    run, episodes = loop.run, loop.run.recipe.evaluation.final_episodes
    loop.feed.conclude(run)
    if loop.evaluate:
        from offrl.runs.evaluate_run import evaluate_run, scores_of

        reported = run.reported_checkpoint
        if reported == "last":
            scores = scores_of(loop.policy, run, loop.facts, checkpoint=reported, episodes=episodes)
        else:
            scores = evaluate_run(run, episodes=episodes)
        run.log("evaluations.jsonl", {"step": loop.step, "final": True, **scores})
    return run
