"""The import direction of the design, over the syntax trees; and what importing the packages costs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import offrl
from offrl import plugins
from tests.source import imported_modules, syntax_trees

# Each part of the library, from the lowest up, and the parts that it may import.
BASE = {"types", "errors", "files", "plugins"}
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "files": {"errors"},
    "plugins": {"errors"},
    "ops": BASE,
    "nn": BASE | {"ops"},
    "tracing": BASE | {"nn", "ops"},
    "mdp": BASE,
    "config": BASE,
    "data": BASE,
    "agents": BASE | {"config", "ops", "nn", "mdp", "tracing"},
    "replay": BASE | {"data"},
    "converters": BASE | {"config", "data"},
    "envs": BASE | {"ops", "nn", "tracing", "data", "replay"},
    "runs": BASE | {"config", "ops", "nn", "agents", "data", "replay", "envs"},
    "deploy": BASE | {"agents", "ops", "data", "replay", "envs", "runs"},
    "feeds": BASE | {"config", "ops", "nn", "mdp", "agents", "data", "replay", "converters", "envs", "runs"},
    "training": BASE | {"config", "ops", "nn", "tracing", "agents", "data", "replay", "envs", "runs", "feeds"},
    "collection": BASE | {"config", "ops", "mdp", "data", "replay", "converters", "envs", "runs", "feeds", "training"},
    "off_policy": BASE | {"config", "ops", "nn", "data", "replay", "envs", "runs", "converters", "collection"},
    "reports": BASE | {"config", "off_policy", "runs", "feeds", "ops", "mdp", "data", "envs"},
    "testing": BASE | {"agents", "mdp", "nn", "ops", "tracing"},
    "api": BASE
    | {"config", "data", "converters", "envs", "runs", "deploy", "feeds", "training", "collection", "off_policy"}
    | {"reports"},
}
HEAVY = {"torch", "minari", "matplotlib", "pandas", "pyarrow", "gymnasium", "h5py"}

TREES = syntax_trees()
IMPORTS = {module: imported_modules(tree, set(TREES)) for module, tree in TREES.items()}
LIBRARY = sorted(module for module in TREES if module.startswith("offrl."))


def part_of(module: str) -> str:
    return module.split(".")[1]


def test_the_source_is_found() -> None:
    assert {"offrl.types", "offrl.agents.bc", "offrl.data.store", "offrl_cli.main"} <= TREES.keys()
    assert "offrl.nn" in IMPORTS["offrl.agents.td3"]
    assert plugins.algorithms.own["td3"].partition(":")[0] in TREES


@pytest.mark.parametrize("module", LIBRARY)
def test_imports_go_down(module: str) -> None:
    part = part_of(module)
    assert part in MAY_IMPORT, f"say in this test what offrl.{part} may import"
    others = {part_of(name) for name in IMPORTS[module] if name != "offrl"} - {part}
    assert others <= MAY_IMPORT[part], f"{module} imports {sorted(others - MAY_IMPORT[part])}"


def test_the_table_has_no_cycle() -> None:
    left = dict(MAY_IMPORT)
    while left:
        free = {part for part, needed in left.items() if not needed & left.keys()}
        assert free, f"these import each other: {sorted(left)}"
        left = {part: needed for part, needed in left.items() if part not in free}


def test_nothing_in_the_library_imports_the_command_line() -> None:
    for module in ("offrl", *LIBRARY):
        assert not [name for name in IMPORTS[module] if name.startswith("offrl_cli")], module


def test_agents_do_not_import_each_other() -> None:
    algorithms = {entry.partition(":")[0] for entry in plugins.algorithms.own.values()}
    assert algorithms >= {"offrl.agents.bc", "offrl.agents.td3"}
    for module in (name for name in LIBRARY if name.startswith("offrl.agents.")):
        assert not IMPORTS[module] & (algorithms | {"offrl.agents"}) - {module}, module


def test_the_command_line_calls_the_functions_of_offrl_and_nothing_below_them() -> None:
    for module in (name for name in TREES if name.partition(".")[0] == "offrl_cli"):
        imported = {name for name in imported_at_run_time(TREES[module]) if name.partition(".")[0] == "offrl"}
        assert imported <= {"offrl", "offrl.errors", "offrl.plugins"}, f"{module} imports {sorted(imported)}"
        used = {
            node.attr
            for node in ast.walk(TREES[module])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "offrl"
        }
        assert used <= set(offrl.__all__), f"{module} uses {sorted(used)}"


def imported_at_run_time(tree: ast.Module) -> set[str]:
    """Modules that are imported outside of `if TYPE_CHECKING`, anywhere; `from offrl import x` imports `offrl.x`."""
    for_checking = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in set(ast.walk(tree)) - for_checking:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "offrl" else {node.module}
            )
    return found


@pytest.mark.parametrize("package", ["offrl", "offrl_cli.main", "offrl.errors"])
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == []
