"""Who listens to a training is told what happens, in order; whoever doesn't care hears nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offrl.runs.listener import Listener, SilentListener
from offrl.training.run_training import resume, train
from tests.training.runs import td3_recipe


class Noting:
    """Writes everything down."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def began(self, path: Path) -> None:
        self.heard.append(("began", path))

    def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
        self.heard.append(("progress", (step, steps, sorted(metrics))))

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        self.heard.append(("evaluated", (step, scores["episodes"])))

    def noted(self, text: str) -> None:
        self.heard.append(("noted", text))

    def warned(self, text: str) -> None:
        self.heard.append(("warned", text))


def test_a_training_is_told_from_beginning_to_end(tmp_path: Path) -> None:
    listener = Noting()
    run = train(td3_recipe(steps=80, online={"warmup_steps": 100, "environments": 2}), tmp_path / "run", listener)
    kinds = [kind for kind, _ in listener.heard]
    assert kinds == ["began", "warned", "progress", "progress"]
    assert listener.heard[0] == ("began", run.path)
    assert "Nothing is learned" in listener.heard[1][1]
    assert [told[:2] for kind, told in listener.heard if kind == "progress"] == [(40, 80), (80, 80)]

    again = Noting()
    resume(run.path, again, steps=160)
    assert [told[:2] for kind, told in again.heard if kind == "progress"] == [(120, 160), (160, 160)]
    assert [told for kind, told in again.heard if kind == "evaluated"] == [(120, 1)]
    (first,) = [told for kind, told in again.heard if kind == "progress" and told[0] == 160]
    assert {"critic_loss", "episode_return"} <= set(first[2])


def test_silence_is_a_way_of_listening(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listener: Listener = SilentListener()
    listener.began(tmp_path)
    listener.progress(1, 2, {"loss": [0.5]})
    listener.evaluated(1, {"mean_return": 0.5})
    listener.warned("something")
    assert capsys.readouterr() == ("", "")
