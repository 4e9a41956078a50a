"""Progress of training: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from offrl.runs.progress import TrainingProgress, training_progress
from offrl.runs.terminal_bar import ProgressBar

SCORES: dict[str, Any] = {"mean_return": 1234.56, "standard_error": 7.04, "normalized_score": 98.76}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock, in seconds."""
    now = [0.0]
    monkeypatch.setattr("offrl.runs.progress.time.monotonic", lambda: now[0])

    def set_clock(seconds: float) -> None:
        now[0] = seconds

    return set_clock


def test_lines_come_every_ten_seconds_and_at_the_end(
    capsys: pytest.CaptureFixture[str], at: Callable[[float], None]
) -> None:
    with TrainingProgress() as progress:
        for seconds, step in ((4.0, 100), (9.0, 600), (12.0, 900), (13.0, 1000), (14.0, 10_000)):
            at(seconds)
            progress.progress(step, 10_000, {"loss": [0.5, 1.0], "return": [None, None]})
    out, err = capsys.readouterr()
    assert out == ""
    # From the first report on: 800 steps in 8 s, with 9100 to go.
    assert err.splitlines() == [
        "step 900 of 10,000, 100 steps/s, 0:01:31 left, loss 0.75",
        "step 10,000 of 10,000, 990 steps/s, 0:00:00 left, loss 0.75",
    ]


def test_the_run_and_evaluations_are_always_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress() as progress:
        progress.began(Path("runs") / "one")
        progress.evaluated(5000, SCORES)
        progress.evaluated(6000, SCORES | {"standard_error": None, "normalized_score": None})
        progress.evaluated(7000, {"mean_return": 0.7412, "standard_error": 0.0434})
    assert progress.run == Path("runs/one")
    assert capsys.readouterr().err.splitlines() == [
        "Run: runs/one",
        "step 5,000: return 1,234.6 ± 7.0, normalized score 98.8",
        "step 6,000: return 1,234.6",
        "step 7,000: return 0.741 ± 0.043",
    ]


def test_a_terminal_gets_a_bar_with_metrics() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    with ProgressBar(console) as progress:
        progress.progress(120, 200, {"loss": [0.25, 0.75]})
        progress.evaluated(120, SCORES)
        progress.progress(200, 200, {"loss": [0.125]})
    shown = screen.getvalue()
    assert "200/200" in shown
    assert "loss 0.125" in shown
    assert "step 120: return 1,234.6 ± 7.0" in shown


def test_nothing_is_shown_where_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(shown=False) as progress:
        progress.began(Path("run"))
        progress.progress(10, 10, {"loss": [0.5]})
        progress.evaluated(10, SCORES)
    assert progress.run == Path("run")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_are_lines() -> None:
    assert type(training_progress()) is TrainingProgress


def test_a_notebook_gets_a_line_that_is_written_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: Callable[[float], None]
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, value: Any) -> None:
            shown.append(repr(value))

    def display(value: Any, display_id: bool) -> Handle:
        assert display_id
        shown.append(f"new: {value!r}")
        return Handle()

    ipython, display_module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    # As IPython 9 does: there on request, and nowhere in the module's dictionary.
    vars(ipython)["__getattr__"] = {"get_ipython": lambda: shell}.__getitem__
    vars(display_module)["display"] = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display_module)
    with training_progress() as progress:
        progress.began(Path("run"))
        assert shown == []
        for seconds, step in ((0.0, 100), (1.0, 200)):
            at(seconds)
            progress.progress(step, 1_000, {"loss": [0.5]})
    assert shown == ["new: step 100 of 1,000, loss 0.5", "step 200 of 1,000, 100 steps/s, 0:00:08 left, loss 0.5"]
    assert capsys.readouterr().out == "Run: run\n"


def test_what_data_says_is_shown_without_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    for progress in (TrainingProgress(), ProgressBar(Console(file=screen, markup=False, highlight=False))):
        progress.warned("the environment \x1b[2Jx\u202e")
    for printed in (capsys.readouterr().err, screen.getvalue()):
        assert printed == "Warning: the environment \\x1b[2Jx\\u202e\n"
