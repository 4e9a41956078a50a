"""`offrl datasets`: list, info, validate, export, pull and make."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer

import offrl
from offrl.errors import TrainingInterrupted
from offrl_cli.dataset_info import print_info
from offrl_cli.errors import INTERRUPTED, WORK_FAILED, command, fail
from offrl_cli.output import AsJson, Overwrite, note, number, print_json, print_pairs, print_table, say, working
from offrl_cli.runs import Trust

if TYPE_CHECKING:
    from offrl.converters.listing import DatasetEntry
    from offrl.data.store import TrajectoryStore
    from offrl.data.validate import Finding

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Datasets: those that come with offrl, and yours.")

CARD_FILE = "card.toml"

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A name that offrl datasets list prints, a path, minari:ID or d4rl:ID.")
]


class ExportFormat(StrEnum):
    """What a dataset can be exported as."""

    minari = "minari"
    parquet = "parquet"


@app.command("list")
@command
def list_all(as_json: AsJson = False) -> None:
    """List the datasets that have a name: bundled ones, your local ones, and those that offrl datasets make makes.

    Example: offrl datasets list
    """
    entries = offrl.list_datasets()
    here = [entry for entry in entries if entry.kind != "recipe"]
    if as_json:
        recipes = [entry for entry in entries if entry.kind == "recipe"]
        to_make = [{"name": e.name, "path": e.path, "purpose": e.card["description"]} for e in recipes]
        print_json({"datasets": [vars(entry) for entry in here], "recipes": to_make})
        return
    print_table(
        ["dataset", "kind", "environment", "episodes", "transitions", "description"],
        [[e.name, e.kind, e.environment, e.episodes, e.steps, _about(e)] for e in entries],
    )


@app.command()
@command
def info(name: Name, as_json: AsJson = False) -> None:
    """Show a dataset's size, spaces, statistics, returns and origin.

    Example: offrl datasets info hopper-expert
    """
    store = _open(name)
    entry = _entry(name)
    if as_json:
        print_json({**offrl.describe(store), "card": entry.card if entry else {}})
        return
    print_info(store, offrl.describe(store))
    if entry and entry.error:
        note(f"\n{entry.error}")
    if entry and entry.card:
        say(f"\ncard\n{indent((entry.path / CARD_FILE).read_text(encoding='utf-8'), '  ')}")


@app.command()
@command
def validate(name: Name, as_json: AsJson = False) -> None:
    """Check a dataset: checksums, alignment, flags, NaN and infinity, bounds.

    Exits with 1 where something is wrong, and says where.

    Example: offrl datasets validate hopper-expert
    """
    store = _open(name)
    with working("Validating"):
        findings = offrl.validate(store)
    valid = all(finding.severity != "error" for finding in findings)
    if as_json:
        listed = [{**vars(finding), "where": finding.where} for finding in findings]
        print_json({"name": name, "path": store.path, "valid": valid, "findings": listed})
    else:
        _print_findings(store, findings)
    if not valid:
        raise typer.Exit(WORK_FAILED)


@app.command()
@command
def export(
    name: Name,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A new folder for Parquet; an id such as hopper/expert-v0 for Minari.")
    ],
    format: Annotated[ExportFormat, typer.Option(help="What to write.")] = ExportFormat.parquet,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a dataset for others to read: as Parquet files or a local Minari dataset.

    Example: offrl datasets export hopper-expert hopper/expert-v0 --format minari
    """
    store = _open(name)
    with working("Exporting"):
        path = offrl.export_dataset(store, destination, format.value, overwrite=overwrite)
    result = {"name": name, "format": format.value, "path": path, "episodes": store.num_episodes}
    if as_json:
        print_json(result)
    else:
        print_pairs(result)


@app.command()
@command
def pull(name: Name, as_json: AsJson = False) -> None:
    """Fetch a dataset and convert it now, so that later commands find it at once.

    Example: offrl datasets pull minari:mujoco/hopper/expert-v0
    """
    store = _open(name)
    result = {"name": name, "path": store.path, "episodes": store.num_episodes, "transitions": store.num_steps}
    if as_json:
        print_json(result)
    else:
        print_pairs(result)


@app.command()
@command
def make(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="A dataset that has a recipe, or a TOML file of your own.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for Parquet files and card.toml. Default: a local dataset."),
    ] = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Make a dataset by its recipe, training what it needs first.

    Trainings are kept, shared by the datasets that need them, and go on after
    an interruption: give the same command again.

    Example: offrl datasets make hopper-medium --out ./hopper-medium
    """
    try:
        with redirect_stdout(sys.stderr):
            report = offrl.make_dataset(name, out=out, overwrite=overwrite, trust=trust)
    except TrainingInterrupted as stopped:
        if stopped.step is None:
            fail("Interrupted", INTERRUPTED)
        fail(f"Saved at step {stopped.step:,}; the same command goes on from there", INTERRUPTED)
    if as_json:
        print_json(report)
    else:
        print_pairs({key: number(value) for key, value in report.items() if key != "reference_scores"})


def _about(entry: DatasetEntry) -> str:
    return f"damaged: {entry.error}" if entry.error else str(entry.card.get("description", ""))


def _open(name: str) -> TrajectoryStore:
    with working(f"Opening {name}"):
        return offrl.open_dataset(name)


def _entry(name: str) -> DatasetEntry | None:
    """The dataset of that name; a local one goes before a bundled one, as when it is opened."""
    named = [entry for entry in offrl.list_datasets() if entry.name == name and entry.kind != "recipe"]
    return named[-1] if named else None


def _print_findings(store: TrajectoryStore, findings: list[Finding]) -> None:
    if findings:
        rows = [[finding.severity, finding.message, finding.where, finding.count] for finding in findings]
        print_table(["", "what", "first at", "count"], rows)
    else:
        say(f"Nothing is wrong with the {store.num_episodes:,} episodes.")
    note(f"Checked: {store.path}")
