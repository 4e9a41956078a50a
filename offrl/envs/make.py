"""Gymnasium vector environments, made one way everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym

from offrl.errors import OffrlError, RequestError
from offrl.trust import make
from offrl.types import Spec

if TYPE_CHECKING:
    from offrl.envs.vector import SerialEnvironments
    from offrl.envs.worker_processes import ParallelEnvironments

Environments: TypeAlias = "SerialEnvironments | ParallelEnvironments"


def make_environments(
    environment: str,
    count: int,
    processes: int = 1,
    frame_stack: int = 1,
    horizon: int = 0,
    max_episode_steps: int = 0,
) -> Environments:
    """Copies of a registered environment, each reset within the step that ends its episode.

    Args:
        environment: a Gymnasium id.
        count: how many copies.
        processes: how many processes step them, this one among them; at most one for each copy is used.
        frame_stack: newest observations that are shown together; 1 shows each by itself.
        horizon: steps that every episode takes, see `offrl.envs.vector.FixedHorizon`; 0 leaves episodes as they are.
        max_episode_steps: the time limit; 0 for the environment's own, if it has one.

    Raises:
        UnsafeEnvironmentError: its module would have to be imported, and the user didn't name it.
        RequestError: Gymnasium knows no such environment, or can't make it.
        SpaceMismatchError: nothing is known of such observations, or such actions.
    """
    from offrl.envs.vector import SerialEnvironments

    with _known(environment):
        if min(processes, count) == 1:
            return SerialEnvironments(environment, count, frame_stack, horizon, max_episode_steps)
        from offrl.envs.worker_processes import ParallelEnvironments

        shared = min(processes, count)
        return ParallelEnvironments(environment, count, shared, frame_stack, horizon, max_episode_steps)


def make_environment(environment: str) -> gym.Env[Any, Any]:
    """A registered environment by itself.

    Raises:
        UnsafeEnvironmentError: its module would have to be imported, and the user didn't name it.
        RequestError: Gymnasium knows no such environment, or can't make it.
    """
    with _known(environment):
        return make(environment)


@contextmanager
def _known(environment: str) -> Iterator[None]:
    """Gymnasium's errors in making an environment as one that says which names there are."""
    try:
        yield
    except OffrlError:
        raise
    except Exception as error:  # Gymnasium's own, or whatever the environment's code raises
        raise RequestError(
            f"the environment {environment!r} can't be made: {error}",
            hint="name one that Gymnasium has registered (python -c 'import gymnasium; gymnasium.pprint_registry()'), "
            "or your own with its module (--env my_envs:Arm-v0, where my_envs.py is in this folder, or installed)",
        ) from error


def tells_of_masks(environment: str) -> bool:
    """Whether a registered environment says, when it is reset, which of its Discrete actions are allowed.

    Raises:
        UnsafeEnvironmentError: its module would have to be imported, and the user didn't name it.
        RequestError: Gymnasium knows no such environment, or can't make it.
    """
    environments = make_environments(environment, 1)
    discrete = isinstance(environments.single_action_space, gym.spaces.Discrete)
    told = discrete and environments.reset([0])[1] is not None
    environments.close()
    return told


def environment_spec(environment: str) -> Spec:
    """The spaces of a registered environment.

    Raises:
        UnsafeEnvironmentError: its module would have to be imported, and the user didn't name it.
        RequestError: Gymnasium knows no such environment, or can't make it.
    """
    single = make_environment(environment)
    spec = Spec(single.observation_space, single.action_space)
    single.close()
    return spec
