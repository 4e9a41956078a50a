"""MP4 films of a policy."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.envs.episodes import single_episode
from offrl.envs.policy import Policy
from offrl.envs.starts import Starts
from offrl.envs.vector import make_single
from offrl.errors import OffrlError, RequestError
from offrl.files import naming, whole_path

SECONDS_BETWEEN_LINES = 5.0


def film(
    policy: Policy,
    environment: str,
    destination: Path,
    starts: Starts,
    *,
    max_episode_steps: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """One greedy episode of each seed's policy, the first that it is evaluated by, as `seed-<number>.mp4`.

    Args:
        policy: S seeds' policies.
        environment: a Gymnasium id whose environment renders to arrays.
        destination: the folder to write to.
        starts: the initial states, of the S seeds.
        max_episode_steps: cut episodes there; 0 leaves the environment's own limit.
        tell: told in words, every few seconds, how it gets on.

    Raises:
        RequestError: the environment doesn't render here, the `video` extra isn't installed, or an episode doesn't end.
    """
    imageio = _imageio()
    with naming(destination):
        destination.mkdir(parents=True, exist_ok=True)
    files = []
    for position, (number, reset_seed) in enumerate(zip(starts.seeds, starts.reset_seeds(1), strict=True)):
        path = destination / f"seed-{number}.mp4"
        frames, last = 0, time.monotonic()
        with _rendering(environment):
            env = make_single(environment, policy.frame_stack, max_episode_steps, render_mode="rgb_array")
        rate = int(env.metadata.get("render_fps") or 30)
        # The codec wants even sides; macro_block_size=2 is the least that gives them.
        with (
            closing(env),
            whole_path(path) as temporary,
            imageio.get_writer(temporary, fps=rate, macro_block_size=2) as writer,
        ):
            for frame in _frames(policy, position, environment, env, reset_seed):
                writer.append_data(frame)
                frames += 1
                if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    tell(f"Filming seed {number}: {frames:,} steps")
        tell(f"Filmed seed {number}: {frames:,} steps, {path}")
        files.append(path)
    return files


def _imageio() -> Any:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  (imageio's MP4 writer, found at run time)
    except ImportError as error:
        raise RequestError("films need imageio with ffmpeg", hint="pip install 'offrl[video]'") from error
    return imageio


def _frames(
    policy: Policy, position: int, environment: str, env: gym.Env[Any, Any], reset_seed: int
) -> Iterator[NDArray[np.uint8]]:
    """What is to be seen behind each step of one episode."""
    for _ in single_episode(policy, position, env, reset_seed):
        with _rendering(environment):
            frame = np.asarray(env.render(), np.uint8)
        yield frame


@contextmanager
def _rendering(environment: str) -> Iterator[None]:
    """What goes wrong in drawing, as an error that says what to do about it."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        yield
    except OffrlError:
        raise
    except Exception as error:
        # Rendering back-ends raise errors of many unrelated kinds where there is no display or graphics driver.
        lacking = isinstance(error, gym.error.DependencyNotInstalled | ImportError)
        raise RequestError(
            f"{environment} can't be rendered here: {error}",
            hint="pip install 'offrl[video]' draws the environments that come with Gymnasium; others have their own "
            "packages"
            if lacking
            else "without a display, MuJoCo renders with MUJOCO_GL=egl (a GPU driver) or MUJOCO_GL=osmesa (software)",
        ) from error
