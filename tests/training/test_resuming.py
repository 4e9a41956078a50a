"""A kill wherever a run writes: what it has logged when it is through is what one that was never stopped logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from offrl.collection.collect import collect_random
from offrl.config.recipe import Recipe
from offrl.runs.run import Run
from offrl.training.run_training import resume, train
from tests.training.runs import bc_recipe, make_demonstrations, td3_recipe


class Killed(BaseException):
    """In place of SIGKILL: nothing handles it, and nothing more is written."""


class Kills:
    """Ends a run at its n-th write: before it, in the middle of a line, or behind it.

    Attributes:
        writes: how many there were.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.at: tuple[int, str] | None = None

    def write(self, moment: str) -> None:
        if self.at == (self.writes, moment):
            raise Killed


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    planned, log, save = Kills(), Run.log, Run.save_checkpoint

    @contextmanager
    def counted() -> Iterator[None]:
        planned.write("before")
        yield
        planned.write("behind")
        planned.writes += 1

    def logged(run: Run, file: str, line: Mapping[str, Any]) -> None:
        with counted():
            if planned.at == (planned.writes, "amid"):
                with open(run.path / file, "a") as half:
                    half.write('{"step": ')
                raise Killed
            log(run, file, line)

    def saved(run: Run, *args: Any) -> Path:
        with counted():
            if planned.at == (planned.writes, "amid"):
                raise Killed
            return save(run, *args)

    monkeypatch.setattr(Run, "log", logged)
    monkeypatch.setattr(Run, "save_checkpoint", saved)
    return planned


def logged_by(run: Run) -> dict[str, list[dict[str, Any]]]:
    """All lines, but for how fast it went."""
    return {
        file: [{name: value for name, value in line.items() if name != "steps_per_second"} for line in run.lines(file)]
        for file in ("metrics.jsonl", "evaluations.jsonl")
    }


def recipe_of(algo: str, folder: Path) -> Recipe:
    """Logs, validations, evaluations and checkpoints fall on different steps, and sometimes on one."""
    periods: dict[str, Any] = {
        "steps": 120,
        "log_every": 24,
        "checkpoint_every": 40,
        "evaluation": {"every": 60, "episodes": 1, "final_episodes": 1},
    }
    if algo == "bc":
        return bc_recipe(make_demonstrations(folder / "demonstrations").path, **periods, early_stopping={"every": 30})
    online: dict[str, Any] = {"env": "CartPole-v1", "online": {"warmup_steps": 20, "capacity": 150, "environments": 2}}
    if algo == "dqn":
        return td3_recipe(algo="dqn", **online, **periods)
    ppo = {"hidden": [8], "rollout_steps": 4, "minibatch_size": 8, "epochs": 1}
    if algo == "ppo":
        return td3_recipe(algo="ppo", agent=ppo, **online, **periods)
    collect_random("CartPole-v1", episodes=4, destination=folder / "random")
    agent = {"generator": "ppo", "generator_options": ppo, "hidden": [8], "absorbing": False}
    return td3_recipe(algo="gail", dataset=str(folder / "random"), agent=agent, **online, **periods)


MOMENTS = ("before", "amid", "behind")


@pytest.mark.parametrize("algo", ["bc", "dqn", "ppo", "gail"])
def test_what_is_logged_is_that_of_an_uninterrupted_run(algo: str, kills: Kills, tmp_path: Path) -> None:
    recipe = recipe_of(algo, tmp_path)
    expected = logged_by(train(recipe, tmp_path / "through"))
    if algo != "bc":
        ended = [line["step"] for line in expected["metrics.jsonl"] if any(line["episode_return"])]
        assert len(ended) > 2, "episodes end between all lines, those with a checkpoint between them among them"
    for number in range(kills.writes):
        path = tmp_path / f"killed-{number}"
        kills.writes, kills.at = 0, (number, MOMENTS[number % 3])
        with pytest.raises(Killed):
            train(recipe, path)
        kills.at = None
        assert logged_by(resume(path)) == expected, f"killed {MOMENTS[number % 3]} write {number}"
