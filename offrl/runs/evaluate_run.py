"""Greedy returns of a run's policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offrl.envs.evaluator import evaluate
from offrl.envs.policy import Policy
from offrl.envs.starts import Purpose, Starts
from offrl.envs.video import film
from offrl.errors import RequestError
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.runs.scores import summarize


def evaluate_run(
    run: Run,
    *,
    episodes: int,
    checkpoint: str | None = None,
    seed: int = 0,
    env: str | None = None,
    max_episode_steps: int | None = None,
    video: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Greedy returns of a run's policies, from starts that neither training nor the choice of a checkpoint saw.

    Args:
        run: a run with a checkpoint.
        episodes: complete episodes per seed.
        checkpoint: "last" or "best"; None for the one that training reported.
        seed: picks the initial states: with 0, those of the evaluation that ends training.
        env: a Gymnasium id in place of the run's own.
        max_episode_steps: cut episodes there, whatever limit the environment has; None for the run's recipe's.
        video: a folder for one film per seed.
        tell: told in words how filming gets on.

    Returns:
        what `offrl.runs.scores.summarize` returns, with the `checkpoint` it is of, and the files in `videos`.

    Raises:
        RunError: there is no such checkpoint.
        RequestError: there is no environment to evaluate in.
    """
    checkpoint = run.choose_checkpoint(checkpoint)
    policy, facts = load_policy(run, checkpoint)
    limit = run.recipe.evaluation.max_episode_steps if max_episode_steps is None else max_episode_steps
    scores = scores_of(
        policy, run, facts, checkpoint=checkpoint, episodes=episodes, seed=seed, env=env, max_episode_steps=limit
    )
    if video is not None:
        files = film(policy, scores["environment"], video, _starts(run, seed), max_episode_steps=limit, tell=tell)
        scores["videos"] = [str(file) for file in files]
    return scores


def scores_of(
    policy: Policy,
    run: Run,
    facts: Mapping[str, Any],
    *,
    checkpoint: str,
    episodes: int,
    seed: int = 0,
    env: str | None = None,
    max_episode_steps: int | None = None,
) -> dict[str, Any]:
    """Greedy returns of policies that are in memory.

    Args:
        policy: of the run's seeds.
        run: theirs.
        facts: what the checkpoint that they are of says.
        checkpoint: that one's kind.
        episodes, seed, env, max_episode_steps: as `evaluate_run` takes them.
    """
    environment = env or facts["environment"]
    if environment is None:
        raise RequestError("this run names no environment to evaluate in", hint="name one with --env")
    limit = run.recipe.evaluation.max_episode_steps if max_episode_steps is None else max_episode_steps
    starts = _starts(run, seed)
    evaluation = evaluate(policy, environment, episodes, starts, max_episode_steps=limit)
    return {"checkpoint": checkpoint, **summarize(evaluation, environment, starts, facts["reference_scores"])}


def _starts(run: Run, seed: int) -> Starts:
    return Starts(Purpose.FINAL, run.recipe.seeds, seed)
