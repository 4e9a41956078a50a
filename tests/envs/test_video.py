"""Films, and what is said where nothing can be drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from offrl.envs import video
from offrl.envs.starts import Purpose, Starts
from offrl.errors import EnvironmentFailedError, RequestError
from tests.envs.counting import Counting, constant_policy

DRAWN = "offrl-test/Drawn-v0"
FRAME = np.zeros((4, 4, 3), np.uint8)


class Drawn(Counting):
    """Draws what `Drawn.draws` says."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 7}
    draws: Any = None

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        if isinstance(Drawn.draws, Exception):
            raise Drawn.draws
        return Drawn.draws


gym.register(DRAWN, entry_point=Drawn, disable_env_checker=True)


class Writer:
    """In place of the extra `video`."""

    frames: list[Any]
    options: dict[str, Any]

    @classmethod
    @contextmanager
    def get_writer(cls, path: Path, **options: Any) -> Iterator[Any]:
        cls.frames, cls.options = [], options
        path.touch()
        yield cls

    @classmethod
    def append_data(cls, frame: Any) -> None:
        cls.frames.append(frame)


def filmed(folder: Path, monkeypatch: pytest.MonkeyPatch, draws: Any, **options: Any) -> list[str]:
    """What was said while filming."""
    said: list[str] = []
    monkeypatch.setattr(video, "_imageio", lambda: Writer)
    monkeypatch.setattr(Drawn, "draws", draws)
    policy = constant_policy([[0.0, 0.0]])
    video.film(policy, DRAWN, folder, Starts(Purpose.FINAL, (3,)), tell=said.append, **options)
    return said


def test_a_film_has_a_frame_for_each_step_and_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "SECONDS_BETWEEN_LINES", 0.0)
    said = filmed(tmp_path, monkeypatch, FRAME, max_episode_steps=1)
    assert len(Writer.frames) == 1
    assert Writer.options["fps"] == 7
    assert said == ["Filming seed 3: 1 steps", f"Filmed seed 3: 1 steps, {tmp_path / 'seed-3.mp4'}"]
    assert (tmp_path / "seed-3.mp4").exists()


@pytest.mark.parametrize(
    ("draws", "hint"),
    [
        (gym.error.DependencyNotInstalled("pygame is not installed"), "offrl[video]"),
        (ModuleNotFoundError("No module named 'Box2D'"), "offrl[video]"),
        (RuntimeError("gladLoadGL error"), "MUJOCO_GL"),
        (None, "MUJOCO_GL"),
    ],
    ids=str,
)
def test_where_nothing_can_be_drawn_it_says_what_to_do(
    draws: Any, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="can't be rendered here") as caught:
        filmed(tmp_path, monkeypatch, draws)
    assert DRAWN in str(caught.value)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_an_environment_gets_wrong_is_not_put_down_to_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drawn, "step", lambda self, action: None)
    with pytest.raises(EnvironmentFailedError, match=r"None from step\(\)"):
        filmed(tmp_path, monkeypatch, FRAME)


def test_the_extra_draws_the_environments_of_the_recipes() -> None:
    """CartPole and Pendulum are drawn by pygame, which Gymnasium's own extra brings."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("video = ")]
    assert "classic-control" in line
