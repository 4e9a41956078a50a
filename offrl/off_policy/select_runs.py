"""Choosing among runs and their checkpoints by a log, and perhaps by a few episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offrl.converters.catalog import open_dataset
from offrl.data.store import TrajectoryStore
from offrl.envs.policy import Policy
from offrl.errors import RequestError
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.evaluate_runs import Acting, targets_of, with_time_limit
from offrl.off_policy.held_out import rank_by_held_out_loss
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.ranking import Ranking
from offrl.off_policy.read_log import read_log
from offrl.off_policy.selection import Candidate, Selection, findings, ranked, told_apart
from offrl.off_policy.trials import try_out
from offrl.runs.load import load_policy, policy_of_seed
from offrl.runs.run import Run


@dataclass(frozen=True)
class Deployments:
    """Episodes that may be spent on finding out more.

    Attributes:
        environment: a Gymnasium id.
        episodes: how many in all.
        max_episode_steps: cut them there; 0 leaves the environment's own limit.
    """

    environment: str
    episodes: int
    max_episode_steps: int = 0


def select_policies(
    paths: Sequence[Path],
    dataset: str,
    plan: Plan,
    acting: Acting | None = None,
    deployments: Deployments | None = None,
) -> Selection:
    """Rank runs, all checkpoints that they keep, and all of their seeds.

    Args:
        paths: run directories.
        dataset: the log.
        plan: how they are valued.
        acting: how the policies act; its checkpoint in place of all that are kept.
        deployments: episodes to spend on them; None for none.

    Raises:
        RequestError: there are fewer than two candidates, or no rewards and no losses to compare.
        SpaceMismatchError: a policy is for other spaces than the log's.
    """
    acting = acting or Acting()
    runs = [Run.open(path) for path in paths]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RequestError("a run is named twice", hint="name each once")
    places = [(run, name) for run in runs for name in checkpoints_of(run, acting)]
    candidates = tuple(each for run, name in places for each in candidates_of(run, name, runs, acting))
    if len(candidates) < 2:
        raise RequestError(
            f"there is {len(candidates)} candidate to choose from",
            hint="name another run, or train with --set checkpoints_kept=5 to choose among checkpoints",
        )
    store = open_dataset(dataset)
    store.verify()
    name = Path(dataset).name if Path(dataset).exists() else dataset
    logged = dataclasses.replace(read_log(store), name=name)
    if not logged.reward.any():
        selection = _by_losses(name, places, candidates, store, plan, acting)
    else:
        selection = _by_values(name, places, candidates, store, logged, plan, acting)
    if deployments is None:
        return selection
    trials = try_out(
        [policy for run, name in places for policy in _policies(run, name, acting)],
        [place.policy for place in selection.ranking.places if place.may_be_best is not False],
        deployments.environment,
        deployments.episodes,
        seed=plan.seed,
        max_episode_steps=deployments.max_episode_steps,
    )
    return selection.with_trials(trials)


def checkpoints_of(run: Run, acting: Acting) -> list[str]:
    """The checkpoints of a run that are candidates: all that it keeps, and the best one if early stopping chose it."""
    if acting.checkpoint is not None:
        return [acting.checkpoint]
    return run.kept_checkpoints() + ["best"] * (run.reported_checkpoint == "best")


def candidates_of(run: Run, checkpoint: str, runs: Sequence[Run], acting: Acting) -> list[Candidate]:
    """The policies of a run's checkpoint, one for each seed, with names that no two share."""
    alike = sum(other.path.name == run.path.name for other in runs) > 1
    title = f"{run.path if alike else run.path.name} {checkpoint}"
    return [
        Candidate(title if len(run.recipe.seeds) == 1 else f"{title} seed {seed}", str(run.path), checkpoint, seed)
        for position, seed in enumerate(run.recipe.seeds)
        if acting.seed_index in (None, position)
    ]


def _by_values(
    name: str,
    places: Sequence[tuple[Run, str]],
    candidates: tuple[Candidate, ...],
    store: TrajectoryStore,
    logged: EpisodeLog,
    plan: Plan,
    acting: Acting,
) -> Selection:
    plan, notes = with_time_limit(plan, store, None)
    targets: list[Target] = []
    for run, checkpoint in places:
        targets += targets_of(run, store, logged, plan, dataclasses.replace(acting, checkpoint=checkpoint))
    named = [dataclasses.replace(target, name=each.name) for target, each in zip(targets, candidates, strict=True)]
    found = evaluate(logged, named, plan)
    found = dataclasses.replace(found, notes=(*notes, *found.notes))
    ranking, reliable = ranked(found, resamples=plan.resamples, seed=plan.seed)
    return Selection(name, candidates, ranking, findings(found, ranking, reliable), found)


def _by_losses(
    name: str,
    places: Sequence[tuple[Run, str]],
    candidates: tuple[Candidate, ...],
    store: TrajectoryStore,
    plan: Plan,
    acting: Acting,
) -> Selection:
    ranking: Ranking = rank_by_held_out_loss(places, store, plan, acting.seed_index)
    why = "The log has no rewards: candidates are ranked by how well they fit episodes that they weren't trained on."
    return Selection(name, candidates, ranking, (why, told_apart([each.name for each in candidates], ranking)))


def _policies(run: Run, checkpoint: str, acting: Acting) -> list[Policy]:
    """Of each seed alone."""
    policy, _ = load_policy(run, checkpoint)
    return [
        policy_of_seed(policy, position, seed)
        for position, seed in enumerate(run.recipe.seeds)
        if acting.seed_index in (None, position)
    ]
