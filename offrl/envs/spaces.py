"""Whether a policy, a dataset and an environment speak of the same task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from offrl.errors import SpaceMismatchError
from offrl.types import Spec

if TYPE_CHECKING:
    from offrl.envs.make import Environments


OBSERVED = "Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
ACTED_IN = "Box of floating-point numbers, Discrete or MultiDiscrete"


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


def require_acted_in(spec: Spec, environment: str) -> None:
    """Raise `SpaceMismatchError` unless offrl can show such observations to a policy, and act in such a space."""
    for part in _leaves(spec.observation_space):
        if not isinstance(
            part, gym.spaces.Box | gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary
        ):
            raise SpaceMismatchError(
                f"the observation space of {environment} holds {_short(part)}, which has no fixed shape",
                hint=f"observations may be {OBSERVED}",
            )
    space = spec.action_space
    whole = isinstance(space, gym.spaces.Box) and not np.issubdtype(space.dtype, np.floating)
    if whole or not isinstance(space, gym.spaces.Box | gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        raise SpaceMismatchError(
            f"nothing here acts in the action space of {environment}, {_short(space)}",
            hint=f"actions may be {ACTED_IN}",
        )


def _leaves(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    """The parts of a space that is nested by name or position."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return [leaf for child in _children(space).values() for leaf in _leaves(child)]
    return [space]


def _short(space: gym.Space[Any]) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


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
