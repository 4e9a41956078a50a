"""What docs/security.md promises is held by tests that exist, and nothing that is read is executed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from offrl.converters.expansion import ALWAYS_READ, MAX_EXPANSION
from offrl.data import parquet, space_encoding
from offrl.documents import MOST_BYTES
from tests.source import syntax_trees

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")


def promises() -> list[list[str]]:
    """The cells of each row that promises something."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if set(row[0]) != {"-"} and row[0].strip() != "what"]


def test_each_promise_is_held_by_a_test_that_exists() -> None:
    assert len(promises()) > 25
    for what, held_by in promises():
        named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", held_by)
        assert named is not None, f"no test holds: {what}"
        tree = ast.parse((ROOT / named[1]).read_text(encoding="utf-8"))
        assert named[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, held_by


def test_the_bounds_are_those_of_the_page() -> None:
    sizes = (ALWAYS_READ, MAX_EXPANSION, MOST_BYTES, space_encoding.MOST_COMPONENTS)
    assert sizes == (256 * 2**20, 200, 128 * 2**20, 33_554_432)
    assert (parquet._ALWAYS_UNPACKED, parquet._MAX_EXPANSION) == (2**30, 10_000)
    for text in ("256 MiB", "200 times", "128 MiB", "33,554,432 numbers", "1 GiB", "10,000 times"):
        assert text in PAGE


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/security.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


EXECUTE = {"eval", "exec", "compile", "__import__"}
UNPICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}


def test_nothing_that_is_read_is_executed() -> None:
    """But for pickles, which the user must allow: see `offrl.converters.readers.path_dicts`.

    `offrl.tracing` executes what it has written itself, of operations that it traced.
    """
    for module, tree in syntax_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found = {name.partition(".")[0] for name in names} & UNPICKLE
                assert not found or module == "offrl.converters.readers.path_dicts", f"{module} imports {found}"
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            assert function not in EXECUTE or module.startswith("offrl.tracing."), f"{module} calls {function}"
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if function in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle") == "False", f"{module}: {ast.unparse(node)}"
            assert function not in ("torch.load", "pd.read_pickle"), f"{module} calls {function}"
