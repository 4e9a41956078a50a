"""Loggers: what a line becomes in each, and which a run gets."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offrl import plugins
from offrl.config.recipe import recipe_from_dict
from offrl.errors import DiskFullError, PluginError, RecipeError, RequestError
from offrl.runs.csv_logger import CsvLogger
from offrl.runs.loggers import JsonLinesLogger, Logger, make_loggers, require_loggers
from offrl.runs.run import Run
from offrl.runs.tensorboard_logger import TensorBoardLogger
from tests.plugged import plug
from tests.runs.facts import facts_of
from tests.runs.full_disk import files_up_to

LINE = {"step": 40, "steps_per_second": 12.5, "loss": [0.5, 0.25], "episode_return": [None, 3.0]}


def make_run(path: Path, *writers: str) -> Run:
    return Run.create(path / "run", recipe_from_dict({"algo": "bc", "seeds": [4, 9], "writers": list(writers)}))


def test_json_lines_hold_the_line_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    JsonLinesLogger(run, 0).write(LINE)
    assert run.lines("metrics.jsonl") == [LINE]


def test_a_full_disk_is_named_by_the_file_that_met_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with files_up_to(4), pytest.raises(DiskFullError, match=r"metrics\.jsonl"):
        JsonLinesLogger(run, 0).write(LINE)
    with files_up_to(4), pytest.raises(DiskFullError, match=r"metrics\.csv"):
        CsvLogger(run, 0)


def test_csv_has_a_row_for_each_seed_and_metric(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    CsvLogger(run, 0).write(LINE)
    # A resumed run goes on in the same file.
    CsvLogger(run, 50).write({"step": 50, "loss": [0.1, 0.2]})
    with open(run.path / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["step", "seed", "metric", "value"],
        ["40", "4", "loss", "0.5"],
        ["40", "9", "loss", "0.25"],
        ["40", "9", "episode_return", "3.0"],
        ["50", "4", "loss", "0.1"],
        ["50", "9", "loss", "0.2"],
    ]


def test_a_resumed_run_forgets_rows_that_it_will_repeat(tmp_path: Path) -> None:
    run = make_run(tmp_path, "csv")
    for step in (10, 20, 30):
        make_loggers(run)[1].write({"step": step, "loss": [1.0, 2.0]})
    run.forget_after(20)
    make_loggers(run)[1].write({"step": 30, "loss": [3.0, 4.0]})
    rows = (run.path / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["10", "10", "20", "20", "30", "30"]
    assert rows[-1] == "30,9,loss,4.0"


def test_an_empty_table_gets_its_header_and_a_run_goes_on_from_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "csv")
    table = run.path / "metrics.csv"
    table.touch()
    run.forget_after(-1)
    make_loggers(run)
    assert table.read_text(encoding="utf-8") == "step,seed,metric,value\n"


def test_tensorboard_has_a_directory_for_each_seed(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = make_run(tmp_path)
    logger = TensorBoardLogger(run, 0)
    logger.write(LINE)
    logger.close()
    for seed, metrics in ((4, {"loss": 0.5}), (9, {"loss": 0.25, "episode_return": 3.0})):
        events = accumulator.EventAccumulator(str(run.path / "tensorboard" / f"seed-{seed}"))
        events.Reload()
        assert set(events.Tags()["scalars"]) == set(metrics)
        for name, value in metrics.items():
            (event,) = events.Scalars(name)
            assert (event.step, event.value) == (40, value)


def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purged = []
    fake = SimpleNamespace(SummaryWriter=lambda directory, purge_step: purged.append(purge_step))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    run = make_run(tmp_path, "tensorboard")
    make_loggers(run)
    run.save_checkpoint("last", 20, {}, facts_of(20))
    make_loggers(run)
    assert purged == [0, 0, 21, 21]


def test_tensorboard_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offrl.runs.tensorboard_logger.find_spec", lambda name: object())
    require_loggers(["csv", "tensorboard"])
    monkeypatch.setattr("offrl.runs.tensorboard_logger.find_spec", lambda name: None)
    require_loggers(["csv"])
    with pytest.raises(RequestError, match=r"offrl\[tensorboard\]"):
        require_loggers(["csv", "tensorboard"])


def test_a_run_gets_the_loggers_of_its_recipe(tmp_path: Path) -> None:
    def kinds(*writers: str) -> list[type[Logger]]:
        return [type(logger) for logger in make_loggers(make_run(tmp_path / "-".join(writers), *writers))]

    assert kinds() == [JsonLinesLogger]
    assert kinds("csv") == [JsonLinesLogger, CsvLogger]
    assert kinds("csv", "jsonl", "csv") == [JsonLinesLogger, CsvLogger]


class Remembering(Logger):
    """Another package's logger."""

    def write(self, line: Mapping[str, Any]) -> None:
        (self.run.path / "remembered").write_text(f"{line['step']} from {self.first_step}")


def test_another_packages_logger_is_used_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, plugins.loggers, remember=f"{__name__}:Remembering", wrong="json:dumps", gone="no_such_module:x")
    run = make_run(tmp_path, "remember")
    require_loggers(run.recipe.writers)
    run.save_checkpoint("last", 20, {}, facts_of(20))
    logger = make_loggers(run)[1]
    logger.write(LINE)
    logger.close()
    assert (run.path / "remembered").read_text() == "40 from 21"
    with pytest.raises(PluginError, match="'wrong' is no subclass") as caught:
        require_loggers(["wrong"])
    assert caught.value.where == "other 1.2"
    with pytest.raises(PluginError, match="no_such_module"):
        require_loggers(["gone"])


def test_a_logger_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'writers\.1': .*did you mean csv\?.*, got 'cvs'"):
        recipe_from_dict({"algo": "bc", "writers": ["tensorboard", "cvs"]})
