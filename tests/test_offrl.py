"""`import offrl`: its names, what importing them costs, and that no folder takes a function's place."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import offrl

HEAVY = {"torch", "numpy", "pandas", "pyarrow", "gymnasium", "pydantic", "rich", "typer", "minari", "matplotlib"}
FUNCTIONS = [name for name in offrl.__all__ if name != "__version__"]


def fresh(code: str) -> str:
    """What code prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_there_are_some_twenty_names_each_with_an_example() -> None:
    assert 15 <= len(FUNCTIONS) <= 23
    for name in FUNCTIONS:
        function = vars(sys.modules["offrl"]).get(name) or getattr(offrl, name)
        assert isinstance(function, types.FunctionType), name
        assert f"offrl.{name}(" in (function.__doc__ or ""), f"{name} has no example"
        signature = inspect.signature(function)
        assert all(each.annotation is not inspect.Parameter.empty for each in signature.parameters.values()), name


def test_names_are_listed_before_they_are_imported() -> None:
    assert set(offrl.__all__) <= set(dir(offrl))
    with pytest.raises(AttributeError, match="trian"):
        offrl.trian  # type: ignore[attr-defined]  # noqa: B018
    assert offrl.__all__ == sorted(offrl.__all__)


def test_importing_it_imports_nothing_heavy_and_takes_no_time() -> None:
    code = (
        "import sys, time; start = time.process_time(); import offrl; took = time.process_time() - start\n"
        "import json; print(json.dumps([took, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    seconds, modules = json.loads(fresh(code))
    assert HEAVY & set(modules) == set()
    assert seconds < 0.1


@pytest.mark.parametrize("call", ["offrl.list_datasets()", "offrl.list_recipes()", "offrl.describe('cartpole-expert')"])
def test_what_neither_learns_nor_acts_imports_no_torch(call: str) -> None:
    assert "torch" not in fresh(f"import sys, offrl; {call}; print(*sys.modules)").split()


def test_no_folder_or_file_has_a_function_s_name() -> None:
    folder = Path(offrl.__file__).parent
    assert {path.stem for path in folder.iterdir()} & set(FUNCTIONS) == set()
    every = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in sorted(folder.rglob("*.py"))
        if path.name != "__init__.py"
    ]
    code = (
        f"import importlib, types, offrl\nfor name in {every!r}: importlib.import_module(name)\n"
        f"print(*(name for name in {FUNCTIONS!r} if not isinstance(getattr(offrl, name), types.FunctionType)))"
    )
    assert fresh(code).split() == []
