"""Run directories: their recipe, their lines, their checkpoints, their lock."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.errors import RecipeError, RunError, RunInUseError, StoreError
from offrl.runs import checkpoint as checkpoint_module
from offrl.runs import run as run_module
from offrl.runs.checkpoint import read_facts, read_part
from offrl.runs.run import Run
from tests.runs.facts import facts_of

RECIPE = recipe_from_dict({"algo": "bc", "dataset": "somewhere", "steps": 10, "agent": {"hidden": [4]}})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "deep" / "run", RECIPE)


def parts(value: float) -> dict[str, dict[str, Tensor]]:
    return {"state": {"w": torch.full((2,), value)}}


def save(run: Run, kind: str, step: int, value: float) -> Path:
    return run.save_checkpoint(kind, step, parts(value), facts_of(step))


def saved(run: Run, kind: str) -> float:
    return read_part(run.checkpoint(kind), "state")["w"][0].item()


def directories(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / "checkpoints").iterdir() if path.is_dir())


def test_a_run_opens_with_the_recipe_it_was_made_with(run: Run) -> None:
    assert Run.open(run.path).recipe == RECIPE


def test_a_run_is_not_made_over_another(run: Run) -> None:
    with pytest.raises(RunError, match="--resume"):
        Run.create(run.path, RECIPE)


def test_a_run_is_not_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        Run.create(tmp_path / "file" / "run", RECIPE)


def test_what_is_no_run_does_not_open(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="no run") as caught:
            Run.open(path)
        assert str(path) in str(caught.value)


def test_a_damaged_recipe_is_named(run: Run) -> None:
    for content in ("algo = ", 'algo = "bc"\nstpes = 3\n'):
        (run.path / "recipe.toml").write_text(content)
        with pytest.raises(RecipeError, match=r"recipe\.toml"):
            Run.open(run.path)


def test_a_changed_recipe_is_kept(run: Run) -> None:
    changed = Recipe(algo="bc", agent=RECIPE.agent, steps=99)
    run.change_recipe(changed)
    assert run.recipe == Run.open(run.path).recipe == changed


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"algo": "bc", "dataset": "hopper-expert", "env": "Hopper-v5"}, "bc-hopper-expert-20240305-070809"),
        ({"algo": "td3", "env": "Hopper-v5"}, "td3-Hopper-v5-20240305-070809"),
        ({"algo": "bc", "dataset": "minari:a/b-v0"}, "bc-minari-a-b-v0-20240305-070809"),
    ],
)
def test_the_default_directory_names_algorithm_subject_and_time(values: dict[str, Any], name: str) -> None:
    path = Run.default_path(recipe_from_dict(values), datetime(2024, 3, 5, 7, 8, 9))
    assert path == Path("runs") / name


def begin(_: int) -> Path:
    return Run.create_default(RECIPE, datetime(2024, 3, 5, 7, 8, 9)).path


def test_runs_that_begin_in_the_same_second_have_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = pool.map(begin, range(8), chunksize=1)
    name = "bc-somewhere-20240305-070809"
    assert {path.name for path in paths} == {name} | {f"{name}-{number}" for number in range(2, 9)}
    assert all(Run.open(path).recipe == RECIPE for path in paths)


def test_a_run_is_not_made_where_another_process_is_making_one(tmp_path: Path) -> None:
    with Run(tmp_path, RECIPE).lock(), pytest.raises(RunInUseError):
        Run.create(tmp_path, RECIPE)


def hold_lock(path: Path, locked: Any) -> None:
    with Run.open(path).lock():
        locked.set()
        time.sleep(300)


def test_another_process_keeps_a_run_locked_while_it_lives(run: Run) -> None:
    context = multiprocessing.get_context("fork")
    locked = context.Event()
    process = context.Process(target=hold_lock, args=(run.path, locked))
    process.start()
    try:
        assert locked.wait(60)
        with pytest.raises(RunInUseError) as caught, run.lock():
            pass
        assert str(run.path) in str(caught.value)
        assert caught.value.exit_code == 2
    finally:
        process.kill()
        process.join()
    with run.lock():
        pass


def test_a_lock_is_given_back_after_an_error(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock(), pytest.raises(RunInUseError), Run.open(run.path).lock():
        pass


def test_lines_are_those_that_were_logged(run: Run) -> None:
    lines = [{"step": 1, "loss": [0.5, None], "note": "ü\u2028"}, {"step": 2, "loss": [0.25, 1e-9]}]
    assert run.lines("metrics.jsonl") == []
    for line in lines:
        run.log("metrics.jsonl", line)
    assert run.lines("metrics.jsonl") == lines


@pytest.mark.parametrize("cut", range(1, 26))
def test_a_last_line_cut_short_is_left_out(cut: int, run: Run) -> None:
    run.log("metrics.jsonl", {"step": 1})
    path = run.path / "metrics.jsonl"
    whole = json.dumps({"step": 20, "loss": [0.5]})
    with open(path, "a", encoding="utf-8") as file:
        file.write(whole[:cut])
    assert cut < len(whole)
    assert run.lines("metrics.jsonl") == [{"step": 1}]


def test_steps_that_will_be_repeated_are_forgotten(run: Run) -> None:
    for step in (10, 20, 30):
        run.log("metrics.jsonl", {"step": step})
    run.log("evaluations.jsonl", {"step": 20, "final": True})
    run.log("evaluations.jsonl", {"step": 20})
    run.log("evaluations.jsonl", {"step": 25})
    (run.path / "metrics.csv").write_text("step,seed,metric,value\n10,0,loss,1.5\n20,0,loss,1\n30,0,loss,0.5\n1")
    run.forget_after(20)
    assert run.lines("metrics.jsonl") == [{"step": 10}, {"step": 20}]
    assert run.lines("evaluations.jsonl") == [{"step": 20}]
    assert (run.path / "metrics.csv").read_text() == "step,seed,metric,value\n10,0,loss,1.5\n20,0,loss,1\n"


def test_forgetting_drops_a_line_cut_short(run: Run) -> None:
    run.log("metrics.jsonl", {"step": 10})
    with open(run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 1')
    run.forget_after(10)
    run.log("metrics.jsonl", {"step": 20})
    assert run.lines("metrics.jsonl") == [{"step": 10}, {"step": 20}]


def test_forgetting_makes_no_files(run: Run) -> None:
    run.forget_after(0)
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "recipe.toml"]


def test_the_newest_of_each_kind_is_kept(run: Run) -> None:
    assert not run.has_checkpoint("last")
    for kind in ("last", "best"):
        with pytest.raises(RunError, match=f"no '{kind}' checkpoint"):
            run.checkpoint(kind)
    save(run, "last", 10, 1.0)
    save(run, "best", 10, 2.0)
    save(run, "last", 20, 3.0)
    assert run.has_checkpoint("last")
    assert run.has_checkpoint("best")
    assert (saved(run, "last"), saved(run, "best")) == (3.0, 2.0)
    assert read_facts(run.checkpoint("last")) == facts_of(20)
    assert directories(run) == ["best-step-10", "step-20"]


def test_the_last_checkpoint_of_a_step_is_written_once(run: Run) -> None:
    first = save(run, "last", 10, 1.0)
    assert save(run, "last", 10, 1.0) == first
    assert directories(run) == ["step-10"]


def test_a_best_checkpoint_can_be_written_again(run: Run) -> None:
    """A resumed run may find its best again at the same step."""
    for value in (1.0, 2.0, 3.0):
        save(run, "best", 10, value)
        assert saved(run, "best") == value
        assert len(directories(run)) == 1


@pytest.mark.parametrize(("kept", "names"), [(1, [40]), (2, [30, 40]), (3, [20, 30, 40]), (0, [10, 20, 30, 40])])
def test_so_many_of_the_newest_stay_and_can_be_named(kept: int, names: list[int], tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", dataclasses.replace(RECIPE, checkpoints_kept=kept))
    for step in (10, 20, 30, 40):
        save(run, "last", step, float(step))
        save(run, "best", 10, -1.0)
    assert run.kept_checkpoints() == [f"step-{step}" for step in names]
    assert directories(run) == sorted(["best-step-10-again", *run.kept_checkpoints()])
    assert [saved(run, name) for name in run.kept_checkpoints()] == names
    assert (saved(run, "last"), saved(run, "best")) == (40.0, -1.0)
    assert run.has_checkpoint("step-40")
    assert not run.has_checkpoint("step-5")
    with pytest.raises(RunError, match=r"(?s)no 'step-5' checkpoint.*--checkpoint last\|best\|step-"):
        run.checkpoint("step-5")


def test_a_run_from_before_any_were_kept_has_its_last_one_by_name(run: Run) -> None:
    save(run, "last", 10, 1.0)
    assert json.loads((run.path / "checkpoints" / "index.json").read_text()) == {"last": "step-10"}
    assert (run.kept_checkpoints(), saved(run, "step-10")) == (["step-10"], 1.0)


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_between_two_checkpoints_loses_none_that_stays(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", dataclasses.replace(RECIPE, checkpoints_kept=2))
    for step in (10, 20):
        save(run, "last", step, float(step))
    replace, calls = os.replace, 0

    def dying(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        replace(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            save(run, "last", 30, 30.0)
    again = Run.open(run.path)
    assert [saved(again, name) for name in again.kept_checkpoints()] == [10.0, 20.0]
    save(again, "last", 30, 30.0)
    assert directories(again) == ["step-20", "step-30"]


class Killed(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize("step", [10, 20])
@pytest.mark.parametrize(
    ("module", "function", "call"),
    [
        (checkpoint_module, "write_checkpoint", 1),
        (run_module, "write_whole", 1),
        # Renames put the checkpoint in place, then the index; then the one before is removed.
        (os, "replace", 1),
        (os, "replace", 2),
        (shutil, "rmtree", 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_kill_at_any_point_leaves_a_whole_checkpoint(
    kind: str, step: int, module: Any, function: str, call: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, kind, 10, 1.0)
    original, calls = getattr(module, function), 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, dying)
        if (kind, step) == ("last", 10):
            save(run, kind, step, 2.0)
            assert calls == 0
        else:
            with pytest.raises(Killed):
                save(run, kind, step, 2.0)
    again = Run.open(run.path)
    assert saved(again, kind) in (1.0, 2.0)
    # The next checkpoint clears away what the kill left.
    save(again, kind, 30, 3.0)
    assert saved(again, kind) == 3.0
    assert len(directories(again)) == 1


def test_a_run_with_a_damaged_checkpoint_acts_only_by_one_that_is_named(run: Run) -> None:
    save(run, "best", 10, 1.0)
    save(run, "last", 10, 1.0)
    assert run.choose_checkpoint() == "last"
    state = run.checkpoint("best") / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"!")
    with pytest.raises(RunError, match="checksum"):
        run.choose_checkpoint()
    assert run.choose_checkpoint("last") == "last"
    assert saved(run, "last") == 1.0


def test_what_others_keep_beside_checkpoints_stays(run: Run) -> None:
    others = run.path / "checkpoints" / "step-10-of-my-thesis"
    others.mkdir(parents=True)
    (others / "chapter").write_text("years of work")
    (run.path / "thesis").mkdir()
    (run.path / "thesis" / "chapter").write_text("years of work")
    (run.path / "checkpoints" / "step-15").symlink_to(run.path / "thesis")
    for step in (10, 20):
        save(run, "last", step, step)
    assert directories(run) == ["step-10-of-my-thesis", "step-15", "step-20"]
    assert (others / "chapter").exists()
    assert (run.path / "thesis" / "chapter").exists()


@pytest.mark.parametrize("place", ["checkpoints", ".lock", "metrics.jsonl"])
def test_nothing_is_written_or_removed_behind_links(run: Run, place: str, tmp_path: Path) -> None:
    save(run, "last", 10, 1.0)
    run.log("metrics.jsonl", {"step": 10})
    behind = tmp_path / "behind"
    (run.path / place).rename(behind)
    (run.path / place).symlink_to(behind)
    before = {path: path.read_bytes() for path in (behind, *behind.rglob("*")) if path.is_file()}

    def go_on() -> None:
        with run.lock():
            run.log("metrics.jsonl", {"step": 20})
            save(run, "last", 20, 2.0)

    with pytest.raises(StoreError, match="this is a link to"):
        go_on()
    assert {path: path.read_bytes() for path in (behind, *behind.rglob("*")) if path.is_file()} == before
    assert saved(run, "last") == 1.0


def test_links_in_the_place_of_files_are_replaced_and_what_they_lead_to_stays(run: Run, tmp_path: Path) -> None:
    save(run, "last", 10, 1.0)
    thesis = tmp_path / "thesis"
    (thesis / "chapter").parent.mkdir()
    (thesis / "chapter").write_text("years of work")
    (run.path / "checkpoints" / "step-20").symlink_to(thesis)
    for file in ("checkpoints/index.json", "recipe.toml"):
        (run.path / file).rename(thesis / Path(file).name)
        (run.path / file).symlink_to(thesis / Path(file).name)
    before = {path.name: path.read_bytes() for path in thesis.iterdir()}
    run.change_recipe(run.recipe)
    save(run, "last", 20, 2.0)
    assert saved(run, "last") == 2.0
    assert not any(path.is_symlink() for path in run.path.rglob("*"))
    assert {path.name: path.read_bytes() for path in thesis.iterdir()} == before


@pytest.mark.parametrize("text", ['{"last": "../../elsewhere"}', '["last"]', '{"last": 7}', "3"])
def test_a_list_that_names_no_checkpoint_is_damaged(run: Run, text: str) -> None:
    save(run, "last", 10, 1.0)
    (run.path / "checkpoints" / "index.json").write_text(text)
    with pytest.raises(RunError, match="list of checkpoints"):
        run.checkpoint("last")


def test_a_damaged_list_of_checkpoints_is_named(run: Run) -> None:
    save(run, "last", 10, 1.0)
    (run.path / "checkpoints" / "index.json").write_text('{"last": ')
    with pytest.raises(RunError, match=r"index\.json"):
        run.checkpoint("last")
