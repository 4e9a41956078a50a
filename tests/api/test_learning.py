"""Training, going on and fine-tuning from Python: which recipe the arguments mean, and what comes of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import offrl
from offrl.config.recipe import Recipe
from offrl.data.store import TrajectoryStore
from offrl.errors import OffrlError, RecipeError, RequestError, TrainingInterrupted
from offrl.runs.progress import TrainingProgress
from offrl.runs.run import Run
from offrl.training import run_training
from tests.api.conftest import SMALL


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that would have been trained."""
    started: list[Recipe] = []

    def start(recipe: Recipe, out: Path | None, listener: Any, asked: Any) -> Run:
        started.append(recipe)
        return Run(Path("never"), recipe)

    monkeypatch.setattr(run_training, "train", start)
    return started


def test_arguments_are_values_of_the_matching_recipe(recipes: list[Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    agent = {"hidden": (32, 16)}
    offrl.train("bc", dataset="hopper-expert", steps=7, seeds=3, seed=2, agent=agent, data={"n_step": 2}, batch_size=5)
    (recipe,) = recipes
    bundled = offrl.recipe("bc/hopper")
    assert (recipe.dataset, recipe.steps, recipe.seeds, recipe.batch_size) == ("hopper-expert", 7, (2, 3, 4), 5)
    assert (recipe.agent.hidden, recipe.data.n_step) == ((32, 16), 2)
    assert recipe.agent.learning_rate == bundled.agent.learning_rate
    assert recipe.evaluation == bundled.evaluation
    assert "Recipe: bc/hopper" in capsys.readouterr().err


def test_seeds_are_a_count_or_numbers(recipes: list[Recipe]) -> None:
    for given in ({"seeds": 2}, {"seeds": [4, 9]}, {"seed": 6}, {"seeds": 1}, {}):
        offrl.train("bc", dataset="other", progress=False, **given)  # type: ignore[arg-type]
    assert [recipe.seeds for recipe in recipes] == [(0, 1), (4, 9), (6,), (0,), (0,)]
    with pytest.raises(RequestError, match="seed"):
        offrl.train("bc", dataset="other", seeds=[4], seed=1, progress=False)


def test_settings_go_before_arguments(recipes: list[Recipe]) -> None:
    options: dict[str, Any] = {"dataset": "other", "steps": 5, "agent": {"hidden": [4]}, "progress": False}
    offrl.train("bc", settings={"steps": 6, "agent.ema": 0.5}, **options)
    offrl.train("bc", settings=["steps=7", "agent.hidden=[9]"], **options)
    assert [(recipe.steps, recipe.agent.hidden) for recipe in recipes] == [(6, (4,)), (7, (9,))]
    assert recipes[0].agent.ema == 0.5


def test_a_recipe_may_be_a_name_a_file_or_an_object(recipes: list[Recipe], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('algo = "bc"\ndataset = "other"\nsteps = 11\n')
    for recipe in ("bc/hopper", path, offrl.recipe(path)):
        offrl.train(recipe=recipe, progress=False)
    offrl.train("bc", recipe=offrl.recipe("bc/hopper"), steps=3, progress=False)
    assert recipes[0] == offrl.recipe("bc/hopper")
    assert [recipe.steps for recipe in recipes[1:]] == [11, 11, 3]
    for other in ("td3/hopper", offrl.recipe("td3/hopper")):
        with pytest.raises(RequestError, match="for td3, not for bc"):
            offrl.train("bc", recipe=other, progress=False)
    with pytest.raises(RequestError, match="no algorithm is named"):
        offrl.train(dataset="other")


def test_an_open_dataset_goes_by_its_name_where_that_leads_to_it(recipes: list[Recipe], demos: Path) -> None:
    offrl.train("bc", dataset=offrl.open_dataset("cartpole-expert"), progress=False)
    offrl.train("bc", dataset=TrajectoryStore.open(demos), progress=False)
    offrl.train("bc", dataset=demos, progress=False)
    assert [recipe.dataset for recipe in recipes] == ["cartpole-expert", str(demos.resolve()), str(demos)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"agent": {"hiden": (8,)}}, "agent.hiden"),
        ({"stepz": 8}, "stepz"),
        ({"steps": "many"}, "steps"),
        ({"evaluation": 5}, "evaluation"),
    ],
)
def test_what_is_wrong_is_named(demos: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        offrl.train("bc", dataset=demos, progress=False, **arguments)


def test_a_run_is_left_and_gone_on_with(run: Run, tmp_path: Path, demos: Path) -> None:
    assert run.path.name == "run"
    assert run.recipe.seeds == (3, 5)
    scores = run.final_scores()
    assert scores is not None
    assert scores["mean_return"] < 0.0
    other = offrl.train("bc", dataset=demos, out=tmp_path / "run", **SMALL)
    longer = offrl.resume(other, steps=60, progress=False)
    assert (longer.path, longer.recipe.steps) == (other.path, 60)
    assert longer.metrics()["step"].max() == 60


def test_progress_is_shown_unless_it_is_not_wanted(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offrl.train("bc", dataset=demos, out=tmp_path / "silent", **SMALL)
    assert capsys.readouterr() == ("", "")
    offrl.train("bc", dataset=demos, out=tmp_path / "told", **{**SMALL, "progress": True})
    out, err = capsys.readouterr()
    assert out == ""
    assert f"Run: {tmp_path / 'told'}" in err
    assert "step 40 of 40" in err


def test_ctrl_c_is_an_error_that_says_how_to_go_on(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainingProgress, "progress", press)
    with pytest.raises(KeyboardInterrupt) as stopped:
        offrl.train("bc", dataset=demos, out=tmp_path / "run", **{**SMALL, "steps": 1000})
    error = stopped.value
    assert isinstance(error, TrainingInterrupted)
    assert not isinstance(error, OffrlError)
    assert error.run == tmp_path / "run"
    assert error.step is not None
    assert f"offrl.resume('{tmp_path / 'run'}')" in str(error)
    monkeypatch.undo()
    assert offrl.resume(error.run, steps=error.step + 20, progress=False).recipe.steps == error.step + 20


def test_fine_tuning_goes_on_from_a_run(run: Run, tmp_path: Path) -> None:
    online = {"warmup_steps": 10, "critic_warmup": 0, "capacity": 100}
    tuned = offrl.finetune(
        run,
        algo="td3",
        steps=30,
        offline_fraction=0.25,
        online=online,
        evaluation={"every": 0, "final_episodes": 1},
        settings={"batch_size": 8},
        out=tmp_path / "tuned",
        progress=False,
    )
    recipe = tuned.recipe
    assert (recipe.algo, recipe.steps, recipe.seeds, recipe.batch_size) == ("td3", 30, (3, 5), 8)
    assert (recipe.online.warmup_steps, recipe.online.offline_fraction) == (10, 0.25)
    assert Path(recipe.start or "") == run.path.resolve()
    with pytest.raises(RecipeError, match="--algo"):
        offrl.finetune(run, steps=30, progress=False)


def test_a_learned_reward_is_drawn_beside_its_run(tmp_path: Path) -> None:
    offrl.collect(optimal=True, env="CliffWalking-v1", episodes=20, out=tmp_path / "demos")
    run = offrl.train("irl", dataset=tmp_path / "demos", steps=20, out=tmp_path / "run", progress=False)
    assert (run.path / "plots" / "reward.png").read_bytes().startswith(b"\x89PNG")


def test_recipes_are_listed_and_shown() -> None:
    assert {"bc/hopper", "td3/hopper"} <= {each.name for each in offrl.list_recipes()}
    recipe = offrl.recipe("bc")
    assert recipe.algo == "bc"
    assert 'algo = "bc"' in str(recipe)
    assert "[agent]" in str(recipe)
