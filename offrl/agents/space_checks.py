"""What agents ask of a task before they start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from offrl import plugins
from offrl.errors import SpaceMismatchError
from offrl.nn.images import images_of
from offrl.types import Spec

Actions = Literal["continuous", "discrete", "multi-discrete"]

SUITED: dict[type[gym.Space[Any]], Actions] = {
    gym.spaces.Box: "continuous",
    gym.spaces.Discrete: "discrete",
    gym.spaces.MultiDiscrete: "multi-discrete",
}
"""What an algorithm's record calls each kind of action space."""

NOTHING_NEARER: Mapping[Actions, str] = {}
"""No algorithm for other action spaces stands out."""

PolicyKind = Literal["auto", "deterministic", "gaussian", "squashed_gaussian", "mixture", "categorical"]


def require_bounded_box(spec: Spec, algorithm: str, instead: Mapping[Actions, str] = NOTHING_NEARER) -> None:
    """Raise `SpaceMismatchError` unless actions are vectors with finite bounds.

    Args:
        spec: the spaces.
        algorithm: whose check it is, for people.
        instead: for other kinds of action spaces, what is nearest to the algorithm there; else all are named that can.
    """
    space = spec.action_space
    if not isinstance(space, gym.spaces.Box):
        raise SpaceMismatchError(
            f"{algorithm} can't act in this task's action space, {space}",
            hint=_suited(space, instead),
        )
    _refuse_whole_numbers(space)
    if not space.is_bounded("both"):
        raise SpaceMismatchError(
            f"{algorithm} needs finite action bounds, but this task's action space is {space}",
            hint="bound the environment's actions, or convert the dataset with their bounds (offrl convert --env ID)",
        )


def require_discrete(
    spec: Spec, algorithm: str, instead: Mapping[Actions, str] = NOTHING_NEARER
) -> gym.spaces.Discrete:
    """The action space; raises `SpaceMismatchError` unless an action is one of several numbers.

    Args:
        spec: the spaces.
        algorithm: whose check it is, for people.
        instead: for other kinds of action spaces, what is nearest to the algorithm there; else all are named that can.
    """
    space = spec.action_space
    if not isinstance(space, gym.spaces.Discrete):
        raise SpaceMismatchError(
            f"{algorithm} chooses among discrete actions, but this task's action space is {space}",
            hint=_suited(space, instead),
        )
    return space


def require_no_images(spec: Spec, algorithm: str) -> None:
    """Raise `SpaceMismatchError` where an image is observed: as one long vector of pixels it would teach little."""
    images = images_of(spec.observation_space)
    if not images:
        return
    key, image = next(iter(images.items()))
    able = _algorithms_for(SUITED.get(type(spec.action_space)), images=True)
    observed = f"the observation {key!r}" if key else "the observation"
    raise SpaceMismatchError(
        f"{algorithm} has no encoder for images, but {observed} is one, {image}",
        hint=f"choose {_listed(able)}, which has one" if able else "observe vectors: features of the image, in floats",
    )


def _refuse_whole_numbers(space: gym.Space[Any]) -> None:
    """Policies of vectors give any real number within the bounds."""
    if isinstance(space, gym.spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        raise SpaceMismatchError(
            f"no algorithm acts in this task's action space, {space}: its actions are vectors of whole numbers",
            hint="let the environment take Discrete or MultiDiscrete actions, or floating-point ones that it rounds",
        )


def _suited(space: gym.Space[Any], instead: Mapping[Actions, str]) -> str:
    kind = SUITED.get(type(space))
    if kind is not None and kind in instead:
        return f"choose {instead[kind]}"
    known = _algorithms_for(kind)
    return f"choose {_listed(known)}, which can" if known else "use Box, Discrete or MultiDiscrete actions"


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _algorithms_for(actions: Actions | None, images: bool = False) -> list[str]:
    """Names of those that act in such a space and need neither an expert's run nor a table of the dynamics.

    Args:
        actions: what records call the space; None where none does.
        images: whether only those that see images count.
    """
    return plugins.algorithms.able(
        lambda record: (
            actions in record.actions
            and not record.expert
            and "table" not in record.feeds
            and (record.images or not images)
        )
    )


def policy_kind(
    wanted: PolicyKind,
    spec: Spec,
    continuous: tuple[PolicyKind, ...] = ("deterministic", "gaussian", "squashed_gaussian"),
) -> PolicyKind:
    """The kind of policy for an action space.

    Args:
        wanted: "auto" takes the first one that fits.
        continuous: the kinds that an algorithm knows for continuous actions.

    Raises:
        SpaceMismatchError: the kind asked for doesn't fit the space, or no kind does.
    """
    space = spec.action_space
    _refuse_whole_numbers(space)
    fits: dict[type, tuple[PolicyKind, ...]] = {
        gym.spaces.Box: continuous,
        gym.spaces.Discrete: ("categorical",),
        gym.spaces.MultiDiscrete: ("categorical",),
    }
    kinds = fits.get(type(space), ())
    kind = kinds[0] if wanted == "auto" and kinds else wanted
    if kind not in kinds:
        raise SpaceMismatchError(
            f"no policy acts in {space}" if wanted == "auto" else f"a {wanted} policy can't act in {space}",
            hint=f"choose agent.policy from: auto, {', '.join(kinds)}"
            if kinds
            else "use Box, Discrete or MultiDiscrete",
        )
    if kind == "squashed_gaussian" and not (isinstance(space, gym.spaces.Box) and space.is_bounded("both")):
        raise SpaceMismatchError(
            f"a squashed policy needs finite action bounds, the action space is {space}",
            hint="choose agent.policy=gaussian",
        )
    return kind


def choices_of(space: gym.Space[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many actions each independent choice has, and the number of its first one; empty for continuous actions."""
    if isinstance(space, gym.spaces.Discrete):
        return (int(space.n),), (int(space.start),)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.flat), tuple(int(first) for first in space.start.flat)
    return (), ()
