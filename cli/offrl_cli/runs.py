"""Commands that read a run: `offrl evaluate`, `offrl collect` and `offrl plot`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import offrl
from offrl_cli.errors import command
from offrl_cli.output import AsJson, Overwrite, number, print_json, print_pairs, print_table, working
from offrl_cli.scores import print_scores


class Horizontal(StrEnum):
    """The horizontal axis of learning curves."""

    step = "step"
    minutes = "minutes"


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that offrl train left.")]
Environment = Annotated[
    str | None, typer.Option(metavar="ID", help="Gymnasium id in place of the run's own environment.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="last|best|step-N",
        help="Which checkpoint; step-N names one that checkpoints_kept has kept. Default: the one that train reported, "
        "best with early stopping, else last.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Import the module of an environment that a run or a dataset names: only of authors whom you'd let run "
        "code here.",
    ),
]
MaxEpisodeSteps = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Cut episodes after N steps. Default: the environment's own limit."),
]
ActBy = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="agent.KEY=VALUE", help="Act by another option than trained with: dt's agent.target_return."
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="K", help="Picks the episodes' initial states.")]


@command
def evaluate(
    run: RunPath,
    episodes: Annotated[int, typer.Option(min=1, metavar="N", help="Episodes per seed.")] = 100,
    checkpoint: Checkpoint = None,
    video: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Film one episode per seed as MP4 (pip install 'offrl[video]').")
    ] = None,
    seed: Seed = 0,
    env: Environment = None,
    max_episode_steps: MaxEpisodeSteps = None,
    settings: ActBy = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Run a trained policy's greedy actions and report its returns.

    Episodes start where neither training nor its evaluations on the way did,
    elsewhere for each training seed, and, unless --seed says otherwise, where
    the evaluation that ends training does.

    Example: offrl evaluate runs/bc-hopper-expert-20250101-120000 --seed 1
    """
    with working("Evaluating"):
        scores = offrl.evaluate(
            run,
            episodes,
            checkpoint=checkpoint,
            seed=seed,
            env=env,
            max_episode_steps=max_episode_steps,
            video=video,
            settings=settings or (),
        )
    if as_json:
        print_json({"run": run, **scores})
        return
    print_scores(scores)
    print_pairs({"checkpoint": scores["checkpoint"], "videos": "\n".join(scores.get("videos", [])) or None})


@command
def collect(
    episodes: Annotated[int, typer.Option(min=1, metavar="N", help="Episodes in all, shared among the run's seeds.")],
    out: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="The dataset: a bare name goes to your local datasets.")
    ],
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run directory that offrl train left.", show_default=False)
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Without a run: random actions in --env, and their density.")
    ] = False,
    optimal: Annotated[
        bool, typer.Option("--optimal", help="Without a run: the best policy of a toy-text --env, found exactly.")
    ] = False,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="X", help="With --optimal: draw actions, of higher entropy the larger X is."),
    ] = None,
    checkpoint: Checkpoint = None,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Sample actions in place of the greedy ones, and log their density.")
    ] = False,
    reference_scores: Annotated[
        bool,
        typer.Option("--reference-scores", help="Measure a random policy too, and store both returns as references."),
    ] = False,
    seed: Seed = 0,
    env: Environment = None,
    max_episode_steps: MaxEpisodeSteps = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Record a trained policy's episodes, random or optimal ones, as a dataset.

    Example: offrl collect runs/td3-Hopper-v5-20250101-120000 --episodes 100 --out my-hopper
    """
    with working("Collecting"):
        report = offrl.collect(
            run,
            episodes=episodes,
            out=out,
            random=random,
            optimal=optimal,
            temperature=temperature,
            checkpoint=checkpoint,
            stochastic=stochastic,
            reference_scores=reference_scores,
            seed=seed,
            env=env,
            max_episode_steps=max_episode_steps,
            overwrite=overwrite,
            trust=trust,
        )
    if as_json:
        print_json(report)
        return
    scores = [f"{key.replace('_', ' ')} {number(value)}" for key, value in report.pop("reference_scores").items()]
    pairs = {key.replace("_", " "): number(value) for key, value in report.items()}
    print_pairs(pairs | {"reference scores": ", ".join(scores) or None})


@command
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories that offrl train left.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The picture: .png, .pdf or .svg. Default: plots/METRIC.png in the first run."
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(metavar="NAME", help="evaluation (mean return), a metric of the runs, such as loss, or reward."),
    ] = "evaluation",
    x: Annotated[Horizontal, typer.Option(help="The horizontal axis.")] = Horizontal.step,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Draw learning curves with bands over seeds, as PNG, PDF or SVG.

    Lines are means over seeds, bands one standard error.

    Runs whose recipes differ in their seeds only make one curve. Of a run of
    irl, --metric reward draws the learned reward on its grid.

    Example: offrl plot runs/bc-* --out curves.png
    """
    with working("Drawing"):
        drawn = offrl.plot(runs, out, metric=metric, x=x.value, trust=trust)
    if as_json:
        print_json({"picture": drawn.path, "curves": [vars(curve) for curve in drawn.curves]})
        return
    if drawn.curves:
        rows = [[curve.label, curve.seeds, len(curve.x), float(curve.mean[-1])] for curve in drawn.curves]
        print_table(["curve", "seeds", "points", "last"], rows)
    print_pairs({"picture": drawn.path})
