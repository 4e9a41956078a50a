"""What `offrl datasets info` says of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from offrl_cli.output import number, plain, print_pairs, print_table

if TYPE_CHECKING:
    from offrl.data.statistics import ColumnStatistics
    from offrl.data.store import TrajectoryStore

BINS, BAR_WIDTH = 12, 40
MOST_COMPONENTS = 40
"""Wider columns are summed up in one line."""


def describe(store: TrajectoryStore) -> dict[str, Any]:
    """All that is known of a dataset without reading its steps, as plain values."""
    metadata = store.metadata.to_json()
    counts, edges = return_histogram(store)
    values: dict[str, Any] = plain(
        {
            "name": metadata["name"],
            "path": store.path,
            "environment": metadata["environment"],
            "episodes": store.num_episodes,
            "transitions": store.num_steps,
            "bytes": sum(shard.rows_bytes + shard.episodes_bytes for shard in store.metadata.shards),
            "shards": len(store.metadata.shards),
            "fingerprint": store.fingerprint,
            "observation_space": metadata["observation_space"],
            "action_space": metadata["action_space"],
            "columns": metadata["columns"],
            "statistics": {name: _figures(item) for name, item in store.statistics.items()},
            "return_histogram": {"counts": counts, "edges": edges},
            "reference_scores": metadata["reference_scores"],
            "provenance": metadata["provenance"],
        }
    )
    return values


def print_info(store: TrajectoryStore) -> None:
    """The same for people."""
    about = describe(store)
    print_pairs(
        {
            "name": about["name"],
            "path": about["path"],
            "environment": about["environment"] or "not named",
            "episodes": f"{about['episodes']:,}",
            "transitions": f"{about['transitions']:,}",
            "size": f"{about['bytes'] / 2**20:,.1f} MiB in {about['shards']} shard{'s'[: about['shards'] != 1]}",
            "observation space": store.spec.observation_space,
            "action space": store.spec.action_space,
            "fingerprint": about["fingerprint"],
        }
    )
    typer.echo()
    print_table(["", "mean", "deviation", "least", "greatest"], list(_rows(store.statistics)))
    typer.echo()
    typer.echo("episodes by return")
    for line in histogram_lines(*return_histogram(store)):
        typer.echo(line)
    for title in ("reference_scores", "provenance"):
        if about[title]:
            typer.echo()
            typer.echo(title.replace("_", " "))
            print_pairs({f"  {name}": _in_words(value) for name, value in about[title].items()})


def return_histogram(store: TrajectoryStore) -> tuple[list[int], list[float]]:
    """Episodes in each of `BINS` equal ranges of the return, and the ranges' BINS + 1 ends."""
    import numpy as np

    returns = store.episodes.return_
    counts, edges = np.histogram(returns[np.isfinite(returns)], bins=BINS)
    return counts.tolist(), edges.tolist()


def histogram_lines(counts: Sequence[int], edges: Sequence[float]) -> Iterator[str]:
    """One text bar for each range."""
    ends = [number(edge) for edge in edges]
    width, most = max(map(len, ends)), max(counts)
    for count, low, high in zip(counts, ends[:-1], ends[1:], strict=True):
        bar = "█" * round(BAR_WIDTH * count / most) if most else ""
        # A range with few episodes still shows that it has some.
        yield f"  {low:>{width}} to {high:>{width}}  {bar or ('▏' if count else '')} {count:,}"


def _rows(statistics: Mapping[str, ColumnStatistics]) -> Iterator[list[Any]]:
    for name, item in statistics.items():
        figures = _figures(item)
        shape = item.mean.shape
        if item.mean.size > MOST_COMPONENTS:
            low, high = float(item.min.min()), float(item.max.max())
            yield [f"{name} {_in_brackets(shape)}", float(item.mean.mean()), None, low, high]
            continue
        for index, values in enumerate(
            zip(*(_flat(figures[key]) for key in ("mean", "std", "min", "max")), strict=True)
        ):
            yield [f"{name}[{index}]" if shape else name, *values]


def _figures(item: ColumnStatistics) -> dict[str, Any]:
    return {"mean": item.mean.tolist(), "std": item.std.tolist(), "min": item.min.tolist(), "max": item.max.tolist()}


def _flat(value: Any) -> list[float]:
    return [number for item in value for number in _flat(item)] if isinstance(value, list) else [value]


def _in_brackets(shape: tuple[int, ...]) -> str:
    return f"[{' × '.join(map(str, shape))}]"


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return number(value)
