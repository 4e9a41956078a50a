"""What runs are worth: opening, evaluating, comparing, valuing from logs, drawing, and exporting them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from offrl.errors import RequestError
from offrl.runs.run import Run, path_of
from offrl.trust import allowing, remembered

if TYPE_CHECKING:
    import pandas as pd

    from offrl.data.store import TrajectoryStore
    from offrl.deploy.export import Export
    from offrl.off_policy.intervals import Bounds
    from offrl.off_policy.results import Evaluation
    from offrl.reports.learning_curves import Curve
    from offrl.runs.scores import Scores

RunOrPath = str | os.PathLike[str] | Run


def open_run(run: RunOrPath) -> Run:
    """A run that was trained earlier.

    Args:
        run: its directory; an open run is returned as it is.

    Raises:
        RunNotFoundError: there is none.
        RecipeError: its recipe is damaged.

    Example:
        >>> policy = offrl.open_run("runs/clone").policy()
    """
    return run if isinstance(run, Run) else Run.open(path_of(run))


def evaluate(
    run: RunOrPath,
    episodes: int = 100,
    *,
    checkpoint: str | None = None,
    seed: int = 0,
    env: str | None = None,
    max_episode_steps: int | None = None,
    video: str | os.PathLike[str] | None = None,
    progress: bool = True,
    trust: bool = False,
    settings: Sequence[str] = (),
) -> Scores:
    """Greedy returns of every seed's policy of a run; see `offrl.runs.run.Run.evaluate`.

    `settings`, such as "agent.target_return=2000", are options to act by in place of those that it was trained
    with; see `offrl.runs.run.Run.acting_by`.

    Example:
        >>> offrl.evaluate("runs/clone", episodes=100)
    """
    return (
        open_run(run)
        .acting_by(**_acting_options(settings))
        .evaluate(
            episodes,
            checkpoint=checkpoint,
            seed=seed,
            env=env,
            max_episode_steps=max_episode_steps,
            video=video,
            progress=progress,
            trust=trust,
        )
    )


def _acting_options(settings: Sequence[str]) -> dict[str, Any]:
    """Options of the algorithm from `agent.KEY=VALUE` texts."""
    from offrl.config.recipe import parsed_settings

    values = parsed_settings(settings)
    for key in values:
        if not key.startswith("agent."):
            raise RequestError(
                f"acting doesn't go by '{key}'", hint="name an option of the algorithm: --set agent.KEY=VALUE"
            )
    return {key.removeprefix("agent."): value for key, value in values.items()}


def compare(runs: Sequence[RunOrPath]) -> pd.DataFrame:
    """A table of runs by what their final evaluations found, one row each.

    Returns:
        columns run, algo, dataset, env, seeds (how many), steps, mean_return, its standard_error (over seeds, or over
        the episodes of a single one) and 95% interval (mean_low, mean_high), iqm with its 95% interval (iqm_low,
        iqm_high), and normalized_score. Figures are NaN for runs that weren't evaluated, and the iqm of one seed is.

    Raises:
        RunNotFoundError: there is no run in a directory.

    Example:
        >>> offrl.compare(["runs/clone", "runs/pretrained"]).sort_values("mean_return")
    """
    import pandas as pd

    return pd.DataFrame([_row(open_run(run)) for run in runs])


def ope(
    runs: RunOrPath | Sequence[RunOrPath] = (),
    *,
    dataset: str | os.PathLike[str] | TrajectoryStore,
    estimators: Sequence[str] | None = None,
    confidence: float = 0.95,
    interval: str = "bootstrap-bca",
    discount: float = 0.99,
    horizon: int | None = None,
    clip: float | None = None,
    estimate_behavior: bool = False,
    stochastic: bool = False,
    epsilon: float = 0.0,
    kernel_bandwidth: float = 0.0,
    target_column: str | None = None,
    checkpoint: str | None = None,
    seed_index: int | None = None,
    rank_by: str | None = None,
    truth: str | None = None,
    truth_episodes: int = 100,
    max_episode_steps: int = 0,
    reward_bounds: tuple[float, float] | None = None,
    weight_bound: float | None = None,
    fqe_steps: int = 5_000,
    resamples: int = 1_000,
    seed: int = 0,
) -> Evaluation:
    """Value policies from a log that others made, with intervals; several are ranked.

    Values are of an episode's discounted return.

    Args:
        runs: runs, their directories, or ONNX files.
        dataset: the log.
        estimators: names; None takes the usual ones that the log allows.
        confidence: of the intervals.
        interval: how intervals are made: "bootstrap-percentile", "bootstrap-bca", "bootstrap-studentized", "t",
            "hoeffding" or "bernstein".
        discount: γ, per step.
        horizon: steps of an episode that count; None for as many as the environment's time limit allows, or all where
            none is known.
        clip: cut weights to this; the bias that it brings is told.
        estimate_behavior: estimate the logged actions' probabilities where the log has none.
        stochastic: value the policies that sample, in place of the greedy ones.
        epsilon: share of random actions, among discrete ones.
        kernel_bandwidth: noise on continuous greedy actions, which gives them a density; in units of half their range.
        target_column: value the policy whose probabilities are in this column of the log.
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that each run's training reported.
        seed_index: only the policy of each run's so-manieth seed, from 0; None for all.
        rank_by: the estimator that several policies are ranked by.
        truth: a Gymnasium id: let the policies act there, to compare.
        truth_episodes: of each policy.
        max_episode_steps: cut these there; 0 leaves the environment's own limit.
        reward_bounds: the least and greatest reward; for "hoeffding" and "bernstein", with `weight_bound`.
        weight_bound: of an episode's weight.
        fqe_steps: gradient steps of fitted Q evaluation.
        resamples: of the bootstrap.
        seed: of the bootstrap and of what is fitted.

    Raises:
        RequestError: nothing to value is named, or an estimator needs what isn't there.
        SpaceMismatchError: a policy is for other spaces than the log's.

    Example:
        >>> evaluation = offrl.ope(["runs/dqn", "runs/clone"], dataset="cartpole-replay", estimate_behavior=True)
        >>> evaluation.ranking
    """
    from annotated_types import Ge

    from offrl.config import fields as kinds
    from offrl.config.validation import require_kind
    from offrl.converters.catalog import name_of
    from offrl.off_policy.evaluate_runs import Acting, Trial, evaluate_policies
    from offrl.off_policy.fqe import FQEConfig
    from offrl.off_policy.plan import Plan

    require_kind(kinds.Count, fqe_steps=fqe_steps, resamples=resamples)
    require_kind(Annotated[int, Ge(2)], truth_episodes=truth_episodes)
    require_kind(kinds.Count | None, horizon=horizon)
    require_kind(kinds.CountOrZero, seed=seed, max_episode_steps=max_episode_steps)
    require_kind(kinds.CountOrZero | None, seed_index=seed_index)
    require_kind(kinds.CheckpointKind | None, checkpoint=checkpoint)
    require_kind(kinds.Probability, discount=discount, epsilon=epsilon)
    require_kind(kinds.Share, confidence=confidence)
    require_kind(kinds.NonNegative, kernel_bandwidth=kernel_bandwidth)
    require_kind(kinds.Positive | None, clip=clip, weight_bound=weight_bound)
    require_kind(tuple[kinds.Finite, kinds.Finite] | None, reward_bounds=reward_bounds)
    require_kind(tuple[str, ...] | None, estimators=estimators)
    require_kind(str | None, rank_by=rank_by, target_column=target_column, truth=truth)
    bounds = _bounds(reward_bounds, weight_bound)
    named = [runs] if isinstance(runs, str | os.PathLike | Run) else list(runs)
    with allowing(truth):
        return evaluate_policies(
            [path_of(run) for run in named],
            name_of(dataset),
            Plan(
                estimators=estimators,
                discount=discount,
                horizon=horizon,
                confidence=confidence,
                interval=interval,  # type: ignore[arg-type]
                resamples=resamples,
                seed=seed,
                clip=clip,
                bounds=bounds,
                may_estimate_behavior=estimate_behavior,
                rank_by=rank_by,
                fqe=FQEConfig(steps=fqe_steps),
            ),
            Acting(checkpoint, seed_index, stochastic, epsilon, kernel_bandwidth),
            column=target_column,
            trial=None if truth is None else Trial(truth, truth_episodes, max_episode_steps),
        )


def _bounds(reward: tuple[float, float] | None, weight: float | None) -> Bounds | None:
    """What intervals by Hoeffding and Bernstein go by: both bounds, or neither."""
    from offrl.off_policy.intervals import Bounds

    if reward is not None and weight is not None:
        return Bounds(reward, weight)
    if reward is not None:
        raise RequestError("the bound of an episode's weight is missing", hint="add --weight-bound W")
    if weight is not None:
        raise RequestError("the bounds of a reward are missing", hint="add --reward-bounds LOW,HIGH")
    return None


@dataclass(frozen=True)
class Picture:
    """What `plot` drew; a notebook shows it.

    Attributes:
        path: the file.
        curves: the learning curves in it.
        page: of an off-policy evaluation, the HTML page beside it.
    """

    path: Path
    curves: tuple[Curve, ...] = ()
    page: Path | None = None

    def _repr_png_(self) -> bytes | None:
        return self.path.read_bytes() if self.path.suffix == ".png" else None


def plot(
    what: RunOrPath | Sequence[RunOrPath] | Evaluation,
    out: str | os.PathLike[str] | None = None,
    *,
    metric: str = "evaluation",
    x: Literal["step", "minutes"] = "step",
    trust: bool = False,
) -> Picture:
    """Draw learning curves with bands over seeds, a learned reward, or an off-policy evaluation.

    Lines are means over seeds, bands one standard error. Runs whose recipes differ in their seeds only make one curve.

    Args:
        what: runs or their directories, or what `ope` returned.
        out: the file: .png, .pdf or .svg. None takes plots/METRIC.png in the first run. Of an evaluation, PATH for
            PATH.png and PATH.html.
        metric: "evaluation" for mean returns, a metric of the runs, such as "loss", or "reward" for the one that a run
            of irl learned, on its grid.
        x: the horizontal axis.
        trust: with "reward", import the module of the environment that the run names, though you didn't train it here:
            only of authors whom you'd let run code.

    Raises:
        RequestError: a run has no such metric, or the file is to be of another format.
        StoreError: the picture can't be written.

    Example:
        >>> offrl.plot(["runs/clone", "runs/pretrained"], out="curves.png")
    """
    from offrl.config.validation import require_kind

    require_kind(str, metric=metric)
    require_kind(Literal["step", "minutes"], x=x)
    if not isinstance(what, str | os.PathLike | Run | Sequence):
        return _report_on(what, out)
    runs = [open_run(run) for run in ([what] if isinstance(what, str | os.PathLike | Run) else what)]
    if not runs:
        raise RequestError("no run is named", hint="name one or several")
    destination = runs[0].picture_path(metric) if out is None else Path(out)
    if metric != "reward":
        from offrl.reports.learning_curves import plot_runs

        return Picture(destination, tuple(plot_runs(runs, destination, metric=metric, x=x)))
    from offrl.reports.reward_map import require_grid

    if len(runs) > 1:
        raise RequestError("rewards are drawn one run at a time", hint="name a single run")
    with allowing(remembered(runs[0].path), everything=trust):
        return Picture(require_grid(runs[0], destination))


def export(
    run: RunOrPath,
    format: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
    log_prob: bool = False,
    overwrite: bool = False,
) -> Export:
    """Write a trained policy to one file that acts without offrl; it is tried against the run's own policy first.

    Args:
        run: the run or its directory.
        format: "onnx" or "torchscript".
        out: the file; None for policy.onnx or policy.pt in the run.
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
        seed: whose policy, where the run trained several seeds.
        log_prob: give all discrete actions' log-probabilities too.
        overwrite: replace the file, once the new one is whole.

    Raises:
        RequestError: the path is taken, the seed isn't the run's, or packages are missing.
        ExportError: the policy can't be written in that format, or the file would act differently.

    Example:
        >>> offrl.export("runs/clone", "onnx").path
    """
    from offrl.config.fields import CheckpointKind, CountOrZero
    from offrl.config.validation import require_kind
    from offrl.deploy.export import export_policy
    from offrl.deploy.file_formats import FORMATS

    require_kind(str, format=format)
    require_kind(CheckpointKind | None, checkpoint=checkpoint)
    require_kind(CountOrZero | None, seed=seed)
    opened = open_run(run)
    name = "policy" if seed is None else f"policy-seed-{seed}"
    suffix = FORMATS[format].suffix if format in FORMATS else ""
    destination = opened.path / f"{name}{suffix}" if out is None else Path(out)
    return export_policy(
        opened, destination, format, checkpoint=checkpoint, seed=seed, log_prob=log_prob, overwrite=overwrite
    )


def _row(run: Run) -> dict[str, Any]:
    recipe, scores = run.recipe, run.final_scores()
    found = {} if scores is None else dict(scores)
    mean_low, mean_high = found.get("mean_return_interval") or (None, None)
    iqm_low, iqm_high = found.get("iqm_interval") or (None, None)
    return {
        "run": str(run.path),
        "algo": recipe.algo,
        "dataset": recipe.dataset,
        "env": recipe.env,
        "seeds": len(recipe.seeds),
        "steps": recipe.steps,
        "mean_return": found.get("mean_return"),
        "standard_error": found.get("standard_error"),
        "mean_low": mean_low,
        "mean_high": mean_high,
        "iqm": found.get("iqm"),
        "iqm_low": iqm_low,
        "iqm_high": iqm_high,
        "normalized_score": found.get("normalized_score"),
    }


def _report_on(evaluation: Evaluation, out: str | os.PathLike[str] | None) -> Picture:
    from offrl.reports.ope_page import write_report

    if out is None:
        raise RequestError(
            "an evaluation belongs to no run, so its picture has no place of its own", hint="name one: out"
        )
    picture, page = write_report(evaluation, Path(out))
    return Picture(picture, page=page)
