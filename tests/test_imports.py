"""The import direction of the design, over the syntax trees; and what importing the packages costs."""

from __future__ import annotations

import ast
import copy
import subprocess
import sys
from typing import Any

import pytest

import offrl
from offrl import plugins
from tests.source import PACKAGES, imported_modules, syntax_trees

HOUSE = (
    *("api", "testing", "reports", "sweeps", "off_policy", "collection", "training", "feeds", "deploy", "runs", "envs"),
    *("converters", "replay", "agents", "data", "config", "tracing", "nn", "mdp", "ops"),
    *("checksums", "plugins", "trust", "files", "documents", "printable", "types", "errors"),
)
"""The parts of the library from the top down; a part imports from parts below it only."""
BASE = {"types", "errors", "printable", "documents", "files", "checksums", "trust", "plugins"}
MAY_IMPORT: dict[str, set[str]] = {
    "api": {
        *(
            "reports",
            "sweeps",
            "off_policy",
            "collection",
            "training",
            "feeds",
            "deploy",
            "runs",
            "envs",
            "converters",
            "data",
        ),
        "config",
    },
    "testing": {"agents", "tracing", "nn", "mdp", "ops"},
    "reports": {"off_policy", "feeds", "runs", "envs", "config", "mdp"},
    "sweeps": {"runs", "converters", "data", "config"},
    "off_policy": {"collection", "feeds", "runs", "envs", "converters", "replay", "data", "nn", "ops"},
    "collection": {"training", "feeds", "runs", "envs", "converters", "replay", "data", "config", "mdp", "ops"},
    "training": {"feeds", "runs", "envs", "replay", "agents", "data", "config", "tracing", "nn", "ops"},
    "feeds": {"runs", "envs", "converters", "replay", "agents", "data", "config", "nn", "mdp", "ops"},
    "deploy": {"runs", "envs", "replay", "agents", "data", "ops"},
    "runs": {"envs", "replay", "agents", "data", "config", "nn", "ops"},
    "envs": {"replay", "data", "tracing", "ops"},
    "converters": {"data", "config"},
    "replay": {"data"},
    "agents": {"config", "tracing", "nn", "mdp", "ops"},
    "data": set(),
    "config": set(),
    "tracing": set(),
    "nn": {"ops"},
    "mdp": set(),
    "ops": set(),
}
"""Of the parts below, those that a part needs, beside the seven at the bottom."""
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


def parts_of(part: str) -> set[str]:
    """What the modules of a part import from other parts."""
    modules = [module for module in LIBRARY if part_of(module) == part]
    return {part_of(name) for module in modules for name in IMPORTS[module] if name != "offrl"} - {part}


@pytest.mark.parametrize("module", LIBRARY)
def test_imports_go_down(module: str) -> None:
    part = part_of(module)
    assert part in HOUSE, f"say in this test where offrl.{part} belongs"
    others = {part_of(name) for name in IMPORTS[module] if name != "offrl"} - {part}
    above = {other for other in others if HOUSE.index(other) < HOUSE.index(part)}
    assert not above, f"{module} imports from above: {sorted(above)}"
    if part in MAY_IMPORT:
        assert others <= MAY_IMPORT[part] | BASE, f"{module} imports {sorted(others - MAY_IMPORT[part] - BASE)}"


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_no_part_may_import_what_it_does_not_need(part: str) -> None:
    assert parts_of(part) - BASE == MAY_IMPORT[part]


def test_the_bottom_imports_next_to_nothing() -> None:
    needed = {part: parts_of(part) for part in BASE}
    assert needed == {
        "errors": set(),
        "types": set(),
        "files": {"errors"},
        "printable": set(),
        "documents": set(),
        "checksums": {"documents", "errors", "files"},
        "trust": {"errors", "documents", "files"},
        "plugins": {"errors"},
    }


def loaded_first(tree: ast.Module) -> ast.Module:
    """A module without its functions' bodies, and without what is for type checkers alone."""

    class Outside(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> Any:
            checking = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if checking else self.generic_visit(node)

    kept: ast.Module = Outside().visit(copy.deepcopy(tree))
    return kept


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """As they are loaded: what a function imports when it is called, or only type checkers do, comes later."""
    trees = {module: loaded_first(TREES[module]) for module in LIBRARY}
    left = {module: imported_modules(tree, set(TREES)) - {"offrl", module} for module, tree in trees.items()}
    while left:
        free = {module for module, needed in left.items() if not needed & left.keys()}
        assert free, f"these import each other: {sorted(left)}"
        left = {module: needed for module, needed in left.items() if module not in free}


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
        assert imported <= {"offrl", "offrl.errors", "offrl.plugins", "offrl.printable"}, (
            f"{module} imports {sorted(imported)}"
        )
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


def test_no_file_name_stands_in_two_rooms() -> None:
    names = [path.name for path in PACKAGES["offrl"].rglob("*.py") if path.name != "__init__.py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
