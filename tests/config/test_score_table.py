"""Tables: which options go before which, what is refused, and that those which come with offrl are right."""

from __future__ import annotations

from typing import Any

import pytest

from offrl.config.library import RecipeFile, bundled_tables
from offrl.config.recipe import recipe_from_dict
from offrl.config.score_table import table_from_dict
from offrl.errors import RecipeError, TableGivenError

PUBLISHED = {
    "gym9": {
        "bc": 50.40,
        "td3+bc": 76.45,
        "awac": 79.39,
        "cql": 78.28,
        "iql": 81.63,
        "rebrac": 89.74,
        "sac-n": 83.52,
        "edac": 92.92,
        "dt": 73.84,
    },
    "antmaze": {"bc": 17.21, "td3+bc": 19.33, "awac": 18.58, "cql": 50.71, "iql": 57.17, "rebrac": 78.42},
    "adroit": {"bc": 48.18, "td3+bc": 10.40, "awac": 55.71, "cql": 1.53, "iql": 53.43, "rebrac": 59.39},
}
"""CORL's averages over datasets."""


def values(**changes: Any) -> dict[str, Any]:
    table = {
        "recipe": {"steps": 10, "agent": {"hidden": [8]}, "data": {"reward_shift": 1.0}},
        "algorithms": {"clone": {"recipe": {"algo": "bc", "steps": 20}}, "td3": {"recipe": {"algo": "td3"}}},
        "datasets": [{"name": "one"}, {"name": "two", "recipe": {"steps": 30}, "algorithms": {"td3": {"steps": 40}}}],
    }
    return table | changes


def test_the_narrower_goes_before_the_wider() -> None:
    table = table_from_dict(values())
    one, two = table.datasets
    assert [table.recipe_of(one, name, {}).steps for name in table.algorithms] == [20, 10]
    assert [table.recipe_of(two, name, {}).steps for name in table.algorithms] == [30, 40]
    changed = table.recipe_of(two, "td3", {"steps": 50, "data.top_fraction": 0.5}, reward_scale=3.0)
    assert (changed.steps, changed.dataset, changed.agent.hidden) == (50, "two", (8,))
    assert (changed.data.reward_scale, changed.data.reward_shift, changed.data.top_fraction) == (3.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": [{"name": "one", "published": {"iql": 3.0}}]}, "'one' names an algorithm .* iql"),
        ({"datasets": [{"name": "one", "algorithms": {"iql": {}}}]}, "'one' names an algorithm .* iql"),
        ({"datasets": [{"named": "one"}]}, "named"),
        ({"algorithms": {"bc": {"algo": "bc"}}}, "algo"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        table_from_dict(values(**changes), "mine.toml")
    assert raised.value.where == "mine.toml"


def test_a_wrong_option_is_named_with_its_cell() -> None:
    table = table_from_dict(values(recipe={"stepps": 3}))
    with pytest.raises(RecipeError, match="unknown key 'stepps'") as raised:
        table.recipe_of(table.datasets[0], "clone", {})
    assert raised.value.where == "clone on one"


def test_a_table_is_not_read_as_a_recipe() -> None:
    with pytest.raises(TableGivenError):
        recipe_from_dict(values())
    with pytest.raises(RecipeError, match="datasets"):
        table_from_dict({"algo": "bc", "dataset": "one"})


@pytest.mark.parametrize("file", bundled_tables(), ids=lambda file: file.name)
def test_a_bundled_table_is_valid_and_its_published_scores_average_to_those_published(file: RecipeFile) -> None:
    table = table_from_dict(file.values, str(file.path))
    assert file.purpose
    assert table.published_by
    for dataset in table.datasets:
        for name in table.algorithms:
            assert table.recipe_of(dataset, name, {}).dataset == dataset.name
    averages = PUBLISHED[file.path.stem.partition("-")[2]]
    assert averages.keys() == table.algorithms.keys()
    for name, average in averages.items():
        scores = [dataset.published[name] for dataset in table.datasets]
        assert sum(scores) / len(scores) == pytest.approx(average, abs=0.0051)
