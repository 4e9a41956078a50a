"""Recipes: what is written is read back, and whatever is wrong is named by its key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.agents.bc import BCConfig
from offrl.agents.td3 import TD3Config
from offrl.config.recipe import DataConfig, Recipe, load_recipe, recipe_from_dict, to_toml, with_settings
from offrl.errors import RecipeError
from offrl.plugins import algorithms

positive = st.floats(min_value=1e-300, max_value=1e38)
fractions = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)
counts = st.integers(1, 2**62)
# A lone surrogate can't be written as UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]))

agents = {
    "bc": st.fixed_dictionaries(
        {},
        optional={
            "policy": st.sampled_from(["auto", "gaussian", "categorical"]),
            "hidden": st.lists(counts, max_size=3),
            "learning_rate": positive,
            "l1": positive,
            "ema": fractions,
            "layer_norm": st.booleans(),
            "activation": st.sampled_from(["relu", "silu"]),
        },
    ),
    "dqn": st.fixed_dictionaries(
        {},
        optional={
            "convolutions": st.sampled_from(["auto", "impala"])
            | st.lists(st.lists(counts, min_size=3, max_size=3), max_size=3),
            "double": st.booleans(),
            "epsilon_end": fractions,
        },
    ),
    "td3": st.fixed_dictionaries(
        {},
        optional={
            "discount": st.floats(0.0, 1.0),
            "target_rate": st.floats(1e-9, 1.0),
            "policy_delay": counts,
            "target_noise": st.floats(0.0, 1e9),
        },
    ),
}


@st.composite
def recipe_values(draw: st.DrawFn) -> dict[str, Any]:
    algo = draw(st.sampled_from(sorted(agents)))
    options = {
        "dataset": texts,
        "env": texts,
        "device": texts,
        "steps": counts,
        "seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True),
        "writers": st.lists(st.sampled_from(["csv", "tensorboard"]), max_size=2),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "reward_scale": st.floats(-1e38, 1e38),
                "reward_shift": st.floats(-1e38, 1e38),
                "validation_fraction": fractions,
            },
        ),
        "priority": st.fixed_dictionaries({}, optional={"kind": st.sampled_from(["none", "proportional", "rank"])}),
        "online": st.fixed_dictionaries({}, optional={"updates_per_step": st.floats(1 / 64, 1000.0)}),
        "cross_validation": st.fixed_dictionaries(
            {},
            optional={
                "kind": st.just("l2"),
                "coefficients": st.lists(positive, min_size=1, max_size=3),
                "options": st.dictionaries(
                    st.sampled_from(["agent.hidden", "agent.learning_rate", "batch_size"]),
                    st.lists(positive, min_size=1, max_size=3),
                ),
            },
        ),
    }
    return {"algo": algo, "agent": draw(agents[algo]), **draw(st.fixed_dictionaries({}, optional=options))}


@settings(max_examples=50, deadline=None)
@given(recipe_values())
def test_a_recipe_written_is_the_recipe_read(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    recipe = recipe_from_dict(values)
    path = tmp_path_factory.mktemp("recipes") / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert recipe_from_dict(load_recipe(path)) == recipe
    for key, value in values.items():
        held = getattr(recipe, key)
        if isinstance(value, dict):
            assert {name: _listed(getattr(held, name)) for name in value} == value
        else:
            assert _listed(held) == value


@pytest.mark.parametrize(
    "text", ["", 'quo"te\\', "line\nbreak\ttab", "\x00\x1f\x7f\x80", "ünï😀", "\u2028", "[a] # = 'b'"]
)
def test_awkward_text_survives_toml(text: str, tmp_path: Path) -> None:
    recipe = recipe_from_dict({"algo": "bc", "dataset": text})
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(path)["dataset"] == text


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("algo", sorted(algorithms))
def test_defaults_are_valid_and_written_in_full(algo: str, tmp_path: Path) -> None:
    recipe = recipe_from_dict({"algo": algo})
    agent = algorithms[algo].config()
    if algorithms[algo].wraps:
        agent = dataclasses.replace(agent, generator_options=algorithms[agent.generator].config())
    assert recipe == Recipe(algo=algo, agent=agent)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    written = load_recipe(path)
    for part, told in ((recipe, written), (recipe.agent, written["agent"])):
        # None is what TOML has no word for: left open.
        assert set(told) == {name for name, value in vars(part).items() if value is not None}
    assert set(written["data"]) == {field.name for field in dataclasses.fields(DataConfig)}


def test_agent_options_become_the_algorithms_config() -> None:
    assert recipe_from_dict({"algo": "bc", "agent": {"hidden": [8], "l2": 1}}).agent == BCConfig(hidden=(8,), l2=1.0)
    assert recipe_from_dict({"algo": "td3", "agent": {"discount": 0.5}}).agent == TD3Config(discount=0.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 3}, ["unknown key 'epochs'", "batch_size"]),
        ({"agent": {"tau": 0.1}}, ["unknown key 'agent.tau'", "learning_rate"]),
        ({"data": {"shuffle": True}}, ["unknown key 'data.shuffle'", "top_fraction"]),
        ({"online": {"steps": 3}}, ["unknown key 'online.steps'", "capacity"]),
        ({"evaluation": {"seeds": 3}}, ["unknown key 'evaluation.seeds'", "final_episodes"]),
        ({"early_stopping": {"delta": 3}}, ["unknown key 'early_stopping.delta'", "patience"]),
        ({"cross_validation": {"k": 3}}, ["unknown key 'cross_validation.k'", "folds"]),
        ({"": 3}, ["unknown key ''"]),
        ({"epochs": 3, "data": {"shuffle": True}}, ["'epochs'", "'data.shuffle'"]),
    ],
)
def test_unknown_keys_are_named_with_the_known_ones(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"algo": "bc", **values}, where="my.toml")
    for word in [*words, "my.toml"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "many"),
        ("steps", 0),
        ("steps", 1.5),
        ("batch_size", -1),
        ("seeds", []),
        ("seeds", [-1]),
        ("seeds", [2**63]),
        ("seeds", [1, 2, 1]),
        ("seeds", 3),
        ("checkpoint_every", 0),
        ("log_every", 0),
        ("writers", ["excel"]),
        ("dataset", 3),
        ("data", 3),
        ("agent", 3),
        ("data.top_fraction", 0.0),
        ("data.top_fraction", 1.1),
        ("data.top_fraction", float("nan")),
        ("data.validation_fraction", 1.0),
        ("data.validation_fraction", -0.1),
        ("data.normalize_observation", "perhaps"),
        ("data.reward_scale", float("inf")),
        ("data.n_step", 0),
        ("data.memory_budget", -1),
        ("online.environments", 0),
        ("online.capacity", 0),
        ("online.warmup_steps", -1),
        ("online.updates_per_step", 0.0),
        ("online.updates_per_step", float("nan")),
        ("evaluation.every", -1),
        ("evaluation.episodes", 0),
        ("evaluation.final_episodes", 0),
        ("early_stopping.every", 0),
        ("early_stopping.patience", -1),
        ("cross_validation.kind", "l3"),
        ("cross_validation.coefficients", []),
        ("cross_validation.coefficients", [-1e-3]),
        ("cross_validation.folds", 1),
        ("agent.hidden", [0]),
        ("agent.hidden", "wide"),
        ("agent.learning_rate", 0.0),
        ("agent.learning_rate", float("inf")),
        ("agent.l1", -1.0),
        ("agent.l2", float("nan")),
        ("agent.ema", 1.0),
        ("agent.dropout", 1.0),
        ("agent.entropy_bonus", -0.1),
        ("agent.policy", "neural"),
        ("agent.activation", "sine"),
    ],
)
def test_values_of_the_wrong_kind_or_size_are_named(key: str, value: Any) -> None:
    check_refused("bc", key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agent.hidden", [256, 0]),
        ("agent.actor_learning_rate", 0.0),
        ("agent.critic_learning_rate", float("nan")),
        ("agent.discount", 1.01),
        ("agent.discount", -0.1),
        ("agent.target_rate", 0.0),
        ("agent.target_rate", 1.5),
        ("agent.policy_delay", 0),
        ("agent.target_noise", -0.1),
        ("agent.target_noise_clip", float("inf")),
        ("agent.exploration_noise", -0.1),
        ("agent.layer_norm", "perhaps"),
        ("agent.gamma", 0.9),
    ],
)
def test_td3_options_of_the_wrong_kind_or_size_are_named(key: str, value: Any) -> None:
    check_refused("td3", key, value)


def check_refused(algo: str, key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"algo": algo, **({section: {name: value}} if section else {name: value})})
    assert f"'{key}" in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("algo", [None, "ppo2", ["bc"], 3])
def test_an_unknown_algorithm_is_answered_with_the_known_ones(algo: Any) -> None:
    with pytest.raises(RecipeError, match=r"(?s)no algorithm.*bc.*td3"):
        recipe_from_dict({"algo": algo})


def test_whole_floats_count_as_integers() -> None:
    assert recipe_from_dict(with_settings({"algo": "bc"}, ["steps=1e6"])).steps == 1_000_000


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("steps=100", {"steps": 100}),
        ("steps = 1_000", {"steps": 1000}),
        ("agent.learning_rate=3e-4", {"agent": {"learning_rate": 3e-4}}),
        ("agent.hidden=[64, 32]", {"agent": {"hidden": [64, 32]}}),
        ("agent.hidden=[]", {"agent": {"hidden": []}}),
        ("agent.layer_norm=true", {"agent": {"layer_norm": True}}),
        ("dataset=hopper-expert", {"dataset": "hopper-expert"}),
        ('dataset="12"', {"dataset": "12"}),
        ("dataset=minari:mujoco/hopper/expert-v0", {"dataset": "minari:mujoco/hopper/expert-v0"}),
        ("dataset=a=b", {"dataset": "a=b"}),
        ("writers=['csv']", {"writers": ["csv"]}),
        ("dataset=", {"dataset": ""}),
        ("a.b.c=1", {"a": {"b": {"c": 1}}}),
    ],
)
def test_settings_are_toml_or_bare_text(setting: str, expected: dict[str, Any]) -> None:
    assert with_settings({}, [setting]) == expected


def test_settings_change_a_copy_and_later_ones_win() -> None:
    values = {"algo": "bc", "agent": {"l1": 0.1, "l2": 0.2}}
    changed = with_settings(values, ["agent.l1=5", "agent.l1=6", "steps=3"])
    assert changed == {"algo": "bc", "agent": {"l1": 6, "l2": 0.2}, "steps": 3}
    assert values == {"algo": "bc", "agent": {"l1": 0.1, "l2": 0.2}}


def test_a_setting_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(RecipeError, match="'steps:3' has no '='"):
        with_settings({}, ["steps:3"])


@pytest.mark.parametrize("setting", ["algo.name=3", "agent.l1.value=3", "agent.l1.value.deeper=3"])
def test_a_setting_below_a_value_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match=f"'{setting.partition('=')[0]}' can't be set"):
        with_settings({"algo": "bc", "agent": {"l1": 0.5}}, [setting])


def test_a_misspelt_setting_is_named() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'agent\.lerning_rate'"):
        recipe_from_dict(with_settings({"algo": "bc"}, ["agent.lerning_rate=3"]))


@pytest.mark.parametrize("content", [b"steps = ", b"steps = 3\nsteps = 4", b"\xff\xfe", b"[agent\n"])
def test_a_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml"):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml"):
        load_recipe(tmp_path / "nowhere.toml")
