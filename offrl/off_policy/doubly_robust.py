"""Doubly robust estimators: a model's values, corrected by what the log shows them to miss.

With δ_t = r_t + γ V̂(s_{t+1}) - Q̂(s_t, a_t), and V̂ = 0 behind a termination and the horizon, each is the mean of V̂(s_0)
plus weighted sums of γ^t δ_t, which is the published form with its terms of V̂ moved by one step. Q̂ and V̂ must not be
fitted to the episodes that they are used on, or the correction comes out too small: `fqe.fit_q` cross-fits them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offrl.errors import RequestError
from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.off_policy.estimator import Estimate, Estimator, Need, Question
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms
from offrl.off_policy.weights import StepWeights

STRETCHES = 24
"""How many stretches of steps MAGIC tells apart: it blends estimates of one more return length."""
BLEND_CONFIDENCE = 0.9
_RIDGE = 1e-10
MODEL_AND_WEIGHTS: tuple[Need, ...] = ("density", "behavior", "values")
FITTED = "Fitted values have no interval: nothing in the log tells how far off they are."


def state_values(log: EpisodeLog, name: str) -> Array:
    """V̂ of each row, or the error that says who needs it.

    Raises:
        RequestError: the log holds none.
    """
    if log.v is None:
        raise RequestError(
            f"{name} needs the target policy's values, and the log holds none", where="v", hint="fit them: fqe"
        )
    return log.v


def direct_method(log: EpisodeLog, name: str = "dm") -> WeightedSum:
    """DM = 1/N Σ_i V̂(s_{i,0}): what the model says, right or wrong."""
    return WeightedSum(state_values(log, name)[log.offsets[:-1]])


def temporal_errors(log: EpisodeLog, name: str) -> Array:
    """γ^t δ_t of each row, [R].

    Raises:
        RequestError: the log holds no values, or none of actions.
    """
    v = state_values(log, name)
    if log.q is None:
        raise RequestError(f"{name} needs the values of the logged actions", where="q", hint="give q beside v")
    assert log.v_final is not None
    following = np.append(v[1:], 0.0)
    following[log.offsets[1:] - 1] = log.v_final
    return np.asarray(log.discounted(log.reward + log.discount * following - log.q))


def doubly_robust(log: EpisodeLog, weights: StepWeights, name: str = "dr") -> WeightedSum:
    """DR = 1/N Σ_i [V̂(s_{i,0}) + Σ_t γ^t w_{i,t} δ_{i,t}] (Jiang and Li, 2016), https://arxiv.org/abs/1511.03722.

    Unbiased where the behavior's probabilities are right, whatever the values; and where the values are, whatever the
    probabilities.
    """
    return WeightedSum(direct_method(log, name).base, WeightedTerms(weights, temporal_errors(log, name)))


def weighted_doubly_robust(log: EpisodeLog, weights: StepWeights, name: str = "wdr") -> WeightedSum:
    """WDR = 1/N Σ_i V̂(s_{i,0}) + Σ_t γ^t Σ_i w_{i,t} δ_{i,t} / Σ_i w_{i,t} (Thomas and Brunskill, 2016).

    https://arxiv.org/abs/1604.00923. The sums of weights go over all N episodes at every step.
    """
    errors = WeightedTerms(weights, temporal_errors(log, name))
    return WeightedSum(direct_method(log, name).base, errors, self_normalized=True)


def partial_corrections(weighted: WeightedSum) -> Array:
    """Each episode's part in WDR cut off after j steps, for up to 25 values of j from 0 to all, [N, J].

    The mean over episodes of the first column is the direct method, of the last one WDR.

    Args:
        weighted: WDR; it has a value.
    """
    assert weighted.weighted is not None
    weights, terms = weighted.weighted.weights, weighted.weighted.terms
    edges = np.unique(np.round(np.linspace(0, weights.steps, min(weights.steps, STRETCHES) + 1)).astype(np.int64))
    stretch = np.repeat(np.arange(len(edges) - 1), np.diff(edges))[weights.step]
    episode = np.repeat(np.arange(weights.episodes), weights.lengths)
    shape = (weights.episodes, len(edges) - 1)
    cells = np.ravel_multi_index((episode, stretch), shape)
    parts = np.bincount(cells, weights.relative * terms, minlength=shape[0] * shape[1]).reshape(shape)
    corrections = np.column_stack([np.zeros(weights.episodes), np.cumsum(parts, axis=1)])
    return np.asarray(corrections + weighted.base[:, np.newaxis])


def magic_blend(partial: Array, resampled: Array) -> Array:
    """MAGIC's x, [J]: Σ_j x_j g_j blends WDR cut off after j steps, g_j, over j (Thomas and Brunskill, 2016).

    x makes the estimated squared error x'(Ω + bb')x least over the simplex: Ω is the covariance of the g's over
    episodes, and b how far each lies outside of WDR's 90% bootstrap interval. Up to 25 lengths are told apart.

    Args:
        partial: of `partial_corrections`, [N, J], N ≥ 2.
        resampled: WDR of bootstrap resamples, [B]; NaN is left out.
    """
    estimates = partial.mean(axis=0)
    covariance = np.atleast_2d(np.cov(partial, rowvar=False)) / len(partial)
    tail = (1.0 - BLEND_CONFIDENCE) / 2.0
    low, high = np.nanquantile(resampled, [tail, 1.0 - tail])
    bias = estimates - np.clip(estimates, min(low, estimates[-1]), max(high, estimates[-1]))
    return simplex_minimum(covariance + np.outer(bias, bias))


def simplex_minimum(matrix: Array) -> Array:
    """The x ≥ 0 with Σ x = 1 that makes x'Ax least, [n], for A positive semi-definite, [n, n].

    It is y / Σ y for the y ≥ 0 that makes y'Ay / 2 - Σ y least, which the active-set method for non-negative least
    squares finds (Lawson and Hanson, 1974; Bro and de Jong, 1997). A slight ridge makes it the only one.
    """
    size = len(matrix)
    scale = float(np.trace(matrix)) / size
    if scale <= 0.0:
        return np.asarray(np.eye(size)[-1])
    scaled = matrix / scale + _RIDGE * np.eye(size)
    solution, free = np.zeros(size), np.zeros(size, dtype=bool)
    for _ in range(10 * size):
        slack = np.where(free, -np.inf, 1.0 - scaled @ solution)
        if slack.max() <= 1e-9:
            break
        free[np.argmax(slack)] = True
        solution = _with_free(scaled, solution, free)
    return np.asarray(solution / solution.sum())


def _with_free(matrix: Array, solution: Array, free: NDArray[np.bool_]) -> Array:
    """Go to the minimum over the free coordinates, fixing at 0 those that would turn negative; changes `free`."""
    while True:
        aim = np.zeros(len(matrix))
        aim[free] = np.linalg.solve(matrix[np.ix_(free, free)], np.ones(int(free.sum())))
        if not (negative := free & (aim <= 0.0)).any():
            return aim
        reach = np.full(len(matrix), np.inf)
        reach[negative] = solution[negative] / (solution[negative] - aim[negative])
        solution = solution + reach.min() * (aim - solution)
        free &= reach > reach.min()
        solution[~free] = 0.0


def _weighted(ask: Question) -> WeightedSum:
    return weighted_doubly_robust(ask.log, ask.steps)


def _blended(answer: Estimate, weighted: WeightedSum, drawn: Array, ask: Question) -> Estimate:
    """MAGIC, from WDR's estimate: its value, and what WDR says of how sure that is.

    The blend takes whatever model error hides within WDR's interval for none, so its own spread would be too small.
    """
    partial = partial_corrections(weighted)
    blend = magic_blend(partial, drawn)
    value, interval, clipping = float(partial.mean(axis=0) @ blend), answer.interval, answer.clipping
    if interval is not None:
        interval = replace(interval, low=min(interval.low, value), high=max(interval.high, value))
    if clipping is not None and clipping.bias is not None:
        uncut = partial_corrections(_weighted(ask.uncut)).mean(axis=0) @ blend
        clipping = replace(clipping, bias=value - float(uncut))
    contributions = answer.contributions + (value - float(np.mean(answer.contributions)))
    return replace(answer, value=value, contributions=contributions, interval=interval, clipping=clipping)


DM = Estimator(
    "direct method", lambda ask: direct_method(ask.log), needs=("values",), caveat=FITTED, has_interval=False
)
DR = Estimator("doubly robust", lambda ask: doubly_robust(ask.log, ask.steps), needs=MODEL_AND_WEIGHTS, unbiased=True)
WDR = Estimator("weighted doubly robust", lambda ask: ask.once(_weighted), needs=MODEL_AND_WEIGHTS)
MAGIC = Estimator(
    "model and guided importance sampling combined",
    lambda ask: ask.once(_weighted),
    needs=MODEL_AND_WEIGHTS,
    blend=_blended,
)
