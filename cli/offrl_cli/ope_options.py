"""The options of `offrl ope`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offrl_cli.names import ESTIMATORS


class IntervalMethod(StrEnum):
    """How intervals are made."""

    percentile = "bootstrap-percentile"
    bca = "bootstrap-bca"
    studentized = "bootstrap-studentized"
    t = "t"
    hoeffding = "hoeffding"
    bernstein = "bernstein"


Policies = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RUN", help="Run directories that offrl train left, or ONNX files.", show_default=False),
]
Log = Annotated[str, typer.Option(metavar="NAME|PATH", help="The log to value them from.", show_default=False)]
Estimators = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help=f"{ESTIMATORS}, or one that a package adds. Default: the usual ones that the log allows.",
    ),
]
Confidence = Annotated[float, typer.Option(metavar="C", help="Of the intervals.")]
IntervalKind = Annotated[IntervalMethod, typer.Option(help="How intervals are made.")]
Discount = Annotated[float, typer.Option(min=0.0, max=1.0, metavar="G", help="Per step.")]
Horizon = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Steps of an episode that count. Default: the environment's time limit, or all."
    ),
]
Clip = Annotated[float | None, typer.Option(metavar="W", help="Cut weights to W; the bias that it brings is told.")]
EstimateBehavior = Annotated[
    bool,
    typer.Option("--estimate-behavior", help="Estimate the logged actions' probabilities where the log has none."),
]
Stochastic = Annotated[
    bool, typer.Option("--stochastic", help="Value the policies that sample, in place of the greedy ones.")
]
Epsilon = Annotated[
    float, typer.Option(min=0.0, max=1.0, metavar="E", help="Share of random actions, among discrete ones.")
]
KernelBandwidth = Annotated[
    float,
    typer.Option(
        min=0.0,
        metavar="H",
        help="Noise on continuous greedy actions, which gives them a density; in units of half their range.",
    ),
]
TargetColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Value the policy whose probabilities are in a column of the log."),
]
SeedIndex = Annotated[
    int | None, typer.Option(min=0, metavar="K", help="Only the K-th seed's policy of each run, from 0.")
]
RankBy = Annotated[str | None, typer.Option(metavar="NAME", help="The estimator that several policies are ranked by.")]
Truth = Annotated[str | None, typer.Option(metavar="ENV", help="Let the policies act in this environment, to compare.")]
TruthEpisodes = Annotated[int, typer.Option(min=2, metavar="N", help="Episodes of each policy.")]
MaxEpisodeSteps = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="With --truth: cut episodes after so many steps.")
]
RewardBounds = Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Of a reward; for hoeffding and bernstein.")]
WeightBound = Annotated[
    float | None, typer.Option(metavar="W", help="Of an episode's weight; for hoeffding and bernstein.")
]
FqeSteps = Annotated[int, typer.Option(min=1, metavar="N", help="Gradient steps of fitted Q evaluation.")]
Resamples = Annotated[int, typer.Option(metavar="N", help="Of the bootstrap.")]
Seed = Annotated[int, typer.Option(min=0, metavar="K", help="Of the bootstrap and of what is fitted.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Write PATH.png and PATH.html: pictures, and a report.")
]
