"""How good a choice from the log alone is: the regret of `offrl select`, of a default, and of chance.

    python measure.py FOLDER train     the candidates, from nothing but the data sets
    python measure.py FOLDER select    the choices of 20 random subsets of each data set's episodes
    python measure.py FOLDER truth     what each candidate earns, in 100 episodes
    python measure.py FOLDER table     the table, and regret.png

Candidates are fixed here, before any of them has acted; those of an earlier list had acted, which left out that recipes
fill in what isn't named. Each stage goes on where it was interrupted. docs/choosing.md says what the table means.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import offrl
from offrl.converters.catalog import open_dataset
from offrl.envs.evaluator import evaluate as deploy
from offrl.envs.starts import Purpose, Starts
from offrl.files import appending
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.evaluate_runs import Acting, targets_of, with_time_limit
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan
from offrl.off_policy.read_log import read_log
from offrl.off_policy.selection import ranked
from offrl.runs.load import load_policy
from offrl.runs.run import Run

CHECKPOINTS, SEED = 3, 200
REPETITIONS, SUBSET, EPISODES = 20, 100, 100
"""Subsets hold so many of a log's episodes, and half of them at most; the truth is of so many episodes."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A training whose checkpoints are candidates, by the recipe that fits algorithm and data.

    Attributes:
        agent: the options that differ.
    """

    name: str
    algo: str
    steps: int
    agent: dict[str, Any] = dataclasses.field(default_factory=dict)


def pole(steps: int = 4_500) -> list[Candidate]:
    """For discrete actions."""
    return [
        Candidate("default", "dqn", steps),
        Candidate("dqn-plain", "dqn", steps, {"conservative": 0.0}),
        Candidate("iql", "iql", steps),
        Candidate("bc", "bc", steps),
    ]


def continuous(default: Candidate, steps: int) -> list[Candidate]:
    """For continuous actions: the default first."""
    return [
        default,
        Candidate("td3bc-weak", "td3bc", steps, {"bc_alpha": 20.0}),
        Candidate("iql", "iql", steps),
        Candidate("bc", "bc", steps),
    ]


DATASETS = {
    "cartpole-replay": pole(),
    "cartpole-random": pole(),
    "pendulum-replay": continuous(Candidate("default", "td3bc", 4_500), 4_500),
    # The recipe that was made for these data, with all of its steps.
    "hopper-medium-replay": continuous(Candidate("default", "td3", 50_000), 15_000),
    "hopper-random": continuous(Candidate("default", "td3bc", 15_000), 15_000),
}
"""The first candidate of each is what the bundled recipe makes; its last checkpoint is what `select` has to beat."""
FQE = FQEConfig(hidden=(64, 64), batch_size=64, steps=1_000, target_rate=0.2)
"""Smaller and shorter than the default: 100 fits of 12 policies take minutes on one core."""


def runs_of(folder: Path, dataset: str) -> list[Run]:
    """All candidates' runs, in the order of `DATASETS`."""
    return [Run.open(folder / dataset / candidate.name) for candidate in DATASETS[dataset]]


def train(folder: Path) -> None:
    """Make the runs: three checkpoints each. Nothing acts in an environment."""
    for dataset, candidates in DATASETS.items():
        for candidate in candidates:
            out = folder / dataset / candidate.name
            if (out / "done").exists():
                continue
            if (out / "recipe.toml").exists():
                offrl.resume(out, progress=False)
            else:
                offrl.train(
                    candidate.algo,
                    dataset=dataset,
                    env="none",
                    seeds=[SEED],
                    steps=candidate.steps,
                    out=out,
                    device="cpu",
                    checkpoint_every=math.ceil(candidate.steps / CHECKPOINTS),
                    checkpoints_kept=CHECKPOINTS,
                    agent=candidate.agent,
                    data={"validation_fraction": 0.0},
                    early_stopping={"patience": 0},
                    evaluation={"every": 0},
                    progress=False,
                )
            (out / "done").touch()
            print(dataset, candidate.name, flush=True)


def places_of(folder: Path, dataset: str) -> list[tuple[Run, str]]:
    """All candidates: the runs' checkpoints. The first run's last one is the default."""
    return [(run, name) for run in runs_of(folder, dataset) for name in run.kept_checkpoints()]


def select(folder: Path) -> None:
    """Rank the candidates by subsets of the episodes, and note the order. Nothing acts in an environment."""
    torch.set_num_threads(1)
    done = {(line["dataset"], line["repetition"]) for line in lines(folder / "choices.jsonl")}
    stores = {dataset: open_dataset(dataset) for dataset in DATASETS}
    for repetition in range(REPETITIONS):
        for dataset, store in stores.items():
            if (dataset, repetition) in done:
                continue
            size = min(SUBSET, store.num_episodes // 2)
            part = store[np.random.default_rng(repetition).permutation(store.num_episodes)[:size]]
            plan, _ = with_time_limit(Plan(fqe=FQE, resamples=200, seed=repetition), store, None)
            logged, targets = read_log(part), []
            for run, checkpoint in places_of(folder, dataset):
                found = targets_of(run, part, logged, plan, Acting(checkpoint))
                targets += [dataclasses.replace(each, name=f"{run.path.name} {checkpoint}") for each in found]
            evaluation = evaluate(logged, targets, plan)
            ranking, reliable = ranked(evaluation, seed=repetition)
            order = [place.policy for place in ranking.places]
            values = {place.policy: place.value for place in ranking.places}
            line = {"dataset": dataset, "repetition": repetition, "by": ranking.estimator, "reliable": reliable}
            note(folder / "choices.jsonl", {**line, "order": order, "values": [values[i] for i in sorted(values)]})
            print(dataset, repetition, ranking.estimator, targets[order[0]].name, flush=True)


def truth(folder: Path) -> None:
    """Mean undiscounted returns of all candidates."""
    torch.set_num_threads(1)
    done = {(line["dataset"], line["candidate"]) for line in lines(folder / "truth.jsonl")}
    for dataset in DATASETS:
        environment = open_dataset(dataset).metadata.environment
        for run, checkpoint in places_of(folder, dataset):
            candidate = f"{run.path.name} {checkpoint}"
            if (dataset, candidate) in done:
                continue
            policy, _ = load_policy(run, checkpoint)
            returns = deploy(policy, environment, EPISODES, Starts(Purpose.TRUTH, (SEED,))).returns
            line = {"dataset": dataset, "candidate": candidate, "mean": float(returns.mean())}
            note(folder / "truth.jsonl", {**line, "error": float(returns.std(ddof=1)) / EPISODES**0.5})
            print(dataset, candidate, f"{returns.mean():.1f}", flush=True)


def table(folder: Path) -> None:
    """Normalized regret: how far the choice falls short of the best candidate, over how far the worst does."""
    rows = regrets(folder)
    print("| log | best, worst candidate | `select` | default's last | at random |\n|---|---|---|---|---|")
    for dataset, (true, chosen, default, chance) in rows.items():
        mean, margin = chosen.mean(), 2.093 * chosen.std(ddof=1) / len(chosen) ** 0.5
        print(
            f"| {dataset} | {true.max():.0f}, {true.min():.0f} | {mean:.2f} ± {margin:.2f} | {default:.2f} "
            f"| {chance:.2f} |"
        )
    draw(rows, folder / "regret.png")


def regrets(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, float, float]]:
    """Of each data set: true returns [candidates], regret of `select` [repetitions], of the default, of chance."""
    rows = {}
    truths, choices = lines(folder / "truth.jsonl"), lines(folder / "choices.jsonl")
    for dataset in DATASETS:
        true = np.array([line["mean"] for line in truths if line["dataset"] == dataset])
        chosen = [line["order"][0] for line in choices if line["dataset"] == dataset]
        if len(chosen) < REPETITIONS or len(true) < len(places_of(folder, dataset)):
            continue
        short = (true.max() - true) / (true.max() - true.min())
        default = len(runs_of(folder, dataset)[0].kept_checkpoints()) - 1
        rows[dataset] = true, short[chosen], float(short[default]), float(short.mean())
    return rows


def draw(rows: dict[str, tuple[np.ndarray, np.ndarray, float, float]], path: Path) -> None:
    """Each choice as a dot, the mean as a bar, beside the default and chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    axes = figure.subplots()
    jitter = np.random.default_rng(0).uniform(-0.08, 0.08, REPETITIONS)
    for position, (_, chosen, default, chance) in enumerate(rows.values()):
        named = position == 0
        axes.bar(position, chosen.mean(), 0.5, color="#cfe0f3", label="select, mean" if named else None)
        axes.plot(position + jitter, chosen, ".", color="#1f5fa8", label="select, each subset" if named else None)
        ends = [position - 0.3, position + 0.3]
        axes.plot(ends, [default] * 2, "-", color="#b03a2e", lw=2, label="default's last checkpoint" if named else None)
        axes.plot(ends, [chance] * 2, "--", color="#57606a", lw=2, label="a random candidate" if named else None)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylabel("normalized regret")
    axes.set_ylim(-0.03, 1.03)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def lines(path: Path) -> list[dict[str, Any]]:
    """What was noted so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def note(path: Path, line: dict[str, Any]) -> None:
    """Add a line."""
    with appending(path) as file:
        file.write(json.dumps(line) + "\n")


STAGES = {"train": train, "select": select, "truth": truth, "table": table}

if __name__ == "__main__":
    STAGES[sys.argv[2]](Path(sys.argv[1]))
