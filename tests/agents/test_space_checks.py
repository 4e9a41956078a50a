"""What agents ask of action spaces, on spaces that they can and can't act in."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from offrl import plugins
from offrl.agents.space_checks import require_bounded_box, require_discrete, require_no_images
from offrl.errors import PluginError, SpaceMismatchError
from offrl.types import Spec
from tests.testing.test_check_agent import LEFT_TO_DATA

BOX = spaces.Box(-2.0, 2.0, (3,))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,))
WHOLE = spaces.Box(0, 9, (3,), np.int64)
CHOICE, CHOICES, BITS = spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)
IMAGE = spaces.Box(0, 255, (12, 12, 3), np.uint8)
ABLE = {
    "bc": [BOX, UNBOUNDED, CHOICE, CHOICES],
    "dqn": [CHOICE],
    "ppo": [BOX, UNBOUNDED, CHOICE, CHOICES],
    "sac": [BOX, CHOICE],
    "td3": [BOX],
}


@pytest.mark.parametrize("algo", ABLE)
@pytest.mark.parametrize("space", [BOX, UNBOUNDED, WHOLE, CHOICE, CHOICES, BITS], ids=str)
def test_an_agent_takes_the_spaces_that_it_can_act_in_and_refuses_others(algo: str, space: gym.Space[Any]) -> None:
    spec = Spec(spaces.Box(-1.0, 1.0, (2,)), space)
    record = plugins.algorithms[algo]
    if space in ABLE[algo]:
        record.build(record.options({}), spec)
        return
    with pytest.raises(SpaceMismatchError) as raised:
        record.build(record.options({}), spec)
    assert raised.value.hint


@pytest.mark.parametrize("algo", ["bc", "ppo", "sac", "td3"])
def test_vectors_of_whole_numbers_are_refused_by_name(algo: str) -> None:
    record = plugins.algorithms[algo]
    with pytest.raises(SpaceMismatchError, match="whole numbers"):
        record.build(record.options({}), Spec(spaces.Box(-1.0, 1.0, (2,)), WHOLE))


@pytest.mark.parametrize("algo", ["bc", "ppo"])
def test_a_squashed_policy_needs_bounds(algo: str) -> None:
    record = plugins.algorithms[algo]
    with pytest.raises(SpaceMismatchError, match="finite action bounds"):
        record.build(record.options({"policy": "squashed_gaussian"}), Spec(BOX, UNBOUNDED))


def test_the_hint_names_the_algorithms_whose_records_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other packages too; but none that needs an expert's run or a table, and none that can't be loaded."""
    records: dict[str, Any] = {
        name: SimpleNamespace(actions=actions, expert=expert, feeds=feeds, images=name == "other")
        for name, actions, expert, feeds in (
            ("chooser", ("discrete", "multi-discrete"), False, ("rollouts",)),
            ("mover", ("continuous",), False, ("dataset",)),
            ("pupil", ("discrete", "multi-discrete"), True, ("dagger",)),
            ("tabular", ("discrete",), False, ("table",)),
            ("other", ("discrete",), False, ("dataset",)),
        )
    }

    class Broken(plugins.Table):
        def __getitem__(self, name: str) -> Any:
            if name == "mover":
                raise PluginError("the algorithm 'mover' can't be loaded")
            return records[name]

    monkeypatch.setattr(plugins, "algorithms", Broken("algorithm", "offrl.tests", dict.fromkeys(records, "")))
    for space, hint in (
        (CHOICES, "choose chooser, which can"),
        (BOX, "use Box, Discrete or MultiDiscrete actions"),
        (BITS, "use Box, Discrete or MultiDiscrete actions"),
    ):
        with pytest.raises(SpaceMismatchError) as raised:
            require_discrete(Spec(BOX, space), "DQN")
        assert raised.value.hint == hint
    with pytest.raises(SpaceMismatchError) as raised:
        require_bounded_box(Spec(BOX, CHOICE), "TD3")
    assert raised.value.hint == "choose chooser or other, which can"
    with pytest.raises(SpaceMismatchError) as raised:
        require_no_images(Spec(IMAGE, CHOICE), "PPO")
    assert raised.value.hint == "choose other, which has one"
    with pytest.raises(SpaceMismatchError) as raised:
        require_no_images(Spec(IMAGE, BOX), "TD3")
    assert raised.value.hint == "observe vectors: features of the image, in floats"


def test_images_are_refused_by_those_without_an_encoder() -> None:
    record = plugins.algorithms["awac"]
    with pytest.raises(
        SpaceMismatchError, match=r"AWAC has no encoder .* the observation is one, Box\(0, 255, \(12, 12, 3\)"
    ):
        record.build(record.options({}), Spec(IMAGE, BOX))
    nested = spaces.Dict({"joint": BOX, "eyes": spaces.Dict({"left": IMAGE})})
    with pytest.raises(SpaceMismatchError, match=r"the observation 'eyes\.left' is one"):
        record.build(record.options({}), Spec(nested, BOX))


def test_bytes_that_are_no_images_are_vectors() -> None:
    record = plugins.algorithms["awac"]
    for space in (spaces.Box(0, 255, (200,), np.uint8), spaces.Box(0, 255, (3, 3), np.uint8), spaces.Box(0, 1, (9, 9))):
        record.build(record.options({}), Spec(space, BOX))


def test_what_holds_another_agent_sees_what_that_one_does() -> None:
    sqil, gail = (plugins.algorithms[name] for name in ("sqil", "gail"))
    sqil.build(sqil.options({"generator": "dqn"}), Spec(IMAGE, CHOICE))
    with pytest.raises(SpaceMismatchError, match="GAIL has no encoder"):
        gail.build(gail.options({}), Spec(IMAGE, CHOICE))


TRIED: dict[str, gym.Space[Any]] = {"continuous": BOX, "discrete": CHOICE, "multi-discrete": CHOICES}
"""An action space of each kind."""


def spec_for(algo: str, kind: str) -> Spec:
    """What is observed suits the algorithm."""
    tabular = "table" in plugins.algorithms[algo].feeds
    return Spec(spaces.Discrete(5) if tabular else spaces.Box(-1.0, 1.0, (2,)), TRIED[kind])


@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("algo", plugins.algorithms.own)
def test_every_algorithm_acts_where_its_record_says_or_names_some_that_do(algo: str, kind: str) -> None:
    record = plugins.algorithms[algo]
    options, spec = record.options(LEFT_TO_DATA.get(algo, {})), spec_for(algo, kind)
    if kind in record.learner(options).actions:
        record.build(options, spec)
        return
    with pytest.raises(SpaceMismatchError) as raised:
        record.build(options, spec)
    assert raised.value.exit_code == 2
    assert str(TRIED[kind]) in raised.value.what
    hint = raised.value.hint
    assert isinstance(hint, str)
    named = [name for name in re.findall(r"[\w-]+", hint) if name in plugins.algorithms]
    settings = dict(re.findall(r"agent\.(\w+)=([\d.]+\d)", hint)) | dict(re.findall(r"agent\.(\w+)=(\d)\b", hint))
    assert named
    for name in named:
        there = plugins.algorithms[name]
        known = {key: float(value) for key, value in settings.items() if key in there.config.__dataclass_fields__}
        there.build(there.options(LEFT_TO_DATA.get(name, {}) | known), spec_for(name, kind))


@pytest.mark.parametrize(
    ("algo", "kind", "hint"),
    [
        ("cql", "discrete", "dqn or qrdqn with agent.conservative=1"),
        ("awac", "discrete", "iql"),
        ("bcq", "continuous", "td3 with agent.bc_alpha=2.5"),
    ],
)
def test_what_is_nearest_there_is_named(algo: str, kind: str, hint: str) -> None:
    record = plugins.algorithms[algo]
    with pytest.raises(SpaceMismatchError) as raised:
        record.build(record.options({}), spec_for(algo, kind))
    assert raised.value.hint is not None
    assert raised.value.hint.startswith(f"choose {hint}")
