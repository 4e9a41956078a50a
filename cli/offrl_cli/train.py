"""`offrl train`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import offrl
from offrl.errors import RequestError
from offrl_cli.errors import command
from offrl_cli.names import ALGORITHMS, LOGGERS
from offrl_cli.output import AsJson
from offrl_cli.runs import Trust
from offrl_cli.train_common import report_training

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe, such as agent.discount=0.98."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The run directory. Default: runs/ALGO-TASK-TIME.")]


EvalEvery = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Steps between evaluations; 0: at the end only.")
]
EvalEpisodes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Episodes per seed in each evaluation.")]


class TrainCommand(TyperCommand):
    """Reads a bare --cross-validate as --cross-validate l2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write out the penalty, then parse as ever."""
        written: list[str] = []
        for arg, following in zip_longest(args, args[1:], fillvalue=""):
            said = following in ("l1", "l2") or ("=" in following and not following.startswith("-"))
            written += [arg, "l2"] if arg == "--cross-validate" and not said else [arg]
        return super().parse_args(ctx, written)


def evaluation_flags(every: int | None, episodes: int | None) -> dict[str, Any]:
    """The recipe's keys that the two options set."""
    return {
        "evaluation.every": every,
        "evaluation.episodes": episodes,
        "evaluation.final_episodes": episodes,
    }


@command
def train(
    algo: Annotated[
        str | None,
        typer.Argument(metavar="ALGO", help=f"The algorithm: {ALGORITHMS}."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="What to learn from; offrl datasets list names some.")
    ] = None,
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="Gymnasium id to evaluate in, or without a dataset to learn in.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Environment steps where it learns by acting, else gradient steps."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, metavar="S", help="Train S seeds side by side.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="K", help="The first, or only, seed. Default: 0.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="B", help="Transitions per seed and gradient step.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")] = None,
    top_fraction: Annotated[
        float | None, typer.Option(metavar="X", help="Learn from this share of the episodes, those of highest return.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="irl: maxcausalent, maxent or apprenticeship.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(metavar="NAME", help="irl: a reward for the state entered, or for a state_action.")
    ] = None,
    demos: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Learn from this many episodes, the first ones.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Imitate with the policy that bc cloned in that run.")
    ] = None,
    expert: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run whose policy dagger asks what to do.")
    ] = None,
    cross_validate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2",
            help="Choose by loss on held-out episodes; several make a grid. l1, l2 or nothing: that penalty of bc.",
        ),
    ] = None,
    eval_every: EvalEvery = None,
    eval_episodes: EvalEpisodes = None,
    writers: Annotated[
        str | None,
        typer.Option(metavar="LIST", help=f"Loggers beside metrics.jsonl: {LOGGERS}; several with commas."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Start from this recipe in place of the one that matches.")
    ] = None,
    settings: Settings = None,
    out: Out = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Continue a run by its own recipe; only --steps may change it."),
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy, evaluate it, and leave a run directory.

    The options change the bundled recipe of ALGO whose dataset is --dataset or,
    without one, whose environment is --env. Where none matches, they change
    ALGO's defaults. Ctrl-C saves first.

    Example: offrl train bc --dataset hopper-expert --seeds 5
    """
    flags: dict[str, Any] = {
        "dataset": dataset,
        "env": env,
        "steps": steps,
        "batch_size": batch_size,
        "device": device,
        "data.top_fraction": top_fraction,
        "data.episodes": demos,
        "agent.method": method,
        "agent.features": features,
        **evaluation_flags(eval_every, eval_episodes),
        "writers": None if writers is None else [name.strip() for name in writers.split(",")],
    }
    if resume is not None:
        others = {"ALGO": algo, "--recipe": recipe, "--set": settings, "--out": out, "--from": start}
        named = {"seeds": seeds if seeds is not None else seed, "expert": expert, "cross_validate": cross_validate}
        _refuse_others({**others, **flags, **named, "steps": None})
        report_training(lambda: offrl.resume(resume, steps=steps, trust=trust), as_json)
        return
    if algo is None:
        raise RequestError("no algorithm is named", hint="write offrl train ALGO, such as offrl train bc")
    report_training(
        lambda: offrl.train(
            algo,
            seeds=seeds,
            seed=seed,
            recipe=recipe,
            start=start,
            expert=expert,
            cross_validate=cross_validate or (),
            settings=settings or (),
            out=out,
            trust=trust,
            **flags,
        ),
        as_json,
    )


def _refuse_others(options: Mapping[str, Any]) -> None:
    """A run goes on by its own recipe: raises RequestError where the command line says more."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise RequestError(
            f"a run continues by its own recipe, so --resume doesn't go with {', '.join(given)}",
            hint="leave these out, or start a new run",
        )
