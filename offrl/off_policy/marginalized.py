"""Values and weights of states and actions that are linear in features: solved for, rather than descended to.

With φ(s, a) the features, φ' their expectation under the policy behind a step (0 where nothing follows), φ₀ that at the
starts of episodes, and ψ the features of the functions that errors are tested by:

* `lstd`, least-squares temporal differences for Q (Lagoudakis & Parr, 2003): E[φ (r + γ θᵀφ' − θᵀφ)] = 0;
* `mql`, minimax Q-learning (Uehara et al., 2020): θ least in ‖E[ψ (r + γ θᵀφ' − θᵀφ)]‖, ψ spanning a Gaussian kernel's
  functions;
* `mwl`, minimax weight learning (likewise): of all w = αᵀψ that are least in ‖E[w (φ − γφ')] − φ₀‖ the smallest; its
  value is that of `mql`, of which it is the dual;
* `dice`, dual distribution correction (Nachum et al., 2019): the saddle of ½ E[(ν − γν')²] − E₀[ν] in its dual form,
  ν linear in φ, and the weights in ψ.

The weights, w, are how often the policy comes by a state and action, discounted, per time that the log does: the value
is E[w r], whatever the length of episodes. With one feature for each state and action all four are the value in the MDP
that the log's frequencies make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offrl.errors import RequestError
from offrl.off_policy import intervals
from offrl.off_policy.bootstrap import resample_means
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimator import (
    MINIMUM_EFFECTIVE_SAMPLE_SIZE,
    Estimate,
    Estimator,
    Question,
    Reliability,
    few_episodes,
)
from offrl.off_policy.intervals import Interval

Method = Literal["lstd", "mql", "mwl", "dice"]
ROWS_AT_ONCE = 8_192
MOST_FEATURES = 400
"""Squares and products are left out where there would be more features of a state than this."""
KERNEL_FEATURES = 100
RIDGE = 1e-8
BALANCE_LIMIT = 0.05
"""How far E[w (1 − γ')] may be from 1, which it is for the true weights."""

LINEAR = "Values and weights are taken to be linear in features: no interval tells how far off that is."

Matrix = NDArray[np.float64]
Basis = Callable[[NDArray[np.float32]], Matrix]


@dataclass(frozen=True)
class MarginalFit:
    """Values and weights that were solved for.

    Attributes:
        value: of the policy.
        contributions: float64 [N]; one for each episode, of mean `value`. They hold the linearized influence of the
            episode on what was fitted too.
        weights: float64 [R].
        saturated: whether there is a feature for each state and action, so that nothing is taken to be linear.
        balanced: False where the weights don't do what true ones do on average: the log can't tell.
    """

    value: float
    contributions: Matrix
    weights: Matrix
    saturated: bool
    balanced: bool


def marginalized(log: EpisodeLog, name: Method, seed: int = 0) -> MarginalFit:
    """Value a policy by one of these estimators.

    Args:
        log: a dataset's, with what the policy does at its rows.
        name: of the estimator.
        seed: of the kernel's random features.

    Raises:
        RequestError: there is a horizon: what is fitted doesn't depend on time. Or it isn't known what the policy does.
    """
    if log.horizon is not None:
        raise RequestError(
            f"{name} fits values and weights that don't depend on time, and a horizon is given",
            hint="leave out --horizon, or choose fqe",
        )
    if log.choices is None or not log.choices.known_at_states:
        raise RequestError(
            f"{name} needs to know what the policy does at each state", where="choices", hint="give the policy itself"
        )
    plain = _Features(log, log.choices, _polynomial(log))
    tests = _Features(log, log.choices, _fourier(log, seed))
    moments = _moments(plain, plain)
    theta = _solve(moments.difference, moments.reward)
    weigher, coefficients = plain, _solve(moments.difference.T, plain.start)
    if name != "lstd":
        crossed, weigher = _moments(tests, plain), tests
        coefficients = _solve(crossed.difference.T, plain.start)
    if name == "mql":
        theta = _solve(crossed.difference, crossed.reward)
    elif name == "dice":
        whitened = _solve(crossed.square, crossed.difference)
        coefficients = whitened @ _solve(crossed.difference.T @ whitened, plain.start)
    error, weights = np.empty(log.steps), np.empty(log.steps)
    for part in _parts(log):
        here, there = plain.taken(part), plain.following(part)
        error[part] = log.reward[part] + (log.discount * there - here) @ theta
        weights[part] = weigher.taken(part) @ coefficients
    starts = plain.expected(log.first_row) @ theta
    influence = starts + np.add.reduceat(weights * error, log.offsets[:-1]) * (log.episodes / log.steps)
    by_values = name in ("lstd", "mql")
    value = float(starts.mean() if by_values else (weights * log.reward).mean())
    balance = float((weights * (1.0 - log.discount * log.continues)).mean())
    return MarginalFit(
        value=value,
        contributions=value + influence - influence.mean(),
        weights=weights,
        saturated=_one_hot(log),
        balanced=bool(np.isfinite(value)) and abs(balance - 1.0) <= BALANCE_LIMIT,
    )


def marginal_estimate(ask: Question, name: Method) -> Estimate:
    """`marginalized` as an estimate, with an interval where states and actions are numbers.

    All bootstraps but BCa are by percentiles here. Resampled are the linearized contributions: nothing is solved for
    anew. They hold the error of frequencies, but not that of features which can't express the values.
    """
    found = marginalized(ask.log, name, ask.seed)
    weights, share = np.abs(found.weights), 0.0
    square = float(np.square(found.weights).sum())
    size = float(found.weights.sum()) ** 2 / square * ask.log.episodes / len(weights) if square > 0.0 else 0.0
    if square > 0.0:
        share = float(weights.max() / weights.sum())
    warnings = [] if found.saturated else [LINEAR]
    few = size < MINIMUM_EFFECTIVE_SAMPLE_SIZE
    if few:
        warnings.append(few_episodes(size, ask.log.episodes))
    if not found.balanced:
        warnings.append("The weights don't average what true ones do: the log can't tell what the policy would do.")
    return Estimate(
        name=name,
        value=found.value,
        contributions=found.contributions if found.saturated else np.empty(0),
        interval=_interval(found.contributions, ask) if found.saturated else None,
        effective_sample_size=size,
        largest_weight_share=share,
        reliable=Reliability.YES if found.balanced and not few else Reliability.NO,
        warnings=tuple(warnings),
    )


def _interval(contributions: Matrix, ask: Question) -> Interval | None:
    if ask.interval is None:
        return None
    if ask.interval == "t":
        return Interval(*intervals.student_t(contributions, ask.confidence), ask.confidence, ask.interval)
    drawn = resample_means(contributions[:, None], resamples=ask.resamples, seed=ask.seed)[:, 0]
    if ask.interval == "bootstrap-bca":
        return Interval(*intervals.bca(contributions, drawn, ask.confidence), ask.confidence, ask.interval)
    return Interval(*intervals.percentile(drawn, ask.confidence), ask.confidence, "bootstrap-percentile")


@dataclass(frozen=True)
class _Moments:
    """Means over the log, of f(s, a) with the features g: f gᵀ, f (g − γ g')ᵀ, and f r."""

    square: Matrix
    difference: Matrix
    reward: Matrix


class _Features:
    """φ(s, a): a basis of the state in a block for each discrete action, or a basis of state and continuous action."""

    def __init__(self, log: EpisodeLog, choices: Choices, basis: Basis) -> None:
        self.log, self.choices, self.basis = log, choices, basis
        self.continues = log.continues
        self.start: Matrix = self.expected(log.first_row).mean(axis=0)

    def taken(self, part: slice) -> Matrix:
        """At the steps of a part of the log, of what was done, [n, D]."""
        log = self.log
        features = log.features[log.row[part]]
        if log.valued_actions is None:
            return self.basis(np.concatenate([features, log.valued_action[part]], axis=1))
        return _blocks(self.basis(features), np.eye(log.valued_actions)[log.valued_action[part]])

    def following(self, part: slice) -> Matrix:
        """Behind these steps, of what the policy does there, [n, D]; 0 where nothing follows."""
        return self.expected(self.log.row[part] + 1) * self.continues[part, None]

    def expected(self, rows: NDArray[np.int64]) -> Matrix:
        """At some rows, of what the policy does, [n, D]."""
        features = self.log.features[rows]
        if self.choices.probabilities is not None:
            return _blocks(self.basis(features), self.choices.probabilities[rows].astype(np.float64))
        assert self.choices.actions is not None
        drawn = [self.basis(np.concatenate([features, actions[rows]], axis=1)) for actions in self.choices.actions]
        return np.asarray(np.mean(drawn, axis=0))


def _blocks(basis: Matrix, shares: Matrix) -> Matrix:
    return (shares[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)


def _parts(log: EpisodeLog) -> Iterator[slice]:
    for start in range(0, log.steps, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def _moments(tested: _Features, fitted: _Features) -> _Moments:
    log = tested.log
    square: Matrix | float = 0.0
    difference: Matrix | float = 0.0
    reward: Matrix | float = 0.0
    for part in _parts(log):
        f = tested.taken(part)
        g = f if fitted is tested else fitted.taken(part)
        square = square + f.T @ f
        difference = difference + f.T @ (g - log.discount * fitted.following(part))
        reward = reward + f.T @ log.reward[part]
    return _Moments(*(np.asarray(total) / log.steps for total in (square, difference, reward)))


def _solve(matrix: Matrix, right: Matrix) -> Matrix:
    """By least squares; of several solutions the least: features of what never happened have no equation."""
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=RIDGE)[0])


def _inputs(log: EpisodeLog) -> int:
    return int(log.features.shape[1]) + (0 if log.valued_actions is not None else int(log.valued_action.shape[1]))


def _one_hot(log: EpisodeLog) -> bool:
    """Whether observations are states' numbers: they need no further features."""
    features = log.features
    return log.valued_actions is not None and bool(
        ((features == 0) | (features == 1)).all() and (features.sum(axis=1) == 1).all()
    )


def _polynomial(log: EpisodeLog) -> Basis:
    """1, the inputs, their squares and products."""
    if _one_hot(log):
        return lambda inputs: inputs.astype(np.float64)
    width = _inputs(log)
    first, second = np.triu_indices(width)
    with_products = len(first) + width + 1 <= MOST_FEATURES

    def basis(inputs: NDArray[np.float32]) -> Matrix:
        values = inputs.astype(np.float64)
        columns = [np.ones((len(values), 1)), values]
        if with_products:
            columns.append(values[:, first] * values[:, second])
        return np.concatenate(columns, axis=1)

    return basis


def _fourier(log: EpisodeLog, seed: int) -> Basis:
    """1, and random features of a Gaussian kernel (Rahimi & Recht, 2007), as wide as inputs of deviation 1 lie."""
    if _one_hot(log):
        return lambda inputs: inputs.astype(np.float64)
    width = _inputs(log)
    generator = np.random.default_rng(seed)
    frequencies = generator.standard_normal((width, KERNEL_FEATURES)) / np.sqrt(2.0 * width)
    phases = generator.uniform(0.0, 2.0 * np.pi, KERNEL_FEATURES)

    def basis(inputs: NDArray[np.float32]) -> Matrix:
        values = np.sqrt(2.0 / KERNEL_FEATURES) * np.cos(inputs.astype(np.float64) @ frequencies + phases)
        return np.concatenate([np.ones((len(values), 1)), values], axis=1)

    return basis


def _estimator(summary: str, name: Method) -> Estimator:
    return Estimator(summary, lambda ask: marginal_estimate(ask, name), needs=("policy",), endless=True)


LSTD = _estimator("least-squares temporal differences", "lstd")
MQL = _estimator("minimax Q-learning", "mql")
MWL = _estimator("minimax weight learning", "mwl")
DICE = _estimator("dual distribution correction", "dice")
