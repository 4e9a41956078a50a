"""What `offrl datasets info` says of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from offrl_cli.output import number, print_pairs, print_table, say

if TYPE_CHECKING:
    from offrl.data.store import TrajectoryStore

BAR_WIDTH = 40
MOST_COMPONENTS = 40
"""Wider columns are summed up in one line."""


def print_info(store: TrajectoryStore, about: Mapping[str, Any]) -> None:
    """What `offrl.describe` returned, for people."""
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
    say()
    print_table(["", "mean", "deviation", "least", "greatest"], list(_rows(about["statistics"])))
    say()
    say("episodes by return")
    for line in histogram_lines(about["return_histogram"]["counts"], about["return_histogram"]["edges"]):
        say(line)
    for title in ("reference_scores", "provenance"):
        if about[title]:
            say()
            say(title.replace("_", " "))
            print_pairs({f"  {name}": _in_words(value) for name, value in about[title].items()})


def histogram_lines(counts: Sequence[int], edges: Sequence[float]) -> Iterator[str]:
    """One text bar for each range."""
    ends = [number(edge) for edge in edges]
    width, most = max(map(len, ends)), max(counts)
    for count, low, high in zip(counts, ends[:-1], ends[1:], strict=True):
        bar = "█" * round(BAR_WIDTH * count / most) if most else ""
        # A range with few episodes still shows that it has some.
        yield f"  {low:>{width}} to {high:>{width}}  {bar or ('▏' if count else '')} {count:,}"


def _rows(statistics: Mapping[str, Mapping[str, Any]]) -> Iterator[list[Any]]:
    for name, figures in statistics.items():
        mean, deviation, least, greatest = (_flat(figures[key]) for key in ("mean", "std", "min", "max"))
        if len(mean) > MOST_COMPONENTS:
            shape = " × ".join(map(str, _shape(figures["mean"])))
            yield [f"{name} [{shape}]", sum(mean) / len(mean), None, min(least), max(greatest)]
            continue
        for index, values in enumerate(zip(mean, deviation, least, greatest, strict=True)):
            yield [f"{name}[{index}]" if isinstance(figures["mean"], list) else name, *values]


def _flat(value: Any) -> list[float]:
    return [number for item in value for number in _flat(item)] if isinstance(value, list) else [value]


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *_shape(value[0])) if isinstance(value, list) else ()


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return number(value)
