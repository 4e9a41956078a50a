"""The harness itself: what it counts, in which order it runs, what it leaves out, and the table it prints."""

from __future__ import annotations

import ast
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks import run
from tests.benchmarks.make_peers import PEERS, interpreter, torch_pin
from tests.benchmarks.rows import ROWS, Comparison, Row, Subject
from tests.benchmarks.workers import measuring

OURS = Subject("ours", "ours.py", "row")
THEIRS = Subject("theirs, fast", "theirs.py", "row", "theirs")
PLAIN = Subject("plain", "plain.py", "row")


def row(unit: str = "updates/s", **options: Any) -> Row:
    return Row("row", "cloning", unit, (Comparison(OURS, THEIRS, 2.0), Comparison(OURS, PLAIN)), **options)


def result(unit: str = "updates/s") -> run.Result:
    versions = {THEIRS: {"theirs": "1.2", "torch": "2.0"}}
    return run.Result(row(unit), {OURS: [10.0, 30.0, 24.0], THEIRS: [5.0, 10.0, 2.0], PLAIN: [20.0] * 3}, versions)


def fake_clock(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> None:
    readings = iter(times)
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))


def test_window_counts_only_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, [100.0, 100.5, 101.0, 102.0, 105.0])
    window = measuring.Window(seconds=4.0, warm_up=1.0)
    going = [window.tick(7), window.tick(7), window.tick(7), window.tick(6), window.tick(2)]
    assert going == [True, True, True, True, False]
    assert (window.events, window.elapsed, window.rate) == (8, 4.0, 2.0)


def test_window_counts_whole_cycles_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, [100.0, 103.0, 105.0, 109.0])
    window = measuring.Window(seconds=3.0, warm_up=1.0)
    going = [window.tick(0), window.tick(2048), window.tick(2048), window.tick(2048)]
    assert going == [True, True, True, False]
    assert (window.events, window.elapsed) == (4096, 6.0)


def test_steadily_stops_with_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, [float(second) for second in range(100)])
    calls: list[int] = []

    def step() -> int:
        calls.append(1)
        return 5

    assert measuring.steadily(measuring.Window(seconds=3.0, warm_up=1.0), step) == 5.0
    assert len(calls) == 5


def test_process_seconds_times_whole_processes() -> None:
    command = [sys.executable, "-S", "-c", "import time; time.sleep(0.05)"]
    assert 0.05 < measuring.process_seconds(measuring.Window(seconds=0.0, warm_up=0.0), command) < 5.0


def test_the_successor_is_the_next_observation_of_the_same_episode() -> None:
    episodes = measuring.synthetic_episodes(2)
    transitions = episodes.transitions()
    length = measuring.EPISODE_LENGTH
    assert transitions["observation"].shape == transitions["next_observation"].shape == (2 * length, 11)
    np.testing.assert_array_equal(transitions["next_observation"][length - 1], episodes.observation[0, length])
    np.testing.assert_array_equal(transitions["observation"][length], episodes.observation[1, 0])
    np.testing.assert_array_equal(transitions["action"][length + 3], episodes.action[1, 3])
    assert np.abs(transitions["action"]).max() <= 1.0


def test_ratios_are_taken_turn_by_turn() -> None:
    ours_theirs, ours_plain = row().comparisons
    assert result().ratios(ours_theirs) == [2.0, 3.0, 12.0]
    assert result("s").ratios(ours_plain) == [2.0, 20.0 / 30.0, 20.0 / 24.0]


def test_subjects_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter("theirs", tmp_path).parent.mkdir(parents=True)
    interpreter("theirs", tmp_path).touch()
    order: list[str] = []

    def fake_worker(subject: Subject, root: Path, seconds: float, threads: int) -> dict[str, Any]:
        order.append(subject.label)
        return {"value": float(len(order)), "versions": {"torch": "2.0"}}

    monkeypatch.setattr(run, "run_worker", fake_worker)
    measured = run.measure(row(), repeats=2, seconds=0.0, root=tmp_path)
    assert order == ["ours", "theirs, fast", "plain"] * 2
    assert measured.figures == {OURS: [1.0, 4.0], THEIRS: [2.0, 5.0], PLAIN: [3.0, 6.0]}


def test_a_peer_without_an_environment_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "run_worker", lambda *_: {"value": 6.0, "versions": {"torch": "2.0"}})
    measured = run.measure(row(), repeats=1, seconds=0.0, root=tmp_path)
    assert set(measured.figures) == {OURS, PLAIN}
    assert "theirs has no environment at" in measured.skipped[THEIRS]
    assert "make_peers theirs" in measured.skipped[THEIRS]
    assert "| theirs, fast | not there |  | ≥ 2 × |" in run.markdown([measured])


def test_a_worker_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text("raise SystemExit('no such row')")
    monkeypatch.setattr(run, "WORKERS", tmp_path)
    with pytest.raises(RuntimeError, match=r"ours\.py row failed:\nno such row"):
        run.run_worker(OURS, tmp_path, 1.0)


def test_a_worker_s_last_line_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(
        "import json, os, sys\nprint('noise')\nprint(json.dumps({'arguments': sys.argv[1:], **os.environ}))"
    )
    monkeypatch.setattr(run, "WORKERS", tmp_path)
    line = run.run_worker(OURS, tmp_path, 1.5)
    assert (line["arguments"], line["OMP_NUM_THREADS"]) == (["row", "--seconds", "1.5"], "2")
    assert run.run_worker(OURS, tmp_path, 1.5, threads=1)["OMP_NUM_THREADS"] == "1"


def test_the_table_has_medians_versions_ratios_and_targets() -> None:
    lines = run.markdown([result()]).splitlines()
    assert lines[2] == "| cloning, updates/s | ours | 24 | theirs 1.2, fast | 5 | 3 × (2–12) | ≥ 2 × |"
    assert lines[3] == "|  | ours | 24 | plain | 20 | 1.2 × (0.5–1.5) |  |"


def test_a_limit_stands_where_no_ratio_is_set() -> None:
    limited = run.Result(Row("help", "help", "s", (Comparison(OURS, PLAIN),), limit=0.3), result().figures)
    assert run.markdown([limited]).splitlines()[2].endswith("| < 0.3 s |")


def test_json_holds_every_figure() -> None:
    rows = json.loads(run.as_json([result()], "here"))["rows"]
    assert rows["row"]["figures"]["ours"] == [10.0, 30.0, 24.0]
    assert rows["row"]["versions"]["theirs, fast"] == {"theirs": "1.2", "torch": "2.0"}


@pytest.mark.parametrize(
    ("value", "text"), [(0.2114, "0.211"), (84.33, "84.3"), (1002.0, "1,000"), (28_951_234.0, "29,000,000")]
)
def test_numbers_have_three_figures(value: float, text: str) -> None:
    assert run.number(value) == text


def test_the_torch_pin_is_the_constraints_own() -> None:
    assert torch_pin("torchvision==1\ntorch==2.13.0\ntqdm==4\n") == "torch==2.13.0"
    with pytest.raises(SystemExit, match="doesn't pin torch"):
        torch_pin("numpy==2\n")


def test_every_subject_has_its_worker_and_its_pins() -> None:
    subjects = {subject for row in ROWS.values() for subject in row.subjects}
    assert {subject.worker for subject in subjects} <= {path.name for path in run.WORKERS.glob("*_rows.py")}
    assert {subject.peer for subject in subjects} - {None} == set(PEERS)


def test_every_worker_knows_the_rows_of_its_subjects() -> None:
    for subject in {subject for row in ROWS.values() for subject in row.subjects}:
        tree = ast.parse((run.WORKERS / subject.worker).read_text())
        tables = [node.keys for node in ast.walk(tree) if isinstance(node, ast.Dict)]
        names = {key.value for keys in tables for key in keys if isinstance(key, ast.Constant)}
        assert subject.row in names, f"{subject.worker} {subject.row}"


@pytest.mark.parametrize(
    ("name", "others", "target"),
    [
        ("bc", {"d3rlpy"}, 4.0),
        ("bc", {"imitation"}, 8.0),
        ("td3-bc", {"d3rlpy"}, 2.0),
        ("td3-bc", {"single-file PyTorch"}, 1.5),
        ("iql", {"d3rlpy"}, 2.0),
        ("iql", {"single-file PyTorch, fused Adam, one gather"}, 1.2),
        ("cql", {"d3rlpy"}, 2.0),
        ("cql", {"single-file PyTorch, fused Adam, one gather"}, 1.2),
        ("edac", {"d3rlpy, SAC-N"}, 2.0),
        ("edac", {"single-file PyTorch, fused Adam, one gather"}, 1.2),
        ("rebrac", {"d3rlpy"}, 2.0),
        ("rebrac", {"single-file PyTorch, fused Adam, one gather"}, 1.0),
        ("dt", {"d3rlpy"}, 2.0),
        ("dt", {"single-file PyTorch, fused Adam, one gather"}, 1.0),
        ("td3-online", {"stable-baselines3"}, 2.0),
        ("sac-online", {"stable-baselines3"}, 2.0),
        ("ppo", {"stable-baselines3"}, 3.0),
        ("ppo-parallel", {"stable-baselines3, DummyVecEnv", "stable-baselines3, SubprocVecEnv"}, 3.0),
        ("dqn", {"stable-baselines3"}, 3.0),
    ],
)
def test_targets_are_the_design_s(name: str, others: set[str], target: float) -> None:
    targets = {comparison.other.label: comparison.target for comparison in ROWS[name].comparisons}
    assert {targets[other] for other in others} == {target}


def test_titles_say_the_settings_that_workers_take() -> None:
    assert "256×256, batch 256" in ROWS["td3-bc"].title
    assert "64×64, 2,048 steps an environment and update, 10 epochs, minibatches of 64" in ROWS["ppo"].title
    assert "batch 32, an update every 4 steps" in ROWS["dqn"].title
