"""From a recipe to a finished run."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from offrl.agents import AGENTS
from offrl.config.recipe import Recipe
from offrl.envs.evaluator import evaluate
from offrl.envs.video import film
from offrl.errors import OffrlError, RecipeError, RequestError
from offrl.feeds.problem import Task
from offrl.feeds.tabular import DemonstrationFeed, demonstrations_of, process_of, write_reward
from offrl.files import write_whole
from offrl.replay.normalization import ObservationNormalizer
from offrl.reports.reward_map import draw_reward
from offrl.runs.checkpoint import read_facts
from offrl.runs.load import fresh_policy, load_policy, resolve_device
from offrl.runs.loggers import require_loggers
from offrl.runs.run import Run
from offrl.runs.scores import summarize
from offrl.training.build import build_loop, sampling_options
from offrl.training.cross_validation import cross_validate, fold_episodes, with_coefficient
from offrl.training.finetune import take_over
from offrl.training.loop import Listener, Loop


class SilentListener:
    """Tells nobody."""

    def began(self, path: Path) -> None:
        """Nothing to show."""

    def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
        """Nothing to show."""

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        """Nothing to show."""

    def warned(self, text: str) -> None:
        """Nothing to show."""


def train(recipe: Recipe, path: Path | None = None, listener: Listener | None = None) -> Run:
    """Train in a new run directory, and evaluate at the end if there is an environment.

    Args:
        recipe: what to train.
        path: the run directory; None makes one under `runs/`.
        listener: told of progress.

    Raises:
        OffrlError: see the messages; what had been checkpointed is kept.
        Interrupted: Ctrl-C; continue with `resume`.
    """
    task = Task.of(recipe)
    check_buildable(task)
    listener = listener or SilentListener()
    run = Run.create(path, task.recipe) if path else Run.create_default(task.recipe, datetime.now())
    listener.began(run.path)
    with run.lock():
        if recipe.cross_validation.kind != "none":
            task = choose_coefficient(run, task)
        try:
            loop = build_loop(run, task, listener)
        except OffrlError:
            run.discard()
            raise
        return _finish(_begin(loop))


def check_buildable(task: Task) -> None:
    """Raise what would go wrong later before a run directory exists.

    Raises:
        OffrlError: the device, the agent's options, the metric writers or the cross-validation don't fit.
    """
    recipe = task.recipe
    device = resolve_device(recipe.device)
    agent = AGENTS[recipe.algo].build(recipe.agent, task.spec)
    if recipe.priority.kind != "none" and not getattr(agent, "tells_errors", False):
        raise RecipeError(
            f"{recipe.algo} has no TD errors to draw by",
            where="priority.kind",
            hint="leave priorities out (priority.kind=none), or choose dqn or sac",
        )
    if recipe.early_stopping.patience and not hasattr(agent, "validation_loss"):
        raise RecipeError(
            f"{recipe.algo} has no validation loss to stop by",
            where="early_stopping.patience",
            hint="leave it at 0, and choose a checkpoint by --eval-every",
        )
    if task.tabular:
        assert task.data is not None
        demonstrations_of(process_of(recipe), task.data, task.spec)
    if recipe.start is not None:
        take_over(fresh_policy(agent, recipe.seeds, device, None), recipe)
    require_loggers(recipe.writers)
    kind = recipe.cross_validation.kind
    if kind != "none" and (task.data is None or not hasattr(recipe.agent, kind)):
        raise RecipeError(
            f"{recipe.algo} has no coefficient '{kind}' to cross-validate on a dataset",
            hint="cross-validate bc with --dataset NAME",
        )
    if kind != "none" and task.data is not None:
        fold_episodes(task.data.num_episodes, recipe.cross_validation.folds)


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
    listener = listener or SilentListener()
    run = Run.open(path)
    listener.began(run.path)
    with run.lock():
        if steps is not None:
            _require_ahead(run, steps)
            run.change_recipe(dataclasses.replace(run.recipe, steps=steps))
        task = Task.of(run.recipe, run.checkpoint("last") if run.has_checkpoint("last") else None)
        if run.recipe.cross_validation.kind != "none":
            task = choose_coefficient(run, task)
        loop = build_loop(run, task, listener)
        if run.has_checkpoint("last"):
            loop.resume()
        else:
            run.forget_after(-1)
            _begin(loop)
        return _finish(loop)


def _require_ahead(run: Run, steps: int) -> None:
    taken = read_facts(run.checkpoint("last"))["step"] if run.has_checkpoint("last") else 0
    if taken > steps:
        raise RequestError(
            f"the run has taken {taken:,} steps already, and {steps:,} are asked for",
            where=str(run.path),
            hint="ask for more: --steps counts from the run's first step",
        )


def evaluate_run(
    run: Run,
    *,
    episodes: int,
    checkpoint: str | None = None,
    seed: int = 0,
    env: str | None = None,
    video: Path | None = None,
) -> dict[str, Any]:
    """Greedy returns of a run's policies.

    Args:
        run: a run with a checkpoint.
        episodes: complete episodes per seed.
        checkpoint: "last" or "best"; None for the one that training reported.
        seed: picks the initial states.
        env: a Gymnasium id in place of the run's own.
        video: a folder for one film per seed.

    Returns:
        what `offrl.runs.scores.summarize` returns, with the `checkpoint` it is of, and the files in `videos`.

    Raises:
        RunError: there is no such checkpoint.
        RequestError: there is no environment to evaluate in.
    """
    checkpoint = checkpoint or run.reported_checkpoint
    policy, facts = load_policy(run, checkpoint)
    environment = env or facts["environment"]
    if environment is None:
        raise RequestError("this run names no environment to evaluate in", hint="name one with --env")
    evaluation = evaluate(policy, environment, episodes, seed=seed)
    scores = {
        "checkpoint": checkpoint,
        **summarize(evaluation, environment, run.recipe.seeds, facts["reference_scores"]),
    }
    if video is not None:
        files = film(policy, environment, video, seeds=run.recipe.seeds, seed=seed)
        scores["videos"] = [str(file) for file in files]
    return scores


def choose_coefficient(run: Run, task: Task) -> Task:
    """Cross-validate, write `cross_validation.json`, and put the chosen coefficient into the run's recipe."""
    recipe, plan = task.recipe, task.recipe.cross_validation
    assert task.data is not None
    # A coefficient above zero tells the agent to compute the penalty; the candidates replace its value.
    options = dataclasses.replace(recipe.agent, **{plan.kind: 1.0})
    positions = (recipe.seeds[0],) * (len(plan.coefficients) * plan.folds)
    normalizer = ObservationNormalizer.from_store(task.data) if recipe.data.normalize_observation else None
    agent = AGENTS[recipe.algo].build(options, task.spec)
    policy = fresh_policy(agent, positions, resolve_device(recipe.device), normalizer)
    result = cross_validate(recipe, policy, task.data, sampling_options(recipe, policy))
    write_whole(run.path / "cross_validation.json", json.dumps(result, indent=1))
    run.change_recipe(with_coefficient(recipe, result))
    return dataclasses.replace(task, recipe=run.recipe)


def _begin(loop: Loop) -> Loop:
    """A run's first step is from scratch, or, in fine-tuning, from what another run has learned."""
    recipe = loop.run.recipe
    if recipe.start is not None:
        take_over(loop.policy, recipe)
        loop.start()
    return loop


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
    run, recipe = loop.run, loop.run.recipe
    if isinstance(loop.feed, DemonstrationFeed):
        write_reward(run, loop.feed.demonstrations.mdp)
        draw_reward(run, run.path / "plots" / "reward.png")
    if loop.evaluate:
        scores = evaluate_run(run, episodes=recipe.evaluation.final_episodes)
        run.log("evaluations.jsonl", {"step": loop.step, "final": True, **scores})
    return run
