"""What agents ask of a task before they start."""

from __future__ import annotations

import gymnasium as gym

from offrl.errors import SpaceMismatchError
from offrl.types import Spec


def require_bounded_box(spec: Spec, algorithm: str) -> None:
    """Raise `SpaceMismatchError` unless actions are vectors with finite bounds."""
    space = spec.action_space
    if not isinstance(space, gym.spaces.Box):
        raise SpaceMismatchError(
            f"{algorithm} acts in continuous (Box) spaces, but this task's action space is {space}",
            mend="choose an algorithm for discrete actions, such as bc",
        )
    if not space.is_bounded("both"):
        raise SpaceMismatchError(
            f"{algorithm} needs finite action bounds, but this task's action space is {space}",
            mend="convert the dataset with the environment's true bounds (offrl convert --env ID)",
        )
