"""What an earlier version left opens, acts, evaluates, resumes, fine-tunes and exports as it did then.

`make.py` says how the files came to be. What they are compared with is what the code that made them went on to do;
the last bits of a sum may differ.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tests.envs.pixels  # noqa: F401  registers its environments
from offrl.envs.starts import Starts
from tests.cli.conftest import Offrl
from tests.old_files.library import FILES, MORE, MORE_STEPS, as_arrays, greedy_actions, metrics_after

EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
RUNS: dict[str, dict[str, Any]] = EXPECTED["runs"]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")
EXPLORES_ANEW = "sac-sde"
"""Explores by a random function of the state: one for each environment that begins anew with each episode, where the
version that left the run had one for all environments, which went on over their ends. What it does from the resumption
on differs therefore, and so does what it learns from that."""
every_run = pytest.mark.parametrize("name", RUNS)


def differences(found: Any, expected: Any, relative: float, absolute: float, where: str = "") -> Iterator[str]:
    """Where plain values differ; found mappings may say more than is expected."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            if key in found:
                yield from differences(found[key], value, relative, absolute, f"{where}.{key}")
            else:
                yield f"{where}.{key} is missing"
    elif isinstance(expected, list):
        if len(found) != len(expected):
            yield f"{where}: {len(found)} items in place of {len(expected)}"
            return
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, relative, absolute, f"{where}[{i}]")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(found, expected, rel_tol=relative, abs_tol=absolute):
            yield f"{where}: {found} in place of {expected}"
    elif found != expected:
        yield f"{where}: {found!r} in place of {expected!r}"


def assert_close(found: Any, expected: Any, *, relative: float, absolute: float) -> None:
    """Plain values, nested alike."""
    assert list(differences(found, expected, relative, absolute)) == []


def shown_to(name: str) -> Any:
    """The observations that a run's actions were recorded for."""
    return as_arrays(RUNS[name]["observations"], RUNS[name]["dtype"])


def rows(shown: Any) -> int:
    """How many they are."""
    return len(next(iter(shown.values()))) if isinstance(shown, dict) else len(shown)


def act_by_torchscript(path: Path, shown: Any) -> list[Any]:
    """The actions of an exported file."""
    parts = shown if isinstance(shown, dict) else {"": shown}
    tensors: Any = {key: torch.from_numpy(part) for key, part in parts.items()}
    tensors = tensors.get("", tensors)
    with torch.no_grad():
        actions: list[Any] = torch.jit.load(path)(tensors).tolist()
    return actions


def act_by_onnx(path: Path, shown: Any) -> list[Any]:
    """The same of an ONNX file."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    actions: list[Any] = session.run(None, {"observation": shown})[0].tolist()
    return actions


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES.rglob("*")) < 2_000_000


@every_run
def test_policies_act_as_they_did(old: Path, name: str) -> None:
    for checkpoint, actions in RUNS[name]["actions"].items():
        found = greedy_actions(old / "runs" / name, shown_to(name), checkpoint)
        assert_close(found, actions, relative=1e-5, absolute=1e-5)


@pytest.fixture
def former_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations start as they did: from the same states for every seed, whatever they are for."""

    def reset_seeds(starts: Starts, copies: int) -> list[int]:
        words: list[int] = np.random.SeedSequence([7_919, starts.number]).generate_state(copies).tolist()
        return words * len(starts.seeds)

    monkeypatch.setattr(Starts, "reset_seeds", reset_seeds)


@every_run
@pytest.mark.usefixtures("former_starts")
def test_runs_are_evaluated_as_they_were(offrl: Offrl, old: Path, name: str) -> None:
    result = offrl("evaluate", old / "runs" / name, "--episodes", "2", "--json")
    assert result.code == 0, result.stderr
    evaluated = RUNS[name]["evaluated"]
    # Of a single seed there was an interquartile mean, and its interval resampled episodes.
    kept = {key: value for key, value in evaluated.items() if not key.startswith("iqm")}
    assert_close(result.json, kept, relative=1e-3, absolute=1e-3)


@every_run
@pytest.mark.usefixtures("former_starts")
def test_runs_are_resumed_as_they_were(offrl: Offrl, old: Path, name: str) -> None:
    run, steps = old / "runs" / name, RUNS[name]["steps"]
    result = offrl("train", "--resume", run, "--steps", steps + MORE.get(name, MORE_STEPS), "--json")
    assert result.code == 0, result.stderr
    assert result.json["seeds"] == RUNS[name]["seeds"]
    resumed = RUNS[name]["resumed"]
    if name == EXPLORES_ANEW:
        assert_goes_on_alike(metrics_after(run, steps), resumed["metrics"])
        return
    assert_close(metrics_after(run, steps), resumed["metrics"], relative=1e-3, absolute=1e-5)
    for checkpoint, actions in resumed["actions"].items():
        assert_close(greedy_actions(run, shown_to(name), checkpoint), actions, relative=1e-3, absolute=1e-4)
    if resumed["replay"]:
        assert_close(
            offrl("datasets", "info", run / "replay", "--json").json, resumed["replay"], relative=0, absolute=0
        )


def assert_goes_on_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same lines of the same metrics, of other explored steps; the temperature moves as fast as it did."""
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert [one[name] for name in ("step", "episode_return", "episode_length")] == [
            other[name] for name in ("step", "episode_return", "episode_length")
        ]
        values = [one[name][0] for name in ("critic_loss", "q", "target_q", "actor_loss", "entropy")]
        assert all(math.isfinite(value) for value in values)
        assert_close(one["alpha"], other["alpha"], relative=0.05, absolute=0.0)


def test_a_resumed_run_that_explores_anew_is_reproducible(offrl: Offrl, old: Path) -> None:
    run = old / "runs" / EXPLORES_ANEW
    steps = RUNS[EXPLORES_ANEW]["steps"]
    twin = old / "runs" / "twin"
    shutil.copytree(run, twin)
    for each, more in ((run, 16), (twin, 16)):
        result = offrl("train", "--resume", each, "--steps", steps + more, "--json")
        assert result.code == 0, result.stderr
    assert metrics_after(run, steps) == metrics_after(twin, steps)
    shown = shown_to(EXPLORES_ANEW)
    assert greedy_actions(run, shown, "last") == greedy_actions(twin, shown, "last")


@every_run
def test_runs_are_exported(offrl: Offrl, old: Path, tmp_path: Path, name: str) -> None:
    shown, seeds = shown_to(name), RUNS[name]["seeds"]
    for i, seed in enumerate(seeds):
        which = ("--seed", seed) if len(seeds) > 1 else ()
        file = tmp_path / f"{seed}.pt"
        result = offrl(
            *("export", old / "runs" / name, "--format", "torchscript", "--checkpoint", "last", "--out", file, *which)
        )
        assert result.code == 0, result.stderr
        actions = RUNS[name]["actions"]["last"][i * rows(shown) : (i + 1) * rows(shown)]
        assert_close(act_by_torchscript(file, shown), actions, relative=1e-5, absolute=1e-5)


@pytest.mark.parametrize("name", ["td3"])
def test_runs_are_exported_to_onnx(offrl: Offrl, old: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxscript")
    file = tmp_path / "policy.onnx"
    result = offrl("export", old / "runs" / name, "--format", "onnx", "--checkpoint", "last", "--out", file)
    assert result.code == 0, result.stderr
    assert_close(act_by_onnx(file, shown_to(name)), RUNS[name]["actions"]["last"], relative=1e-5, absolute=1e-5)


def test_old_exports_act_as_they_did() -> None:
    actions = RUNS["td3"]["actions"]["last"]
    torchscript = act_by_torchscript(FILES / "exports" / "td3.pt", shown_to("td3"))
    assert_close(torchscript, actions, relative=1e-5, absolute=1e-5)
    assert_close(act_by_onnx(FILES / "exports" / "td3.onnx", shown_to("td3")), actions, relative=1e-5, absolute=1e-5)


@pytest.mark.parametrize(
    ("name", "more"), [("td3", ()), ("sac", ()), ("bc-two-seeds", ("--algo", "sac")), ("bc", ("--algo", "ppo"))]
)
def test_runs_are_fine_tuned(offrl: Offrl, old: Path, name: str, more: tuple[str, ...]) -> None:
    small = ("--steps", "20", "--eval-every", "0", "--eval-episodes", "1", "--set", "online.capacity=40")
    result = offrl("finetune", old / "runs" / name, *more, *small, "--set", "batch_size=8", "--out", "tuned", "--json")
    assert result.code == 0, result.stderr
    assert result.json["start"] == str(old / "runs" / name)


@pytest.mark.parametrize("name", EXPECTED["relabelled"])
def test_learned_rewards_are_what_they_were(offrl: Offrl, old: Path, name: str) -> None:
    dataset = {"gail": "old-cartpole", "airl": "old-pendulum", "irl": "old-lake"}[name]
    result = offrl("relabel", dataset, "--reward", old / "runs" / name, "--out", "learned", "--json")
    assert result.code == 0, result.stderr
    assert_close(result.json["mean_reward"], EXPECTED["relabelled"][name], relative=1e-3, absolute=1e-3)


def test_runs_record_their_policies_and_are_drawn(offrl: Offrl, old: Path) -> None:
    recorded = offrl("collect", old / "runs" / "ppo", "--episodes", "2", "--stochastic", "--out", "recorded", "--json")
    assert (recorded.code, recorded.json["episodes"]) == (0, 2), recorded.stderr
    drawn = offrl("plot", old / "runs" / "td3", "--out", "curves.png", "--json")
    assert drawn.code == 0, drawn.stderr
    assert [curve["x"] for curve in drawn.json["curves"]] == [[32.0, 64.0]]


@pytest.mark.parametrize("name", EXPECTED["stores"])
@pytest.mark.usefixtures("old")
def test_stores_hold_what_they_held(offrl: Offrl, name: str) -> None:
    described = offrl("datasets", "info", name, "--json")
    assert described.code == 0, described.stderr
    assert_close(described.json, EXPECTED["stores"][name], relative=1e-6, absolute=1e-6)


@pytest.mark.parametrize(
    "place",
    [
        *EXPECTED["stores"],
        "parquet/old-cartpole",
        "minari/old/cartpole-v0",
        "minari:old/cartpole-v0",
        "runs/finetuned-td3/replay",
    ],
)
def test_datasets_are_valid_and_learned_from(
    offrl: Offrl, old: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(old / "minari"))
    dataset = old / place if (old / place).exists() else place
    validated = offrl("datasets", "validate", dataset, "--json")
    assert (validated.code, validated.json["valid"]) == (0, True), validated.stdout
    small = ("--steps", "2", "--batch-size", "8", "--device", "cpu", "--env", "none", "--set", "agent.hidden=[8]")
    trained = offrl("train", "bc", "--dataset", dataset, *small, "--out", "cloned")
    assert trained.code == 0, trained.stderr
    assert [line["step"] for line in metrics_after(Path("cloned"), 0) if "imitation_loss" in line] == [2]


def test_parquet_holds_what_the_store_held(offrl: Offrl, old: Path) -> None:
    of_parquet = offrl("datasets", "info", old / "parquet" / "old-cartpole", "--json").json
    assert of_parquet["fingerprint"] == EXPECTED["stores"]["old-cartpole"]["fingerprint"]


def test_a_recipe_trains_as_it_did(offrl: Offrl, old: Path) -> None:
    result = offrl("recipes", "run", old / "recipe.toml", "--out", "of-recipe", "--json")
    assert result.code == 0, result.stderr
    assert_close(metrics_after(Path("of-recipe"), 0), EXPECTED["recipe"], relative=1e-3, absolute=1e-5)
    assert Path("of-recipe/metrics.csv").read_text(encoding="utf-8").startswith("step,seed,metric,value\n16,3,")
