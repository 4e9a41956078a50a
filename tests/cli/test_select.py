"""`offrl select`: a table, JSON, trials, a report, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.collection.collect import collect_random
from offrl.config.recipe import recipe_from_dict
from offrl.training.run_training import train
from tests.cli.conftest import Offrl
from tests.training.runs import bc_recipe

QUICK = ("--resamples", "60", "--fqe-steps", "20", "--horizon", "10")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of random actions, and a run that keeps three checkpoints."""
    root = tmp_path_factory.mktemp("select")
    collect_random("CartPole-v1", episodes=40, destination=root / "random")
    values = bc_recipe(root / "random", steps=30, seeds=[0], checkpoint_every=10, checkpoints_kept=0).to_dict()
    train(recipe_from_dict({**values, "env": "none"}), root / "clone")
    return root


def test_a_table_and_what_is_chosen(offrl: Offrl, made: Path) -> None:
    result = offrl("select", made / "clone", "--dataset", made / "random", *QUICK)
    assert result.code == 0, result.stderr
    assert "3 candidates by the log random" in result.stdout
    for step in (10, 20, 30):
        assert f"clone step-{step}" in result.stdout
    assert "chosen" in result.stdout
    assert "trials" not in result.stdout
    assert "nan" not in result.stdout.lower()


def test_json_with_trials_and_a_report(offrl: Offrl, made: Path) -> None:
    options = ("--trials", 4, "--env", "CartPole-v1", "--max-episode-steps", 20, "--plot", "there/report", "--json")
    result = offrl("select", made / "clone", "--dataset", made / "random", *QUICK, *options)
    assert result.code == 0, result.stderr
    found = result.json
    assert len(found["candidates"]) == len(found["ranking"]["places"]) == 3
    assert found["chosen"] in found["candidates"]
    assert len(found["trials"]["episodes"]) == 4
    assert found["findings"]
    assert Path("there/report.html").is_file()
    shown = offrl("select", made / "clone", "--dataset", made / "random", *QUICK, *options[:6])
    assert "regret so far" in shown.stdout


def test_sampling_policies_are_ranked_by_the_estimator_that_is_named(offrl: Offrl, made: Path) -> None:
    options = ("--stochastic", "--rank-by", "wpdis", "--json")
    result = offrl("select", made / "clone", "--dataset", made / "random", *QUICK, *options)
    assert result.code == 0, result.stderr
    assert result.json["ranking"]["estimator"] == "wpdis"
    assert all(place["low"] < place["value"] < place["high"] for place in result.json["ranking"]["places"])
    assert [each["name"] for each in result.json["evaluation"]["policies"][0]["estimates"]] == ["wpdis", "fqe"]


def test_wrong_requests_say_what_to_do(offrl: Offrl, made: Path) -> None:
    log = ("--dataset", made / "random", *QUICK)
    for arguments, told in (
        ((made / "clone",), "--dataset"),
        ((made / "clone", "--checkpoint", "last", *log), "checkpoints_kept"),
        ((made / "clone", "--trials", 3, *log), "--env"),
        ((made / "clone", "--env", "CartPole-v1", *log), "--trials"),
        ((made / "clone", "--dataset", "hopper-random", *QUICK), "hopper-random"),
        ((made / "clone", "--stochastic", "--trials", 3, "--env", "CartPole-v1", *log), "greedy"),
        ((made / "nothing", *log), "nothing"),
    ):
        result = offrl("select", *arguments)
        assert (result.code, result.stdout) == (2, ""), arguments
        assert told in result.stderr
        assert "Traceback" not in result.stderr
