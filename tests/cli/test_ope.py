"""`offrl ope`: tables, JSON, a report, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.api.datasets import convert
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


def click_log(folder: Path, rows: int, seed: int, *, items: int = 10) -> str:
    """Rounds in which one of several items was shown and clicked or not, with what a uniform policy would have shown.

    Returns the name of the dataset; a click is as rare as one in 50, whatever is shown.
    """
    generator = np.random.default_rng(seed)
    behavior = 0.9 * np.random.default_rng(1).dirichlet(np.full(items, 0.6)) + 0.1 / items
    shown = generator.choice(items, rows, p=behavior)
    clicked = generator.random(rows) < 0.02
    table = np.c_[generator.random((rows, 5)), shown, clicked, behavior[shown], np.full((rows, items), 1 / items)]
    names = [f"x_{i}" for i in range(5)] + ["a", "r", "p"] + [f"t_{i}" for i in range(items)]
    np.savetxt(folder / f"clicks-{seed}.csv", table, "%.9g", ",", header=",".join(names), comments="")
    options = {"action": "a", "reward": "r", "behavior_prob": "p", "observation": "x_*", "info.t": "t_*"}
    out = folder / f"clicks-{seed}"
    convert(folder / f"clicks-{seed}.csv", out, mapping=options, bandit=True)
    return str(out)


def test_a_click_log_s_doubly_robust_interval_holds_the_truth(offrl: Offrl, tmp_path: Path) -> None:
    log = click_log(tmp_path, 2_000, 0)
    options = ("--target-column", "info.t", "--estimators", "ips,dr,fqe", "--fqe-steps", 600, "--json")
    result = offrl("ope", "--dataset", log, *options)
    assert result.code == 0, result.stderr
    ips, doubly, fitted = result.json["policies"][0]["estimates"]
    assert doubly["interval"]["low"] <= 0.02 <= doubly["interval"]["high"]
    # Clicks are too rare for features to foretell them: a correction by values saves little of the error.
    assert doubly["standard_error"] > 0.8 * ips["standard_error"]
    assert (fitted["interval"], fitted["reliable"]) == (None, "unknown")
    table = offrl("ope", "--dataset", log, *options[:-1])
    assert "reliable" in table.stdout
    assert "fqe: Fitted values have no interval" in table.stderr


def test_a_column_of_no_probabilities_is_told_by_its_name(offrl: Offrl, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x,a,r,p,q\n" + "0.5,1,1,0.5,2.0\n0.1,0,0,0.5,0.5\n" * 10)
    options = {"action": "a", "reward": "r", "behavior_prob": "p", "observation": "x", "info.q": "q"}
    convert(tmp_path / "log.csv", tmp_path / "log", mapping=options, bandit=True)
    result = offrl("ope", "--dataset", tmp_path / "log", "--target-column", "info.q", "--estimators", "ips")
    assert result.code != 0
    assert "column info.q gives 10 of 20 steps a probability above 1" in result.stderr
    assert "density=True" not in result.stderr
