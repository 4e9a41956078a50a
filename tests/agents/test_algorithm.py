"""Records of algorithms: what they declare is there, and options are those of the agent that they hold as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.bc import BCConfig
from offrl.agents.gail import GAILConfig
from offrl.agents.sac import SACConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.errors import PluginError, RecipeError, SpaceMismatchError
from offrl.plugins import algorithms
from offrl.types import (
    Agent,
    Batch,
    CriticOnly,
    Demonstrated,
    Density,
    EpisodesCut,
    GivesPolicy,
    GivesReward,
    Metrics,
    Noise,
    Observation,
    Penalized,
    Scheduled,
    Spec,
    StartsFromPolicy,
    Validates,
)
from tests.agents.batches import continuous, discrete

OPTIONAL: dict[type[Any], tuple[str, ...]] = {
    Density: ("has_density", "log_prob"),
    CriticOnly: ("update_critic",),
    Validates: ("validation_loss",),
    Penalized: ("penalties", "set_penalty"),
    GivesPolicy: ("policy_network",),
    StartsFromPolicy: ("adopted_options", "adopt_policy"),
    Scheduled: ("ended_schedule",),
    EpisodesCut: ("episodes_cut",),
    GivesReward: ("length_bias", "reward"),
    Demonstrated: (),
}
"""What an agent's class must have for each."""


@dataclass(frozen=True)
class Options:
    """None but one."""

    size: int = 3


class Whole:
    """An agent with everything that an algorithm can declare."""

    discount = 1.0
    batches_per_update = 1
    acting_noise_shape = ()
    kind = "gaussian"
    demonstration_batches = 2
    penalties: ClassVar[tuple[str, ...]] = ()
    adopted_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Options, spec: Spec) -> None:
        self.config, self.spec = config, spec

    def init(self, seeds: Sequence[int], device: torch.device) -> None: ...

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        return {}

    def update(self, state: Any, batches: Sequence[Batch], noise: Noise) -> Metrics:
        return {}

    def initial_carry(self, state: Any, count: int) -> tuple[()]:
        return ()

    def act(
        self,
        state: Any,
        observation: Observation,
        carry: Any,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> Any: ...

    @property
    def has_density(self) -> bool:
        return True

    def log_prob(
        self, state: Any, observation: Observation, action: Tensor, carry: Any, action_mask: Tensor | None = None
    ) -> Any: ...

    def update_critic(self, state: Any, batches: Sequence[Batch], noise: Noise) -> Any: ...

    def validation_loss(self, state: Any, batch: Batch) -> Any: ...

    def set_penalty(self, state: Any, name: str, values: Tensor) -> None: ...

    def policy_network(self, state: Any) -> Any: ...

    def adopt_policy(self, state: Any, policy: Any, kind: str) -> None: ...

    def ended_schedule(self, state: Any) -> Any: ...

    def episodes_cut(self, state: Any) -> None: ...

    @property
    def length_bias(self) -> str:
        return ""

    def reward(self, state: Any, batch: Batch) -> Any: ...


def without(name: str) -> type[Any]:
    """The same agent's class, without one of its parts."""
    parts = {key: part for key, part in vars(Whole).items() if key != name and key not in ("__dict__", "__weakref__")}
    return type("Incomplete", (), parts)


def record(agent: type[Any], *provides: type[Any]) -> Algorithm:
    return Algorithm(Options, agent, feeds=("dataset",), provides=provides)


def test_a_whole_agent_may_provide_everything() -> None:
    algorithm = record(Whole, *OPTIONAL)
    assert all(algorithm.can(protocol) for protocol in OPTIONAL)
    assert not any(record(Whole).can(protocol) for protocol in OPTIONAL)


@pytest.mark.parametrize("name", ["init", "noise_shapes", "update", "initial_carry", "act"])
def test_every_agent_has_what_agents_have(name: str) -> None:
    with pytest.raises(PluginError, match=f"Incomplete has no `{name}`, which `Agent` asks for") as raised:
        record(without(name))
    assert "offrl.types.Agent" in raised.value.hint


@pytest.mark.parametrize(
    ("protocol", "name"), [(protocol, name) for protocol, names in OPTIONAL.items() for name in names]
)
def test_what_is_declared_is_there(protocol: type[Any], name: str) -> None:
    """Methods, properties, and attributes that a class must have."""
    incomplete = without(name)
    with pytest.raises(PluginError, match=f"has no `{name}`, which `{protocol.__name__}` asks for"):
        record(incomplete, protocol)
    # What isn't declared isn't asked for.
    record(incomplete, *(other for other in OPTIONAL if other is not protocol))


def test_a_misspelt_method_is_an_error() -> None:
    class Misspelt(without("log_prob")):  # type: ignore[misc]
        def log_probs(self, state: Any, observation: Any, action: Any, carry: Any, action_mask: Any = None) -> None: ...

    with pytest.raises(PluginError, match="Misspelt has no `log_prob`"):
        record(Misspelt, Density)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("act", lambda self, state, observation, noise=None: None, r"`act\(self, state, observation, noise=None\)` in"),
        (
            "act",
            lambda self, observation, state, carry, noise=None, action_mask=None: None,
            r"`act\(self, observation, ",
        ),
        ("act", lambda self, state, observation, carry, noise, action_mask: None, r"noise=None, action_mask=None\)`,"),
        ("initial_carry", lambda self, state: None, r"`initial_carry\(self, state\)` in place of `initial_carry\("),
        ("initial_carry", lambda self, state, count, more: None, r"`initial_carry\(self, state, count, more\)` in"),
        ("update", lambda self, state, batch, noise: None, r"in place of `update\(self, state, batches, noise\)`"),
    ],
)
def test_other_arguments_are_an_error(name: str, method: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        record(type("Other", (Whole,), {name: method}))


def test_a_column_that_no_batch_has_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"'next_reward'(.|\n)*next_action, return_to_go"):
        Algorithm(Options, Whole, feeds=("dataset",), columns=("next_reward",))


def test_further_arguments_with_defaults_may_follow() -> None:
    class More(Whole):
        def update(self, state: Any, batches: Any, noise: Any, scale: float = 1.0) -> Metrics:
            return {}

    record(More, *OPTIONAL)


def test_inherited_and_decorated_methods_count() -> None:
    class Heir(Whole):
        @torch.no_grad()
        def log_prob(self, state: Any, observation: Any, action: Any, carry: Any, action_mask: Any = None) -> None: ...

    record(Heir, *OPTIONAL)


@pytest.mark.parametrize("name", sorted(algorithms))
def test_every_algorithm_is_whole(name: str) -> None:
    algorithm: Algorithm = algorithms[name]
    assert algorithm.feeds
    assert algorithm.summary
    assert bool(algorithm.actions) != bool(algorithm.wraps)
    options = algorithm.options({})
    assert isinstance(options, algorithm.config)
    assert hash(options) is not None
    for held in algorithm.wraps:
        assert held in algorithms
        inner = algorithm.options({"generator": held})
        assert algorithm.learner(inner) is algorithms[held]
        assert algorithm.learner_options(inner) == algorithms[held].config()


GAIL = cast("Algorithm", algorithms["gail"])


def test_options_are_checked_by_name_and_value() -> None:
    assert algorithms["td3"].options({"hidden": [8], "discount": 0.5}) == TD3Config(hidden=(8,), discount=0.5)
    with pytest.raises(RecipeError, match=r"agent\.hiden"):
        algorithms["td3"].options({"hiden": [8]}, "here")
    with pytest.raises(RecipeError, match=r"agent\.discount"):
        algorithms["td3"].options({"discount": 1.5})


def test_options_of_the_agent_that_is_held_are_checked_as_its_own() -> None:
    options = GAIL.options({"generator": "sac", "generator_options": {"hidden": [8]}})
    assert isinstance(options, GAILConfig)
    assert options.generator_options == SACConfig(hidden=(8,))
    assert GAIL.learner(options) is algorithms["sac"]
    assert GAIL.learner_options(options) is options.generator_options
    with pytest.raises(RecipeError, match=r"agent\.generator_options\.hiden"):
        GAIL.options({"generator": "sac", "generator_options": {"hiden": [8]}})
    with pytest.raises(RecipeError, match=r"(?s)'agent.generator': .*got 'bc'.*my.toml"):
        GAIL.options({"generator": "bc"}, "my.toml")


def test_only_agents_that_it_wraps_are_held() -> None:
    @dataclass(frozen=True)
    class Holding:
        generator: str = "td3"
        generator_options: Any = None

    algorithm = Algorithm(Holding, Whole, feeds=("demonstrations",), wraps=("td3",))
    assert algorithm.options({}).generator_options == TD3Config()
    with pytest.raises(RecipeError, match=r"(?s)'agent.generator': 'sac' is none that it can hold.*my.toml") as raised:
        algorithm.options({"generator": "sac"}, "my.toml")
    assert raised.value.hint == "choose one of: td3"


def test_agents_are_built_with_those_that_they_hold() -> None:
    td3: Any = algorithms["td3"].build(TD3Config(hidden=(8,)), continuous())
    assert isinstance(td3, TD3)
    options = GAIL.options({"generator": "td3", "generator_options": {"hidden": [8]}})
    gail: Any = GAIL.build(options, continuous())
    assert isinstance(gail.generator, TD3)
    assert gail.generator.config == options.generator_options
    with pytest.raises(SpaceMismatchError, match="TD3"):
        GAIL.build(options, discrete())
    # An agent that holds none is its own learner.
    bc = cast("Algorithm", algorithms["bc"])
    assert bc.learner(BCConfig()) is bc
    assert bc.learner_options(BCConfig(l2=0.5)) == BCConfig(l2=0.5)


@dataclass(frozen=True)
class Anchored:
    """Options that fine-tuning changes."""

    width: int = 3
    decay: float = 1.0
    spread: float = 0.0
    step: float = 1.0


class Starter(Whole):
    """Takes its width from the policy that it starts from."""

    adopted_options: ClassVar[tuple[str, ...]] = ("width", "height")


def test_going_on_is_said_by_the_algorithm() -> None:
    def goes_on(options: Anchored, updates: float, pretrained: bool) -> Anchored:
        return dataclasses.replace(options, decay=0.5 ** (1.0 / updates) if pretrained else 1.0)

    plain, changes = (Algorithm(Anchored, Starter, feeds=("replay",), goes_on=function) for function in (None, goes_on))
    assert plain.going_on(Anchored(decay=0.9), 10.0, pretrained=True) == Anchored(decay=0.9)
    assert changes.going_on(Anchored(decay=0.9), 1.0, pretrained=True) == Anchored(decay=0.5)
    assert changes.going_on(Anchored(decay=0.9), 1.0, pretrained=False) == Anchored()


def test_what_is_held_goes_on_within_what_holds_it() -> None:
    options = GAIL.options({"generator": "td3", "generator_options": {"decay_steps": 50}})
    held = algorithms["td3"].going_on(options.generator_options, 100.0, False)
    going = GAIL.going_on(options, 100.0, pretrained=False)
    assert going == dataclasses.replace(options, generator_options=held)
    assert going.generator_options.decay_steps == 0


def test_starting_from_a_clone_is_said_by_the_algorithm() -> None:
    """The kind of policy and the spaces decide first; then options are adopted that the two share by name."""

    @dataclass(frozen=True)
    class Cloned:
        width: int = 9
        depth: int = 2

    def fits_clone(options: Anchored, kind: str, spec: Spec) -> Anchored:
        return dataclasses.replace(options, spread=1.0 if kind == "gaussian" and spec.is_continuous else 2.0, width=0)

    algorithm = Algorithm(
        Anchored,
        Starter,
        feeds=("replay",),
        provides=(StartsFromPolicy,),
        spares_clone=lambda options: dataclasses.replace(options, step=0.1),
        fits_clone=fits_clone,
    )
    assert algorithm.sparing(Anchored()) == Anchored(step=0.1)
    assert algorithm.from_clone(Anchored(), Cloned(), "gaussian", continuous()) == Anchored(width=9, spread=1.0)
    assert algorithm.from_clone(Anchored(), Cloned(), "gaussian", discrete()) == Anchored(width=9, spread=2.0)
    plain = Algorithm(Anchored, Starter, feeds=("replay",))
    assert plain.sparing(Anchored()) == Anchored()
    assert plain.from_clone(Anchored(), Cloned(), "gaussian", continuous()) == Anchored()


def test_the_protocol_of_agents_is_followed_by_all() -> None:
    spec = Spec(gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Box(-1.0, 1.0, (2,)))
    agent: Agent[Any, Any] = algorithms["td3"].build(TD3Config(hidden=(8,)), spec)
    state = agent.init((0, 1), torch.device("cpu"))
    assert agent.initial_carry(state, 4) == ()
    assert (agent.discount, agent.batches_per_update, agent.acting_noise_shape) == (0.99, 2, (2,))
