"""One algorithm with its options, and the data that it learns from while it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.nn.state import restore_state, state_tensors
from offrl.ops.trees import tree_map
from offrl.testing.comparing import copy_of, require, require_same
from offrl.testing.random_data import RandomData
from offrl.types import Agent, Batch, Demonstrated, EpisodesCut, Metrics, Noise, Observation, Spec

CPU = torch.device("cpu")
ROWS = 8
"""Transitions of a batch."""
ENVIRONMENTS, STEPS = 2, 6
"""Of a rollout."""
WINDOWS = 4
"""Of a batch, where episodes are cut into such."""
DATA_SEED, NOISE_SEED, ACTING_SEED = 7, 13, 17
TRANSITIONS = ("dataset", "replay", "dagger")
"""Feeds whose batches are transitions [S, B, …]."""


@dataclass(frozen=True)
class Trial:
    """What a check is given.

    Attributes:
        algorithm: the record.
        options: of its agents.
        spec: the task.
        seeds: S of them.
        inputs: for each update, its batches.
        noise: for each update, its draws.
    """

    algorithm: Algorithm
    options: Any
    spec: Spec
    seeds: tuple[int, ...]
    inputs: list[list[Any]]
    noise: list[Noise]

    @classmethod
    def of(
        cls,
        algorithm: Algorithm,
        spec: Spec,
        options: Mapping[str, Any],
        seeds: Sequence[int],
        updates: int,
        batches: Sequence[Sequence[Any]] | None,
    ) -> Trial:
        """The trial of an algorithm; see `offrl.testing.check_agent`."""
        require(len(set(seeds)) > 1, f"seeds={tuple(seeds)}: give at least two different ones")
        require(updates > 1, f"updates={updates}: at least two are needed, to stop between them")
        made = algorithm.options(options)
        agent = algorithm.build(made, spec)
        data = RandomData(spec, DATA_SEED)
        inputs = [list(each) for each in batches or ()]
        if batches is None:
            inputs = [_random_inputs(algorithm, made, agent, data, len(seeds)) for _ in range(updates)]
        require(len(inputs) == updates, f"there are batches for {len(inputs)} updates, and {updates} are to be made")
        first = inputs[0][0]
        rows = ROWS
        if isinstance(first, Batch):
            rows = first.reward[0].numel() if first.mask is None else first.reward.shape[1]
        draws, shapes = RandomData(spec, NOISE_SEED), agent.noise_shapes(rows)
        noise = [{name: draws.normal(len(seeds), *shape) for name, shape in shapes.items()} for _ in inputs]
        return cls(algorithm, made, spec, tuple(seeds), inputs, noise)

    @property
    def learner(self) -> Algorithm:
        """The record of what acts."""
        return self.algorithm.learner(self.options)

    def agent(self) -> Agent[Any, Any]:
        """A new agent."""
        return self.algorithm.build(self.options, self.spec)

    def start(self, agent: Agent[Any, Any]) -> Any:
        """A new state for all seeds."""
        return agent.init(self.seeds, CPU)

    def of_seed(self, position: int) -> Trial:
        """The same for one of the seeds alone."""
        part = slice(position, position + 1)
        inputs = [[seed_part(batch, part) for batch in batches] for batches in self.inputs]
        noise = [{name: draws[part] for name, draws in each.items()} for each in self.noise]
        return replace(self, seeds=self.seeds[part], inputs=inputs, noise=noise)

    def update(self, agent: Agent[Any, Any], state: Any, number: int) -> Metrics:
        """Make one update, counted from 0."""
        return agent.update(state, self.inputs[number], self.noise[number])

    def trained(self, agent: Agent[Any, Any]) -> Any:
        """A new state after all updates."""
        state = self.start(agent)
        for number in range(len(self.inputs)):
            self.update(agent, state, number)
        return state

    def cut(self, agent: Agent[Any, Any], state: Any) -> None:
        """What a checkpoint does: episodes that are running are cut, and agents that go by it are told."""
        if self.learner.can(EpisodesCut):
            told: Any = agent
            told.episodes_cut(state)

    def data(self) -> RandomData:
        """Draws for acting, the same at every call."""
        return RandomData(self.spec, ACTING_SEED)

    def alone(self, agent: Agent[Any, Any], state: Any, position: int) -> Any:
        """One seed's part of a state, as a state of its own."""
        single = agent.init(self.seeds[position : position + 1], CPU)
        parts = {
            name: tensor if tensor.dim() == 0 else tensor[position : position + 1]
            for name, tensor in state_tensors(state).items()
        }
        restore_state(single, parts, f"the state of seed {self.seeds[position]} alone")
        return single


def seed_part(batch: Any, part: slice) -> Any:
    """Some seeds' part of a batch; what is no batch is for all seeds."""
    return tree_map(lambda tensor: tensor[part], batch) if isinstance(batch, Batch) else batch


def rows_of(tree: Any, rows: slice) -> Any:
    """Some of the rows of tensors [S, N, …]."""
    return tree_map(lambda tensor: tensor[:, rows], tree)


def lead_of(observation: Observation) -> tuple[int, int]:
    """S and N of observations [S, N, …]."""
    first = observation if isinstance(observation, Tensor) else next(iter(observation.values()))
    return int(first.shape[0]), int(first.shape[1])


@torch.no_grad()
def act(
    agent: Agent[Any, Any],
    state: Any,
    observation: Observation,
    carry: Any = None,
    noise: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """What an agent does, and remembers, as the library asks it; at the start of episodes where no carry is given.

    Raises:
        AssertionError: it changes what it is given.
    """
    remembered = agent.initial_carry(state, lead_of(observation)[1]) if carry is None else carry
    given = {"observation": observation, "carry": remembered, "draws": noise, "mask": mask}
    before = copy_of(given)
    acted = agent.act(state, observation, remembered, noise, mask)
    require_same(given, before, "acting must leave what it is given as it is, but")
    return acted


def _random_inputs(
    algorithm: Algorithm, options: Any, agent: Agent[Any, Any], data: RandomData, seeds: int
) -> list[Any]:
    """One update's batches, as the first feed has them that random ones can be made for."""
    learner = algorithm.learner(options)
    masks, count = learner.masks and not data.spec.is_continuous, agent.batches_per_update
    demonstrated: Any = agent
    shown = demonstrated.demonstration_batches if algorithm.can(Demonstrated) else 0
    demonstrations = [data.transitions(seeds, ROWS, agent.discount, masks=masks) for _ in range(shown)]
    for feed in learner.feeds:
        if feed in TRANSITIONS:
            transitions = partial(data.transitions, columns=learner.columns, running="replay" in learner.feeds)
            own = [transitions(seeds, ROWS, agent.discount, masks=masks) for _ in range(count)]
            return own + demonstrations
        if feed == "rollouts":
            rollouts = [data.rollout(seeds, ENVIRONMENTS, STEPS, agent.discount, masks=masks) for _ in range(count)]
            return rollouts + demonstrations
        if feed == "windows":
            require("context" in vars(options), "the feed 'windows' goes by an option 'context', and it has none")
            windows = partial(data.windows, masks=masks, columns=learner.columns)
            return [windows(seeds, WINDOWS, options.context, agent.discount) for _ in range(count)]
        if feed == "table":
            return [data.demonstrations(agent.discount) for _ in range(count)]
    raise AssertionError(f"no random batches are known of the feeds {', '.join(learner.feeds)}: give some as batches=")
