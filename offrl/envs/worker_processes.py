"""Copies of an environment shared among processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from offrl.envs.vector import SerialEnvironments, VectorStep
from offrl.errors import EnvironmentFailedError


class ParallelEnvironments:
    """N copies in several processes, this one among them; what happens doesn't depend on how many.

    Args:
        environment: a Gymnasium id.
        count: N.
        processes: 2 to N.
        frame_stack, horizon: as `SerialEnvironments` takes them.
    """

    def __init__(self, environment: str, count: int, processes: int, frame_stack: int = 1, horizon: int = 0) -> None:
        sizes = [len(part) for part in np.array_split(np.arange(count), processes)]
        self.bounds = np.cumsum([0, *sizes]).tolist()
        self.own = SerialEnvironments(environment, sizes[0], frame_stack, horizon)
        self.single_observation_space = self.own.single_observation_space
        self.single_action_space = self.own.single_action_space
        # A fork would copy this process's threads in the middle of whatever they do.
        context = multiprocessing.get_context("spawn")
        spec = self.own.copies[0].unwrapped.spec
        self.connections: list[Connection] = []
        self.workers = []
        for size in sizes[1:]:
            ours, theirs = context.Pipe()
            worker = context.Process(target=serve, args=(theirs, spec, size, frame_stack, horizon), daemon=True)
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
        for worker in self.workers:
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
            failure, value = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._ended() from error
        if failure:
            raise EnvironmentFailedError(
                f"an environment failed in its process:\n{failure}", hint="repair the environment"
            )
        return value

    def _ended(self) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            "a process that steps environments has ended", hint="lower online.processes if memory ran out"
        )


def serve(connection: Connection, spec: EnvSpec, count: int, frame_stack: int, horizon: int) -> None:
    """What another process does: step its share of the copies until the connection closes."""
    environments = SerialEnvironments(spec, count, frame_stack, horizon)
    commands: dict[str, Callable[[Any], Any]] = {"reset": environments.reset, "step": environments.step}
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        while True:
            name, argument = connection.recv()
            try:
                result = commands[name](argument)
            except Exception:
                connection.send((traceback.format_exc(), None))
            else:
                connection.send((None, result))
    environments.close()


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
