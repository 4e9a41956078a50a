"""`offrl ope`: tables, JSON, a report, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.collection.collect import collect_random
from offrl.config.recipe import recipe_from_dict
from offrl.training.run_training import train
from tests.cli.conftest import Offrl
from tests.training.runs import bc_recipe, make_demonstrations

QUICK = ("--resamples", "60", "--fqe-steps", "20", "--horizon", "10")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of random actions, two runs that cloned it; a log of Pendulum without probabilities, and its clone."""
    root = tmp_path_factory.mktemp("ope")
    collect_random("CartPole-v1", episodes=40, destination=root / "random")
    make_demonstrations(root / "pendulum", episodes=6, length=20)
    for steps in (10, 20):
        values = bc_recipe(root / "random", steps=steps, seeds=[0], env="none").to_dict()
        train(recipe_from_dict({**values, "env": "none"}), root / f"clone-{steps}")
    collect_random("Pendulum-v1", episodes=2, destination=root / "random-pendulum")
    train(bc_recipe(root / "pendulum", steps=20, seeds=[0], env="none"), root / "bc")
    return root


def test_one_run_as_a_table(offrl: Offrl, made: Path) -> None:
    result = offrl("ope", made / "clone-10", "--dataset", made / "random", *QUICK)
    assert result.code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    names = [words[0] for words in lines]
    for name in ("is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "fqe"):
        assert name in names
    assert "40 episodes" in result.stdout
    assert "discount 0.99, 10 steps" in result.stdout
    assert "from the log" in result.stdout
    assert "nan" not in result.stdout.lower()


def test_several_runs_as_json_and_a_report(offrl: Offrl, made: Path) -> None:
    options = ("--dataset", made / "random", "--stochastic", "--estimators", "wis, fqe", "--rank-by", "wis")
    runs = (made / "clone-10", made / "clone-20")
    truth = ("--truth", "CartPole-v1", "--truth-episodes", 4)
    result = offrl("ope", *runs, *options, *truth, "--clip", 2, "--plot", "there/report", *QUICK, "--json")
    assert result.code == 0, result.stderr
    report = result.json
    assert [policy["name"] for policy in report["policies"]] == ["clone-10", "clone-20"]
    assert [each["name"] for each in report["policies"][0]["estimates"]] == ["wis", "fqe"]
    assert report["policies"][0]["estimates"][0]["clipping"]["threshold"] == 2
    assert report["ranking"]["estimator"] == "wis"
    assert set(report["agreement"]["regret"]) == {"1", "2"}
    assert (report["picture"], report["page"]) == ("there/report.png", "there/report.html")
    assert Path("there/report.html").is_file()

    table = offrl("ope", *runs, *options, *truth, "--clip", 2, *QUICK)
    assert "Ranked by wis" in table.stdout
    assert "rank correlation (Spearman)" in table.stdout
    assert "weights were cut to 2" in table.stdout


def test_bounds_for_intervals_that_always_hold(offrl: Offrl, made: Path) -> None:
    options = ("--dataset", made / "random", "--stochastic", "--interval", "hoeffding", *QUICK, "--json")
    missing = offrl("ope", made / "clone-10", *options)
    assert missing.code == 2
    assert "--reward-bounds LOW,HIGH --weight-bound W" in missing.stderr
    result = offrl("ope", made / "clone-10", *options, "--reward-bounds", "0,1", "--weight-bound", 1024)
    assert result.code == 0, result.stderr
    estimates = result.json["policies"][0]["estimates"]
    assert [each["name"] for each in estimates] == ["is", "pdis", "dr"]
    assert {each["interval"]["method"] for each in estimates} == {"hoeffding"}
    for wrong in (("--reward-bounds", "0"), ("--reward-bounds", "0,1"), ("--weight-bound", 3)):
        assert offrl("ope", made / "clone-10", *options, *wrong).code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--dataset NAME"),
        (("--dataset", "{random}"), "name a run"),
        (("{bc}", "--dataset", "{random}"), "the log"),
        (("{bc}", "--dataset", "{pendulum}", "--estimators", "wis"), "--kernel-bandwidth"),
        (
            ("{bc}", "--dataset", "{pendulum}", "--estimators", "wis", "--kernel-bandwidth", "0.3"),
            "--estimate-behavior",
        ),
        (("{clone-10}", "--dataset", "{random}", "--estimators", "magick"), "no estimator 'magick'"),
        (("{clone-10}", "--dataset", "{random}", "--estimators", "snips"), "snips"),
        (("{clone-10}", "--dataset", "{random}", "--kernel-bandwidth", "0.3"), "leave out --kernel-bandwidth"),
        (("--dataset", "{random}", "--target-column", "info.p"), "no column 'info.p'"),
        (("nothing.onnx", "--dataset", "{random}"), "nothing.onnx"),
    ],
)
def test_refusals(offrl: Offrl, made: Path, arguments: tuple[str, ...], words: str) -> None:
    names = {name: made / name for name in ("random", "pendulum", "bc", "clone-10")}
    result = offrl("ope", *(part.format(**names) for part in arguments))
    assert (result.code, result.stdout) == (2, "")
    assert words in result.stderr


def test_smoothing_says_what_it_does(offrl: Offrl, made: Path) -> None:
    options = ("--dataset", made / "random-pendulum", "--kernel-bandwidth", 0.5)
    result = offrl("ope", made / "bc", *options, "--estimators", "wis,fqe", *QUICK)
    assert result.code == 0, result.stderr
    assert "Gaussian noise of 0.5 half-ranges" in result.stdout
    assert "by fqe" in result.stdout
