"""MP4 films of a policy."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.envs.episodes import single_episode
from offrl.envs.evaluator import evaluation_seeds
from offrl.envs.policy import Policy
from offrl.envs.vector import make_single
from offrl.errors import RequestError
from offrl.files import naming, whole_path


def film(policy: Policy, environment: str, destination: Path, *, seeds: tuple[int, ...], seed: int = 0) -> list[Path]:
    """One greedy episode of each seed's policy, from the same initial state, as `seed-<number>.mp4`.

    Args:
        policy: S seeds' policies.
        environment: a Gymnasium id whose environment renders to arrays.
        destination: the folder to write to.
        seeds: the S seeds' numbers.
        seed: picks the initial state.

    Raises:
        RequestError: the environment doesn't render here, or the `video` extra isn't installed.
    """
    imageio = _imageio()
    with naming(destination):
        destination.mkdir(parents=True, exist_ok=True)
    files = []
    for position, number in enumerate(seeds):
        frames, rate = _frames(policy, position, environment, seed)
        path = destination / f"seed-{number}.mp4"
        with whole_path(path) as temporary:
            # The codec wants even sides; macro_block_size=2 is the least that gives them.
            imageio.mimwrite(temporary, frames, fps=rate, macro_block_size=2)
        files.append(path)
    return files


def _imageio() -> Any:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  (imageio's MP4 writer, found at run time)
    except ImportError as error:
        raise RequestError("films need imageio with ffmpeg", hint="pip install 'offrl[video]'") from error
    return imageio


def _frames(policy: Policy, position: int, environment: str, seed: int) -> tuple[list[NDArray[np.uint8]], int]:
    """The frames of one episode, and how many make a second."""
    frames: list[NDArray[np.uint8]] = []
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        env = make_single(environment, policy.frame_stack, render_mode="rgb_array")
        (reset_seed,) = evaluation_seeds(seed, 1)
        for _ in single_episode(policy, position, env, reset_seed):
            frames.append(np.asarray(env.render(), np.uint8))
        env.close()
    except Exception as error:
        # Rendering back-ends raise errors of many unrelated kinds where there is no display or graphics driver.
        raise RequestError(
            f"{environment} can't be rendered here: {error}",
            hint="without a display, MuJoCo renders with MUJOCO_GL=egl (a GPU driver) or MUJOCO_GL=osmesa (software)",
        ) from error
    return frames, int(env.metadata.get("render_fps", 30))
