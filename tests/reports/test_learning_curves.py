"""Learning curves: the numbers drawn, by hand; what the picture says of them; and what it refuses to draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from offrl.config.recipe import recipe_from_dict
from offrl.errors import RequestError, StoreError
from offrl.reports.learning_curves import COLOURS, plot_runs
from offrl.runs.run import Run

REFERENCES = {"random": 100.0, "expert": 300.0}


STARTED = {"start": "where/it/was"}
"""Of a run whose origin needs not be there any more."""


def make_run(path: Path, **values: Any) -> Run:
    return Run.create(path, recipe_from_dict({"algo": "bc", "dataset": "demos", "env": "Hopper-v5", **values}))


def log_evaluation(run: Run, step: int, returns: list[float], **more: Any) -> None:
    run.log("evaluations.jsonl", {"step": step, "mean_return_per_seed": returns, **more})


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been written, in place of what is in the files."""
    drawn: list[Figure] = []

    def savefig(figure: Figure, file: Any, **_: Any) -> None:
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return drawn


def test_mean_and_standard_error_are_over_all_seeds_of_runs_that_differ_in_seeds_only(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", seeds=[0, 1])
    second = make_run(tmp_path / "b", seeds=[2])
    log_evaluation(first, 10, [1.0, 2.0])
    log_evaluation(first, 20, [5.0, 7.0])
    log_evaluation(second, 10, [6.0])
    (curve,) = plot_runs([first, second], tmp_path / "p.png")
    assert curve.seeds == 3
    assert curve.x.tolist() == [10.0, 20.0]
    assert curve.mean.tolist() == [3.0, 6.0]
    # 1, 2, 6: variance ((−2)² + (−1)² + 3²) / 2 = 7; 5, 7 (the second run has nothing at 20): variance 2.
    np.testing.assert_allclose(curve.error, [math.sqrt(7 / 3), math.sqrt(2 / 2)])


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    log_evaluation(run, 10, [4.0])
    (curve,) = plot_runs([run], tmp_path / "p.png")
    assert curve.error.tolist() == [0.0]


def test_runs_of_other_settings_are_curves_of_their_own_and_labeled_by_them(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "a")
    regularized = make_run(tmp_path / "b", agent={"l2": 0.5})
    other_task = make_run(tmp_path / "c", dataset="walks", agent={"l2": 0.25})
    for run in (plain, regularized, other_task):
        log_evaluation(run, 10, [1.0])
    curves = plot_runs([plain, regularized, other_task], tmp_path / "p.png")
    assert [c.label for c in curves] == ["bc, demos (agent.l2 0.0)", "bc, demos (agent.l2 0.5)", "bc, walks"]


def test_fine_tuned_runs_are_labeled_so(tmp_path: Path) -> None:
    before, after = (make_run(tmp_path / name, algo="td3", **more) for name, more in (("a", {}), ("b", STARTED)))
    for run in (before, after):
        log_evaluation(run, 10, [1.0])
    assert [c.label for c in plot_runs([before, after], tmp_path / "p.png")] == ["td3, demos", "td3, demos, fine-tuned"]


def test_the_final_evaluation_belongs_to_the_curve_unless_it_is_of_an_earlier_checkpoint(tmp_path: Path) -> None:
    last, best, only = (make_run(tmp_path / name) for name in "abc")
    for run, checkpoint in ((last, "last"), (best, "best")):
        log_evaluation(run, 10, [1.0])
        log_evaluation(run, 10, [3.0], final=True, checkpoint=checkpoint)
    log_evaluation(only, 10, [3.0], final=True, checkpoint="best")
    drawn = [plot_runs([run], tmp_path / "p.png")[0].mean.tolist() for run in (last, best, only)]
    assert drawn == [[3.0], [1.0], [3.0]]


def test_minutes_come_from_the_logged_rates(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    run.log("metrics.jsonl", {"step": 600, "steps_per_second": 10.0, "loss": [2.0]})  # 60 s
    run.log("metrics.jsonl", {"step": 900, "steps_per_second": 2.5, "loss": [1.0]})  # 120 s more
    (curve,) = plot_runs([run], tmp_path / "p.png", metric="loss", x="minutes")
    np.testing.assert_allclose(curve.x, [1.0, 3.0])
    assert curve.mean.tolist() == [2.0, 1.0]


def test_values_that_a_metric_did_not_have_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", seeds=[0, 1])
    run.log("metrics.jsonl", {"step": 1, "episode_return": [None, 2.0]})
    run.log("metrics.jsonl", {"step": 2, "episode_return": [None, None]})
    run.log("metrics.jsonl", {"step": 3, "episode_return": [4.0, 6.0]})
    (curve,) = plot_runs([run], tmp_path / "p.png", metric="episode_return")
    assert (curve.x.tolist(), curve.mean.tolist()) == ([1.0, 3.0], [2.0, 5.0])


def test_a_metric_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(RequestError, match=r"no evaluation yet.*\n.*a\n.*nothing so far"):
        plot_runs([run], tmp_path / "p.png")
    run.log("metrics.jsonl", {"step": 1, "steps_per_second": 5.0, "loss": [1.0]})
    log_evaluation(run, 1, [1.0])
    with pytest.raises(RequestError, match=r"no metric 'los'.*\n.*\n.*from: evaluation, loss$"):
        plot_runs([run], tmp_path / "p.png", metric="los")
    assert not (tmp_path / "p.png").exists()


def test_the_picture_is_a_png_with_each_curve_in_its_color(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", seeds=[0, 1]), make_run(tmp_path / "b", agent={"l2": 0.5})]
    for run in runs:
        for step in (1000, 2000):
            log_evaluation(run, step, [float(step)] * len(run.recipe.seeds))
    plot_runs(runs[:1], tmp_path / "one.png")
    plot_runs(runs, tmp_path / "plots" / "two.png")

    def shows(picture: Path, color: str) -> bool:
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
        return bool((np.abs(imread(picture)[..., :3] - wanted).max(axis=-1) < 0.01).any())

    assert [shows(tmp_path / "one.png", color) for color in COLOURS[:2]] == [True, False]
    assert [shows(tmp_path / "plots" / "two.png", color) for color in COLOURS[:3]] == [True, True, False]


def test_axes_say_what_they_show(tmp_path: Path, figures: list[Figure]) -> None:
    offline, online, imitating = (
        make_run(tmp_path / "a"),
        Run.create(tmp_path / "b", recipe_from_dict({"algo": "td3", "env": "Hopper-v5"})),
        Run.create(tmp_path / "c", recipe_from_dict({"algo": "gail", "dataset": "hopper-expert", "env": "Hopper-v5"})),
    )
    for run in (offline, online, imitating):
        log_evaluation(run, 10, [1.0])
        run.log("metrics.jsonl", {"step": 10, "steps_per_second": 1.0, "critic_loss": [1.0]})
    plot_runs([offline], tmp_path / "p.png")
    plot_runs([online, imitating], tmp_path / "p.png")
    plot_runs([offline, online], tmp_path / "p.png", metric="critic_loss", x="minutes")
    labels = [(figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) for figure in figures]
    assert labels == [
        ("gradient steps", "mean return per episode"),
        ("environment steps", "mean return per episode"),
        ("wall-clock time (minutes)", "critic loss"),
    ]
    assert [text.get_text() for text in figures[2].legends[0].get_texts()] == [
        "bc, demos: 1 seed",
        "td3, Hopper-v5: 1 seed",
    ]


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.pdf", b"%PDF"), ("p.svg", b"<?xml")])
def test_the_name_says_the_format(name: str, start: bytes, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log_evaluation(run, 10, [1.0])
    plot_runs([run], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["p.jpg", "picture"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log_evaluation(run, 10, [1.0])
    with pytest.raises(RequestError, match=r"ends in \.png, \.pdf, \.svg"):
        plot_runs([run], tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_band_is_explained(tmp_path: Path, figures: list[Figure]) -> None:
    for name, seeds in (("a", [0, 1]), ("b", [0])):
        run = make_run(tmp_path / name, seeds=seeds)
        log_evaluation(run, 10, [1.0] * len(seeds))
        plot_runs([run], tmp_path / "p.png")
    titles = [figure.legends[0].get_title().get_text() for figure in figures]
    assert titles == ["line: mean over seeds, band: ± one standard error", "one seed: no band"]


def test_a_second_axis_shows_normalized_scores_where_all_runs_share_references(
    tmp_path: Path, figures: list[Figure]
) -> None:
    known, same, other = (make_run(tmp_path / name, steps=steps) for name, steps in (("a", 1), ("b", 2), ("c", 3)))
    log_evaluation(known, 10, [200.0], reference_scores=REFERENCES)
    log_evaluation(same, 10, [250.0], reference_scores=REFERENCES)
    log_evaluation(other, 10, [250.0], reference_scores={})
    plot_runs([known, same], tmp_path / "p.png")
    plot_runs([known, other], tmp_path / "p.png")
    with_scale, without = figures
    (scale,) = with_scale.axes[0].child_axes
    with_scale.draw_without_rendering()
    assert scale.get_ylabel() == "normalized score"
    # Both scales span the same height: 100 (R − 100) / 200 of the left one's ends.
    low, high = with_scale.axes[0].get_ylim()
    np.testing.assert_allclose(scale.get_ylim(), [(low - 100.0) / 2.0, (high - 100.0) / 2.0])
    assert low < 100.0 < 300.0 < high
    assert without.axes[0].child_axes == []


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    log_evaluation(run, 10, [1.0])
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"can't be written.*\n.*file/p.png"):
        plot_runs([run], tmp_path / "file" / "p.png")


@pytest.mark.parametrize("returns", [[1.0, math.inf, 2.0], [-math.inf], [1e308, -1e308], [1e308]])
def test_what_can_not_be_drawn_is_a_gap_that_the_label_counts(returns: list[float], tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", seeds=[0, 1])
    for step, value in enumerate(returns):
        log_evaluation(run, step, [value, 1.0], reference_scores={"random": 0.0, "expert": math.inf})
    (curve,) = plot_runs([run], tmp_path / "p.svg")
    assert curve.mean.tolist() == [value / 2 + 0.5 for value in returns]
    infinite = [value for value in returns if abs(value) > 2.0]
    with_label = f"2 seeds ({len(infinite)} of {len(returns)} points infinite)"
    assert with_label in (tmp_path / "p.svg").read_text()


def test_equal_references_make_no_scale(tmp_path: Path, figures: list[Figure]) -> None:
    run = make_run(tmp_path / "a")
    log_evaluation(run, 10, [200.0], reference_scores={"random": 5.0, "expert": 5.0})
    plot_runs([run], tmp_path / "p.png")
    assert figures[0].axes[0].child_axes == []
