"""Public names: they exist, and say what they are."""

from __future__ import annotations

import ast
import importlib

import pytest

from tests.source import syntax_trees

TREES = syntax_trees()
PUBLIC = [
    (module, node)
    for module, tree in TREES.items()
    for node in tree.body
    if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
]


def exported(tree: ast.Module) -> list[str]:
    """The names in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


@pytest.mark.parametrize("module", [module for module, tree in TREES.items() if exported(tree)])
def test_exported_names_exist_and_are_listed_once(module: str) -> None:
    names = exported(TREES[module])
    loaded = importlib.import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []
    assert len(set(names)) == len(names)
    undocumented = [name for name in names if callable(getattr(loaded, name)) and not getattr(loaded, name).__doc__]
    assert undocumented == []


def test_modules_say_what_they_hold() -> None:
    assert [module for module, tree in TREES.items() if tree.body and not ast.get_docstring(tree)] == []


def test_public_classes_and_functions_are_documented_in_one_line_first() -> None:
    assert len(PUBLIC) > 100
    for module, node in PUBLIC:
        docstring = ast.get_docstring(node)
        assert docstring, f"{module}.{node.name} has no docstring"
        summary, *rest = docstring.splitlines()
        assert summary.strip(), f"{module}.{node.name}"
        assert not rest or not rest[0].strip(), f"the summary of {module}.{node.name} runs over its line"


def test_public_functions_are_fully_annotated() -> None:
    for module, node in PUBLIC:
        if isinstance(node, ast.FunctionDef):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            missing = [argument.arg for argument in arguments if argument.annotation is None]
            assert not missing, f"{module}.{node.name}: {missing}"
            assert node.returns is not None, f"{module}.{node.name}"


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (
            "offrl",
            ["__version__", "train", "finetune", "open_dataset", "open_run", "ope", "compare", "export", "record"],
        ),
        ("offrl.nn", ["MLP", "Adam", "FlatModule", "FlatObservation", "seed_generators"]),
        ("offrl.plugins", ["algorithms", "estimators", "feeds", "formats", "loggers"]),
        ("offrl.agents.bc", ["ALGORITHM", "BC", "BCConfig"]),
        ("offrl.data.store", ["EpisodeBlock", "StoreWriter", "TrajectoryStore"]),
        ("offrl.replay.sampler", ["ReplaySampler", "split_by_episode", "top_by_return"]),
        ("offrl.replay.ring", ["OnlineRing"]),
        ("offrl.replay.normalization", ["ActionMap", "ObservationNormalizer", "RewardScaler"]),
        ("offrl.envs.evaluator", ["Evaluation", "evaluate", "evaluate_random"]),
        ("offrl.envs.collector", ["Collector"]),
        ("offrl.runs.run", ["Run"]),
        ("offrl.config.recipe", ["Recipe", "load_recipe", "recipe_from_dict", "to_toml", "with_settings"]),
    ],
)
def test_the_names_that_people_build_on_are_there(package: str, names: list[str]) -> None:
    loaded = importlib.import_module(package)
    assert [name for name in names if not hasattr(loaded, name)] == []
