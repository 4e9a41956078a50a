"""The estimators again, as straight-line code: one episode and one step at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from offrl.off_policy.episode_log import EpisodeLog


@dataclass
class PlainEpisode:
    """ratio, reward, q, v: one for each step; v has one more behind the end."""

    ratio: list[float]
    reward: list[float]
    q: list[float]
    v: list[float]


def plain_episodes(log: EpisodeLog) -> list[PlainEpisode]:
    """A log's episodes; values are 0 where it has none."""
    episodes = []
    for i in range(len(log.offsets) - 1):
        episode = PlainEpisode([], [], [], [])
        for row in range(log.offsets[i], log.offsets[i + 1]):
            episode.ratio.append(math.exp(log.target_log_prob[row]) / math.exp(log.behavior_log_prob[row]))
            episode.reward.append(float(log.reward[row]))
            episode.q.append(0.0 if log.q is None else float(log.q[row]))
            episode.v.append(0.0 if log.v is None else float(log.v[row]))
        episode.v.append(0.0 if log.v_final is None else float(log.v_final[i]))
        episodes.append(episode)
    return episodes


def cumulative(episodes: list[PlainEpisode], clip: float) -> list[list[float]]:
    """Weights of each episode at each step up to the longest one's; constant behind the end."""
    longest = max(len(episode.ratio) for episode in episodes)
    weights = []
    for episode in episodes:
        product, row = 1.0, []
        for t in range(longest):
            if t < len(episode.ratio):
                product *= episode.ratio[t]
            row.append(min(product, clip))
        weights.append(row)
    return weights


def plain_return(episode: PlainEpisode, discount: float) -> float:
    return sum(discount**t * reward for t, reward in enumerate(episode.reward))


def plain(name: str, episodes: list[PlainEpisode], discount: float, *, clip: float = math.inf) -> float:
    """One estimate."""
    weights, count = cumulative(episodes, clip), len(episodes)
    longest = len(weights[0])
    if name in ("is", "ips"):
        return sum(w[-1] * plain_return(e, discount) for w, e in zip(weights, episodes, strict=True)) / count
    if name in ("wis", "snips"):
        total = sum(w[-1] for w in weights)
        return sum(w[-1] * plain_return(e, discount) for w, e in zip(weights, episodes, strict=True)) / total
    if name == "dm":
        return sum(episode.v[0] for episode in episodes) / count
    if name == "pdis":
        return (
            sum(
                w[t] * discount**t * e.reward[t]
                for w, e in zip(weights, episodes, strict=True)
                for t in range(len(e.reward))
            )
            / count
        )
    if name == "wpdis":
        value = 0.0
        for t in range(longest):
            total = sum(w[t] for w in weights)
            for w, e in zip(weights, episodes, strict=True):
                if t < len(e.reward):
                    value += discount**t * w[t] / total * e.reward[t]
        return value
    if name == "dr":
        # Jiang and Li's recursion, V_t = V̂ + ρ (r + γ V_{t+1} - Q̂); it has no clipped weights.
        assert clip == math.inf
        total = 0.0
        for e in episodes:
            value = e.v[-1]
            for t in reversed(range(len(e.reward))):
                value = e.v[t] + e.ratio[t] * (e.reward[t] + discount * value - e.q[t])
            total += value
        return total / count
    if name == "wdr":
        return plain_cut_short(episodes, weights, discount, longest)
    raise ValueError(name)


def plain_cut_short(episodes: list[PlainEpisode], weights: list[list[float]], discount: float, steps: int) -> float:
    """WDR that stops correcting after so many steps, in the published form (Thomas and Brunskill, 2016)."""
    return sum(plain_cut_short_parts(episodes, weights, discount, steps))


def plain_cut_short_parts(
    episodes: list[PlainEpisode], weights: list[list[float]], discount: float, steps: int
) -> list[float]:
    parts = []
    for w, e in zip(weights, episodes, strict=True):
        value = 0.0
        for t in range(steps):
            now = w[t] / sum(other[t] for other in weights)
            before = 1.0 / len(episodes) if t == 0 else w[t - 1] / sum(other[t - 1] for other in weights)
            if t < len(e.reward):
                value += discount**t * (now * e.reward[t] - now * e.q[t] + before * e.v[t])
            elif t == len(e.reward):
                value += discount**t * before * e.v[t]
        if steps <= len(e.reward):
            last = 1.0 / len(episodes) if steps == 0 else w[steps - 1] / sum(other[steps - 1] for other in weights)
            value += discount**steps * last * e.v[steps]
        parts.append(value)
    return parts


def plain_magic(episodes: list[PlainEpisode], discount: float, low: float, high: float) -> float:
    """MAGIC, given WDR's 90% interval; the blend by a general-purpose optimizer."""
    weights = cumulative(episodes, math.inf)
    longest, count = len(weights[0]), len(episodes)
    parts = np.array([plain_cut_short_parts(episodes, weights, discount, steps) for steps in range(longest + 1)])
    estimates = parts.sum(axis=1)
    covariance = np.zeros((longest + 1, longest + 1))
    for i in range(longest + 1):
        for j in range(longest + 1):
            deviations = (parts[i] - parts[i].mean()) * (parts[j] - parts[j].mean())
            covariance[i, j] = count / (count - 1) * deviations.sum()
    low, high = min(low, estimates[-1]), max(high, estimates[-1])
    bias = np.array([max(low - g, 0.0) + max(g - high, 0.0) for g in estimates])
    matrix = covariance + np.outer(bias, bias)
    scale = np.trace(matrix)
    best = minimize(
        lambda x: x @ matrix @ x / scale,
        np.full(longest + 1, 1.0 / (longest + 1)),
        jac=lambda x: 2.0 * matrix @ x / scale,
        bounds=[(0.0, 1.0)] * (longest + 1),
        constraints=[{"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": np.ones_like}],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return float(best.x @ estimates)
