"""Policies to be valued: what each does at the rows of a log, be it an agent's, a table's, a file's or a function's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from offrl.errors import DataError, RequestError, SpaceMismatchError
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.external_data import keeps_data_elsewhere
from offrl.off_policy.features import Observations
from offrl.off_policy.log_checks import PROBABILITY_SLACK

ROWS_AT_ONCE = 16_384
DRAWS = 4
"""Continuous actions that are drawn for each row of the log from a policy that samples."""
LOG_PROB_SUFFIX = "log_prob"
CARRY = "carry"
"""What the names of further inputs begin with, where `offrl export` writes a policy with a memory."""


class TargetPolicy(Protocol):
    """A policy whose value is asked for."""

    @property
    def name(self) -> str:
        """What results call it."""

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        """What it does at the log's rows.

        Args:
            logged: the log.
            draws: continuous actions to draw for each row, where it draws any.
            seed: of these.

        Raises:
            SpaceMismatchError: it is for other observations or actions.
            DataError: what it gives aren't probabilities, or isn't finite.
        """


@dataclass(frozen=True)
class ProbabilityPolicy:
    """Discrete actions by a function from rows of observations to the probabilities of all actions, [n, A]."""

    probabilities: Callable[[Any], NDArray[Any]]
    name: str = "policy"

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        actions = int(_require_discrete(logged, self.name).n)
        table = np.concatenate([np.asarray(self.probabilities(part)) for part in chunks(logged.observation)])
        return discrete_choices(logged, check_probabilities(table, (logged.rows, actions), self.name))


@dataclass(frozen=True)
class TablePolicy:
    """Discrete actions by a table of probabilities: [states, A] for Discrete observations, or [A], whatever is seen."""

    table: NDArray[Any]
    name: str = "table"

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        actions, table = int(_require_discrete(logged, self.name).n), np.asarray(self.table, np.float64)
        if table.ndim == 1:
            check_probabilities(table[None], (1, actions), self.name)
            return discrete_choices(logged, np.broadcast_to(table, (logged.rows, actions)))
        space = logged.spec.observation_space
        if not isinstance(space, gym.spaces.Discrete):
            raise SpaceMismatchError(
                f"a table of states needs Discrete observations, and those of '{logged.name}' are {space}",
                hint="give a function of the observations (ProbabilityPolicy), or one row for all states",
            )
        check_probabilities(table, (int(space.n), actions), self.name)
        return discrete_choices(logged, table[np.asarray(logged.observation).astype(np.int64) - int(space.start)])


@dataclass(frozen=True)
class ActionPolicy:
    """A deterministic policy, by a function from rows of observations to actions as the environment takes them.

    `epsilon` is the share of uniformly random actions among discrete ones.
    """

    act: Callable[[Any], NDArray[Any]]
    name: str = "policy"
    epsilon: float = 0.0

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        action = np.concatenate([np.asarray(self.act(part)) for part in chunks(logged.observation)])
        return deterministic_choices(logged, action, self.name, self.epsilon)


@dataclass(frozen=True)
class DensityPolicy:
    """A stochastic policy over continuous actions.

    Attributes:
        log_prob: from rows of observations and actions in the environment's units to log π(a | s), [n], in nats.
        sample: from rows of observations and a generator to actions [n, …]; without it, no values can be fitted.
    """

    log_prob: Callable[[Any, NDArray[Any]], NDArray[Any]]
    sample: Callable[[Any, np.random.Generator], NDArray[Any]] | None = None
    name: str = "policy"

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        steps = take(logged.observation, logged.row)
        log_prob = check_log_prob(self.log_prob(steps, logged.action), logged.steps, self.name)
        if self.sample is None:
            return Choices(log_prob=log_prob)
        generator = np.random.default_rng(seed)
        drawn = [unit_actions(logged, self.sample(logged.observation, generator), self.name) for _ in range(draws)]
        return Choices(actions=np.stack(drawn), log_prob=log_prob)


@dataclass(frozen=True)
class ColumnPolicy:
    """A policy that is known by a column of the log alone.

    The column holds π(a | s) of the logged action, [R], or the probabilities of all discrete actions, [R, A]; where its
    name ends in "log_prob", their logarithms. Values can be fitted only where all actions' probabilities are there,
    those at the last observations of truncated episodes too, which columns `info.*` can hold.
    """

    column: str

    @property
    def name(self) -> str:
        return self.column

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        values = np.asarray((logged.columns or {})[self.column], np.float64)
        if self.column.endswith(LOG_PROB_SUFFIX):
            values = np.exp(values) if values.ndim > 1 else values
        elif values.ndim == 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log(values)
        if values.ndim == 1:
            steps = values[logged.row] if len(values) == logged.rows else values
            checked = check_log_prob(steps, logged.steps, f"column {self.column}")
            return Choices(log_prob=checked if logged.density else check_below_one(checked, f"column {self.column}"))
        actions = int(_require_discrete(logged, self.column).n)
        check_probabilities(values[logged.row], (logged.steps, actions), f"column {self.column}")
        # What a policy does behind a termination doesn't matter; behind a truncation, values depend on it.
        needed = logged.final_row[~logged.terminated]
        choices = discrete_choices(logged, values)
        whole = np.allclose(values[needed].sum(axis=-1), 1.0, atol=1e-3)
        return choices if whole else replace(choices, probabilities=None)


def _require_whole(path: Path) -> None:
    """Raise `RequestError` where an ONNX file would have other files read, whatever these are."""
    try:
        elsewhere = keeps_data_elsewhere(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestError(f"the ONNX file can't be read: {error}", where=str(path), hint="export it again") from error
    if elsewhere:
        raise RequestError(
            "the ONNX file keeps numbers in another file, and only the file that was named is read",
            where=str(path),
            hint="write it as one file, as offrl export does",
        )


class OnnxPolicy:
    """A policy in an ONNX file that takes rows of observations, as `offrl export --format onnx` writes them.

    Args:
        path: the file.
        output: which output holds the actions, or the probabilities of discrete ones; where its name ends in
            "log_prob", their logarithms, as `offrl export --log-prob` writes them; None for the first.
        epsilon: the share of uniformly random actions among discrete ones.

    Raises:
        RequestError: onnxruntime isn't installed, the file can't be read by it, keeps numbers in other files, has no
            such output, or its policy has a memory.
    """

    def __init__(self, path: Path, output: str | None = None, epsilon: float = 0.0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RequestError(
                "reading an ONNX file needs onnxruntime", hint="pip install onnxruntime", where=str(path)
            ) from error
        _require_whole(path)
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RequestError(
                f"the ONNX file can't be read: {error}", where=str(path), hint="export it again"
            ) from error
        if any(each.name.split(".")[0] == CARRY for each in self.session.get_inputs()):
            raise RequestError(
                "the policy in the ONNX file remembers what it saw, and takes more than observations",
                where=str(path),
                hint="name the run that it was exported from: that one goes through the log's episodes",
            )
        names = [each.name for each in self.session.get_outputs()]
        if output is not None and output not in names:
            raise RequestError(
                f"the ONNX file has no output '{output}', only {', '.join(names)}",
                where=str(path),
                hint=f"name one of these; offrl export --log-prob writes '{LOG_PROB_SUFFIX}'",
            )
        self.name, self.output, self.epsilon = path.stem, output or names[0], epsilon

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        values = np.concatenate([self._run(part) for part in chunks(logged.observation)])
        if self.output.endswith(LOG_PROB_SUFFIX):
            values = np.exp(values)
        if (
            logged.actions is not None
            and values.ndim == 2
            and values.shape[1] == logged.actions
            and values.dtype.kind == "f"
        ):
            table = check_probabilities(values, values.shape, self.name)
            return discrete_choices(logged, mixed(logged, table, self.epsilon))
        return deterministic_choices(logged, values, self.name, self.epsilon)

    def _run(self, observation: Any) -> NDArray[Any]:
        inputs = self.session.get_inputs()
        if isinstance(observation, dict):
            feed = {entry.name: observation[entry.name.removeprefix("observation.")] for entry in inputs}
        else:
            feed = {inputs[0].name: observation}
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
        feed = {e.name: np.asarray(feed[e.name], kinds.get(e.type, feed[e.name].dtype)) for e in inputs}
        try:
            result: NDArray[Any] = self.session.run([self.output], feed)[0]
        except Exception as error:
            raise SpaceMismatchError(
                f"the ONNX policy doesn't take the log's observations: {error}", hint="name the log it was made for"
            ) from error
        return result


@dataclass(frozen=True)
class Smoothed:
    """A deterministic policy with Gaussian noise on its actions, so that logged ones near them count.

    Each component of the action mapped to [-1, 1] is drawn from N(μ(s), bandwidth²), cut to the bounds. What is valued
    is this policy: it differs from the deterministic one's value by a term of the order of bandwidth².
    """

    policy: TargetPolicy
    bandwidth: float

    @property
    def name(self) -> str:
        return self.policy.name

    def choices(self, logged: EpisodeLog, *, draws: int, seed: int) -> Choices:
        plain = self.policy.choices(logged, draws=1, seed=seed)
        return smoothed_choices(logged, plain, self.bandwidth, draws=draws, seed=seed, name=self.name)


def smoothed_choices(
    logged: EpisodeLog, plain: Choices, bandwidth: float, *, draws: int, seed: int, name: str
) -> Choices:
    """Of continuous actions with Gaussian noise; see `Smoothed`.

    Raises:
        SpaceMismatchError: actions are discrete, or sampled already.
    """
    if plain.actions is None or plain.log_prob is not None:
        raise SpaceMismatchError(
            f"a kernel smooths deterministic continuous actions, and {name}'s are sampled or discrete",
            hint="leave out --kernel-bandwidth",
        )
    bounds = (torch.from_numpy(bound) for bound in unit_bounds(logged))
    mean = torch.from_numpy(plain.actions[0].astype(np.float64))
    below, above = (torch.special.ndtr((bound - mean) / bandwidth) for bound in bounds)
    z = (torch.from_numpy(logged.agent_action.astype(np.float64)) - mean[logged.row]) / bandwidth
    density = -0.5 * z.square() - np.log(bandwidth * np.sqrt(2.0 * np.pi)) - (above - below)[logged.row].log()
    uniform = torch.rand(draws, *mean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    quantile = torch.special.ndtri((below + uniform * (above - below)).clamp(1e-12, 1.0 - 1e-12))
    return Choices(
        actions=(mean + bandwidth * quantile).float().numpy(),
        log_prob=density.sum(dim=-1).numpy() - logged.log_volume,
    )


def deterministic_choices(logged: EpisodeLog, action: NDArray[Any], name: str, epsilon: float = 0.0) -> Choices:
    """Of actions as the environment takes them, for every row; `epsilon` mixes uniformly random discrete ones in."""
    if logged.actions is None:
        if epsilon:
            raise SpaceMismatchError("only discrete actions are mixed with random ones", hint="leave out --epsilon")
        return Choices(actions=unit_actions(logged, action, name)[None])
    space = _require_discrete(logged, name)
    actions, first = int(space.n), int(space.start)
    if np.size(action) != logged.rows:
        raise SpaceMismatchError(
            f"{name} gives actions of shape {np.shape(action)[1:]}, and the log's are {logged.spec.action_space}",
            hint="name the log that it was made for",
        )
    chosen = np.asarray(action).reshape(logged.rows).astype(np.int64) - first
    if chosen.min() < 0 or chosen.max() >= actions:
        raise SpaceMismatchError(
            f"{name} takes action {int(chosen[(chosen < 0) | (chosen >= actions)][0]) + first}, which isn't one of "
            f"{logged.spec.action_space}",
            hint="name the log that it was made for",
        )
    return discrete_choices(logged, mixed(logged, np.eye(actions)[chosen], epsilon))


def mixed(logged: EpisodeLog, probabilities: NDArray[Any], epsilon: float) -> NDArray[Any]:
    """(1 − ε) π + ε / A of the A actions that are allowed, at every row of the log."""
    if not epsilon:
        return probabilities
    allowed = np.ones_like(probabilities) if logged.action_mask is None else logged.action_mask
    uniform: NDArray[np.float64] = allowed / allowed.sum(axis=-1, keepdims=True)
    return (1.0 - epsilon) * probabilities + epsilon * uniform


def discrete_choices(logged: EpisodeLog, probabilities: NDArray[Any]) -> Choices:
    """Of the probabilities of all actions, [R + N, A]."""
    taken = np.asarray(probabilities, np.float64)[logged.row, logged.agent_action]
    with np.errstate(divide="ignore"):
        return Choices(probabilities=np.asarray(probabilities, np.float32), log_prob=np.log(taken))


def unit_actions(logged: EpisodeLog, action: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Actions in the environment's units as float32 [n, A], within [-1, 1] where they are bounded."""
    width, values = logged.spec.action_dim, np.asarray(action, np.float32)
    if values.size != logged.rows * width:
        raise SpaceMismatchError(
            f"{name} gives actions of shape {values.shape[1:]}, and the log's are {logged.spec.action_space}",
            hint="name the log that it was made for",
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"{name} gives actions that aren't finite", hint="look at what it does with the log's observations"
        )
    unit: NDArray[np.float32] = logged.action_map.to_unit(values.reshape(logged.rows, width))
    return unit


def check_probabilities(values: NDArray[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """The probabilities; raises unless they are of that shape, not negative, and sum to 1."""
    if values.shape != shape:
        raise SpaceMismatchError(
            f"{name} gives probabilities of shape {values.shape}, where {shape} are wanted",
            hint="give one probability for each action",
        )
    if not (values >= 0).all() or np.abs(values.sum(axis=-1) - 1.0).max() > 1e-3:
        raise DataError(
            f"what {name} gives aren't probabilities: they are negative, NaN, or don't sum to 1",
            hint="normalize them; a name that ends in log_prob says that they are logarithms",
        )
    return values


def check_log_prob(values: NDArray[Any], steps: int, name: str) -> NDArray[np.float64]:
    """The log-probabilities, float64; raises unless there is one for each step, none of them NaN or +∞."""
    log_prob = np.asarray(values, np.float64)
    if log_prob.shape != (steps,):
        raise SpaceMismatchError(
            f"{name} gives log-probabilities of shape {log_prob.shape} for {steps} steps", hint="give one for each step"
        )
    wrong = np.flatnonzero(np.isnan(log_prob) | (log_prob == np.inf))
    if len(wrong):
        raise DataError(
            f"{name} gives probabilities that are negative, NaN or infinite, first at step {wrong[0]} of the log",
            hint="a probability lies within [0, 1]; its logarithm belongs into a column whose name ends in log_prob",
        )
    return log_prob


def check_below_one(log_prob: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Log-probabilities of discrete actions; raises where a probability is above 1."""
    above = np.flatnonzero(log_prob > PROBABILITY_SLACK)
    if len(above):
        raise DataError(
            f"{name} gives {len(above)} of {len(log_prob)} steps a probability above 1, first step {above[0]} of the "
            f"log {np.exp(min(log_prob[above[0]], 700.0)):.4g}",
            hint="name a column of probabilities, or one of their logarithms whose name ends in log_prob",
        )
    return log_prob


def chunks(observation: Observations) -> list[Any]:
    """The rows in parts of a bounded size."""
    rows = len(next(iter(observation.values()))) if isinstance(observation, dict) else len(observation)
    return [take(observation, slice(start, start + ROWS_AT_ONCE)) for start in range(0, rows, ROWS_AT_ONCE)]


def take(observation: Observations, rows: Any) -> Any:
    """Some of the rows."""
    if isinstance(observation, dict):
        return {key: part[rows] for key, part in observation.items()}
    return observation[rows]


def _require_discrete(logged: EpisodeLog, name: str) -> gym.spaces.Discrete:
    space = logged.spec.action_space
    if isinstance(space, gym.spaces.Discrete):
        return space
    raise SpaceMismatchError(
        f"{name} gives probabilities of discrete actions, and those of '{logged.name}' are {space}",
        hint="give a density and samples of it (DensityPolicy), or actions (ActionPolicy)",
    )


def unit_bounds(logged: EpisodeLog) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of the actions as values are fitted to, [A] each: ±1, or ±∞ in components without bounds."""
    mapped = logged.action_map
    bounded = np.isfinite(mapped.low) & np.isfinite(mapped.high)
    return np.where(bounded, -1.0, -np.inf), np.where(bounded, 1.0, np.inf)
