"""`offrl select`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import offrl
from offrl.errors import RequestError
from offrl_cli.errors import command
from offrl_cli.ope_options import (
    Confidence,
    Discount,
    EstimateBehavior,
    FqeSteps,
    Horizon,
    KernelBandwidth,
    Log,
    Plot,
    RankBy,
    Resamples,
    SeedIndex,
    Stochastic,
)
from offrl_cli.ope_report import VERDICTS
from offrl_cli.output import AsJson, note, number, print_json, print_pairs, print_table, say, working

if TYPE_CHECKING:
    from offrl.off_policy.selection import Selection
    from offrl.off_policy.trials import Trials


@command
def select(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories that offrl train left.")],
    dataset: Log = "",
    confidence: Confidence = 0.95,
    discount: Discount = 0.99,
    horizon: Horizon = None,
    may_estimate_behavior: EstimateBehavior = False,
    stochastic: Stochastic = False,
    kernel_bandwidth: KernelBandwidth = 0.0,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="last|best|step-N", help="This one of each run. Default: all that the runs keep."),
    ] = None,
    seed_index: SeedIndex = None,
    rank_by: RankBy = None,
    trials: Annotated[
        int, typer.Option(min=0, metavar="K", help="With --env: episodes to spend on the candidates.")
    ] = 0,
    env: Annotated[str | None, typer.Option(metavar="ID", help="With --trials: the environment.")] = None,
    max_episode_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --trials: cut episodes after so many steps.")
    ] = None,
    fqe_steps: FqeSteps = 5_000,
    resamples: Resamples = 1_000,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of the bootstrap, of what is fitted, and of where trials start.")
    ] = 0,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Choose among runs and their kept checkpoints when all there is is a log.

    Every seed of every checkpoint is a candidate; checkpoints_kept in a recipe
    says how many a run keeps. Values are of an episode's discounted return.

    Example: offrl select runs/iql runs/td3 --dataset hopper-medium-replay
    """
    if not dataset:
        raise RequestError("no log is named", hint="add --dataset NAME")
    with working("Choosing"):
        selection = offrl.select(
            runs,
            dataset=dataset,
            confidence=confidence,
            discount=discount,
            horizon=horizon,
            estimate_behavior=may_estimate_behavior,
            stochastic=stochastic,
            kernel_bandwidth=kernel_bandwidth,
            checkpoint=checkpoint,
            seed_index=seed_index,
            rank_by=rank_by,
            trials=trials,
            env=env,
            max_episode_steps=max_episode_steps or 0,
            fqe_steps=fqe_steps,
            resamples=resamples,
            seed=seed,
        )
        files = {}
        if plot is not None:
            if selection.evaluation is None:
                raise RequestError("there is no evaluation to draw: the log has no rewards", hint="leave out --plot")
            drawn = offrl.plot(selection.evaluation, plot)
            files = {"picture": drawn.path, "page": drawn.page}
    if as_json:
        print_json({**selection.to_dict(), **files})
        return
    _print(selection)
    print_pairs(files)


def _print(selection: Selection) -> None:
    ranking, evaluation = selection.ranking, selection.evaluation
    by = f"by {ranking.estimator}"
    if ranking.has_intervals:
        by += f"; the intervals hold together with confidence {ranking.confidence:g}"
    say(f"{len(selection.candidates)} candidates by the log {selection.dataset}, ranked {by}")
    rows = []
    for position, place in enumerate(ranking.places, start=1):
        earned = [] if selection.trials is None else selection.trials.returns(place.policy)
        row = [position, selection.candidates[place.policy].name, place.value, place.low, place.high]
        rows.append([*row, VERDICTS[place.may_be_best], sum(earned) / len(earned) if earned else None])
    columns = ["rank", "candidate", "value", "low", "high", "may be best", "trials"]
    shown = len(columns) if selection.trials is not None else -1
    print_table(columns[:shown], [row[:shown] for row in rows])
    if evaluation is not None:
        behavior = evaluation.behavior
        print_pairs({"logged return": f"{number(behavior.value)} ({evaluation.episodes:,} episodes)"})
    if selection.trials is not None:
        _print_trials(selection, selection.trials)
    for text in selection.findings:
        say(text)
    chosen = selection.chosen
    print_pairs({"chosen": chosen.name, "run": chosen.run, "checkpoint": chosen.checkpoint, "seed": chosen.seed})
    for text in () if evaluation is None else evaluation.notes:
        note(f"Note: {text}")


def _print_trials(selection: Selection, trials: Trials) -> None:
    say(f"\n{len(trials.episodes)} episodes in {trials.environment}; regret is what trials so far cost, as known then")
    rows = [
        [number, selection.candidates[each.policy].name, each.earned, each.regret]
        for number, each in enumerate(trials.episodes, start=1)
    ]
    print_table(["trial", "candidate", "return", "regret so far"], rows)
    if trials.left_out:
        say(f"{len(trials.left_out)} weren't tried: the log rules them out.")
