"""The command, called as a shell would, within the test's process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offrl_cli.main import main


@dataclass(frozen=True)
class Result:
    """What a shell sees of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that is all of stdout."""
        value = json.loads(self.stdout, parse_constant=_refuse)
        assert isinstance(value, dict)
        return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


Offrl = Callable[..., Result]


@pytest.fixture
def offrl(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offrl:
    """Run `offrl` with the given arguments in an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: str | Path) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(exit_.value.code or 0), out, err)

    return run
