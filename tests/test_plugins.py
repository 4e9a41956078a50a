"""Tables of names: what is imported when, whose entries count, and what is said of those that aren't there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from offrl import plugins
from offrl.config.recipe import recipe_from_dict, with_settings
from offrl.errors import PluginError, RequestError
from offrl.plugins import Table
from tests.plugged import entry_point, plug

GROUP = "offrl.tests"
OWN = {"mean": "statistics:mean", "median": "statistics:median", "missing": "no_such_module:thing"}
TABLES = [plugins.algorithms, plugins.formats, plugins.loggers]

Install = Callable[..., Table]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A table whose group the packages that are given extend."""

    def make(*entries: EntryPoint) -> Table:
        def find(group: str) -> list[EntryPoint]:
            assert group == GROUP
            return list(entries)

        monkeypatch.setattr(plugins, "entries_of", find)
        return Table("statistic", GROUP, OWN)

    return make


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of another package's module, which isn't imported yet; its `add` adds."""
    (tmp_path / "added_here.py").write_text("def add(x):\n    return sum(x)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "added_here", raising=False)
    return "added_here"


def test_names_are_sorted_and_import_nothing(install: Install, module: str) -> None:
    table = install(entry_point(GROUP, "add", f"{module}:add"), entry_point(GROUP, "broken", "no_such_module"))
    assert list(table) == ["add", "broken", "mean", "median", "missing"]
    assert len(table) == 5
    assert "add" in table
    assert "mode" not in table
    assert module not in sys.modules


def test_an_entry_is_imported_when_it_is_asked_for(install: Install, module: str) -> None:
    table = install(entry_point(GROUP, "add", f"{module}:add"))
    assert table["mean"]([1, 3]) == 2
    assert module not in sys.modules
    assert table["add"]([1, 3]) == 4
    assert table["add"] is table["add"]


def test_own_entries_need_no_look_at_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(group: str) -> list[EntryPoint]:
        raise AssertionError("the packages were searched, which takes a while")

    monkeypatch.setattr(plugins, "entries_of", find)
    table = Table("statistic", GROUP, OWN)
    assert "mean" in table
    assert table["mean"]([1, 3]) == 2
    assert table.origin("mean") == "offrl"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("td3+bc", "it is td3bc"),
        ("TD3-BC", "it is td3bc"),
        ("Cal-QL", "it is calql"),
        ("ddpg", "td3 with agent.critics=1"),
        ("REDQ", "rlpd with agent.layer_norm=false"),
        ("SAC-N", "edac with agent.diversity=0"),
        ("WSRL", "offrl finetune RUN --offline-fraction 0 with agent.conservative_weight=0"),
        ("xql", "iql with agent.value_loss=gumbel"),
        ("QR-DQN", "it is qrdqn"),
        ("discrete-cql", "dqn with agent.conservative=1"),
        ("bcc", "did you mean bc"),
    ],
)
def test_what_the_field_calls_otherwise_is_found(name: str, place: str) -> None:
    with pytest.raises(RequestError) as caught:
        plugins.algorithms[name]
    assert place in caught.value.hint


@pytest.mark.parametrize("place", plugins.algorithms.elsewhere.values())
def test_names_from_elsewhere_lead_to_options_that_there_are(place: str) -> None:
    algo = place.split()[0]
    settings = re.findall(r"agent\.\w+=\w+(?:\.\d+)?", place)
    assert recipe_from_dict(with_settings({"algo": algo}, settings)).algo == algo


def test_a_name_that_is_not_there_leads_to_the_nearest(install: Install) -> None:
    table = install(entry_point(GROUP, "medoid", "statistics:mode"))
    with pytest.raises(RequestError, match="there is no statistic 'medain'") as caught:
        table["medain"]
    assert caught.value.hint == "did you mean median or mean? choose one of: mean, median, medoid, missing"
    with pytest.raises(RequestError) as caught:
        table["missin"]
    assert caught.value.hint.startswith("did you mean missing? ")
    with pytest.raises(RequestError) as caught:
        table["xyz"]
    assert caught.value.hint == "choose one of: mean, median, medoid, missing"


def test_own_names_are_not_replaced(install: Install, module: str) -> None:
    table = install(entry_point(GROUP, "mean", f"{module}:add"))
    assert table["mean"]([1, 3]) == 2
    assert table.origin("mean") == "offrl"
    assert len(table) == len(OWN)


@pytest.mark.parametrize(
    ("content", "value", "reason"),
    [
        (None, "no_such_module:thing", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "added_here:thing", "AttributeError"),
        ("raise ZeroDivisionError('oh')", "added_here:thing", "ZeroDivisionError: oh"),
    ],
)
def test_a_package_that_does_not_load_is_named(
    content: str | None, value: str, reason: str, install: Install, module: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / f"{module}.py").write_text(content)
    table = install(entry_point(GROUP, "thing", value))
    with pytest.raises(PluginError, match=reason) as caught:
        table["thing"]
    assert "the statistic 'thing'" in caught.value.what
    assert caught.value.where == f"{value}, of other 1.2"
    assert "uninstall" in caught.value.hint
    # The others are as good as before.
    assert table["mean"]([1, 3]) == 2


def test_an_own_entry_that_does_not_load_is_no_other_packages_fault(install: Install) -> None:
    with pytest.raises(ModuleNotFoundError):
        install()["missing"]


def test_where_an_entry_comes_from(install: Install) -> None:
    table = install(entry_point(GROUP, "add", "statistics:mean"), EntryPoint("bare", "statistics:mean", GROUP))
    assert table.origin("add") == "other 1.2"
    assert table.origin("bare") == "another package"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.noun)
def test_every_own_entry_names_a_module_that_is_there(table: Table) -> None:
    assert table.group == f"offrl.{table.noun}s"
    for name, value in table.own.items():
        module, _, attribute = value.partition(":")
        assert attribute.isidentifier(), name
        path = Path(plugins.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
        assert path.is_file(), name


@pytest.mark.parametrize("table", [plugins.formats, plugins.loggers], ids=lambda table: table.noun)
def test_every_own_entry_loads(table: Table) -> None:
    for name in table.own:
        assert table[name] is not None


def test_listing_the_tables_imports_none_of_their_modules() -> None:
    code = (
        "import sys; from offrl import plugins\n"
        "names = [*plugins.algorithms, *plugins.formats, *plugins.loggers]\n"
        "print(len(names), [name for name in sys.modules if name.startswith('offrl.') and 'plugins' not in name])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split(maxsplit=1)[1].strip() == "['offrl.errors']"


def test_an_entry_that_is_no_record_is_refused(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    plug(monkeypatch, plugins.algorithms, added=f"{module}:add")
    with pytest.raises(PluginError, match=r"is a function, not offrl\.agents\.algorithm\.Algorithm"):
        plugins.algorithms["added"]


def test_what_cannot_be_loaded_is_left_out_of_hints(install: Install, module: str) -> None:
    table = install(entry_point(GROUP, "add", f"{module}:add"), entry_point(GROUP, "broken", "no_such_module"))
    del table.own["missing"]
    assert table.able(lambda found: found([2, 2]) == 2) == ["mean", "median"]
