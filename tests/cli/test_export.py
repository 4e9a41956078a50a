"""`offrl export`: from a trained run to a file, and from that to actions and estimates."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.cli.conftest import Offrl
from tests.training.runs import bc_recipe, make_demonstrations


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds."""
    folder = tmp_path_factory.mktemp("trained")
    demos = make_demonstrations(folder / "demos", episodes=4, length=20).path
    recipe = bc_recipe(demos, steps=20, evaluation={"every": 0, "episodes": 1, "final_episodes": 1})
    return train(recipe, folder / "run").path


def test_a_trained_policy_leaves_as_torchscript(offrl: Offrl, run: Path) -> None:
    result = offrl("export", run, "--format", "torchscript", "--seed", 1, "--out", "out/pendulum.pt", "--json")
    assert (result.code, result.stderr) == (0, "")
    report = result.json
    assert (report["path"], report["seed"], report["algo"], report["step"]) == ("out/pendulum.pt", 1, "bc", 20)
    assert report["difference"] <= 1e-5
    observation = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    action = torch.jit.load("out/pendulum.pt")(torch.from_numpy(observation)).numpy()
    want = Run.open(run).policy(seed=1, checkpoint="last")(observation)
    np.testing.assert_allclose(action, want, atol=1e-5)
    assert action.std() > 0.01


def test_what_it_prints(offrl: Offrl, run: Path) -> None:
    result = offrl("export", run, "--format", "torchscript", "--seed", 0)
    assert (result.code, result.stderr) == (0, "")
    *lines, checked = result.stdout.splitlines()
    assert lines == [
        f"file     {run / 'policy-seed-0.pt'}",
        "policy   bc, seed 0, step 20 (last checkpoint)",
        "inputs   observation float32 [batch, 3]",
        "outputs  action float32 [batch, 1]",
    ]
    assert checked.startswith("checked  largest difference ")
    again = offrl("export", run, "--format", "torchscript", "--seed", 0)
    assert (again.code, again.stdout) == (2, "")
    assert "the destination exists" in again.stderr
    assert offrl("export", run, "--format", "torchscript", "--seed", 0, "--overwrite").code == 0


def test_a_seed_has_to_be_named(offrl: Offrl, run: Path) -> None:
    result = offrl("export", run, "--format", "torchscript")
    assert (result.code, result.stdout) == (2, "")
    assert "choose one with --seed: 0, 1" in result.stderr


def test_missing_packages_are_named(offrl: Offrl, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = offrl("export", run, "--seed", 0)
    assert (result.code, result.stdout) == (2, "")
    assert "pip install 'offrl[onnx]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_onnx_file_is_valued_as_its_run_is(offrl: Offrl) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trained = ("--steps", 20, "--out", "cloned", "--set", "agent.hidden=[8]", "--set", "evaluation.final_episodes=1")
    assert offrl("train", "bc", "--dataset", "cartpole-random", *trained).code == 0
    result = offrl("export", "cloned", "--log-prob")
    assert (result.code, result.stderr) == (0, "")
    session = onnxruntime.InferenceSession("cloned/policy.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["offrl"])["environment"] == "CartPole-v1"
    options = ("--dataset", "cartpole-random", "--stochastic", "--estimators", "wis", "--json")
    one, other = (offrl("ope", path, *options).json["policies"][0] for path in ("cloned", "cloned/policy.onnx"))
    assert other["estimates"][0]["value"] == pytest.approx(one["estimates"][0]["value"], rel=1e-4)
    greedy = offrl("ope", "cloned/policy.onnx", *options[:2], *options[3:]).json["policies"][0]
    assert greedy["estimates"][0] != other["estimates"][0]
