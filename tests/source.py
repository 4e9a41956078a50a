"""The packages' source, as syntax trees."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"offrl": ROOT / "offrl", "offrl_cli": ROOT / "cli" / "offrl_cli"}


@cache
def syntax_trees() -> dict[str, ast.Module]:
    """Module name to syntax tree, for every module of both packages."""
    trees = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imported_modules(tree: ast.Module, modules: set[str]) -> set[str]:
    """The modules of the two packages that a module imports, at the top or inside a function.

    `from offrl import agents` imports `offrl.agents`; `from offrl import __version__` imports `offrl`.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return {name for name in found if name.partition(".")[0] in PACKAGES}
