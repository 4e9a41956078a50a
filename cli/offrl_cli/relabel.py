"""`offrl relabel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import offrl
from offrl_cli.errors import command
from offrl_cli.output import AsJson, Overwrite, note, number, print_json, print_pairs, working
from offrl_cli.runs import Checkpoint, Trust


@command
def relabel(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="A name that offrl datasets list prints, or a path.")
    ],
    reward: Annotated[
        Path, typer.Option(metavar="RUN", help="The run whose learned reward to write: of irl, gail or airl.")
    ],
    out: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="The new dataset: a bare name goes to your local datasets.")
    ],
    checkpoint: Checkpoint = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Of which training seed. Default: the mean over all seeds.")
    ] = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Write a dataset again, with learned rewards in place of its own.

    All else is as it was, so that agents learn offline from data that has no
    rewards, or other ones.

    Example: offrl relabel cartpole-replay --reward runs/airl-cartpole-20250101-120000 --out cartpole-learned
    """
    with working("Relabeling"):
        report = offrl.relabel(
            dataset, reward=reward, out=out, checkpoint=checkpoint, seed=seed, overwrite=overwrite, trust=trust
        )
    if as_json:
        print_json(report)
        return
    for text in report.pop("warnings"):
        note(f"Warning: {text}")
    print_pairs({key.replace("_", " "): number(value) for key, value in report.items() if value is not None})
