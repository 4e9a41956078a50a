"""Learning curves: runs in, one picture out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from offrl.config.recipe import Recipe
from offrl.errors import RequestError
from offrl.feeds import feed_of
from offrl.reports.figures import MOST_DRAWN, drawable, save_picture
from offrl.runs.records import EVALUATIONS, METRICS, EvaluationLine, read_lines, read_metrics
from offrl.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVALUATION = "evaluation"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
"""Told apart by color-blind readers too."""
GREY = "#606060"
MARKED_POINTS = 25
"""Curves of up to so many points show each of them."""
LABEL_WIDTH = 85
"""Characters of a label that fit beside each other."""

BOOKKEEPING = (
    "seeds",
    "device",
    "log_every",
    "checkpoint_every",
    "checkpoints_kept",
    "writers",
    "evaluation",
    "cross_validation",
)
"""What runs of one curve may differ in."""

Axis = Literal["step", "minutes"]
Points = dict[int, float]
"""Step to value: one seed's curve."""


@dataclass(frozen=True)
class Curve:
    """One line of the picture: runs that differ in their seeds only, as far as the policies go.

    Attributes:
        label: what tells it from the others.
        seeds: how many seeds it averages.
        x: float64 [points]: steps or minutes.
        mean: float64 [points]: over the seeds that have a value there; infinite where one of theirs is.
        error: float64 [points]: standard error of that mean; 0 with one seed, NaN where the mean is infinite.
    """

    label: str
    seeds: int
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    error: NDArray[np.float64]


def plot_runs(runs: Sequence[Run], destination: Path, *, metric: str = EVALUATION, x: Axis = "step") -> list[Curve]:
    """Draw one curve for each group of runs, with a band of one standard error over its seeds.

    Runs whose recipes differ in their seeds only are one group (device, evaluation and logging don't count).

    Args:
        runs: at least one.
        destination: the file: .png, .pdf or .svg.
        metric: "evaluation" for mean returns, or a name in the runs' `metrics.jsonl`.
        x: "step", or "minutes" of wall-clock time since the run's start.

    Returns:
        what was drawn.

    Raises:
        RequestError: a run has no such metric, or the file is to be of another format.
        StoreError: the picture can't be written.
    """
    groups = _groups(runs)
    labels = _labels([group[0].recipe for group in groups])
    curves = [_curve(group, label, metric, x) for group, label in zip(groups, labels, strict=True)]
    figure = _draw(curves, _value_label(metric), _x_label(runs, x), _references(runs) if metric == EVALUATION else None)
    save_picture(figure, destination)
    return curves


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    groups: list[tuple[dict[str, Any], list[Run]]] = []
    for run in runs:
        settings = _settings(run.recipe)
        members = next((members for known, members in groups if known == settings), None)
        if members is None:
            groups.append((settings, [run]))
        else:
            members.append(run)
    return [members for _, members in groups]


def _labels(recipes: Sequence[Recipe]) -> list[str]:
    """Algorithm and task, and the settings in which recipes that share both differ."""
    settings, subjects = [_settings(recipe) for recipe in recipes], [_subject(recipe) for recipe in recipes]
    labels = []
    for subject, values in zip(subjects, settings, strict=True):
        rivals = [other for other, its_subject in zip(settings, subjects, strict=True) if its_subject == subject]
        keys = [key for key in values if any(other.get(key) != values[key] for other in rivals)]
        differing = ", ".join(f"{key} {values[key]}" for key in keys)
        labels.append(f"{subject} ({differing})" if differing else subject)
    return labels


def _subject(recipe: Recipe) -> str:
    return f"{recipe.algo}, {recipe.dataset or recipe.env}{', fine-tuned' if recipe.start else ''}"


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Dotted key to value, of everything that the policy depends on."""
    return _flatten({key: value for key, value in recipe.to_dict().items() if key not in BOOKKEEPING})


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _curve(group: Sequence[Run], label: str, metric: str, x: Axis) -> Curve:
    seeds = [points for run in group for points in _seed_curves(run, metric)]
    steps = np.array(sorted({step for points in seeds for step in points}), np.float64)
    values = np.array([[points.get(int(step), np.nan) for step in steps] for points in seeds])
    count = (~np.isnan(values)).sum(axis=0)
    # Returns may be infinite, or overflow here: then there is no spread.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        mean = np.nansum(values, axis=0) / count
        variance = np.where(np.isfinite(mean), np.nansum((values - mean) ** 2, axis=0), np.nan)
        variance /= np.maximum(count - 1, 1)
    places = steps if x == "step" else np.mean([_minutes(run, steps) for run in group], axis=0)
    return Curve(label, len(seeds), places, mean, np.sqrt(variance / count))


def _seed_curves(run: Run, metric: str) -> list[Points]:
    """One for each seed that has a value."""
    lines = _evaluations(run) if metric == EVALUATION else read_metrics(run.path / METRICS, run.recipe.seeds)
    key = "mean_return_per_seed" if metric == EVALUATION else metric
    curves: list[Points] = [{} for _ in run.recipe.seeds]
    for line in lines:
        for points, value in zip(curves, _listed(line.get(key)), strict=False):
            if value is not None:
                points[line["step"]] = float(value)
    if not any(curves):
        raise RequestError(
            "this run has no evaluation yet" if metric == EVALUATION else f"this run has no metric '{metric}'",
            where=str(run.path),
            hint=f"choose --metric from: {', '.join(_known_metrics(run)) or 'nothing so far; let it train longer'}",
        )
    return [points for points in curves if points]


def _evaluations(run: Run) -> list[dict[str, Any]]:
    """The curve's evaluations: the final one belongs to it unless it is of an earlier, better checkpoint."""
    lines = read_lines(run.path / EVALUATIONS, EvaluationLine)
    return [line for line in lines if not (line.get("final") and line.get("checkpoint") == "best")] or lines


def _minutes(run: Run, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The minutes that a run took to get to each of the steps, from the rates that it logged."""
    logged, minutes = [0.0], [0.0]
    for line in run.lines(METRICS):
        if line.get("steps_per_second"):
            minutes.append(minutes[-1] + (line["step"] - logged[-1]) / line["steps_per_second"] / 60.0)
            logged.append(line["step"])
    return np.interp(steps, logged, minutes)


def _known_metrics(run: Run) -> list[str]:
    names = {name for line in run.lines(METRICS) for name, value in line.items() if isinstance(value, list)}
    return ([EVALUATION] if run.lines(EVALUATIONS) else []) + sorted(names)


def _listed(value: Any) -> list[float | None]:
    return value if isinstance(value, list) else []


def _references(runs: Iterable[Run]) -> tuple[float, float] | None:
    """Mean returns of a random and an expert policy, if all runs name the same."""
    known: set[tuple[float | None, float | None]] = set()
    for run in runs:
        scores = (read_lines(run.path / EVALUATIONS, EvaluationLine) or [{}])[-1].get("reference_scores") or {}
        known.add((scores.get("random"), scores.get("expert")))
    random, expert = known.pop() if len(known) == 1 else (None, None)
    # Equal ones make no scale, nor do infinite ones.
    if random is None or expert is None or random == expert or max(abs(random), abs(expert)) > MOST_DRAWN:
        return None
    return random, expert


def _value_label(metric: str) -> str:
    return "mean return per episode" if metric == EVALUATION else metric.replace("_", " ")


def _x_label(runs: Iterable[Run], x: Axis) -> str:
    if x == "minutes":
        return "wall-clock time (minutes)"
    online = {feed_of(run.recipe).online for run in runs}
    return "steps" if len(online) > 1 else "environment steps" if online == {True} else "gradient steps"


def _draw(curves: Sequence[Curve], y: str, x: str, references: tuple[float, float] | None) -> Figure:
    from matplotlib.figure import Figure

    labels = [
        f"{curve.label}: {curve.seeds} seed{'s' if curve.seeds > 1 else ''}{_left_out(curve)}" for curve in curves
    ]
    labels = [textwrap.fill(label, LABEL_WIDTH, break_long_words=False) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(7.0, 4.2 + 0.18 * lines), layout="constrained")
    axes = figure.add_subplot()
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        _draw_curve(axes, curve, label, COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--")
    _style(axes, x, y)
    if references is not None:
        _draw_references(axes, *references)
    explanation = _explain(curves, references is not None)
    figure.legend(
        loc="outside lower center", frameon=False, fontsize="small", title=explanation, title_fontsize="small"
    )
    return figure


def _left_out(curve: Curve) -> str:
    """Of how many points a label must say that the picture doesn't have them."""
    missing = int(np.isnan(drawable(curve.mean)).sum())
    return f" ({missing} of {len(curve.mean)} points infinite)" if missing else ""


def _draw_curve(axes: Axes, curve: Curve, label: str, color: str, style: str) -> None:
    marker = "o" if len(curve.x) <= MARKED_POINTS else None
    mean, error = drawable(curve.mean), drawable(curve.error)
    axes.plot(curve.x, mean, style, color=color, linewidth=1.8, marker=marker, markersize=3.5, label=label)
    axes.fill_between(curve.x, mean - error, mean + error, color=color, alpha=0.18, linewidth=0)


def _explain(curves: Sequence[Curve], references: bool) -> str:
    several = any(curve.seeds > 1 for curve in curves)
    band = "line: mean over seeds, band: ± one standard error" if several else "one seed: no band"
    return band + (", dashed: a random policy (0) and the expert (100)" if references else "")


def _style(axes: Axes, x: str, y: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor="black", length=3)
    axes.margins(x=0.02, y=0.05)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _draw_references(axes: Axes, random: float, expert: float) -> None:
    """A second scale on the right: 0 at the random policy's return, 100 at the expert's, each with a dashed line."""
    span = expert - random
    for level in (random, expert):
        axes.axhline(level, color=GREY, linewidth=1.0, linestyle=(0, (4, 4)), zorder=0.5)
    low, high = axes.get_ylim()
    room = 0.03 * abs(span)
    axes.set_ylim(min(low, random - room, expert - room), max(high, random + room, expert + room))

    def to_score(value: Any) -> Any:
        return 100.0 * (value - random) / span

    def to_return(score: Any) -> Any:
        return random + score * span / 100.0

    scale = axes.secondary_yaxis("right", functions=(to_score, to_return))
    scale.set_ylabel("normalized score")
    scale.spines["right"].set_visible(False)
    scale.tick_params(colors=GREY, labelcolor="black", length=3)


def _short(value: float) -> str:
    """1500000 as 1.5M, 20000 as 20k."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
