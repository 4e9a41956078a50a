"""`offrl train gail`: demonstrations and an environment, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.runs.progress import TrainingProgress
from offrl.runs.run import Run
from tests.cli.conftest import Offrl
from tests.training.runs import make_demonstrations

TINY = ("--batch-size", "16", "--device", "cpu", "--eval-every", "0", "--eval-episodes", "2", "--steps", "60")
SMALL = ("--set", "agent.hidden=[8]", "--set", "agent.generator_options.rollout_steps=20", "--set", "log_every=20")


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Pendulum demonstrations."""
    return make_demonstrations(tmp_path / "demos", episodes=6, length=20).path


def test_a_run_can_be_evaluated_plotted_and_gone_on_with(offrl: Offrl, demos: Path) -> None:
    task = ("--dataset", demos, "--env", "Pendulum-v1", "--demos", "2", "--seeds", "2")
    result = offrl("train", "gail", *task, *TINY, *SMALL, "--out", "run", "--json")
    assert result.code == 0, result.stderr
    assert [len(returns) for returns in result.json["returns"]] == [2, 2]
    assert Run.open(Path("run")).recipe.data.episodes == 2
    assert offrl("evaluate", "run", "--episodes", "1", "--json").json["episodes"] == 1
    assert offrl("train", "--resume", "run", "--steps", "100").code == 0
    assert Run.open(Path("run")).lines("metrics.jsonl")[-1]["step"] == 100
    assert offrl("plot", "run").code == 0
    assert offrl("collect", "run", "--episodes", "2", "--out", "own").code == 0


def test_a_cloned_policy_is_the_start(offrl: Offrl, demos: Path) -> None:
    clone = ("--set", "agent.hidden=[8]", "--set", "agent.policy=gaussian", "--seed", "3")
    assert offrl("train", "bc", "--dataset", demos, *TINY, *clone, "--out", "bc").code == 0
    result = offrl("train", "gail", "--dataset", demos, "--from", "bc", *TINY, *SMALL, "--out", "run", "--json")
    assert result.code == 0, result.stderr
    assert result.json["seeds"] == [3]
    assert Path(result.json["start"]).name == "bc"
    assert Run.open(Path("run")).recipe.agent.generator_options.policy == "gaussian"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "Pendulum-v1"], "--dataset"),
        (["--dataset", "demos", "--demos", "7"], "6 episodes to choose from"),
        (["--dataset", "demos", "--env", "CartPole-v1"], "CartPole-v1"),
        (["--dataset", "demos", "--from", "nowhere"], "no policy to fine-tune"),
        (["--dataset", "demos", "--set", "agent.generator_options.tau=1"], "agent.generator_options.tau"),
    ],
)
def test_a_wrong_request_is_one_readable_message(offrl: Offrl, demos: Path, arguments: list[str], words: str) -> None:
    result = offrl("train", "gail", *(str(demos) if word == "demos" else word for word in arguments), *TINY)
    assert result.code == 2
    assert result.stderr.count("Error:") == 1
    assert words in result.stderr
    assert not Path("runs").exists()


def test_a_run_is_not_gone_on_with_from_another(offrl: Offrl) -> None:
    result = offrl("train", "--resume", "run", "--from", "bc")
    assert result.code == 2
    assert "--from" in result.stderr


def test_warnings_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress() as progress:
        progress.warned("[ends] differ")
    assert "Warning: [ends] differ" in capfd.readouterr().err


def test_an_expert_can_be_asked(offrl: Offrl, demos: Path) -> None:
    assert offrl("train", "bc", "--dataset", demos, *TINY, "--set", "agent.hidden=[8]", "--out", "bc").code == 0
    task = ("--env", "Pendulum-v1", "--set", "agent.hidden=[8]", "--set", "online.warmup_steps=20")
    result = offrl("train", "dagger", "--expert", "bc", *task, *TINY, "--out", "run", "--json")
    assert result.code == 0, result.stderr
    assert Path(Run.open(Path("run")).recipe.expert or "").name == "bc"


def test_from_is_for_imitation(offrl: Offrl, demos: Path) -> None:
    assert offrl("train", "bc", "--dataset", demos, *TINY, "--set", "agent.hidden=[8]", "--out", "bc").code == 0
    result = offrl("train", "td3", "--env", "Pendulum-v1", "--from", "bc")
    assert result.code == 2
    assert "offrl finetune" in result.stderr
