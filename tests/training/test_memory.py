"""A store larger than memory trains: what stays in anonymous memory is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from offrl.config.recipe import recipe_from_dict, to_toml
from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.types import Spec
from tests.training.runs import start_python

HOPPER = Spec(gym.spaces.Box(-np.inf, np.inf, (11,), np.float32), gym.spaces.Box(-1.0, 1.0, (3,), np.float32))
ROWS, EPISODE = 20_000_000, 1_000
MEGABYTE = 2**20

TRAIN_AND_WATCH = """
import json, re, sys, threading, time, tomllib
from pathlib import Path
from offrl.config.recipe import recipe_from_dict
from offrl.training.run_training import train

peak = 0
def watch():
    global peak
    while True:
        kilobytes = int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        peak = max(peak, kilobytes * 1024)
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
run = train(recipe_from_dict(tomllib.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
losses = [line["imitation_loss"][0] for line in run.lines("metrics.jsonl") if "imitation_loss" in line]
print(json.dumps({"peak": peak, "losses": losses}))
"""


@pytest.mark.slow
def test_twenty_million_rows_train_in_a_gigabyte(tmp_path: Path) -> None:
    _write_store(tmp_path / "store")
    recipe = recipe_from_dict(
        {
            "algo": "bc",
            "dataset": str(tmp_path / "store"),
            "steps": 600,
            "device": "cpu",
            "log_every": 100,
            "checkpoint_every": 300,
            "early_stopping": {"every": 300},
        }
    )
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))

    process = start_python(TRAIN_AND_WATCH, str(tmp_path / "recipe.toml"), str(tmp_path / "run"))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    report = json.loads(output.splitlines()[-1])
    print(f"peak RssAnon: {report['peak'] / MEGABYTE:.0f} MB")
    assert report["losses"][-1] < report["losses"][0]
    assert report["peak"] < 1_000 * MEGABYTE


def _write_store(path: Path) -> None:
    """20 million rows, T + 1 of each thousand-step episode, whose actions are a function of the observation."""
    rng = np.random.default_rng(0)
    episodes = 1_000
    rows = episodes * EPISODE
    final = np.arange(1, episodes + 1) * EPISODE - 1
    with StoreWriter(path, HOPPER) as writer:
        for _ in range(ROWS // rows):
            observation = rng.standard_normal((rows, 11), np.float32)
            action = np.tanh(observation[:, :3])
            truncated = np.zeros(rows, np.bool_)
            truncated[final - 1] = True
            action[final] = 0.0
            columns = {
                "observation": observation,
                "action": action,
                "reward": np.zeros(rows, np.float32),
                "terminated": np.zeros(rows, np.bool_),
                "truncated": truncated,
            }
            writer.append(EpisodeBlock(columns, np.full(episodes, EPISODE - 1)))
