"""`offrl recipes`: list, show and run."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

import offrl
from offrl.errors import TableGivenError, TrainingInterrupted
from offrl_cli.errors import INTERRUPTED, command, fail
from offrl_cli.output import AsJson, note, print_json, print_table, say
from offrl_cli.runs import Trust
from offrl_cli.train_common import report_training
from offrl_cli.train_options import Out, Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Recipes: complete training runs as TOML files.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that offrl recipes list prints, or a TOML file.")]


@app.command("list")
@command
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that come with offrl.

    Example: offrl recipes list
    """
    recipes = offrl.list_recipes()
    if as_json:
        print_json({"recipes": [_summary(recipe) for recipe in recipes]})
        return
    print_table(
        ["recipe", "dataset", "environment", "purpose"],
        [[r.name, r.values.get("dataset"), r.values.get("env"), r.purpose] for r in recipes],
    )


@app.command()
@command
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A bundled recipe, a TOML file, or an algorithm for its defaults.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print a recipe with every key and its value, defaults filled in.

    Example: offrl recipes show bc/hopper > mine.toml
    """
    recipe = offrl.recipe(name)
    if as_json:
        print_json({"name": name, "recipe": recipe.to_dict()})
    else:
        say(str(recipe).rstrip("\n"))


@app.command()
@command
def run(name: Name, settings: Settings = None, out: Out = None, trust: Trust = False, as_json: AsJson = False) -> None:
    """Train by a recipe, or by all recipes of a table.

    Of a table, --out is the folder of all runs; what is in it already is not
    trained again, so that the same command goes on after Ctrl-C.

    Example: offrl recipes run bc/hopper --set seeds=[0,1,2]
    """
    try:
        report_training(lambda: offrl.train(recipe=name, settings=settings or (), out=out, trust=trust), as_json)
    except TableGivenError:
        _run_table(name, settings, out, trust, as_json)


def _run_table(name: str, settings: list[str] | None, out: Path | None, trust: bool, as_json: bool) -> None:
    try:
        with redirect_stdout(sys.stderr):
            scores = offrl.run_table(name, settings=settings or (), out=out, trust=trust)
    except TrainingInterrupted:
        fail("Interrupted; the same command goes on where it was", INTERRUPTED)
    if as_json:
        print_json(scores.to_dict())
        return
    print_table(scores.columns, scores.lines())
    if scores.published_by:
        note(f"Published: {scores.published_by}")
    for dataset, reason in scores.left_out.items():
        note(f"Left out: {dataset} ({reason})")


def _summary(recipe: Any) -> dict[str, Any]:
    keys = ("algo", "dataset", "env", "steps")
    return {
        "name": recipe.name,
        **{key: recipe.values.get(key) for key in keys},
        "purpose": recipe.purpose,
        "path": recipe.path,
    }
