"""Measure offrl side by side with other libraries, and print the table.

    python -m tests.benchmarks.run [--rows ROW …] [--repeats 5] [--threads 2] [--json]

Each figure comes from a process of its own. The subjects of a row take turns (A B A B …), so that what else the machine
does meets all of them; figures are medians, and ratios are taken turn by turn. Libraries whose environment
(`tests.benchmarks.make_peers`) isn't there are left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.make_peers import default_root, interpreter
from tests.benchmarks.rows import ROWS, Comparison, Row, Subject

WORKERS = Path(__file__).resolve().parent / "workers"
THREADS = 2


@dataclass
class Result:
    """What was measured for one row.

    Attributes:
        figures: one figure per turn for each subject that was there.
        versions: of the packages behind each subject.
        skipped: why a subject was left out.
    """

    row: Row
    figures: dict[Subject, list[float]] = field(default_factory=dict)
    versions: dict[Subject, dict[str, str]] = field(default_factory=dict)
    skipped: dict[Subject, str] = field(default_factory=dict)

    def median(self, subject: Subject) -> float:
        return statistics.median(self.figures[subject])

    def ratios(self, comparison: Comparison) -> list[float]:
        """How many times as fast ours was, turn by turn."""
        pairs = zip(self.figures[comparison.ours], self.figures[comparison.other], strict=True)
        return [other / ours if self.row.less_is_better else ours / other for ours, other in pairs]


def why_absent(subject: Subject, root: Path) -> str | None:
    """The reason to leave a subject out, or None where its environment is there."""
    if subject.peer is None or interpreter(subject.peer, root).exists():
        return None
    return (
        f"{subject.peer} has no environment at {root / subject.peer}; "
        f"`python -m tests.benchmarks.make_peers {subject.peer}` makes it"
    )


def run_worker(subject: Subject, root: Path, seconds: float, threads: int = THREADS) -> dict[str, Any]:
    """One figure, from a fresh process."""
    python = interpreter(subject.peer, root) if subject.peer else sys.executable
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    process = subprocess.run(
        [python, WORKERS / subject.worker, subject.row, "--seconds", str(seconds)],
        env=os.environ | limits,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise RuntimeError(f"{subject.worker} {subject.row} failed:\n{process.stderr}")
    line: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return line


def measure(row: Row, *, repeats: int, seconds: float, root: Path, threads: int = THREADS) -> Result:
    """Let the row's subjects take turns, `repeats` times."""
    result = Result(row)
    for subject in row.subjects:
        if reason := why_absent(subject, root):
            result.skipped[subject] = reason
        else:
            result.figures[subject] = []
    for turn in range(repeats):
        for subject, figures in result.figures.items():
            line = run_worker(subject, root, seconds, threads)
            figures.append(line["value"])
            result.versions[subject] = line["versions"]
            print(f"{row.name} {turn + 1}/{repeats} {subject.label}: {line['value']:.4g} {row.unit}", file=sys.stderr)
    return result


def machine(threads: int) -> str:
    """The processor, its cores, how busy they are, and the versions that every figure depends on."""
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, threads: {threads}, Python {platform.python_version()}, "
        f"PyTorch {version('torch')}, load average {os.getloadavg()[0]:.1f} before"
    )


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def number(value: float) -> str:
    """Three figures at most, and a thousands separator: 1,240,000; 84.3; 0.211."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def markdown(results: Iterable[Result]) -> str:
    """The table for the README."""
    lines = [
        "| what | ours | reaches | beside it | reaches | ours is faster by (lowest–highest) | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for position, comparison in enumerate(result.row.comparisons):
            lines.append(f"| {' | '.join(_cells(result, comparison, first=position == 0))} |")
    return "\n".join(lines)


def _cells(result: Result, comparison: Comparison, first: bool) -> list[str]:
    """One line; what holds for the whole row stands in its first line only."""
    row, ours, other = result.row, comparison.ours, comparison.other
    what = f"{row.title}, {row.unit}" if first else ""
    cells = [what, ours.label, number(result.median(ours)), _with_version(result, other)]
    if other in result.skipped:
        cells += ["not there", ""]
    else:
        ratios = result.ratios(comparison)
        spread = f"{number(statistics.median(ratios))} × ({number(min(ratios))}–{number(max(ratios))})"
        cells += [number(result.median(other)), spread]
    if comparison.target is not None:
        return [*cells, f"≥ {comparison.target:g} ×"]
    if first and row.limit is not None:
        return [*cells, f"{'<' if row.less_is_better else '≥'} {number(row.limit)} {row.unit}"]
    return [*cells, ""]


def _with_version(result: Result, subject: Subject) -> str:
    """`d3rlpy 2.8.1, memory-mapped`: the worker names the version of its own package first."""
    package, comma, detail = subject.label.partition(", ")
    if subject.peer is None or subject not in result.versions:
        return subject.label
    return f"{package} {next(iter(result.versions[subject].values()))}{comma}{detail}"


def as_json(results: Iterable[Result], where: str) -> str:
    """Every figure of every turn."""
    rows = {
        result.row.name: {
            "unit": result.row.unit,
            "figures": {subject.label: figures for subject, figures in result.figures.items()},
            "versions": {subject.label: versions for subject, versions in result.versions.items()},
            "skipped": {subject.label: reason for subject, reason in result.skipped.items()},
        }
        for result in results
    }
    return json.dumps({"machine": where, "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure offrl side by side with other libraries.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=5, help="turns for each subject (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to count in each process (%(default)s)")
    parser.add_argument("--threads", type=int, default=THREADS, help="of each process (%(default)s)")
    parser.add_argument("--root", type=Path, default=default_root(), help="the peers' environments (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print every figure as one JSON object")
    arguments = parser.parse_args()
    where = machine(arguments.threads)
    settings = {name: getattr(arguments, name) for name in ("repeats", "seconds", "root", "threads")}
    results = [measure(ROWS[name], **settings) for name in arguments.rows]
    for reason in dict.fromkeys(reason for result in results for reason in result.skipped.values()):
        print(f"left out: {reason}", file=sys.stderr)
    print(as_json(results, where) if arguments.json else f"{where}\n\n{markdown(results)}")


if __name__ == "__main__":
    main()
