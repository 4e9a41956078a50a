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

import numpy as np
from numpy.typing import NDArray

from offrl.errors import RequestError
from offrl.off_policy import intervals
from offrl.off_policy.bootstrap import resample_means
from offrl.off_policy.estimate import BOUNDED, MINIMUM_EFFECTIVE_SAMPLE_SIZE, IntervalKind
from offrl.off_policy.estimates import Estimate, Interval
from offrl.off_policy.transitions import Choices, Steps

MARGINALISED = ("lstd", "mql", "mwl", "dice")
"""The names of these estimators."""
ROWS_AT_ONCE = 8_192
MOST_FEATURES = 400
"""Squares and products are left out where there would be more features of a state than this."""
KERNEL_FEATURES = 100
RIDGE = 1e-8
BALANCE_LIMIT = 0.05
"""How far E[w (1 − γ')] may be from 1, which it is for the true weights."""

Matrix = NDArray[np.float64]
Basis = Callable[[NDArray[np.float32]], Matrix]


@dataclass(frozen=True)
class MarginalValue:
    """One estimator's answer.

    Attributes:
        value: of the policy.
        contributions: float64 [N]; one for each episode, of mean `value`. They hold the linearized influence of the
            episode on what was fitted too.
        weights: float64 [R].
        balanced: False where the weights don't do what true ones do on average: the log can't tell.
    """

    value: float
    contributions: Matrix
    weights: Matrix
    balanced: bool


def marginalized(steps: Steps, choices: Choices, name: str, seed: int = 0) -> MarginalValue:
    """Value a policy by one of `MARGINALISED`.

    Args:
        steps: the log.
        choices: what the policy does at its rows.
        name: of the estimator.
        seed: of the kernel's random features.

    Raises:
        RequestError: there is a horizon: what is fitted doesn't depend on time.
    """
    if steps.horizon is not None:
        raise RequestError(
            f"{name} fits values and weights that don't depend on time, and a horizon is given",
            hint="leave out --horizon, or choose fqe",
        )
    plain = _Features(steps, choices, _polynomial(steps))
    tests = _Features(steps, choices, _fourier(steps, seed))
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
    error, weights = np.empty(len(steps.reward)), np.empty(len(steps.reward))
    for part in _parts(steps):
        here, there = plain.taken(part), plain.following(part)
        error[part] = steps.reward[part] + (steps.discount * there - here) @ theta
        weights[part] = weigher.taken(part) @ coefficients
    starts = plain.expected(steps.first_row) @ theta
    episodes, count = len(steps.lengths), len(steps.reward)
    offsets = np.cumsum(steps.lengths) - steps.lengths
    influence = starts + np.add.reduceat(weights * error, offsets) * (episodes / count)
    by_values = name in ("lstd", "mql")
    value = float(starts.mean() if by_values else (weights * steps.reward).mean())
    balance = float((weights * (1.0 - steps.discount * steps.continues)).mean())
    return MarginalValue(
        value=value,
        contributions=value + influence - influence.mean(),
        weights=weights,
        balanced=bool(np.isfinite(value)) and abs(balance - 1.0) <= BALANCE_LIMIT,
    )


def marginal_estimate(
    steps: Steps,
    choices: Choices,
    name: str,
    *,
    confidence: float = 0.95,
    interval: IntervalKind | None = "bootstrap-bca",
    resamples: int = 1_000,
    seed: int = 0,
) -> Estimate:
    """`marginalized` as an estimate, with its interval.

    Args:
        steps, choices, name: see `marginalized`.
        confidence, interval, resamples, seed: see `offrl.off_policy.estimate.estimate`; all bootstraps but BCa are by
            percentiles here, of the linearized contributions.

    Raises:
        RequestError: there is a horizon, or the interval is for unbiased estimators.
    """
    found = marginalized(steps, choices, name, seed)
    weights, share = np.abs(found.weights), 0.0
    square = float(np.square(found.weights).sum())
    size = float(found.weights.sum()) ** 2 / square * len(steps.lengths) / len(weights) if square > 0.0 else 0.0
    if square > 0.0:
        share = float(weights.max() / weights.sum())
    warnings = [
        "Values and weights are taken to be linear in features; the interval knows nothing of what they aren't."
    ]
    if not found.balanced:
        warnings.append("The weights don't average what true ones do: the log can't tell what the policy would do.")
    return Estimate(
        name=name,
        value=found.value,
        contributions=found.contributions,
        interval=None if interval is None else _interval(found, name, confidence, interval, resamples, seed),
        effective_sample_size=size,
        largest_weight_share=share,
        reliable=found.balanced and size >= MINIMUM_EFFECTIVE_SAMPLE_SIZE,
        warnings=tuple(warnings),
    )


def _interval(
    found: MarginalValue, name: str, confidence: float, kind: IntervalKind, resamples: int, seed: int
) -> Interval:
    contributions = found.contributions
    if kind in BOUNDED:
        raise RequestError(
            f"the interval '{kind}' is for unbiased estimators, and {name} isn't one", hint="choose a bootstrap, or t"
        )
    if kind == "t":
        return Interval(*intervals.student_t(contributions, confidence), confidence, kind)
    drawn = resample_means(contributions[:, None], resamples=resamples, seed=seed)[:, 0]
    if kind == "bootstrap-bca":
        return Interval(*intervals.bca(contributions, drawn, confidence), confidence, kind)
    return Interval(*intervals.percentile(drawn, confidence), confidence, "bootstrap-percentile")


@dataclass(frozen=True)
class _Moments:
    """Means over the log, of f(s, a) with the features g: f gᵀ, f (g − γ g')ᵀ, and f r."""

    square: Matrix
    difference: Matrix
    reward: Matrix


class _Features:
    """φ(s, a): a basis of the state in a block for each discrete action, or a basis of state and continuous action."""

    def __init__(self, steps: Steps, choices: Choices, basis: Basis) -> None:
        self.steps, self.choices, self.basis = steps, choices, basis
        self.start: Matrix = self.expected(steps.first_row).mean(axis=0)

    def taken(self, part: slice) -> Matrix:
        """At the steps of a part of the log, of what was done, [n, D]."""
        steps = self.steps
        features = steps.features[steps.row[part]]
        if steps.actions is None:
            return self.basis(np.concatenate([features, steps.action[part]], axis=1))
        return _blocks(self.basis(features), np.eye(steps.actions)[steps.action[part]])

    def following(self, part: slice) -> Matrix:
        """Behind these steps, of what the policy does there, [n, D]; 0 where nothing follows."""
        return self.expected(self.steps.row[part] + 1) * self.steps.continues[part, None]

    def expected(self, rows: NDArray[np.int64]) -> Matrix:
        """At some rows, of what the policy does, [n, D]."""
        features = self.steps.features[rows]
        if self.choices.probabilities is not None:
            return _blocks(self.basis(features), self.choices.probabilities[rows].astype(np.float64))
        assert self.choices.actions is not None
        drawn = [self.basis(np.concatenate([features, actions[rows]], axis=1)) for actions in self.choices.actions]
        return np.asarray(np.mean(drawn, axis=0))


def _blocks(basis: Matrix, shares: Matrix) -> Matrix:
    return (shares[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)


def _parts(steps: Steps) -> Iterator[slice]:
    for start in range(0, len(steps.reward), ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def _moments(tested: _Features, fitted: _Features) -> _Moments:
    steps, count = tested.steps, len(tested.steps.reward)
    square: Matrix | float = 0.0
    difference: Matrix | float = 0.0
    reward: Matrix | float = 0.0
    for part in _parts(steps):
        f = tested.taken(part)
        g = f if fitted is tested else fitted.taken(part)
        square = square + f.T @ f
        difference = difference + f.T @ (g - steps.discount * fitted.following(part))
        reward = reward + f.T @ steps.reward[part]
    return _Moments(*(np.asarray(total) / count for total in (square, difference, reward)))


def _solve(matrix: Matrix, right: Matrix) -> Matrix:
    """By least squares; of several solutions the least: features of what never happened have no equation."""
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=RIDGE)[0])


def _inputs(steps: Steps) -> int:
    return int(steps.features.shape[1]) + (0 if steps.actions is not None else int(steps.action.shape[1]))


def _one_hot(steps: Steps) -> bool:
    """Whether observations are states' numbers: they need no further features."""
    features = steps.features
    return steps.actions is not None and bool(
        ((features == 0) | (features == 1)).all() and (features.sum(axis=1) == 1).all()
    )


def _polynomial(steps: Steps) -> Basis:
    """1, the inputs, their squares and products."""
    if _one_hot(steps):
        return lambda inputs: inputs.astype(np.float64)
    width = _inputs(steps)
    first, second = np.triu_indices(width)
    with_products = len(first) + width + 1 <= MOST_FEATURES

    def basis(inputs: NDArray[np.float32]) -> Matrix:
        values = inputs.astype(np.float64)
        columns = [np.ones((len(values), 1)), values]
        if with_products:
            columns.append(values[:, first] * values[:, second])
        return np.concatenate(columns, axis=1)

    return basis


def _fourier(steps: Steps, seed: int) -> Basis:
    """1, and random features of a Gaussian kernel (Rahimi & Recht, 2007), as wide as inputs of deviation 1 lie."""
    if _one_hot(steps):
        return lambda inputs: inputs.astype(np.float64)
    width = _inputs(steps)
    generator = np.random.default_rng(seed)
    frequencies = generator.standard_normal((width, KERNEL_FEATURES)) / np.sqrt(2.0 * width)
    phases = generator.uniform(0.0, 2.0 * np.pi, KERNEL_FEATURES)

    def basis(inputs: NDArray[np.float32]) -> Matrix:
        values = np.sqrt(2.0 / KERNEL_FEATURES) * np.cos(inputs.astype(np.float64) @ frequencies + phases)
        return np.concatenate([np.ones((len(values), 1)), values], axis=1)

    return basis
