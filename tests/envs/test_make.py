"""The making of environments."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.envs.make import environment_spec, make_environments
from offrl.envs.vector import SerialEnvironments
from offrl.errors import RequestError
from offrl.trust import allowing
from offrl.types import Spec
from tests.envs.counting import ACTIONS, COUNTING, NESTED, PARTS, PLACES


def test_the_spec_of_a_registered_environment() -> None:
    assert environment_spec(COUNTING) == Spec(PLACES, ACTIONS)
    assert environment_spec(NESTED) == Spec(PARTS, ACTIONS)


def test_an_environment_is_found_by_the_module_that_registers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = "gymnasium.envs.classic_control.pendulum:PendulumEnv"
    (tmp_path / "arm_envs.py").write_text(f"import gymnasium\ngymnasium.register('Arm-v0', entry_point='{entry}')\n")
    with pytest.raises(RequestError) as caught, allowing("arm_envs:Arm-v0"):
        environment_spec("arm_envs:Arm-v0")
    assert "my_envs.py is in this folder" in str(caught.value.hint)
    monkeypatch.syspath_prepend(tmp_path)
    with allowing("arm_envs:Arm-v0"):
        assert environment_spec("arm_envs:Arm-v0") == environment_spec("Pendulum-v1")


@pytest.mark.parametrize(
    "name", ["NoSuchTask-v0", "Hopper-v99", "not an id at all", "no_such_module:Task-v0", "a:b:c", ""]
)
def test_unknown_environments_are_named(name: str) -> None:
    with pytest.raises(RequestError) as caught, allowing(name):
        environment_spec(name)
    assert repr(name) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(("count", "processes", "kind"), [(3, 1, SerialEnvironments), (1, 4, SerialEnvironments)])
def test_one_process_is_this_one(count: int, processes: int, kind: type) -> None:
    environments = make_environments(COUNTING, count, processes)
    assert type(environments) is kind
    assert environments.count == count
    environments.close()
