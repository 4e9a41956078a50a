"""`offrl finetune`: what a run goes on with, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.config.recipe import recipe_from_dict
from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.cli.conftest import Offrl
from tests.training.runs import bc_recipe, make_demonstrations

SMALL = ("batch_size=16", "online.warmup_steps=10", "online.capacity=100", "checkpoint_every=20", "log_every=20")
TINY = (*(part for setting in SMALL for part in ("--set", setting)), "--eval-every", "0", "--eval-episodes", "1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cloned policy, a TD3+BC one, and a run that was stopped before its first checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    make_demonstrations(root / "demos", episodes=6, length=20)
    cloning = bc_recipe(root / "demos", steps=20, seeds=[3], env="none")
    values = cloning.to_dict() | {"algo": "td3", "env": "Pendulum-v1", "agent": {"hidden": [16, 16], "bc_alpha": 2.5}}
    values |= {"evaluation": {"every": 0, "final_episodes": 1}, "cross_validation": {}}
    train(cloning, root / "bc")
    train(recipe_from_dict(values), root / "td3")
    Run.create(root / "bare", cloning)
    return {name.upper(): root / name for name in ("bc", "td3", "bare")}


def test_a_run_goes_on_where_it_was_evaluated(offrl: Offrl, runs: dict[str, Path]) -> None:
    result = offrl("finetune", runs["TD3"], "--steps", 40, "--offline-fraction", 0.25, *TINY, "--json")
    assert result.code == 0, result.stderr
    report = result.json
    assert (report["algo"], report["seeds"], report["step"]) == ("td3", [3], 40)
    assert (report["start"], report["environment"]) == (str(runs["TD3"]), "Pendulum-v1")
    run = Run.open(Path(report["run"]))
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("td3-finetune-Pendulum-v1-")
    assert (run.recipe.online.offline_fraction, run.recipe.online.record) == (0.25, True)
    assert [line["step"] for line in run.lines("evaluations.jsonl")] == [0, 40]
    assert [len(line["returns"][0]) for line in run.lines("evaluations.jsonl")] == [1, 1]

    further = offrl("train", "--resume", run.path, "--steps", 60, "--json")
    assert further.code == 0, further.stderr
    assert further.json["step"] == 60


def test_a_cloned_policy_goes_on_by_the_recipe_of_the_algorithm(offrl: Offrl, runs: dict[str, Path]) -> None:
    options = ("--algo", "sac", "--env", "Pendulum-v1", "--steps", 20, "--out", "here", *TINY)
    result = offrl("finetune", runs["BC"], *options)
    assert result.code == 0, result.stderr
    assert "Recipe: sac/pendulum" in result.stderr
    assert result.stdout.splitlines()[-1] == "run  here"
    recipe = Run.open(Path("here")).recipe
    bundled = recipe_from_dict({"algo": "sac"}).agent
    assert recipe.agent.actor_learning_rate != bundled.actor_learning_rate
    assert recipe.agent.hidden == (16, 16)


def test_the_record_of_a_run_is_a_dataset(offrl: Offrl, runs: dict[str, Path]) -> None:
    offrl("finetune", runs["TD3"], "--steps", 40, "--out", "tuned", *TINY)
    result = offrl("datasets", "validate", "tuned/replay", "--json")
    assert result.code == 0, result.stderr
    steps = ("--steps", 10, "--set", "agent.hidden=[8]", "--eval-episodes", 1)
    assert offrl("train", "bc", "--dataset", "tuned/replay", *steps, "--json").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["BARE", "--steps", "5"], ["no policy to fine-tune", "'last' checkpoint"]),
        (["nowhere", "--steps", "5"], ["no policy to fine-tune", "nowhere"]),
        (["BC", "--steps", "5"], ["bc learns from a dataset only", "--algo"]),
        (["BC", "--steps", "5", "--algo", "magic"], ["'magic'", "td3"]),
        (["BC", "--steps", "5", "--algo", "td3"], ["needs an environment", "--env"]),
        (["BC", "--steps", "5", "--algo", "td3", "--env", "NoSuch-v1"], ["NoSuch"]),
        (["TD3", "--steps", "5", "--env", "CartPole-v1"], ["observation space of CartPole-v1"]),
        (["TD3", "--steps", "5", "--algo", "sac"], ["sac can't start from a policy that td3 trained"]),
        (["TD3", "--steps", "5", "--set", "agent.hidden=[8]"], ["don't fit the networks", "agent.hidden"]),
        (["TD3", "--steps", "5", "--set", "seeds=[1]"], ["seeds [3]"]),
        (["TD3", "--steps", "5", "--set", "online.nosuch=1"], ["online.nosuch"]),
        (["TD3", "--steps", "5", "--offline-fraction", "1.5"], ["--offline-fraction"]),
        (["TD3"], ["--steps"]),
        (
            ["BC", "--steps", "5", "--algo", "ppo", "--env", "Pendulum-v1", "--set", "agent.policy=gaussian"],
            ["gaussian policy can't start from a deterministic one", "agent.policy=squashed_gaussian"],
        ),
        (
            ["BC", "--steps", "5", "--algo", "ppo", "--env", "Pendulum-v1", "--offline-fraction", "0.5"],
            ["ppo learns from its own newest steps only"],
        ),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_no_run(
    offrl: Offrl, runs: dict[str, Path], arguments: list[str], words: list[str]
) -> None:
    result = offrl("finetune", *(str(runs.get(argument, argument)) for argument in arguments), "--json")
    assert (result.code, result.stdout) == (2, ""), result.stderr
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert list(Path.cwd().rglob("recipe.toml")) == []
