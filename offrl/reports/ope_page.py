"""One picture of an evaluation, and one page that holds it and the figures, and needs nothing else to be read."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offrl.files import naming, write_whole
from offrl.off_policy.estimator import Reliability
from offrl.off_policy.results import Evaluation, PolicyResult
from offrl.printable import printable
from offrl.reports.figures import MOST_DRAWN, picture_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
MOST_POLICIES = 6
"""Policies that get a row of their own in the picture; the page's tables have them all."""
VISIBLE_SPAN = 3.0
"""Estimates beyond the others' range by so many times its width are drawn at the edge, as arrows."""
NARROWEST = 0.01
"""Histograms of weights span at least this, in powers of ten."""
BLUE, GREY, GREEN, RED, AMBER = "#1f5fa8", "#8a8f98", "#1d8348", "#b03a2e", "#b9770e"
COLORS: dict[Reliability, str] = {Reliability.YES: BLUE, Reliability.UNKNOWN: AMBER, Reliability.NO: RED}
MARKERS: dict[Reliability, str] = {Reliability.YES: "o", Reliability.UNKNOWN: "D", Reliability.NO: "x"}

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2128;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;margin:.6rem 0}caption{text-align:left;color:#57606a;padding:.2rem 0}
th,td{padding:.25rem .8rem;border-bottom:1px solid #d8dee4;text-align:right}
th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #57606a}
.no td{color:#b03a2e}.unknown td{color:#b9770e}
img{max-width:100%;height:auto}ul{padding-left:1.2rem}.quiet{color:#57606a}
"""


def write_report(evaluation: Evaluation, path: Path) -> tuple[Path, Path]:
    """Write the picture and the page beside each other.

    Args:
        evaluation: what to show.
        path: without suffix, or with one of the two.

    Returns:
        the PNG and the HTML file.

    Raises:
        StoreError: they can't be written.
    """
    base = path.with_suffix("") if path.suffix in (".png", ".html") else path
    with naming(base):
        base.parent.mkdir(parents=True, exist_ok=True)
    picture, page = (base.with_name(f"{base.name}.{suffix}") for suffix in ("png", "html"))
    pixels = draw(evaluation)
    write_whole(picture, pixels)
    write_whole(page, render(evaluation, pixels))
    return picture, page


def draw(evaluation: Evaluation) -> bytes:
    """A PNG: for each policy its estimates, its weights, and how many episodes they are worth at each step."""
    from matplotlib.figure import Figure

    shown = evaluation.policies[:MOST_POLICIES]
    weighted = any(policy.diagnostics is not None for policy in shown)
    tallest = max(len(policy.estimates) for policy in shown)
    height = 3.3 if weighted else 1.3 + 0.25 * tallest
    figure = Figure(figsize=(13.0, 0.6 + height * len(shown)), layout="constrained")
    _fill(figure, shown, evaluation, weighted)
    return picture_of(figure, "png", DOTS_PER_INCH)


def _fill(figure: Figure, shown: Sequence[PolicyResult], evaluation: Evaluation, weighted: bool) -> None:
    limits = _visible(shown, evaluation)
    axes = figure.subplots(
        len(shown), 3 if weighted else 1, squeeze=False, width_ratios=[1.5, 1, 1] if weighted else [1]
    )
    for row, policy in zip(axes, shown, strict=True):
        _draw_estimates(row[0], policy, evaluation, limits)
        if weighted:
            _draw_weights(row[1], policy)
            _draw_sizes(row[2], policy)
    figure.suptitle(
        f"Values from {evaluation.dataset}: {evaluation.episodes:,} episodes, {evaluation.steps:,} steps",
        fontsize=12,
    )


def _draw_estimates(axes: Axes, policy: PolicyResult, evaluation: Evaluation, limits: tuple[float, float]) -> None:
    low, high = limits
    names = [each.name for each in policy.estimates]
    for position, each in enumerate(policy.estimates):
        if each.value is None:
            axes.text(0.5 * (low + high), position, "no estimate", va="center", ha="center", color=RED, fontsize=8)
            continue
        color = COLORS[each.reliable]
        if each.interval is not None:
            ends = np.clip([each.interval.low, each.interval.high], low, high)
            axes.plot(ends, [position, position], color=color, linewidth=2, solid_capstyle="butt")
        outside = each.value < low or each.value > high
        marker = ("<" if each.value < low else ">") if outside else MARKERS[each.reliable]
        axes.plot(np.clip(each.value, low, high), position, marker, color=color, markersize=6)
    behavior = evaluation.behavior
    if abs(behavior.value) <= MOST_DRAWN:
        axes.axvline(behavior.value, color=GREY, linestyle="--", linewidth=1.2, label="logged return")
    if policy.truth is not None and abs(policy.truth.value) <= MOST_DRAWN:
        axes.axvline(policy.truth.value, color=GREEN, linewidth=1.6, label="truth")
    margin = 0.04 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(policy.name, fontsize=10, loc="left")
    axes.set_xlabel(
        f"value, with {evaluation.confidence:.0%} intervals (red: not reliable; amber: unknown)", fontsize=9
    )
    axes.legend(fontsize=8, loc="best", framealpha=0.8)
    axes.grid(axis="x", color="#e5e8eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _visible(shown: Sequence[PolicyResult], evaluation: Evaluation) -> tuple[float, float]:
    """One range for all, so that policies can be compared: of what is trusted, widened for what isn't within reason.

    What is infinite can't widen it; 0 to 1 where nothing else is known.
    """
    estimates = [each for policy in shown for each in policy.estimates]
    trusted = [evaluation.behavior.value, *(policy.truth.value for policy in shown if policy.truth is not None)]
    for each in estimates:
        if each.reliable != Reliability.NO and each.value is not None:
            trusted += [each.value, *([] if each.interval is None else [each.interval.low, each.interval.high])]
    trusted = [value for value in trusted if abs(value) <= MOST_DRAWN] or [0.0, 1.0]
    low, high = min(trusted), max(trusted)
    width = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-9)
    doubtful = [each.value for each in estimates if each.value is not None and each.reliable == Reliability.NO]
    inside = [value for value in doubtful if low - VISIBLE_SPAN * width <= value <= high + VISIBLE_SPAN * width]
    return min([low - 0.1 * width, *inside]), max([high + 0.1 * width, *inside])


def _draw_weights(axes: Axes, policy: PolicyResult) -> None:
    if policy.diagnostics is None:
        axes.set_axis_off()
        return
    histogram = policy.diagnostics.histogram
    edges, counts = histogram.edges, histogram.counts
    if edges[-1] - edges[0] < NARROWEST:
        # All weights are as good as equal: one bar says so, where forty would show rounding errors.
        edges, counts = np.mean(edges) + NARROWEST * np.array([-0.5, 0.5]), counts.sum(keepdims=True)
        axes.set_xlim(edges[0] - 5 * NARROWEST, edges[-1] + 5 * NARROWEST)
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE, linewidth=0)
    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1.0)
    zero = f"; {histogram.zero:,} of weight 0" if histogram.zero else ""
    axes.set_title(f"episodes by weight{zero}", fontsize=10, loc="left")
    axes.set_xlabel("log₁₀ of the episode's weight", fontsize=9)
    axes.set_ylabel("episodes", fontsize=9)


def _draw_sizes(axes: Axes, policy: PolicyResult) -> None:
    from matplotlib.ticker import LogFormatter

    if policy.diagnostics is None:
        axes.set_axis_off()
        return
    sizes, running = policy.diagnostics.effective_sample_size_by_step, policy.diagnostics.running_by_step
    steps = np.arange(len(sizes))
    axes.plot(steps, running, color=GREY, linewidth=1.2, label="that have the step")
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, np.maximum(sizes, 0.5), color=BLUE, linewidth=1.6, marker=marker, label="that they are worth")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    # The formatter that comes with the scale writes its powers of ten as mathematics, which figures here don't read.
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.set_title("episodes by time step", fontsize=10, loc="left")
    axes.set_xlabel("step of the episode", fontsize=9)
    axes.legend(fontsize=8, loc="best")
    axes.grid(axis="y", color="#e5e8eb", linewidth=0.8)


def render(evaluation: Evaluation, pixels: bytes) -> str:
    """The page, with the picture in it."""
    image = base64.b64encode(pixels).decode("ascii")
    horizon = f"the first {evaluation.horizon} steps" if evaluation.horizon else "all steps"
    parts = [
        f"<h1>Policies valued from {_text(evaluation.dataset)}</h1>",
        f'<p class="quiet">{evaluation.episodes:,} episodes, {evaluation.steps:,} steps. Values are of the return of '
        f"{horizon} of an episode, discounted by {evaluation.discount:g} per step.</p>",
        _behavior(evaluation),
        f'<p><img alt="Estimates, weights and effective sample sizes" src="data:image/png;base64,{image}"></p>',
        _ranking(evaluation),
        *(_policy(policy, evaluation.confidence) for policy in evaluation.policies),
        _list("Notes", evaluation.notes),
    ]
    title = f"offrl: {_text(evaluation.dataset)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _behavior(evaluation: Evaluation) -> str:
    behavior = evaluation.behavior
    rows = [["logged return", _number(behavior.value), _span(behavior.interval)]]
    text = {"logged": "The log holds the probabilities of its actions.", "none": "", "estimated": ""}
    about = text[behavior.probabilities]
    found = behavior.estimated
    if found is not None:
        about = (
            f"The probabilities of the logged actions are estimated, in {found.folds} folds: calibration error "
            f"{_number(found.calibration_error)}, log-likelihood per step {_number(found.held_out_log_likelihood)} on "
            f"held-out episodes ({_number(found.baseline_log_likelihood)} for the average policy). "
            + " ".join(found.warnings)
        )
    return _table("The policy that acted", ["", "value", "interval"], rows) + (
        f"<p>{_text(about)}</p>" if about else ""
    )


def _ranking(evaluation: Evaluation) -> str:
    ranking = evaluation.ranking
    if ranking is None:
        return ""
    verdicts = {True: "yes", False: "no", None: "–"}
    rows = []
    for place in ranking.places:
        policy = evaluation.policies[place.policy]
        truth = "–" if policy.truth is None else _number(policy.truth.value)
        span = "–" if place.low is None or place.high is None else f"{_number(place.low)} to {_number(place.high)}"
        rows.append([policy.name, _number(place.value), span, verdicts[place.may_be_best], truth])
    title = f"By {ranking.estimator}" + (
        f"; the intervals hold together with confidence {ranking.confidence:g}" if ranking.has_intervals else ""
    )
    text = "<h2>Ranking</h2>" + _table(title, ["policy", "value", "interval", "may be best", "truth"], rows)
    found = evaluation.agreement
    if found is not None:
        correlation = "none" if found.rank_correlation is None else _number(found.rank_correlation)
        regrets = ", ".join(f"regret@{k} {_number(value)}" for k, value in enumerate(found.regret, start=1))
        text += f"<p>Spearman's rank correlation with the truth: {correlation}; {regrets}.</p>"
    return text


def _policy(policy: PolicyResult, confidence: float) -> str:
    rows, doubts = [], []
    for each in policy.estimates:
        size, share = each.effective_sample_size, each.largest_weight_share
        rows.append(
            [
                each.name,
                _number(each.value),
                "–" if each.interval is None else f"{_number(each.interval.low)} to {_number(each.interval.high)}",
                _number(size),
                "–" if share is None else f"{share:.1%}",
                each.reliable,
            ]
        )
        doubts.append(each.reliable)
    columns = ["estimator", "value", f"{confidence:.0%} interval", "effective episodes", "largest weight", "reliable"]
    truth = ""
    if policy.truth is not None:
        error = "" if policy.truth.standard_error is None else f" ± {_number(policy.truth.standard_error)}"
        truth = f"Truth: {_number(policy.truth.value)}{error} ({policy.truth.episodes} episodes)"
    warnings = dict.fromkeys([*policy.warnings, *_clippings(policy), *_warnings(policy)])
    return f"<h2>{_text(policy.name)}</h2>" + _table(truth, columns, rows, doubts) + _list("", list(warnings))


def _clippings(policy: PolicyResult) -> list[str]:
    return [
        f"{each.name}: {each.clipping.share:.1%} of the weights were cut to {_number(each.clipping.threshold)}; the "
        f"estimated bias is {_number(each.clipping.bias)}."
        for each in policy.estimates
        if each.clipping is not None
    ]


def _warnings(policy: PolicyResult) -> list[str]:
    return [f"{each.name}: {text}" for each in policy.estimates for text in each.warnings]


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], doubts: Sequence[Reliability] = ()
) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = ""
    for position, row in enumerate(rows):
        mark = f' class="{doubts[position]}"' if doubts else ""
        body += f"<tr{mark}>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>\n"
    caption = f"<caption>{_text(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _list(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    heading = f"<h2>{_text(title)}</h2>" if title else ""
    return heading + "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"


def _span(interval: Any) -> str:
    return "–" if interval is None else f"{_number(interval.low)} to {_number(interval.high)} ({interval.method})"


def _number(value: float | None) -> str:
    """Four digits; – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.1f}" if 1000.0 <= abs(value) < 1e7 else f"{value:.4g}"


def _text(value: str) -> str:
    return html.escape(printable(value))
