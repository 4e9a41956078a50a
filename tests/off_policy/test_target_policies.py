"""Policies of every kind, at the rows of a log."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import DataError, RequestError, SpaceMismatchError
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.target_policies import (
    ActionPolicy,
    ColumnPolicy,
    DensityPolicy,
    OnnxPolicy,
    ProbabilityPolicy,
    Smoothed,
    TablePolicy,
)
from offrl.types import Spec
from tests.off_policy.tabular import BEHAVIOR, TabularMDP

TABLE = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])


def discrete_log() -> EpisodeLog:
    """Episodes of two and one steps, of states 0, 1, 2, 1, 0 (the last of each only seen), actions numbered from 5."""
    return EpisodeLog(
        spaces=Spec(gym.spaces.Discrete(3), gym.spaces.Discrete(2, start=5)),
        observations=np.array([0, 1, 2, 1, 0]),
        taken=np.array([6, 6, 5]),
        reward=np.zeros(3),
        behavior_log_prob=None,
        target_log_prob=None,
        offsets=np.array([0, 2, 3]),
        terminated=np.zeros(2, bool),
        truncated=np.zeros(2, bool),
        name="three",
    )


def continuous_log(steps: int = 3) -> EpisodeLog:
    return EpisodeLog(
        spaces=Spec(
            gym.spaces.Box(-1, 1, (2,)),
            gym.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32)),
        ),
        observations=np.linspace(-1, 1, 2 * (steps + 1)).reshape(-1, 2).astype(np.float32),
        taken=np.tile(np.array([[3.0, 1.0]], np.float32), (steps, 1)),
        reward=np.zeros(steps),
        behavior_log_prob=None,
        target_log_prob=None,
        offsets=np.array([0, steps]),
        terminated=np.zeros(1, bool),
        truncated=np.zeros(1, bool),
        name="box",
    )


def test_a_table_by_state() -> None:
    choices = TablePolicy(TABLE).choices(discrete_log(), draws=1, seed=0)
    assert choices.probabilities is not None
    np.testing.assert_allclose(choices.probabilities, TABLE[[0, 1, 2, 1, 0]])
    assert choices.log_prob is not None
    np.testing.assert_allclose(choices.log_prob, [np.log(0.8), -np.inf, 0.0])


def test_a_table_of_one_row_and_a_function_that_says_the_same() -> None:
    logged = discrete_log()
    one = TablePolicy(np.array([0.3, 0.7])).choices(logged, draws=1, seed=0)
    other = ProbabilityPolicy(lambda seen: np.tile([0.3, 0.7], (len(seen), 1))).choices(logged, draws=1, seed=0)
    np.testing.assert_array_equal(one.log_prob, other.log_prob)
    np.testing.assert_allclose(one.log_prob, np.log([0.7, 0.7, 0.3]))


def test_deterministic_discrete_actions_and_their_mixture() -> None:
    policy = ActionPolicy(lambda seen: np.full(len(seen), 6))
    choices = policy.choices(discrete_log(), draws=1, seed=0)
    np.testing.assert_allclose(choices.log_prob, [0.0, 0.0, -np.inf])
    mixed = dataclasses.replace(policy, epsilon=0.2).choices(discrete_log(), draws=1, seed=0)
    np.testing.assert_allclose(mixed.log_prob, np.log([0.9, 0.9, 0.1]))


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        (np.array([[0.2, 0.9]] * 3), DataError, "aren't probabilities"),
        (np.array([[-0.2, 1.2]] * 3), DataError, "aren't probabilities"),
        (np.array([[np.nan, 1.0]] * 3), DataError, "aren't probabilities"),
        (np.array([[0.5, 0.5]] * 4), SpaceMismatchError, "shape"),
        (np.array([0.2, 0.3, 0.5]), SpaceMismatchError, "shape"),
    ],
)
def test_what_is_no_table_is_refused(table: np.ndarray, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TablePolicy(table).choices(discrete_log(), draws=1, seed=0)


def test_policies_for_other_spaces_are_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="takes action 7"):
        ActionPolicy(lambda seen: np.full(len(seen), 7)).choices(discrete_log(), draws=1, seed=0)
    with pytest.raises(SpaceMismatchError, match="discrete actions"):
        TablePolicy(TABLE).choices(continuous_log(), draws=1, seed=0)
    with pytest.raises(SpaceMismatchError, match="shape"):
        ActionPolicy(lambda seen: np.zeros((len(seen), 3))).choices(continuous_log(), draws=1, seed=0)
    log = dataclasses.replace(discrete_log(), spaces=Spec(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2, start=5)))
    with pytest.raises(SpaceMismatchError, match="Discrete observations"):
        TablePolicy(TABLE).choices(log, draws=1, seed=0)


def test_continuous_actions_are_mapped_to_their_bounds() -> None:
    choices = ActionPolicy(lambda seen: np.tile([4.0, -2.0], (len(seen), 1))).choices(continuous_log(), draws=3, seed=0)
    assert choices.log_prob is None
    assert choices.actions is not None
    np.testing.assert_allclose(choices.actions, np.tile([1.0, -1.0], (1, 4, 1)))


def test_a_density_with_samples() -> None:
    def sample(seen: Any, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform([0.0, -2.0], [4.0, 2.0], (len(seen), 2))

    policy = DensityPolicy(lambda seen, action: np.full(len(seen), -np.log(16.0)), sample)
    choices = policy.choices(continuous_log(), draws=5, seed=0)
    assert choices.actions is not None
    assert choices.actions.shape == (5, 4, 2)
    assert np.abs(choices.actions).max() <= 1.0
    np.testing.assert_allclose(choices.log_prob, -np.log(16.0))
    with pytest.raises(DataError, match="NaN or infinite, first at step 0"):
        DensityPolicy(lambda seen, action: np.full(len(seen), np.nan)).choices(continuous_log(), draws=1, seed=0)


def test_a_kernel_is_a_density_in_the_environments_units() -> None:
    """It integrates to 1 over the actions, and its samples have it."""
    scipy = pytest.importorskip("scipy.integrate")
    base = ActionPolicy(lambda seen: np.tile([3.6, 0.0], (len(seen), 1)))

    def density(first: float, second: float) -> float:
        log = continuous_log(1)
        log = dataclasses.replace(log, taken=np.array([[first, second]], np.float32))
        choices = Smoothed(base, 0.3).choices(log, draws=1, seed=0)
        assert choices.log_prob is not None
        return float(np.exp(choices.log_prob[0]))

    grid = np.linspace(0.0, 4.0, 41)
    along_first = scipy.simpson([density(x, 0.5) for x in grid], x=grid)
    along_second = scipy.simpson([density(3.0, y - 2.0) for y in grid], x=grid)
    assert along_first * along_second == pytest.approx(density(3.0, 0.5), rel=1e-3)
    drawn = Smoothed(base, 0.3).choices(continuous_log(), draws=4_000, seed=0).actions
    assert drawn is not None
    assert drawn.min() >= -1.0
    assert drawn.max() <= 1.0
    # N(0.8, 0.3²) cut to [-1, 1]: mean 0.8 − 0.3 φ(2/3) / Φ(2/3).
    assert drawn[..., 0].mean() == pytest.approx(0.8 - 0.3 * 0.3194 / 0.7475, abs=0.01)
    with pytest.raises(SpaceMismatchError, match="sampled or discrete"):
        Smoothed(TablePolicy(TABLE), 0.3).choices(discrete_log(), draws=1, seed=0)


def test_a_column_of_the_log() -> None:
    def with_column(name: str, values: list[Any]) -> EpisodeLog:
        return dataclasses.replace(discrete_log(), columns={name: np.array(values)})

    by_step = ColumnPolicy("info.p").choices(with_column("info.p", [0.8, 0.0, 1.0]), draws=1, seed=0)
    np.testing.assert_allclose(by_step.log_prob, [np.log(0.8), -np.inf, 0.0])
    by_row = ColumnPolicy("info.p").choices(with_column("info.p", [0.8, 0.5, 9.0, 1.0, 9.0]), draws=1, seed=0)
    np.testing.assert_allclose(by_row.log_prob, np.log([0.8, 0.5, 1.0]))
    logarithms = ColumnPolicy("my_log_prob").choices(with_column("my_log_prob", [-1.0, -2.0, 0.0]), draws=1, seed=0)
    np.testing.assert_allclose(logarithms.log_prob, [-1.0, -2.0, 0.0])
    assert logarithms.probabilities is None
    whole = ColumnPolicy("info.p").choices(with_column("info.p", [[0.2, 0.8]] * 5), draws=1, seed=0)
    np.testing.assert_allclose(whole.log_prob, np.log([0.8, 0.8, 0.2]))
    assert whole.probabilities is not None
    without_final = with_column("info.p", [[0.2, 0.8], [0.2, 0.8], [0.0, 0.0], [0.2, 0.8], [0.0, 0.0]])
    assert ColumnPolicy("info.p").choices(without_final, draws=1, seed=0).probabilities is None
    ended = dataclasses.replace(without_final, terminated=np.array([True, True]))
    assert ColumnPolicy("info.p").choices(ended, draws=1, seed=0).probabilities is not None
    with pytest.raises(DataError, match="negative, NaN or infinite, first at step 1"):
        ColumnPolicy("info.p").choices(with_column("info.p", [0.8, -0.1, 1.0]), draws=1, seed=0)


class FakeSession:
    """Stands for onnxruntime's: doubles the first input, or gives probabilities that depend on it."""

    def __init__(self, path: str, providers: list[str]) -> None:
        self.kind = Path(path).stem

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="observation", type="tensor(float)")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="action")]

    def run(self, outputs: list[str] | None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        values = feed["observation"]
        assert values.dtype == np.float32
        if self.kind == "numbers":
            return [np.full(len(values), 6)]
        if self.kind == "torques":
            return [np.zeros((len(values), 3), np.float32)]
        return [
            np.tile(np.array([[0.25, 0.75]], np.float32), (len(values), 1)) if self.kind == "shares" else 2 * values
        ]


def test_an_onnx_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("double", "shares", "numbers", "torques"):
        Path(f"{name}.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=FakeSession))
    log = continuous_log()
    actions = OnnxPolicy(Path("double.onnx")).choices(log, draws=1, seed=0).actions
    assert actions is not None
    np.testing.assert_allclose(actions[0], (2 * log.observation - [2.0, 0.0]) / [2.0, 2.0], atol=1e-6)
    shares = OnnxPolicy(Path("shares.onnx")).choices(discrete_log(), draws=1, seed=0)
    np.testing.assert_allclose(shares.log_prob, np.log([0.75, 0.75, 0.25]))
    numbers = OnnxPolicy(Path("numbers.onnx")).choices(discrete_log(), draws=1, seed=0)
    np.testing.assert_allclose(numbers.log_prob, [0.0, 0.0, -np.inf])
    often = OnnxPolicy(Path("numbers.onnx"), epsilon=0.2).choices(discrete_log(), draws=1, seed=0)
    np.testing.assert_allclose(often.log_prob, np.log([0.9, 0.9, 0.1]), rtol=1e-6)
    with pytest.raises(RequestError, match="no output 'log_prob', only action"):
        OnnxPolicy(Path("numbers.onnx"), "log_prob")
    with pytest.raises(SpaceMismatchError, match=r"gives actions of shape \(3,\)"):
        OnnxPolicy(Path("torques.onnx")).choices(discrete_log(), draws=1, seed=0)


def test_an_onnx_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match="needs onnxruntime"):
        OnnxPolicy(tmp_path / "policy.onnx")
    monkeypatch.undo()
    pytest.importorskip("onnxruntime")
    (tmp_path / "policy.onnx").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="can't be read"):
        OnnxPolicy(tmp_path / "policy.onnx")


def test_a_column_above_one_is_told_in_the_command_s_words() -> None:
    logged = TabularMDP.random().log(BEHAVIOR, 5)
    for name, values, words in (
        ("info.p", np.full(logged.steps, 1.5), "a probability above 1, first step 0 of the log 1.5"),
        ("info.log_prob", np.full(logged.steps, 0.5), "whose name ends in log_prob"),
    ):
        with pytest.raises(DataError, match=words) as refused:
            ColumnPolicy(name).choices(dataclasses.replace(logged, columns={name: values}), draws=1, seed=0)
        assert "density=True" not in str(refused.value)
