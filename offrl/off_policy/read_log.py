"""A dataset as a log: all of its episodes, in memory, in the environment's own units."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from offrl.data.schema import (
    ACTION,
    ACTION_MASK,
    BEHAVIOR_LOG_PROB,
    OBSERVATION,
    REWARD,
    TERMINATED,
    TRUNCATED,
    flatten_space,
)
from offrl.data.trajectories import Trajectories
from offrl.errors import DataError, RequestError, listed
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.features import Observations
from offrl.replay.normalization import observation_key
from offrl.replay.row_layout import known_masks


def read_log(store: Trajectories, columns: tuple[str, ...] = ()) -> EpisodeLog:
    """All episodes of a store, nothing discounted and nothing cut.

    Args:
        store: what was logged.
        columns: further columns to read.

    Raises:
        RequestError: there is no such column, or actions are nested.
        DataError: there is no episode, or a reward is no number.
    """
    missing = [name for name in (ACTION, *columns) if name not in store.column_names]
    if missing:
        raise RequestError(
            f"the dataset has no column '{missing[0]}'",
            where=store.metadata.name or "",
            hint=f"it has {listed(store.column_names)}",
        )
    if not store.num_episodes:
        raise DataError("the dataset has no episode", where=store.metadata.name or "", hint="name another one")
    lengths = np.asarray(store.episodes.length, np.int64)
    step_rows = np.arange(store.num_steps) + np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.append(0, np.cumsum(lengths))
    last_rows = step_rows[offsets[1:] - 1]

    def whole(name: str) -> NDArray[Any]:
        return store.read(name, 0, store.num_rows)

    names = flatten_space(store.spec.observation_space, OBSERVATION)
    observation = {observation_key(name): whole(name) for name in names}
    known = BEHAVIOR_LOG_PROB in store.column_names
    return EpisodeLog(
        reward=whole(REWARD)[step_rows].astype(np.float64),
        behavior_log_prob=whole(BEHAVIOR_LOG_PROB)[step_rows].astype(np.float64) if known else None,
        target_log_prob=None,
        offsets=offsets,
        terminated=whole(TERMINATED)[last_rows].astype(bool),
        truncated=whole(TRUNCATED)[last_rows].astype(bool),
        spaces=store.spec,
        observations=cast(Observations, observation.get("", observation)),
        taken=whole(ACTION)[step_rows],
        action_mask=known_masks(whole(ACTION_MASK).astype(np.bool_)) if ACTION_MASK in store.column_names else None,
        columns={name: whole(name) for name in columns},
        name=store.metadata.name or "",
    )
