"""`offrl convert`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

import offrl
from offrl import plugins
from offrl.errors import RequestError
from offrl.printable import in_one_line
from offrl_cli.errors import WORK_FAILED, command
from offrl_cli.output import AsJson, Overwrite, in_words, note, print_json, print_pairs, print_table, say, working

if TYPE_CHECKING:
    from offrl.converters.report import ConversionReport


class Timeouts(StrEnum):
    """What becomes of a transition that a time limit cut."""

    keep = "keep"
    drop = "drop"
    terminal = "terminal"


class OutOfBounds(StrEnum):
    """What becomes of actions outside their bounds."""

    error = "error"
    clip = "clip"
    keep = "keep"


class ConvertCommand(TyperCommand):
    """Lists the formats, other packages' among them, in its help only: finding these takes a while."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the formats' names behind the options."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Formats"):
            formatter.write_text(", ".join(plugins.formats))


@command
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file or folder, or d4rl:ID or minari:ID, which may be fetched.")
    ],
    destination: Annotated[
        str | None, typer.Argument(metavar="DEST", help="The new dataset: a bare name goes to your local datasets.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="Where the source's format isn't recognized: one of those below.",
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Where a field is, such as observation=x,y or reward=r."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what was understood, and write nothing.")] = False,
    timeouts: Annotated[
        Timeouts, typer.Option(help="What becomes of a transition that is marked as cut by a time limit.")
    ] = Timeouts.keep,
    time_limit: Annotated[
        int | None, typer.Option(metavar="N", help="Episodes were cut after N steps, where the source doesn't say so.")
    ] = None,
    bandit: Annotated[
        bool, typer.Option("--bandit", help="Each row of a table is an episode of its own: a contextual bandit's log.")
    ] = False,
    episode_per_file: Annotated[
        bool, typer.Option("--episode-per-file", help="Each file of a folder of tables is an episode.")
    ] = False,
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="Gymnasium id: its spaces are taken, and it is recorded.")
    ] = None,
    action_bounds: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Bounds of every action, where none are known.")
    ] = None,
    out_of_bounds: Annotated[
        OutOfBounds, typer.Option(help="What becomes of actions outside their bounds.")
    ] = OutOfBounds.error,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickles: only of authors whom you'd let run code here.")
    ] = False,
    max_expansion: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="How many times larger than its files a source may unpack to, beyond 256 MiB."
        ),
    ] = 200,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert logged data to a dataset, checked on the way.

    FIELD is observation, action, reward, terminated, truncated, episode, step,
    next_observation, behavior_log_prob, behavior_prob, action_mask or
    info.KEY. Several columns (a,b,c) or a prefix (obs_*) make a vector.

    Example: offrl convert logs.csv my-logs --map observation=x,y --dry-run
    """
    with working("Reading" if dry_run else "Converting"):
        report = offrl.convert(
            source,
            destination,
            format=format,
            mapping=mapping or (),
            dry_run=dry_run,
            timeouts=timeouts.value,
            time_limit=time_limit,
            env=env,
            action_bounds=None if action_bounds is None else _bounds(action_bounds),
            out_of_bounds=out_of_bounds.value,
            allow_pickle=allow_pickle,
            max_expansion=max_expansion,
            overwrite=overwrite,
            bandit=bandit,
            episode_per_file=episode_per_file,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if report.problems:
        raise typer.Exit(WORK_FAILED)


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise RequestError(f"'{text}' is not a pair of bounds", hint="write --action-bounds LOW,HIGH: -1,1") from None
    return low, high


def _print(report: ConversionReport) -> None:
    shortest, median, longest = report.lengths
    ends = f"{report.terminated:,} terminated, {report.truncated:,} truncated"
    if report.cut:
        ends += f" ({report.cut:,} of these only because the source ends)"
    print_pairs(
        {
            "source": report.source,
            "format": report.format,
            "rows": f"{report.rows:,}",
            "episodes": f"{report.episodes:,}",
            "transitions": f"{report.steps:,}",
            "lengths": f"{shortest:,} to {longest:,}, median {median:,g}",
            "endings": ends,
            "observation space": report.spec.observation_space,
            "action space": report.spec.action_space,
            "environment": report.environment or "not named",
        }
    )
    say()
    print_table(
        ["column", "type", "shape"],
        [[name, dtype, " × ".join(map(str, shape)) or "scalar"] for name, (dtype, shape) in report.columns.items()],
    )
    say()
    for item in report.dropped:
        counts = [f"{item.steps:,} transitions"] * bool(item.steps) + [f"{item.episodes:,} episodes"] * bool(
            item.episodes
        )
        say(f"dropped: {in_one_line(item.reason)}" + (f" ({', '.join(counts)})" if counts else ""))
    for text in report.notes:
        say(f"note: {in_one_line(text)}")
    for text in report.warnings:
        say(f"warning: {in_one_line(text)}")
    for problem in report.problems:
        say(f"problem: {in_words(problem.what, problem.where, problem.hint)}")
    if report.written is None:
        note("Nothing was written: this was a dry run.")
    else:
        print_pairs({"written": report.written})
