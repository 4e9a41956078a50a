"""All that these tests and their script know of the library's insides; when modules move, this file alone follows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.envs.policy import Actor
from offrl.runs.load import load_policy
from offrl.runs.run import Run

FILES = Path(__file__).parent / "v0.1.0"
"""What the library left at that version."""
RUNS_HERE = "<RUNS>"
"""Stands for the folder of the runs, in recipes that refer to another run."""
MORE = {"bc": 20, "irl": 4, "td3-bc": 20}
"""Steps that a run is resumed for, or else `MORE_STEPS`; PPO's rollouts, of 16 steps, go into it."""
MORE_STEPS = 32


def greedy_actions(run: Path, shown: Any, checkpoint: str) -> list[Any]:
    """What the policies of a run's checkpoint do, [S · N, …], each seed's behind the other's.

    Args:
        run: its directory.
        shown: observations [N, …], as `as_arrays` returns them; every seed's policy sees them.
        checkpoint: "last" or "best".
    """
    policy, _ = load_policy(Run.open(run), checkpoint)
    if isinstance(shown, dict):
        every: Any = {key: np.concatenate([part] * policy.seeds) for key, part in shown.items()}
        count = len(next(iter(shown.values())))
    else:
        every, count = np.concatenate([shown] * policy.seeds), len(shown)
    return Actor(policy, count).greedy(every).tolist()


def as_arrays(observations: Any, dtype: Any) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Observations from JSON as an environment shows them."""
    if isinstance(observations, dict):
        return {key: np.array(part, dtype[key]) for key, part in observations.items()}
    return np.array(observations, dtype)


def steps_of(run: Path) -> int:
    """How many steps a run's recipe asks for."""
    steps: int = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))["steps"]
    return steps


def seeds_of(run: Path) -> list[int]:
    """The seeds that a run trained."""
    return list(tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))["seeds"])


def has_best(run: Path) -> bool:
    """Whether a run has a `best` checkpoint beside its `last` one."""
    return "best" in json.loads((run / "checkpoints" / "index.json").read_text(encoding="utf-8"))


def metrics_after(run: Path, step: int) -> list[dict[str, Any]]:
    """A run's lines of metrics behind a step, without how fast it was."""
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {key: value for key, value in line.items() if key != "steps_per_second"}
        for line in lines
        if line["step"] > step
    ]


def replace_in_recipes(runs: Path, old: str, new: str) -> None:
    """Make recipes that refer to other runs find them elsewhere."""
    for recipe in runs.glob("*/recipe.toml"):
        recipe.write_text(recipe.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
