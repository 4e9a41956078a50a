"""offrl beside d3rlpy: the same data, options, updates and evaluation; a table of both libraries' returns.

    python -m tests.benchmarks.beside_d3rlpy OUT [--datasets NAME …] [--algorithms NAME …] [--seeds 100 101 102]

One training at a time, in one thread; calls with other datasets or algorithms can share OUT, side by side. What is
finished stays in OUT: the same call again goes on where the last one was. OUT/table.md is written after each training,
and printed at the end.

Both evaluate in the same initial states, by offrl: its own run, and the TorchScript that d3rlpy exports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import offrl
from offrl.data.store import TrajectoryStore
from offrl.envs.evaluator import evaluate_function
from offrl.envs.starts import Purpose, Starts
from offrl.files import write_whole
from offrl.ops.score_statistics import mean_interval
from tests.benchmarks.make_peers import default_root, interpreter
from tests.benchmarks.rows import Subject
from tests.benchmarks.run import WORKERS, why_absent

DATASETS = ("hopper-medium-replay", "hopper-medium-expert", "halfcheetah-medium-replay", "walker2d-medium-replay")
LIBRARIES = ("offrl", "d3rlpy")
WIDE, DEEP = [256, 256], [256, 256, 256]
REBRAC_PENALTIES = {
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-medium-expert": (0.1, 0.01),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "walker2d-medium-replay": (0.05, 0.01),
}
"""The paper's, for D4RL's data sets of the same names: of the actor, of the critics."""


@dataclass(frozen=True)
class Method:
    """An algorithm with the same options in both libraries; what isn't named is the default of both.

    Attributes:
        algo, agent: offrl's name and options.
        config, options: d3rlpy's.
        actor, critic: hidden widths.
        layer_norm: of the critics.
        value_network: whether d3rlpy has a third network, as wide as the critics.
        batch_size: transitions in an update.
        normalize: whether observations are.
        scale_rewards: by 1,000 over the range of the data's returns, as IQL's paper does.
        actor_weight_decay: decoupled.
        actor_decays: whether the actor's step size falls to 0 over the training, by a cosine.
    """

    algo: str
    config: str
    agent: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    actor: list[int] = field(default_factory=lambda: WIDE)
    critic: list[int] = field(default_factory=lambda: WIDE)
    layer_norm: bool = False
    value_network: bool = False
    batch_size: int = 256
    normalize: bool = False
    scale_rewards: bool = False
    actor_weight_decay: float = 0.0
    actor_decays: bool = False

    def encoders(self) -> dict[str, Any]:
        """d3rlpy's networks."""
        critic = {"hidden_units": self.critic, "use_layer_norm": self.layer_norm}
        encoders = {"actor_encoder_factory": {"hidden_units": self.actor}, "critic_encoder_factory": critic}
        return encoders | ({"value_encoder_factory": critic} if self.value_network else {})


def methods(dataset: str) -> dict[str, Method]:
    """The algorithms by name, with the options that were published."""
    actor_penalty, critic_penalty = REBRAC_PENALTIES[dataset]
    return {
        # The paper's; both normalize observations and take the actor's step after every second of the critics'.
        "td3+bc": Method(
            "td3",
            "TD3PlusBCConfig",
            {"hidden": WIDE, "bc_alpha": 2.5},
            {"alpha": 2.5, "update_actor_interval": 2},
            normalize=True,
        ),
        # The paper's. d3rlpy's log σ is a sigmoid between −5 and 2 that begins at −1.5, offrl's begins at 0.
        "iql": Method(
            "iql",
            "IQLConfig",
            {"hidden": WIDE, "expectile": 0.7, "temperature": 3.0},
            {"expectile": 0.7, "weight_temp": 3.0, "max_weight": 100.0},
            value_network=True,
            scale_rewards=True,
            actor_decays=True,
        ),
        # The authors' code has λ = 1 and decays the policy's weights by 1e-4, as does offrl; d3rlpy only where told.
        # Batches of 256 as in CORL, where the authors and d3rlpy have 1,024; two layers, where the authors' policy and
        # d3rlpy's published networks have four. d3rlpy's log σ lies between −6 and 0.
        "awac": Method(
            "awac",
            "AWACConfig",
            {"hidden": WIDE, "temperature": 1.0, "weight_decay": 1e-4},
            {"lam": 1.0},
            actor_weight_decay=1e-4,
        ),
        # The paper's, its penalties by data set. The authors see observations as they are, d3rlpy normalized ones: here
        # neither does. d3rlpy normalizes layers behind the activation, offrl before it, and its actor follows the lower
        # of the critics.
        "rebrac": Method(
            "rebrac",
            "ReBRACConfig",
            {"hidden": DEEP, "actor_penalty": actor_penalty, "critic_penalty": critic_penalty},
            {
                "actor_learning_rate": 1e-3,
                "critic_learning_rate": 1e-3,
                "actor_beta": actor_penalty,
                "critic_beta": critic_penalty,
            },
            DEEP,
            DEEP,
            layer_norm=True,
            batch_size=1024,
        ),
        # The authors' for locomotion: a fixed weight of 5. d3rlpy's targets take the mean action of the policy, offrl's
        # and the authors' sample one.
        "cql": Method(
            "cql",
            "CQLConfig",
            {"hidden": DEEP, "conservative_weight": 5.0, "samples": 10},
            {"conservative_weight": 5.0, "n_action_samples": 10, "alpha_learning_rate": 0.0, "alpha_threshold": 0.0},
            DEEP,
            DEEP,
        ),
    }


@dataclass(frozen=True)
class Budget:
    """How much is done in each cell."""

    steps: int
    episodes: int


@dataclass(frozen=True)
class Cell:
    """One training of one library."""

    dataset: str
    method: str
    library: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its files are."""
        return out / self.dataset / self.method / f"{self.library}-{self.seed}"

    def result(self, out: Path) -> Path:
        """The file that is there once it is finished."""
        return self.folder(out).with_suffix(".json")


def train_ours(cell: Cell, out: Path, budget: Budget) -> list[float]:
    """Train by offrl, or go on with it; returns of the last policy."""
    method, data = methods(cell.dataset)[cell.method], offrl.open_dataset(cell.dataset)
    folder = cell.folder(out)
    if (folder / "recipe.toml").is_file():
        run = offrl.resume(folder, progress=False)
    else:
        schedule = {"decay_steps": budget.steps, "decay_shape": "cosine"} if method.actor_decays else {}
        run = offrl.train(
            method.algo,
            dataset=cell.dataset,
            steps=budget.steps,
            seeds=[cell.seed],
            out=folder,
            agent={**method.agent, **schedule},
            data={
                "validation_fraction": 0.0,
                "normalize_observation": method.normalize,
                "reward_scale": reward_scale(data) if method.scale_rewards else 1.0,
            },
            evaluation={"every": 0, "final_episodes": budget.episodes},
            batch_size=method.batch_size,
            checkpoint_every=min(5_000, budget.steps),
            device="cpu",
            progress=False,
        )
    scores = run.evaluate(budget.episodes, checkpoint="last", progress=False)
    returns: list[float] = scores["returns"][0]
    return returns


def train_theirs(cell: Cell, out: Path, budget: Budget) -> list[float]:
    """Train by d3rlpy in its own environment; returns of the policy that it exports."""
    method, data = methods(cell.dataset)[cell.method], offrl.open_dataset(cell.dataset)
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    arrays, policy, job = folder.parent.parent / "arrays.npz", folder / "policy.pt", folder / "job.json"
    if not arrays.is_file():
        hand_over(data, arrays)
    if not policy.is_file():
        settings = {
            "arrays": str(arrays),
            "policy": str(folder / "unfinished.pt"),
            "seed": cell.seed,
            "steps": budget.steps,
            "algorithm": method.config,
            "options": method.options,
            "encoders": method.encoders(),
            "batch_size": method.batch_size,
            "normalize": method.normalize,
            "reward_scale": reward_scale(data) if method.scale_rewards else 1.0,
            "actor_weight_decay": method.actor_weight_decay,
            "actor_decay_steps": budget.steps if method.actor_decays else 0,
        }
        write_whole(job, json.dumps(settings, indent=2))
        command = [interpreter("d3rlpy", default_root()), WORKERS / "d3rlpy_training.py", job]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        (folder / "unfinished.pt").rename(policy)
    environment = data.metadata.environment
    assert environment is not None
    module = torch.jit.load(str(policy))

    @torch.no_grad()
    def act(observation: NDArray[Any]) -> NDArray[Any]:
        actions: NDArray[Any] = module(torch.from_numpy(observation.astype(np.float32))).numpy()
        return actions

    starts = Starts(Purpose.FINAL, (cell.seed,))
    returns: list[float] = evaluate_function(act, environment, budget.episodes, starts).returns[0].tolist()
    return returns


def reward_scale(data: TrajectoryStore) -> float:
    """1,000 over the range of the episodes' returns."""
    returns = data.episodes.return_
    return 1_000.0 / float(returns.max() - returns.min())


def hand_over(data: TrajectoryStore, path: Path) -> None:
    """Write episodes as d3rlpy reads them.

    A truncated episode has a row more, of its final observation: without one d3rlpy leaves its last transition out.
    """
    box = data.spec.action_space
    if not (np.all(box.low == -1.0) and np.all(box.high == 1.0)):
        raise SystemExit("d3rlpy takes actions within [-1, 1] as they are; others would have to be scaled")
    rows: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")
    }
    for episode in data:
        terminated = bool(episode.terminated[-1])
        more = 0 if terminated else 1
        ends = np.zeros(episode.length + more, np.float32)
        ends[-1] = 1.0
        rows["observations"].append(episode.observation[: episode.length + more])
        rows["actions"].append(np.pad(episode.action, ((0, more), (0, 0))))
        rows["rewards"].append(np.pad(episode.reward, (0, more)))
        rows["terminals"].append(ends * terminated)
        rows["timeouts"].append(ends * (not terminated))
    columns = {name: np.concatenate(parts).astype(np.float32) for name, parts in rows.items()}
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, **columns, transitions=data.num_steps)
    partial.rename(path)


def run_cell(cell: Cell, out: Path, budget: Budget) -> None:
    """Do what is missing of one cell, and keep its returns."""
    if cell.result(out).is_file():
        return
    returns = (train_ours if cell.library == "offrl" else train_theirs)(cell, out, budget)
    kept = {"returns": returns, "mean_return": float(np.mean(returns)), "steps": budget.steps}
    write_whole(cell.result(out), json.dumps(kept))
    write_whole(out / "table.md", table(out))


def finished(out: Path) -> Iterator[tuple[str, str, str, float]]:
    """Dataset, method, library and mean return of every training that is finished."""
    for path in sorted(out.glob("*/*/*.json")):
        library = path.stem.partition("-")[0]
        yield path.parent.parent.name, path.parent.name, library, json.loads(path.read_text())["mean_return"]


def table(out: Path) -> str:
    """Markdown: mean returns over seeds with their 95% intervals by Student's t, and what they say."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for dataset, method, library, mean in finished(out):
        found.setdefault((dataset, method), {name: [] for name in LIBRARIES})[library].append(mean)
    lines = ["| dataset | algorithm | offrl | d3rlpy | seeds | offrl is |", "|---|---|---|---|---|---|"]
    for (dataset, method), both in found.items():
        ours, theirs = (np.array(both[library]) for library in LIBRARIES)
        seeds = f"{len(ours)} and {len(theirs)}"
        lines.append(f"| {dataset} | {method} | {words(ours)} | {words(theirs)} | {seeds} | {verdict(ours, theirs)} |")
    return "\n".join(lines) + "\n"


def words(means: NDArray[np.float64]) -> str:
    """A mean and its interval."""
    if not len(means):
        return "not yet"
    interval = mean_interval(means)
    return f"{means.mean():.0f}" + (f" ({interval[0]:.0f} to {interval[1]:.0f})" if interval else "")


def verdict(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    """Where our mean lies beside the interval of theirs."""
    interval = mean_interval(theirs)
    if not len(ours) or interval is None:
        return "not told yet"
    if ours.mean() < interval[0]:
        return "below"
    return "above" if ours.mean() > interval[1] else "within"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS, metavar="NAME")
    parser.add_argument("--algorithms", nargs="+", choices=methods(DATASETS[0]), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=100_000, help="updates (%(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="evaluated of each training (%(default)s)")
    chosen = parser.parse_args()
    if reason := why_absent(Subject("d3rlpy", "d3rlpy_training.py", "", "d3rlpy"), default_root()):
        raise SystemExit(reason)
    torch.set_num_threads(1)
    out = chosen.out.resolve()
    budget = Budget(chosen.steps, chosen.episodes)
    for dataset in chosen.datasets:
        for seed in chosen.seeds:
            for method in chosen.algorithms or methods(dataset):
                for library in LIBRARIES:
                    run_cell(Cell(dataset, method, library, seed), out, budget)
    print(table(out))


if __name__ == "__main__":
    main()
