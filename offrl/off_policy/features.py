"""Observations and actions as what is fitted to a log takes them: flat vectors, or actions counted from 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from offrl.errors import DataError, SpaceMismatchError
from offrl.nn import FlatObservation
from offrl.replay.normalization import ActionMap

Observations = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Rows of observations as the dataset holds them, [n, …]; by dotted key where the space is nested."""


def flat_features(space: gym.Space[Any], observation: Observations, row: NDArray[np.int64]) -> NDArray[np.float32]:
    """Observations as vectors, float32 [n, F]: one-hot where discrete, else of mean 0 and deviation 1 over the steps.

    Args:
        space: of the observations.
        observation: [n, …].
        row: int64 [R]; the rows of the steps.

    Raises:
        DataError: an observation is NaN or infinite.
    """
    # Copies: PyTorch takes no read-only memory.
    tensors = (
        {key: torch.tensor(_centered(part, row)).unsqueeze(0) for key, part in observation.items()}
        if isinstance(observation, Mapping)
        else torch.tensor(_centered(observation, row)).unsqueeze(0)
    )
    flat: NDArray[np.float32] = FlatObservation(space)(tensors)[0].numpy()
    if not np.isfinite(flat).all():
        raise DataError("the log's observations hold NaN or infinity", hint="offrl datasets validate says where")
    if isinstance(space, gym.spaces.Discrete):
        return flat
    steps = flat[row]
    scaled: NDArray[np.float32] = ((flat - steps.mean(axis=0)) / (steps.std(axis=0) + 1e-3)).astype(np.float32)
    return scaled


def _centered(part: NDArray[Any], row: NDArray[np.int64]) -> NDArray[Any]:
    """Observations in double precision less their mean over the steps: single precision may not hold an offset."""
    if part.dtype != np.float64:
        return part
    with np.errstate(invalid="ignore"):
        return np.asarray(part - part[row].mean(axis=0))


def fitted_action(space: gym.Space[Any], action: NDArray[Any], name: str) -> NDArray[Any]:
    """Actions as densities are fitted to: int64 [R] from 0, or float32 [R, A] in [-1, 1] where they are bounded.

    Args:
        space: of the actions.
        action: [R, …], in the environment's units and numbers.
        name: the log's, for the message.

    Raises:
        SpaceMismatchError: actions are neither discrete nor vectors.
        DataError: one is NaN or infinite.
    """
    if isinstance(space, gym.spaces.Discrete):
        return action.astype(np.int64).reshape(-1) - int(space.start)
    if not isinstance(space, gym.spaces.Box):
        raise SpaceMismatchError(
            f"nothing is fitted to actions in {space}, as those of '{name}' are",
            hint="choose importance sampling by logged probabilities: --estimators is,wis,pdis,wpdis",
        )
    if not np.isfinite(action).all():
        raise DataError("the log's actions hold NaN or infinity", hint="offrl datasets validate says where")
    unit: NDArray[np.float32] = ActionMap.from_space(space).to_unit(action.reshape(len(action), -1))
    return unit


def one_hot_each(space: gym.spaces.MultiDiscrete, action: NDArray[Any]) -> NDArray[np.float32]:
    """Several choices [..., K] as vectors [..., A]: a 1 for each choice, among as many places as it has options."""
    columns = zip(np.moveaxis(action, -1, 0), space.start.flat, space.nvec.flat, strict=True)
    return np.concatenate(
        [np.eye(int(count), dtype=np.float32)[choice - first] for choice, first, count in columns], -1
    )
