"""Makes the files of `v0.1.0`: runs, stores, exports and a recipe as the library left them, and what became of them.

The files are of the code of commit 27fd427a26e2d36d3d78db22c2f64d26122bc2a1, the last one before folders moved, agents
were rewritten and checkpoints became strict. They are not to be made anew by later code, which is to read these. To see
how they came to be, check out the commit that added this file, which has that code, and there

    python -m tests.old_files.make NEW-FOLDER

with one thread (OMP_NUM_THREADS=1). All is trained through the command, in a temporary folder. Recipes that refer to
another run have `<RUNS>` in place of the runs' folder; datasets go by names, of stores in OFFRL_HOME.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from offrl.config.toml import write_toml
from offrl_cli.main import main
from tests.envs.pixels import NESTED_CATCH
from tests.old_files.library import (
    MORE,
    MORE_STEPS,
    RUNS_HERE,
    as_arrays,
    greedy_actions,
    has_best,
    metrics_after,
    replace_in_recipes,
    seeds_of,
    steps_of,
)

PENDULUM, CARTPOLE, LAKE = "Pendulum-v1", "CartPole-v1", "FrozenLake-v1"
HIDDEN = {"hidden": [8, 8]}
# Large steps, so that a handful of updates shows what each part of a state is good for.
CLONE = {**HIDDEN, "learning_rate": 1e-2}
TD3 = {**HIDDEN, "actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2, "target_rate": 0.05}
SAC = {**TD3, "temperature_learning_rate": 1e-2}
PPO = {
    **HIDDEN,
    "rollout_steps": 16,
    "epochs": 2,
    "minibatch_size": 8,
    "actor_learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
}
DQN = {**CLONE, "target_rate": 0.05}
REPLAY = {"warmup_steps": 16, "capacity": 40}
COMMON: dict[str, Any] = {
    "steps": 64,
    "batch_size": 8,
    "device": "cpu",
    "log_every": 16,
    "evaluation": {"every": 0, "episodes": 1, "final_episodes": 1},
    "early_stopping": {"every": 16},
}
EVALUATED = {"evaluation": {"every": 32, "episodes": 1, "final_episodes": 1}}
"""Leaves a `best` checkpoint too."""
OFFLINE = {"steps": 40, "log_every": 10, "data": {"validation_fraction": 0.0}}
RUNS: dict[str, dict[str, Any]] = {
    "bc": {
        "dataset": "old-cartpole",
        **OFFLINE,
        "agent": {**CLONE, "l2": 1e-3, "activation": "tanh"},
        "writers": ["csv"],
    },
    "bc-gaussian-ema": {
        "dataset": "old-pendulum",
        **OFFLINE,
        "agent": {**CLONE, "policy": "gaussian", "ema": 0.9, "dropout": 0.1, "layer_norm": True},
        "early_stopping": {"every": 10, "patience": 20},
        "data": {"validation_fraction": 0.4},
    },
    "bc-two-seeds": {"dataset": "old-pendulum", **OFFLINE, "seeds": [0, 7], "agent": {**CLONE, "l1": 1e-2}},
    "dagger": {"env": PENDULUM, "expert": f"{RUNS_HERE}/bc-gaussian-ema", "agent": CLONE, "online": REPLAY},
    "dqn": {"env": CARTPOLE, "agent": {**DQN, "epsilon_steps": 100}, "online": {**REPLAY, "environments": 2}},
    "dqn-noisy-dueling": {
        "env": CARTPOLE,
        "agent": {**DQN, "noisy": True, "dueling": True, "double": True, "target_rate": 1.0, "target_every": 10},
        "data": {"n_step": 3, "frame_stack": 2},
        "priority": {"kind": "proportional", "importance_steps": 100},
        "online": REPLAY,
    },
    "dqn-pixels": {
        "env": NESTED_CATCH,
        "agent": {**DQN, "convolutions": [[4, 3, 2], [4, 3, 1]]},
        "priority": {"kind": "rank"},
        "online": REPLAY,
    },
    "gail": {
        "env": CARTPOLE,
        "dataset": "old-cartpole",
        "agent": {**CLONE, "generator": "ppo", "generator_options": PPO, "label_smoothing": 0.1},
    },
    "gail-sac": {
        "env": PENDULUM,
        "dataset": "old-pendulum",
        "agent": {
            **CLONE,
            "generator": "sac",
            "generator_options": SAC,
            "inputs": "transition",
            "reward": "positive",
            "spectral_norm": True,
            "gradient_penalty": 0.0,
        },
        "online": REPLAY,
    },
    "airl": {
        "env": PENDULUM,
        "dataset": "old-pendulum",
        "agent": {**CLONE, "hidden": [8], "shaping_hidden": [8], "generator_options": PPO},
    },
    "irl": {"env": LAKE, "dataset": "old-lake", "steps": 8, "log_every": 2},
    "irl-network": {
        "env": LAKE,
        "dataset": "old-lake",
        "steps": 8,
        "log_every": 2,
        "agent": {"hidden": [8], "features": "state_action", "learning_rate": 0.01},
    },
    "ppo": {"env": CARTPOLE, "agent": PPO},
    "ppo-options": {
        "env": PENDULUM,
        "agent": {
            **PPO,
            "policy": "squashed_gaussian",
            "objective": "penalty",
            "epochs": 4,
            "scale_reward": True,
            "normalize_observation": True,
            "max_kl": 0.05,
            "decay_steps": 1_000,
        },
        "online": {"environments": 2},
        "steps": 96,
    },
    "sac": {"env": PENDULUM, "agent": SAC, "online": REPLAY},
    "sac-discrete": {"env": CARTPOLE, "agent": SAC, "online": REPLAY},
    "sac-sde": {"env": PENDULUM, "agent": {**SAC, "sde": True, "sde_every": 5}, "online": REPLAY},
    "sac-value": {"env": PENDULUM, "agent": {**SAC, "value_network": True, "layer_norm": True}, "online": REPLAY},
    "sqil": {
        "env": PENDULUM,
        "dataset": "old-pendulum",
        "agent": {"generator": "sac", "generator_options": SAC},
        "online": REPLAY,
    },
    "td3": {"env": PENDULUM, "agent": TD3, "online": REPLAY, **EVALUATED},
    "td3-bc": {
        "dataset": "old-pendulum",
        **OFFLINE,
        "agent": {**TD3, "bc_alpha": 2.5, "bc_decay": 0.99, "decay_steps": 1_000, "weight_decay": 0.01},
    },
}
FINE_TUNED: dict[str, tuple[str, ...]] = {
    "finetuned-td3": ("td3-bc",),
    "finetuned-ppo": (
        *("bc-two-seeds", "--algo", "ppo", "--set=online.environments=1"),
        *(f"--set=agent.{key}={value}" for key, value in PPO.items()),
    ),
}
RECIPE = """# A recipe of one's own: TD3 on the pendulum, tiny.
#
#     offrl recipes run recipe.toml

algo = "td3"
env = "Pendulum-v1"
steps = 48
batch_size = 8
seeds = [3, 4]
device = "cpu"
log_every = 16
writers = ["csv"]

[agent]
hidden = [8]
actor_learning_rate = 1e-3
policy_delay = 1
critics = 1

[data]
n_step = 2
reward_scale = 0.1

[online]
warmup_steps = 16
capacity = 64
environments = 2

[evaluation]
every = 0
final_episodes = 1
"""


def offrl(*arguments: str | Path) -> Any:
    """Run the command within this process; returns its JSON, if it wrote any."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        if exit_.code:
            raise RuntimeError(f"offrl {' '.join(map(str, arguments))}: {err.getvalue()}") from None
    return json.loads(out.getvalue()) if "--json" in arguments else None


def observations_of(run: Path) -> tuple[Any, Any]:
    """A few observations that a run's policies can be shown, as JSON has them, and their types."""
    facts = json.loads(next(run.glob("checkpoints/step-*/facts.json")).read_text(encoding="utf-8"))
    frames = 2 if run.name == "dqn-noisy-dueling" else 1
    space, rng = gym.make(facts["environment"]).observation_space, np.random.default_rng(0)
    if isinstance(space, gym.spaces.Discrete):
        return list(range(int(space.n))), "int64"
    if isinstance(space, gym.spaces.Dict):
        parts = {key: _sample(part, 4, rng) for key, part in space.items()}
        return {key: part.tolist() for key, part in parts.items()}, {key: str(p.dtype) for key, p in parts.items()}
    assert isinstance(space, gym.spaces.Box)
    rows = _sample(space, 12 * frames, rng)
    return (rows if frames == 1 else rows.reshape(12, frames, *space.shape)).tolist(), str(rows.dtype)


def _sample(space: Any, count: int, rng: np.random.Generator) -> Any:
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (count, *space.shape), np.uint8)
    # Far apart, so that discrete actions differ.
    low, high = np.maximum(space.low, -8.0), np.minimum(space.high, 8.0)
    return rng.uniform(low, high, (count, *space.shape)).astype(np.float32).round(4)


def make_stores(home: Path, files: Path) -> dict[str, Any]:
    """Three stores in OFFRL_HOME, one of them also as Parquet and for Minari; returns what `offrl` says of them."""
    offrl("collect", "--random", "--env", PENDULUM, "--episodes", "4", "--out", "old-pendulum")
    offrl("collect", "--random", "--env", CARTPOLE, "--episodes", "10", "--out", "old-cartpole")
    offrl("collect", "--optimal", "--env", LAKE, "--episodes", "8", "--out", "old-lake")
    offrl("datasets", "export", "old-cartpole", files / "parquet" / "old-cartpole")
    # Of few episodes: each takes some 20 KB of HDF5.
    offrl("collect", "--random", "--env", CARTPOLE, "--episodes", "2", "--out", home / "two-episodes")
    offrl("datasets", "export", home / "two-episodes", "old/cartpole-v0", "--format", "minari")
    shutil.copytree(home / "stores", files / "stores", ignore=shutil.ignore_patterns("lock"))
    names = ("old-pendulum", "old-cartpole", "old-lake")
    described = {name: offrl("datasets", "info", name, "--json") for name in names}
    kept = ("environment", "episodes", "transitions", "fingerprint", "statistics")
    return {name: {key: facts[key] for key in kept} for name, facts in described.items()}


def make_run(runs: Path, name: str, files: Path) -> dict[str, Any]:
    """Train one; returns what its policies do, and what becomes of a copy that is resumed."""
    run = runs / name
    if name in RUNS:
        values = {"algo": name.partition("-")[0], **COMMON, **RUNS[name]}
        recipe = runs.parent / f"{name}.toml"
        recipe.write_text(write_toml(values).replace(RUNS_HERE, str(runs)), encoding="utf-8")
        offrl("recipes", "run", recipe, "--out", run)
    else:
        start, *options = FINE_TUNED[name]
        replay = [f"--set=online.{key}={value}" for key, value in REPLAY.items()]
        logs = ("--set=log_every=16", "--eval-every", "0", "--eval-episodes", "1", "--steps", "64")
        offrl("finetune", runs / start, *logs, *options, *replay, "--out", run)
    # Locks are made anew, and pictures are large.
    shutil.copytree(run, files / "runs" / name, ignore=shutil.ignore_patterns(".lock", "lock", "plots"))
    observations, dtype = observations_of(run)
    shown = as_arrays(observations, dtype)
    kinds = ["last", "best"] if has_best(run) else ["last"]
    evaluated = offrl("evaluate", run, "--episodes", "2", "--json")
    evaluated.pop("run")
    steps, again = steps_of(run), runs.parent / "resumed" / name
    shutil.copytree(run, again)
    offrl("train", "--resume", again, "--steps", str(steps + MORE.get(name, MORE_STEPS)))
    return {
        "steps": steps,
        "seeds": seeds_of(run),
        "observations": observations,
        "dtype": dtype,
        "actions": {kind: greedy_actions(run, shown, kind) for kind in kinds},
        "evaluated": evaluated,
        "resumed": {
            "metrics": metrics_after(again, steps),
            "actions": {kind: greedy_actions(again, shown, kind) for kind in kinds},
            "replay": replay_of(again),
        },
    }


def replay_of(run: Path) -> dict[str, int] | None:
    """How much a run has recorded."""
    if not (run / "replay").exists():
        return None
    described = offrl("datasets", "info", run / "replay", "--json")
    return {key: described[key] for key in ("episodes", "transitions")}


def make(files: Path) -> None:
    """Make all of them in a folder that isn't there yet."""
    files.mkdir(parents=True)
    expected: dict[str, Any] = {"runs": {}}
    with tempfile.TemporaryDirectory() as temporary:
        home, runs = Path(temporary) / "home", Path(temporary) / "runs"
        runs.mkdir()
        os.environ["OFFRL_HOME"], os.environ["MINARI_DATASETS_PATH"] = str(home), str(files / "minari")
        expected["stores"] = make_stores(home, files)
        for name in (*RUNS, *FINE_TUNED):
            expected["runs"][name] = make_run(runs, name, files)
        replace_in_recipes(files / "runs", str(runs), RUNS_HERE)
        for format_, file in (("onnx", "td3.onnx"), ("torchscript", "td3.pt")):
            offrl("export", runs / "td3", "--format", format_, "--out", files / "exports" / file)
        learned = {"gail": "old-cartpole", "airl": "old-pendulum", "irl": "old-lake"}
        expected["relabelled"] = {
            name: offrl("relabel", data, "--reward", runs / name, "--out", f"by-{name}", "--json")["mean_reward"]
            for name, data in learned.items()
        }
        (files / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        offrl("recipes", "run", files / "recipe.toml", "--out", runs / "of-recipe")
        expected["recipe"] = metrics_after(runs / "of-recipe", 0)
    (files / "expected.json").write_text(_compact(expected), encoding="utf-8")


def _compact(expected: dict[str, Any]) -> str:
    """A line for each run and each store."""
    sections = []
    for name, section in expected.items():
        if isinstance(section, dict):
            lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in section.items())
            sections.append(f"{json.dumps(name)}: {{\n{lines}\n}}")
        else:
            sections.append(f"{json.dumps(name)}: {json.dumps(section)}")
    return "{" + ",\n".join(sections) + "}\n"


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
