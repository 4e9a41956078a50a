"""Gymnasium vector environments, made one way everywhere."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from offrl.envs.spaces import spaces_of
from offrl.errors import RequestError
from offrl.types import Spec


def make_environments(environment: str, count: int, **options: Any) -> VectorEnv[Any, Any, Any]:
    """`count` copies of a registered environment, reset within the step that ends an episode.

    Raises:
        RequestError: Gymnasium knows no such environment, or can't make it.
    """
    try:
        return gym.make_vec(
            environment,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **options,
        )
    except (gym.error.Error, ImportError) as error:
        raise RequestError(
            f"the environment {environment!r} can't be made: {error}",
            mend="name one that Gymnasium has registered (python -c 'import gymnasium; gymnasium.pprint_registry()')",
        ) from error


def environment_spec(environment: str) -> Spec:
    """The spaces of a registered environment.

    Raises:
        RequestError: Gymnasium knows no such environment, or can't make it.
    """
    environments = make_environments(environment, 1)
    spec = spaces_of(environments)
    environments.close()
    return spec


def final_observation(next_observation: Any, infos: dict[str, Any]) -> Any:
    """What each environment saw at the end of the step, before any reset: `next_observation` but for ended episodes."""
    if "final_obs" not in infos:
        return next_observation
    ended = infos["_final_obs"].nonzero()[0]
    return _replace(next_observation, [infos["final_obs"][i] for i in ended], ended)


def _replace(stacked: Any, values: list[Any], places: Any) -> Any:
    if isinstance(stacked, dict):
        return {key: _replace(part, [value[key] for value in values], places) for key, part in stacked.items()}
    if isinstance(stacked, tuple):
        return tuple(_replace(part, [value[i] for value in values], places) for i, part in enumerate(stacked))
    replaced = stacked.copy()
    for place, value in zip(places, values, strict=True):
        replaced[place] = value
    return replaced
