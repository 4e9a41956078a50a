"""Exported files: they act as the run's policy does, and say what they are."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.config.recipe import recipe_from_dict
from offrl.data.schema import OBSERVATION, unflatten_value
from offrl.data.space_encoding import space_from_json, space_to_json
from offrl.deploy import file_formats as exported_files
from offrl.deploy.export import Export, export_policy
from offrl.deploy.file_formats import FORMATS, METADATA
from offrl.deploy.module import Columns, random_observations
from offrl.envs.policy import Actor
from offrl.errors import ExportError, RequestError, RunError, SpaceMismatchError, StoreError
from offrl.nn.state import state_tensors
from offrl.off_policy.target_policies import OnnxPolicy
from offrl.plugins import algorithms
from offrl.replay.normalization import ObservationNormalizer, observation_key
from offrl.runs.load import fresh_policy, load_policy
from offrl.runs.run import Run
from offrl.types import Spec
from tests.off_policy.test_target_policies import discrete_log
from tests.runs.facts import facts_of

Box, Discrete = gym.spaces.Box, gym.spaces.Discrete
VECTOR = Box(-np.inf, np.inf, (5,), np.float64)
TIMED = Box(-np.inf, np.inf, (2,), np.float64)
IMAGE = Box(0, 255, (12, 10, 3), np.uint8)
NESTED = gym.spaces.Dict(
    {"arm": gym.spaces.Dict({"angle": Box(-1, 1, (2, 3))}), "held": Discrete(3, start=-1), "camera": IMAGE}
)
TORQUES = Box(np.array([-2, 0, -np.inf], np.float32), np.array([2, 10, np.inf], np.float32))
BOUNDED = Box(np.array([[-2.0], [0.0]], np.float32), np.array([[2.0], [10.0]], np.float32))
STRONG = Box(np.array([-1e4, 0], np.float32), np.array([1e4, 1], np.float32))
CHOICE = Discrete(4, start=3)
CHOICES = gym.spaces.MultiDiscrete([3, 2], start=[1, 0])

KINDS: dict[str, tuple[str, dict[str, Any], gym.Space[Any], gym.Space[Any]]] = {
    "bc": ("bc", {"ema": 0.9}, VECTOR, TORQUES),
    "bc-timed": ("bc", {}, TIMED, TORQUES),
    "bc-gaussian": ("bc", {"policy": "gaussian", "activation": "gelu", "layer_norm": True}, VECTOR, BOUNDED),
    "bc-squashed": ("bc", {"policy": "squashed_gaussian", "activation": "silu"}, VECTOR, BOUNDED),
    "bc-choice": ("bc", {"dropout": 0.1}, VECTOR, CHOICE),
    "bc-nested": ("bc", {}, NESTED, CHOICES),
    "dagger": ("dagger", {}, VECTOR, BOUNDED),
    "td3": ("td3", {}, VECTOR, BOUNDED),
    "td3-strong": ("td3", {"bc_alpha": 2.5}, VECTOR, STRONG),
    "sac": ("sac", {}, VECTOR, BOUNDED),
    "sac-sde": ("sac", {"sde": True}, VECTOR, BOUNDED),
    "td3-image": ("td3", {"random_shift": 2}, NESTED, BOUNDED),
    "sac-image": ("sac", {"convolutions": "impala"}, IMAGE, BOUNDED),
    "iql-image": ("iql", {}, NESTED, BOUNDED),
    "sac-choice": ("sac", {"value_network": True}, VECTOR, CHOICE),
    "ppo": ("ppo", {"normalize_observation": True}, VECTOR, TORQUES),
    "ppo-squashed": ("ppo", {"policy": "squashed_gaussian"}, VECTOR, BOUNDED),
    "ppo-choice": ("ppo", {}, NESTED, CHOICE),
    "ppo-choices": ("ppo", {}, VECTOR, CHOICES),
    "dqn": ("dqn", {}, Discrete(7), CHOICE),
    "dqn-image": ("dqn", {"dueling": True}, IMAGE, CHOICE),
    "dqn-noisy": ("dqn", {"noisy": True, "layer_norm": True}, VECTOR, CHOICE),
    "dqn-nested": ("dqn", {"hidden": []}, NESTED, CHOICE),
    "qrdqn-image": ("qrdqn", {"dueling": True, "quantiles": 5}, IMAGE, CHOICE),
    "bcq-nested": ("bcq", {"threshold": 0.8}, NESTED, CHOICE),
    "iql-choice": ("iql", {}, VECTOR, CHOICE),
    "iql-choices": ("iql", {}, NESTED, CHOICES),
    "gail": ("gail", {"generator": "ppo"}, VECTOR, BOUNDED),
    "airl": ("airl", {}, VECTOR, BOUNDED),
    "sqil": ("sqil", {}, VECTOR, BOUNDED),
    "irl": ("irl", {}, Discrete(6, start=1), CHOICE),
}


def make_run(path: Path, kind: str, seeds: tuple[int, ...] = (0, 5), **changes: Any) -> Run:
    """A run whose policies are random: a checkpoint at step 12, with a normalizer where observations are vectors."""
    algo, options, observation_space, action_space = KINDS[kind]
    algorithm = algorithms[algo]
    hidden = {} if algo in ("gail", "airl", "sqil", "irl") else {"hidden": [8, 6]}
    recipe = recipe_from_dict(
        {
            "algo": algo,
            "seeds": list(seeds),
            "device": "cpu",
            "agent": {**hidden, **options},
            **(
                {"env": "Pendulum-v1"}
                if {"replay", "rollouts", "dagger"} & {*algorithm.feeds}
                else {"dataset": "hopper-expert"}
            ),
            **({"expert": "expert"} if algorithm.expert else {}),
            **changes,
        }
    )
    agent = algorithm.build(recipe.agent, Spec(observation_space, action_space))
    state = fresh_policy(algorithm, agent, recipe, torch.device("cpu"), None).state
    generator = torch.Generator().manual_seed(1)
    for tensor in state_tensors(state).values():
        if tensor.is_floating_point() and tensor.dim():
            tensor.detach().add_(0.2 * torch.randn(tensor.shape, generator=generator))
    parts = {"state": state_tensors(state)}
    if observation_space is VECTOR:
        parts["normalizer"] = ObservationNormalizer(np.arange(5), np.arange(1, 6) / 3).named_tensors()
    if observation_space is TIMED:
        parts["normalizer"] = ObservationNormalizer(np.array([1.7e9, 2.0]), np.array([10.0, 1.0])).named_tensors()
    run = Run.create(path, recipe)
    facts = facts_of(12) | {
        "environment": "Some-v0",
        "normalized": "normalizer" in parts,
        "observation_space": space_to_json(observation_space),
        "action_space": space_to_json(action_space),
    }
    run.save_checkpoint("last", 12, parts, facts)
    return run


def wanted(run: Run, columns: Columns, position: int) -> np.ndarray:
    """What an environment is given by the run's own policy."""
    policy, _ = load_policy(run, "last")
    everyone = {name: np.concatenate([values] * policy.seeds) for name, values in columns.items()}
    observation = unflatten_value(policy.agent.spec.observation_space, everyone, OBSERVATION)
    rows = len(next(iter(columns.values())))
    return np.split(Actor(policy, rows).greedy(observation), policy.seeds)[position]


def assert_acts_alike(run: Run, path: Path, format: str, position: int) -> None:
    """At one row and at many."""
    runner, (policy, _) = FORMATS[format].open(path), load_policy(run, "last")
    assert runner is not None
    for rows in (1, 37):
        columns = random_observations(policy, rows, 3)
        want, have = wanted(run, columns, position), runner(columns, ())[0]
        assert (have.dtype, have.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(want).max()))
        assert rows == 1 or len(np.unique(want)) > 1


@pytest.fixture(scope="module")
def onnx() -> Any:
    """What the extra `onnx` installs."""
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_of_every_policy_acts_as_it_does(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    exported = export_policy(run, tmp_path / "policy.pt", "torchscript", seed=5)
    assert exported.difference is not None
    assert exported.difference <= (0.01 if kind == "td3-strong" else 1e-5)
    assert_acts_alike(run, exported.path, "torchscript", 1)
    seeds_differ = not np.array_equal(
        *(wanted(run, random_observations(load_policy(run, "last")[0], 64, 3), i) for i in (0, 1))
    )
    assert seeds_differ


def test_what_only_exploring_remembers_is_not_in_the_file(tmp_path: Path) -> None:
    exported = export_policy(make_run(tmp_path / "run", "sac-sde", seeds=(3,)), tmp_path / "policy.pt", "torchscript")
    assert [each["name"] for each in exported.metadata["inputs"]] == ["observation"]
    assert [each["name"] for each in exported.metadata["outputs"]] == ["action"]


@pytest.mark.parametrize("kind", ["bc", "dqn-nested"])
def test_onnx_acts_as_the_policy_does(tmp_path: Path, onnx: Any, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    exported = export_policy(run, tmp_path / "deep" / "policy.onnx", seed=5)
    assert exported.difference is not None
    assert exported.difference <= 1e-5
    assert_acts_alike(run, exported.path, "onnx", 1)
    onnx.checker.check_model(onnx.load(exported.path), full_check=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_tells_times_apart_beside_their_offset(tmp_path: Path, onnx: Any, format: str) -> None:
    exported = export_policy(make_run(tmp_path / "run", "bc-timed", seeds=(3,)), tmp_path / "policy", format)
    assert [each["dtype"] for each in exported.metadata["inputs"]] == ["float64"]
    runner = FORMATS[format].open(exported.path)
    assert runner is not None
    observation = np.array([[1.7e9, 2.0], [1.7e9 + 5.0, 2.0]])
    actions = runner({"observation": observation}, ())[0]
    assert np.abs(actions[0] - actions[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_of_every_policy_acts_as_it_does(tmp_path: Path, onnx: Any, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    assert_acts_alike(run, export_policy(run, tmp_path / "policy.onnx", seed=5).path, "onnx", 1)


@pytest.fixture(scope="module")
def nested(onnx: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Export]:
    """A run whose observations are nested and whose actions are sampled, and its ONNX file."""
    folder = tmp_path_factory.mktemp("nested")
    run = make_run(folder / "run", "ppo-choice", seeds=(3,))
    return run, export_policy(run, folder / "policy.onnx", log_prob=True)


def test_an_onnx_file_says_what_it_is_and_nothing_of_the_machine(nested: tuple[Run, Export], onnx: Any) -> None:
    _, exported = nested
    model = onnx.load(exported.path)
    assert {each.key: json.loads(each.value) for each in model.metadata_props} == {METADATA: exported.metadata}
    said = dict(exported.metadata)
    for space, name in zip(KINDS["ppo-choice"][2:], ("observation_space", "action_space"), strict=True):
        assert space_from_json(said.pop(name)) == space
    assert said == {
        "offrl": "0.1.0",
        "algo": "ppo",
        "environment": "Some-v0",
        "checkpoint": "last",
        "step": 12,
        "seed": 3,
        "frame_stack": 1,
        "inputs": [
            {"name": "observation.arm.angle", "dtype": "float32", "shape": ["batch", 2, 3]},
            {"name": "observation.camera", "dtype": "uint8", "shape": ["batch", 12, 10, 3]},
            {"name": "observation.held", "dtype": "int64", "shape": ["batch"]},
        ],
        "outputs": [
            {"name": "action", "dtype": "int64", "shape": ["batch"]},
            {"name": "log_prob", "dtype": "float32", "shape": ["batch", 4]},
        ],
    }
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        part["name"]: part["shape"] for part in exported.metadata["inputs"] + exported.metadata["outputs"]
    }
    assert b".py" not in exported.path.read_bytes()
    assert sorted(each.name for each in exported.path.parent.iterdir()) == ["policy.onnx", "run"]


def test_a_torchscript_file_says_what_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "bc-nested", seeds=(3,), data={"frame_stack": 2})
    exported = export_policy(run, tmp_path / "policy.pt", "torchscript")
    extra = {METADATA: ""}
    torch.jit.load(str(exported.path), _extra_files=extra)
    assert json.loads(extra[METADATA]) == exported.metadata
    assert exported.metadata["frame_stack"] == 2
    assert exported.metadata["outputs"] == [{"name": "action", "dtype": "int64", "shape": ["batch", 2]}]


def test_actions_are_within_the_bounds_and_normalized_inside(tmp_path: Path) -> None:
    """Against the formula, for a policy that is one affine layer behind tanh."""
    run = make_run(tmp_path / "run", "bc-squashed", seeds=(3,), agent={"policy": "squashed_gaussian", "hidden": []})
    module = torch.jit.load(str(export_policy(run, tmp_path / "policy.pt", "torchscript").path))
    policy, _ = load_policy(run, "last")
    weight, bias = (parameter[0, 0].detach().numpy() for parameter in policy.state.policy.parameters())
    observation = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    seen = (observation - np.arange(5)) / (np.arange(1, 6) / 3 + 1e-3)
    unit = np.tanh(seen @ weight[:2].T + bias[0, :2])
    want = unit * [2.0, 5.0] + [0.0, 5.0]
    np.testing.assert_allclose(module(torch.from_numpy(observation))[..., 0].numpy(), want, atol=1e-4)


@pytest.mark.parametrize("kind", ["bc-choice", "sac-choice", "irl"])
def test_log_probabilities_of_all_actions(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    path = export_policy(run, tmp_path / "policy.pt", "torchscript", seed=5, log_prob=True).path
    runner = FORMATS["torchscript"].open(path)
    assert runner is not None
    policy, _ = load_policy(run, "last")
    columns = random_observations(policy, 11, 0)
    action, log_prob = runner(columns, ())
    assert (log_prob.dtype, log_prob.shape) == (np.float32, (11, 4))
    np.testing.assert_array_equal(action, CHOICE.start + log_prob.argmax(axis=1))
    if kind != "irl":
        np.testing.assert_allclose(np.exp(log_prob).sum(axis=1), 1.0, atol=1e-5)
    seen = policy.observe(np.concatenate([columns[OBSERVATION]] * 2))
    agent: Any = policy.agent
    taken = torch.from_numpy(action).expand(2, -1)
    np.testing.assert_allclose(
        agent.log_prob(policy.state, seen, taken, ())[1], log_prob.max(axis=1), rtol=1e-5, atol=1e-5
    )


def test_off_policy_evaluation_reads_an_exported_file(nested: tuple[Run, Export]) -> None:
    run, exported = nested
    policy, _ = load_policy(run, "last")
    columns, spec = random_observations(policy, 5, 0), policy.agent.spec
    rows = {observation_key(name): values for name, values in columns.items()}
    log = dataclasses.replace(discrete_log(), spaces=spec, observations=rows)
    greedy = OnnxPolicy(exported.path).choices(log, draws=1, seed=0)
    chosen = Actor(policy, 5).greedy(unflatten_value(spec.observation_space, columns, OBSERVATION))
    assert greedy.probabilities is not None
    np.testing.assert_array_equal(greedy.probabilities, np.eye(4)[chosen - CHOICE.start])
    sampled = OnnxPolicy(exported.path, "log_prob").choices(log, draws=1, seed=0)
    steps = {name: values[log.row] for name, values in columns.items()}
    seen = policy.observe(unflatten_value(spec.observation_space, steps, OBSERVATION))
    want = policy.log_prob(seen, torch.from_numpy(log.action).unsqueeze(0), ())[0]
    np.testing.assert_allclose(sampled.log_prob, want, atol=1e-5)
    with pytest.raises(RequestError, match="no output 'values', only action, log_prob"):
        OnnxPolicy(exported.path, "values")


def test_one_of_several_seeds_has_to_be_named(tmp_path: Path) -> None:
    run, path = make_run(tmp_path / "run", "bc"), tmp_path / "policy.pt"
    with pytest.raises(RequestError, match="the run has several") as error:
        export_policy(run, path, "torchscript")
    assert error.value.hint == "choose one with --seed: 0, 5"
    with pytest.raises(RequestError, match="no seed 1"):
        export_policy(run, path, "torchscript", seed=1)
    with pytest.raises(RunError, match="no 'best' checkpoint"):
        export_policy(run, path, "torchscript", seed=0, checkpoint="best")
    with pytest.raises(RequestError, match="no format 'h5'"):
        export_policy(run, path, "h5", seed=0)
    assert not path.exists()


@pytest.mark.parametrize(
    ("kind", "reason"), [("bc", "bc here samples no"), ("dqn", "dqn here samples no"), ("sac", "actions are Box")]
)
def test_policies_without_probabilities_to_list_are_told(tmp_path: Path, kind: str, reason: str) -> None:
    with pytest.raises(SpaceMismatchError, match=reason):
        export_policy(make_run(tmp_path / "run", kind, seeds=(0,)), tmp_path / "x", "torchscript", log_prob=True)


def test_a_file_is_not_replaced_unasked_and_never_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = make_run(tmp_path / "run", "bc", seeds=(0,)), tmp_path / "policy.pt"
    path.write_text("mine")
    with pytest.raises(RequestError, match="the destination exists"):
        export_policy(run, path, "torchscript")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda self, data: (self.touch(), fail()))
        with pytest.raises(StoreError, match="no space left"):
            export_policy(run, path, "torchscript", overwrite=True)
    assert path.read_text() == "mine"
    export_policy(run, path, "torchscript", overwrite=True)
    assert_acts_alike(run, path, "torchscript", 0)
    assert sorted(each.name for each in tmp_path.iterdir() if "home" not in each.name) == ["policy.pt", "run"]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[np.ndarray], np.ndarray]], None]:
    """Change what TorchScript files give."""
    opened = exported_files.TorchScript.open

    def spoil_with(change: Callable[[np.ndarray], np.ndarray]) -> None:
        def spoilt(self: exported_files.TorchScript, path: Path) -> Any:
            runner: Any = opened(self, path)
            return lambda columns, carry: [change(each) for each in runner(columns, carry)]

        monkeypatch.setattr(exported_files.TorchScript, "open", spoilt)

    return spoil_with


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda action: action + np.float32(1e-4), "off the policy's by 0.0001"),
        (lambda action: action.astype(np.float64), "float64"),
        (lambda action: action[..., 0], r"float32 \(1, 2\), not float32 \(1, 2, 1\)"),
        (lambda action: np.where(action > 0, np.float32(np.nan), action), "off the policy's by nan"),
    ],
)
def test_a_file_that_acts_differently_is_not_left(tmp_path: Path, spoil: Any, change: Any, message: str) -> None:
    run, path = make_run(tmp_path / "run", "td3", seeds=(0,)), tmp_path / "policy.pt"
    spoil(change)
    with pytest.raises(ExportError, match=message):
        export_policy(run, path, "torchscript")
    assert not path.exists()
    assert not list(tmp_path.glob(".policy*"))


def test_differences_count_by_the_width_of_the_bounds(tmp_path: Path, spoil: Any) -> None:
    run, path = make_run(tmp_path / "run", "td3-strong", seeds=(0,)), tmp_path / "policy.pt"
    spoil(lambda action: action + np.float32([0.09, 0.0]))
    exported = export_policy(run, path, "torchscript")
    assert exported.difference == pytest.approx(0.09, abs=0.01)
    for change in ([0.2, 0.0], [0.0, 3e-5]):
        spoil(lambda action, change=change: action + np.float32(change))
        with pytest.raises(ExportError, match="off the policy's"):
            export_policy(run, path, "torchscript", overwrite=True)


def test_what_can_not_be_traced_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("unsupported operator\nmany\nlines")

    monkeypatch.setattr(torch.jit, "trace", broken)
    with pytest.raises(ExportError, match=r"written as TorchScript: RuntimeError: unsupported operator\n"):
        export_policy(make_run(tmp_path / "run", "td3", seeds=(0,)), tmp_path / "policy.pt", "torchscript")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RequestError, match="needs the package 'onnx'") as error:
        export_policy(make_run(tmp_path / "run", "bc", seeds=(0,)), tmp_path / "policy.onnx")
    assert error.value.hint == "pip install 'offrl[onnx]'"


def test_without_onnxruntime_a_file_goes_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(exported_files.Onnx, "require", lambda self: None)
    monkeypatch.setattr(exported_files.Onnx, "write", lambda self, module, example, carry, path, metadata: path.touch())
    exported = export_policy(make_run(tmp_path / "run", "td3", seeds=(0,)), tmp_path / "policy.onnx")
    assert exported.difference is None
    assert exported.path.exists()
