"""Random logs for tests."""

from __future__ import annotations

import numpy as np

from offrl.off_policy.episode_log import EpisodeLog


def random_log(
    seed: int = 0, *, episodes: int = 40, longest: int = 9, values: bool = True, cut: bool = False
) -> EpisodeLog:
    """Episodes of random lengths, the first as long as any; with `cut`, some were truncated and would have gone on."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, episodes)
    lengths[0] = longest
    rows = int(lengths.sum())
    terminated = rng.random(episodes) < 0.6 if cut else np.ones(episodes, dtype=bool)
    return EpisodeLog(
        rng.normal(size=rows),
        np.log(rng.uniform(0.3, 0.9, rows)),
        np.log(rng.uniform(0.3, 0.9, rows)),
        np.concatenate([[0], np.cumsum(lengths)]),
        terminated,
        ~terminated,
        0.9,
        q=rng.normal(size=rows) if values else None,
        v=rng.normal(size=rows) if values else None,
        v_final=rng.normal(size=episodes) if values else None,
    )


def take(log: EpisodeLog, chosen: list[int]) -> EpisodeLog:
    """These episodes, as often as they are named."""
    rows = np.concatenate([np.arange(log.offsets[i], log.offsets[i + 1]) for i in chosen])
    parts = [None if values is None else values[rows] for values in (log.q, log.v)]
    return EpisodeLog(
        log.reward[rows],
        log.behavior_log_prob[rows],
        log.target_log_prob[rows],
        np.concatenate([[0], np.cumsum(log.lengths[chosen])]),
        log.terminated[chosen],
        log.truncated[chosen],
        log.discount,
        log.horizon,
        q=parts[0],
        v=parts[1],
        v_final=None if log.v_final is None else log.v_final[chosen],
    )
