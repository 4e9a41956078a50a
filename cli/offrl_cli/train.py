"""`offrl train`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand

import offrl
from offrl.errors import RequestError
from offrl_cli import train_options as options
from offrl_cli.errors import command
from offrl_cli.output import AsJson
from offrl_cli.runs import Trust
from offrl_cli.train_common import report_training


class TrainCommand(TyperCommand):
    """Reads a bare --cross-validate as --cross-validate l2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write out the penalty, then parse as ever."""
        written: list[str] = []
        for arg, following in zip_longest(args, args[1:], fillvalue=""):
            said = following in ("l1", "l2") or ("=" in following and not following.startswith("-"))
            written += [arg, "l2"] if arg == "--cross-validate" and not said else [arg]
        return super().parse_args(ctx, written)


@command
def train(
    algo: options.Algo = None,
    dataset: options.Dataset = None,
    env: options.Env = None,
    steps: options.Steps = None,
    seeds: options.Seeds = None,
    seed: options.Seed = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    top_fraction: options.TopFraction = None,
    method: options.Method = None,
    features: options.Features = None,
    demos: options.Demos = None,
    start: options.From = None,
    expert: options.Expert = None,
    cross_validate: options.CrossValidate = None,
    eval_every: options.EvalEvery = None,
    eval_episodes: options.EvalEpisodes = None,
    writers: options.Writers = None,
    recipe: options.RecipeName = None,
    settings: options.Settings = None,
    out: options.Out = None,
    resume: options.Resume = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy, evaluate it, and leave a run directory.

    The options change the bundled recipe of ALGO whose dataset is --dataset or,
    without one, whose environment is --env. Where none matches, they change
    ALGO's defaults. Ctrl-C saves first.

    With --dataset, what learns from a replay learns online too if a share of
    each batch is to be the dataset's: --set online.offline_fraction=0.5.

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
        **options.evaluation_flags(eval_every, eval_episodes),
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
