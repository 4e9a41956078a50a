"""`offrl train`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from offrl.errors import RequestError
from offrl_cli.errors import command
from offrl_cli.output import AsJson
from offrl_cli.train_common import choose_recipe, continue_run, start_run

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe, such as agent.discount=0.98."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The run directory. Default: runs/ALGO-TASK-TIME.")]


EvalEvery = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Steps between evaluations; 0: at the end only.")
]
EvalEpisodes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Episodes per seed in each evaluation.")]


class Penalty(StrEnum):
    """Whose coefficient cross-validation chooses."""

    l1 = "l1"
    l2 = "l2"


class TrainCommand(TyperCommand):
    """Reads a bare --cross-validate as --cross-validate l2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write out the penalty, then parse as ever."""
        written: list[str] = []
        for arg, following in zip_longest(args, args[1:]):
            bare = arg == "--cross-validate" and following not in list(Penalty)
            written += [arg, Penalty.l2] if bare else [arg]
        return super().parse_args(ctx, written)


def evaluation_flags(every: int | None, episodes: int | None) -> dict[str, int | None]:
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
        typer.Argument(metavar="ALGO", help="The algorithm: airl, bc, dagger, dqn, gail, irl, ppo, sac, sqil or td3."),
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
        Penalty | None,
        typer.Option(
            metavar="[l1|l2]", help="Choose that penalty's coefficient (l2 unless named) by cross-validation."
        ),
    ] = None,
    eval_every: EvalEvery = None,
    eval_episodes: EvalEpisodes = None,
    writers: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Loggers beside metrics.jsonl: csv, tensorboard or both (comma)."),
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
    as_json: AsJson = False,
) -> None:
    """Train a policy, evaluate it, and leave a run directory.

    The options change the bundled recipe of ALGO whose dataset is --dataset or,
    without one, whose environment is --env. Where none matches, they change
    ALGO's defaults. Ctrl-C saves first.

    Example: offrl train bc --dataset hopper-expert --seeds 5
    """
    flags = {
        "dataset": dataset,
        "env": env,
        "steps": steps,
        "seeds": _seeds(seeds, seed),
        "batch_size": batch_size,
        "device": device,
        "data.top_fraction": top_fraction,
        "data.episodes": demos,
        "expert": None if expert is None else str(expert.resolve()),
        "agent.method": method,
        "agent.features": features,
        "cross_validation.kind": cross_validate,
        **evaluation_flags(eval_every, eval_episodes),
        "writers": None if writers is None else [name.strip() for name in writers.split(",")],
    }
    if resume is not None:
        others = {"ALGO": algo, "--recipe": recipe, "--set": settings, "--out": out, "--from": start}
        _refuse_others({**others, **flags, "steps": None})
        continue_run(resume, steps, as_json)
    elif algo is None:
        raise RequestError("no algorithm is named", hint="write offrl train ALGO, such as offrl train bc")
    else:
        start_run(choose_recipe(algo, recipe, flags, settings or [], start), out, as_json)


def _seeds(count: int | None, first: int | None) -> list[int] | None:
    if count is None and first is None:
        return None
    start = first or 0
    return list(range(start, start + (count or 1)))


def _refuse_others(options: Mapping[str, Any]) -> None:
    """A run goes on by its own recipe: raises RequestError where the command line says more."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise RequestError(
            f"a run continues by its own recipe, so --resume doesn't go with {', '.join(given)}",
            hint="leave these out, or start a new run",
        )
