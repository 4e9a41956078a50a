"""The `offrl` command. Nothing heavy is imported here: `offrl --help` must answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import offrl
from offrl_cli import datasets, recipes
from offrl_cli.convert import ConvertCommand, convert
from offrl_cli.errors import INTERRUPTED, show_tracebacks
from offrl_cli.export import export
from offrl_cli.finetune import finetune
from offrl_cli.ope import ope
from offrl_cli.output import say
from offrl_cli.relabel import relabel
from offrl_cli.runs import collect, evaluate, plot
from offrl_cli.select import select
from offrl_cli.train import TrainCommand, train

HELP = """Offline and imitation learning: from logs or demonstrations to a running policy.

Example: offrl train bc --dataset hopper-expert

Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=TrainCommand)(train)
app.command()(finetune)
app.command()(evaluate)
app.command()(collect)
app.command()(ope)
app.command()(select)
app.command()(export)
app.command(cls=ConvertCommand)(convert)
app.command()(plot)
app.command()(relabel)
app.add_typer(datasets.app, name="datasets")
app.add_typer(recipes.app, name="recipes")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"offrl {offrl.__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""
    show_tracebacks(debug)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script's entry point; without arguments it takes those of the process."""
    # OpenMP's threads spin for milliseconds by default while they wait for each other, which makes a training ten times
    # slower as soon as another process wants a core. So few turns cost nothing alone. Read when PyTorch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        app(args=arguments, prog_name="offrl")
    except KeyboardInterrupt:
        # Within a command, it is told there.
        say("Interrupted", error=True)
        sys.exit(INTERRUPTED)
