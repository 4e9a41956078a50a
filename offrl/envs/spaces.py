"""Whether a policy, a dataset and an environment speak of the same task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from offrl.errors import SpaceMismatchError
from offrl.types import Spec

if TYPE_CHECKING:
    from offrl.envs.make import Environments


def spaces_of(environments: Environments) -> Spec:
    """The spaces of one of the copies."""
    return Spec(environments.single_observation_space, environments.single_action_space)


def single_precision(spec: Spec) -> Spec:
    """The same spaces with float32 in place of float64."""
    return Spec(_single(spec.observation_space), _single(spec.action_space))


def check_spaces(wanted: Spec, found: Spec, environment: str) -> None:
    """Compare the spaces that a policy or a dataset was made for with an environment's.

    Raises:
        SpaceMismatchError: their kinds or shapes differ, or the bounds of their actions, which scale a policy's output.
    """
    for name in ("observation_space", "action_space"):
        want, have = vars(wanted)[name], vars(found)[name]
        boxes = name == "action_space" and isinstance(want, gym.spaces.Box) and isinstance(have, gym.spaces.Box)
        if not same_kind(want, have) or (
            boxes and not (np.allclose(want.low, have.low) and np.allclose(want.high, have.high))
        ):
            raise SpaceMismatchError(
                f"the {name.replace('_', ' ')} of {environment} is {have}, but the data and policy have {want}",
                hint="name the environment that the data came from (--env), or convert the data with that one's spaces "
                "(offrl convert --env ID)",
            )


def same_kind(one: object, other: object) -> bool:
    """Whether two spaces hold values of the same shape and kind; floating-point width and bounds may differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, gym.spaces.Dict | gym.spaces.Tuple | gym.spaces.OneOf):
        a, b = _children(one), _children(other)
        return a.keys() == b.keys() and all(same_kind(a[key], b[key]) for key in a)
    if isinstance(one, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return one.shape == other.shape and one.dtype.kind == other.dtype.kind
    return one == other


def _children(space: object) -> dict[Any, Any]:
    if isinstance(space, gym.spaces.Dict):
        return dict(space.spaces)
    return dict(enumerate(space.spaces)) if isinstance(space, gym.spaces.Tuple | gym.spaces.OneOf) else {}


def _single(space: gym.Space[Any]) -> gym.Space[Any]:
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({key: _single(child) for key, child in space.spaces.items()})
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([_single(child) for child in space.spaces])
    if isinstance(space, gym.spaces.Box) and space.dtype == np.float64:
        return gym.spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space
