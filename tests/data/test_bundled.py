"""The datasets that come with offrl: what their cards say is so, and together they are small."""

from __future__ import annotations

import pytest

from offrl.config.library import bundled_dataset_recipes
from offrl.converters.catalog import open_dataset
from offrl.converters.listing import DatasetEntry, list_datasets
from offrl.data.validate import validate

BUNDLED = {entry.name: entry for entry in list_datasets() if entry.kind == "bundled"}


@pytest.mark.parametrize("entry", BUNDLED.values(), ids=BUNDLED)
def test_a_bundled_dataset_is_valid_and_what_its_card_says(entry: DatasetEntry) -> None:
    store, card = open_dataset(entry.name), entry.card
    returns, figures = store.episodes.return_, card["data"]

    assert (card["name"], card["environment"]) == (entry.name, store.metadata.environment)
    assert (figures["episodes"], figures["steps"]) == (store.num_episodes, store.num_steps)
    measured = {"mean_return": returns.mean(), "least_return": returns.min(), "greatest_return": returns.max()}
    assert {name: figures[name] for name in measured} == pytest.approx(measured, rel=1e-5)
    assert card["scores"] == store.metadata.reference_scores
    assert card["description"]
    assert card["license"] == "MIT"
    assert [finding for finding in validate(store) if finding.severity == "error"] == []


def test_every_bundled_dataset_has_a_recipe() -> None:
    assert set(BUNDLED) <= {recipe.name for recipe in bundled_dataset_recipes()}


def test_together_they_take_less_than_45_megabytes() -> None:
    sizes = [file.stat().st_size for entry in BUNDLED.values() for file in entry.path.iterdir()]
    assert sum(sizes) < 45_000_000


def test_normalized_scores_of_one_environment_compare() -> None:
    references: dict[str | None, list[object]] = {}
    for entry in BUNDLED.values():
        references.setdefault(entry.environment, []).append(entry.card["scores"])
    assert all(scores == [scores[0]] * len(scores) for scores in references.values())


@pytest.mark.parametrize("name", [name for name in BUNDLED if name.endswith("-random")])
def test_random_actions_are_as_good_as_the_reference_says(name: str) -> None:
    returns, scores = open_dataset(name).episodes.return_, BUNDLED[name].card["scores"]
    # The reference is a mean over 100 episodes.
    assert returns.mean() == pytest.approx(scores["random"], abs=4 * returns.std() / 10)


def test_the_expert_hops() -> None:
    returns = open_dataset("hopper-expert").episodes.return_
    assert returns.mean() >= 3_000
    assert BUNDLED["hopper-expert"].card["scores"]["expert"] == pytest.approx(returns.mean())


def test_the_medium_hopper_is_about_a_third_of_the_expert() -> None:
    card = BUNDLED["hopper-medium"].card
    for mean_return in (card["training"]["mean_return"], card["data"]["mean_return"]):
        share = (mean_return - card["scores"]["random"]) / (card["scores"]["expert"] - card["scores"]["random"])
        assert 0.25 < share < 0.45
    # Both were made from one training.
    assert BUNDLED["hopper-medium-replay"].card["training"] == card["training"]


def test_the_mixture_holds_both_datasets_and_names_them() -> None:
    mixture, parts = open_dataset("hopper-medium-expert"), [open_dataset(f"hopper-{n}") for n in ("medium", "expert")]
    named = [(source["name"], source["fingerprint"]) for source in BUNDLED["hopper-medium-expert"].card["sources"]]
    assert named == [(f"hopper-{n}", part.fingerprint) for n, part in zip(("medium", "expert"), parts, strict=True)]
    assert mixture.num_steps == sum(part.num_steps for part in parts)
    origins = mixture.episodes.sources.to_pylist()
    assert (origins[0], origins[-1]) == ("hopper-medium#0", f"hopper-expert#{parts[1].num_episodes - 1}")
