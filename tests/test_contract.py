"""The contract of the design, over the syntax trees: what is known of agents, options and states is declared."""

from __future__ import annotations

import ast

import pytest

from tests.source import syntax_trees

PARTS = ("agents", "feeds", "training", "runs", "envs", "deploy", "off_policy")
"""The parts of the library that deal with agents, their options and their states."""
TREES = {
    name: tree for name, tree in syntax_trees().items() if name.startswith("offrl.") and name.split(".")[1] in PARTS
}
AGENT_FILE_LINES = 380


def lookups(tree: ast.Module) -> list[str]:
    """Attributes that are asked for by a name, where they may be missing."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr", "setattr", "delattr")
    ]


def swallowed(tree: ast.Module) -> list[str]:
    """The same by catching the error."""
    return [
        f"line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and any(isinstance(part, ast.Name) and part.id == "AttributeError" for part in ast.walk(node.type))
    ]


def test_the_parts_are_found() -> None:
    found = {name.split(".")[1] for name in TREES}
    assert found == set(PARTS)
    assert len(TREES) > 60


@pytest.mark.parametrize("module", TREES)
def test_nothing_is_found_out_by_looking_whether_an_attribute_is_there(module: str) -> None:
    """Fields of a dataclass are walked by `vars`; what agents can do is in their algorithm's record."""
    assert lookups(TREES[module]) == []
    assert swallowed(TREES[module]) == []


def test_such_a_look_would_be_found() -> None:
    tree = ast.parse("def f(agent):\n    if hasattr(agent, 'log_prob'):\n        return getattr(agent, 'kind', '')\n")
    assert [line.partition(":")[0] for line in lookups(tree)] == ["line 2", "line 3"]
    tree = ast.parse("try:\n    agent.log_prob\nexcept (KeyError, AttributeError):\n    pass\n")
    assert swallowed(tree) == ["line 3"]


def test_no_agent_s_file_is_long() -> None:
    lengths = {name: tree.body[-1].end_lineno or 0 for name, tree in TREES.items() if name.startswith("offrl.agents.")}
    assert {name: length for name, length in lengths.items() if length > AGENT_FILE_LINES} == {}


FORBIDDEN = {"item", "tolist", "numpy", "nonzero", "inference_mode"}
"""What reads a tensor's values into Python, or keeps them from autograd, where updates are recorded and repeated."""


@pytest.mark.parametrize("module", [name for name in TREES if name.startswith("offrl.agents.")])
def test_updates_and_acting_read_no_values(module: str) -> None:
    used = [
        f"{method.name}, line {node.lineno}: {node.attr}"
        for method in ast.walk(TREES[module])
        if isinstance(method, ast.FunctionDef) and method.name in ("act", "update", "update_critic", "initial_carry")
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN
    ]
    assert used == []
