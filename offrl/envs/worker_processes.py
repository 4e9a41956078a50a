"""Copies of an environment shared among processes, none of which outlives the one that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from offrl.envs.vector import SerialEnvironments, VectorStep
from offrl.envs.waiting import WAITING
from offrl.errors import EnvironmentFailedError, OffrlError

SECONDS_TO_END = 1.0
"""What a process gets to close its environments, before it is ended."""


class ParallelEnvironments:
    """N copies in several processes, this one among them; what happens doesn't depend on how many.

    Args:
        environment: a Gymnasium id.
        count: N.
        processes: 2 to N.
        frame_stack, horizon, max_episode_steps: as `SerialEnvironments` takes them.

    Attributes:
        name, limited: as `SerialEnvironments` has them.
    """

    def __init__(
        self,
        environment: str,
        count: int,
        processes: int,
        frame_stack: int = 1,
        horizon: int = 0,
        max_episode_steps: int = 0,
    ) -> None:
        sizes = [len(part) for part in np.array_split(np.arange(count), processes)]
        self.bounds = np.cumsum([0, *sizes]).tolist()
        options = frame_stack, horizon, max_episode_steps
        self.own = SerialEnvironments(environment, sizes[0], *options)
        self.name, self.limited = self.own.name, self.own.limited
        self.single_observation_space = self.own.single_observation_space
        self.single_action_space = self.own.single_action_space
        # A fork would copy this process's threads in the middle of whatever they do.
        context = multiprocessing.get_context("spawn")
        made = self.own.copies[0].unwrapped.spec
        assert made is not None
        # As registered: what a made environment knows of itself has lost the time limit and other wrappers.
        spec = gym.registry[made.id]
        self.connections: list[Connection] = []
        self.workers = []
        for size in sizes[1:]:
            ours, theirs = context.Pipe()
            worker = context.Process(target=serve, args=(theirs, spec, size, *options), daemon=True)
            worker.start()
            theirs.close()
            self.connections.append(ours)
            self.workers.append(worker)

    @property
    def count(self) -> int:
        return int(self.bounds[-1])

    def reset(self, seeds: Sequence[int]) -> tuple[Any, NDArray[np.bool_] | None]:
        """As `SerialEnvironments.reset`."""
        shares = [seeds[start:stop] for start, stop in self._shares()]
        for connection, share in zip(self.connections, shares[1:], strict=True):
            self._send(connection, ("reset", list(share)))
        parts = [self.own.reset(shares[0]), *(self._receive(connection) for connection in self.connections)]
        observations, masks = zip(*parts, strict=True)
        return joined(observations), joined_masks(masks)

    def step(self, action: NDArray[Any]) -> VectorStep:
        """As `SerialEnvironments.step`."""
        shares = [action[start:stop] for start, stop in self._shares()]
        for connection, share in zip(self.connections, shares[1:], strict=True):
            self._send(connection, ("step", share))
        parts = [self.own.step(shares[0]), *(self._receive(connection) for connection in self.connections)]
        next_observation = joined([part.next_observation for part in parts])
        told = zip(*((part.reward, part.terminated, part.truncated) for part in parts), strict=True)
        reward, terminated, truncated = map(np.concatenate, told)
        observation = next_observation
        if (terminated | truncated).any():
            observation = joined([part.observation for part in parts])
        next_mask = joined_masks([part.next_action_mask for part in parts])
        mask = joined_masks([part.action_mask for part in parts])
        return VectorStep(next_observation, reward, terminated, truncated, observation, next_mask, mask)

    def close(self) -> None:
        """End the other processes."""
        for connection in self.connections:
            connection.close()
        deadline = time.monotonic() + SECONDS_TO_END
        for worker in self.workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        for worker in self.workers:
            if worker.is_alive():
                # Its environment hangs, or takes its time: it has nothing to lose.
                worker.kill()
                worker.join()
        self.own.close()

    def _shares(self) -> list[tuple[int, int]]:
        return list(zip(self.bounds[:-1], self.bounds[1:], strict=True))

    def _send(self, connection: Connection, message: Any) -> None:
        try:
            connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._ended() from error

    def _receive(self, connection: Connection) -> Any:
        try:
            WAITING.begin()
            answer = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._ended() from error
        finally:
            WAITING.end()
        if isinstance(answer, OffrlError):
            raise answer
        return answer

    def _ended(self) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            "a process that steps environments has ended", hint="lower online.processes if memory ran out"
        )


def serve(
    connection: Connection, spec: EnvSpec, count: int, frame_stack: int, horizon: int, max_episode_steps: int
) -> None:
    """What another process does: step its share of the copies until the connection closes."""
    # Ctrl-C reaches all processes of a terminal: what is to be saved first needs these until it is.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    environments = SerialEnvironments(spec, count, frame_stack, horizon, max_episode_steps)
    commands: dict[str, Callable[[Any], Any]] = {"reset": environments.reset, "step": environments.step}
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            name, argument = connection.recv()
            try:
                answer = commands[name](argument)
            except OffrlError as error:
                answer = error
            connection.send(answer)
    environments.close()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended, and whatever this one is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def joined_masks(parts: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
    """Masks [n, A] of several shares as one; None where a share's copies tell of none."""
    return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]


def joined(parts: Sequence[Any]) -> Any:
    """Observations [n, …] of several shares as one, nested as they are."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(joined(values) for values in zip(*parts, strict=True))
    return np.concatenate(parts)
