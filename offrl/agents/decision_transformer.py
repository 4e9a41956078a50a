"""Decision Transformer (Chen et al., 2021), https://arxiv.org/abs/2106.01345."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.space_checks import choices_of, policy_kind
from offrl.config.fields import (
    STRICT,
    Activation,
    Count,
    CountOrZero,
    Finite,
    NonNegative,
    Positive,
    ProbabilityBelowOne,
)
from offrl.errors import RecipeError
from offrl.nn import Adam, FlatModule, FlatObservation, Schedule, seed_generators
from offrl.nn.action_head import ActionHead
from offrl.nn.adam import ended_schedule
from offrl.nn.linear import StackedLayerNorm
from offrl.nn.transformer import (
    Embedding,
    Transformer,
    dropout_shapes,
    linear,
    normalized,
    require_heads,
    spread_linear,
)
from offrl.ops.minibatches import merge_axes
from offrl.ops.padding import mean_over_steps
from offrl.types import (
    RETURN_TO_GO,
    Batch,
    Metrics,
    Noise,
    Observation,
    ObservesReward,
    Scheduled,
    Spec,
    Validates,
)

Carry = dict[str, Tensor]


@dataclass(frozen=True)
class DTConfig(Schedule):
    """Options of Decision Transformer, with the authors' values for locomotion unless noted.

    Attributes:
        target_return: what acting is to earn in an episode, in rewards as they are learned from (see
            `data.reward_scale`); None takes the data's best return.
        return_scale: what returns are divided by. The authors have 1000, and 5000 on HalfCheetah; None takes the data's
            largest absolute return.
        timesteps: steps of an episode that are told apart, by an embedding each; later ones count as the last of them.
            None takes the length of the data's longest episode.
        context: K, steps that a prediction goes by, and of the windows that are learned from.
        width: of a token.
        layers, heads, dropout, activation: see `offrl.nn.transformer.Transformer`.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size, see `offrl.nn.Schedule`.
        weight_decay: decoupled decay rate.
        max_gradient_norm: longer gradients are scaled to this norm; 0 leaves them as they are.
    """

    __pydantic_config__ = STRICT

    target_return: Finite | None = None
    return_scale: Positive | None = None
    timesteps: Count | None = None
    context: Count = 20
    width: Count = 128
    layers: Count = 3
    heads: Count = 1
    dropout: ProbabilityBelowOne = 0.1
    activation: Activation = "relu"
    learning_rate: Positive = 1e-4
    warmup_steps: CountOrZero = 10_000
    weight_decay: NonNegative = 1e-4
    max_gradient_norm: NonNegative = 0.25


class Network(FlatModule):
    """From returns to go, observations and actions of consecutive steps to outputs for each step's action.

    Each step is three tokens, in this order, to all of which the embedding of its number is added. The output is read
    from the observation's token, which sees the step's return to go and all steps before. `sizes` are those of an
    observation, an action and an output.
    """

    def __init__(
        self, config: DTConfig, timesteps: int, sizes: tuple[int, int, int], generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        width, (inputs, actions, outputs) = config.width, sizes
        self.time = Embedding(timesteps, width, generators)
        self.return_to_go = spread_linear(1, width, generators)
        self.observation = spread_linear(inputs, width, generators)
        self.action = spread_linear(actions, width, generators)
        self.norm = StackedLayerNorm(width, 1, len(generators))
        self.transformer = Transformer(
            width, config.layers, config.heads, generators, dropout=config.dropout, activation=config.activation
        )
        self.head = spread_linear(width, outputs, generators)
        self.flatten()

    def forward(
        self,
        return_to_go: Tensor,
        observation: Tensor,
        action: Tensor,
        timestep: Tensor,
        there: Tensor,
        noise: Mapping[str, Tensor],
    ) -> Tensor:
        """Outputs [S, B, K, outputs].

        Args:
            return_to_go: [S, B, K], scaled.
            observation: [S, B, K, inputs].
            action: [S, B, K, actions].
            timestep: int64 [S, B, K], steps of the episode before each.
            there: bool [S, B, K], False on padding.
            noise: draws of `offrl.nn.transformer.dropout_shapes`; none when acting.
        """
        parts = (
            linear(self.return_to_go, return_to_go.unsqueeze(-1)),
            linear(self.observation, observation),
            linear(self.action, action),
        )
        when = self.time(timestep)
        tokens = torch.stack([part + when for part in parts], dim=3).flatten(2, 3)
        seen = there.unsqueeze(-1).expand(*there.shape, len(parts)).flatten(2, 3)
        hidden = self.transformer(normalized(self.norm, tokens), seen, noise)
        return linear(self.head, hidden[:, :, 1::3])


@dataclass
class DTState:
    """All that training changes."""

    network: Network
    optimizer: Adam


class DecisionTransformer:
    """Predicts the data's actions from what was still to be earned, so that acting earns what it is asked for.

    Acting remembers the last K steps, and what is still to be earned: the target return less the rewards since the
    episode began. Continuous actions are regressed, discrete ones classified.

    Raises:
        SpaceMismatchError: it can't act in the action space.
        RecipeError: options that follow from the data are left open, or the heads don't divide the width.
    """

    batches_per_update = 1
    discount = 1.0

    def __init__(self, config: DTConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.target_return, self.return_scale, self.timesteps = _filled_in(config)
        require_heads(config.width, config.heads)
        self.head = ActionHead(policy_kind("auto", spec, ("deterministic",)), spec, choices_of(spec.action_space))
        self.acting_noise_shape: tuple[int, ...] = (self.head.draws,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> DTState:
        """A fresh network for each seed."""
        c, sizes = self.config, (self.flat_observation.width, self.spec.action_dim, self.head.outputs)
        network = Network(c, self.timesteps, sizes, seed_generators(seeds)).to(device)
        clip = c.max_gradient_norm
        adam = Adam(network, c.learning_rate, weight_decay=c.weight_decay, max_gradient_norm=clip, schedule=c)
        return DTState(network, adam)

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        return dropout_shapes(c.width, c.layers, c.heads, batch_size, 3 * c.context) if c.dropout else {}

    def update(self, state: DTState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on the imitation loss."""
        (batch,) = batches
        loss = self.imitation_loss(state, batch, noise)
        state.optimizer.minimize(loss.sum())
        return {"imitation_loss": loss.detach()}

    def imitation_loss(self, state: DTState, batch: Batch, noise: Noise) -> Tensor:
        """Mean squared error over components, or negative log-likelihood, over the steps that aren't padding, [S]."""
        assert batch.return_to_go is not None
        assert batch.timestep is not None
        assert batch.mask is not None
        shown = self.flat_observation(merge_axes(batch.observation)).unflatten(1, batch.reward.shape[1:])
        output = state.network(
            batch.return_to_go / self.return_scale,
            shown,
            self.head.encode(batch.action),
            batch.timestep,
            batch.mask,
            noise,
        )
        loss = self.head.loss(output, batch.action, batch.action_mask)
        components = self.spec.action_dim if self.spec.is_continuous else 1
        return mean_over_steps(loss, batch) / components

    def ended_schedule(self, state: DTState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    @torch.no_grad()
    def validation_loss(self, state: DTState, batch: Batch) -> Tensor:
        """The imitation loss without dropout, [S]."""
        return self.imitation_loss(state, batch, {})

    def initial_carry(self, state: DTState, count: int) -> Carry:
        """No steps, and all still to be earned."""
        c, zeros = self.config, state.network.flat.new_zeros
        lead = state.network.time.weight.shape[0], count
        return {
            "observation": zeros(*lead, c.context, self.flat_observation.width),
            "action": zeros(*lead, c.context, self.spec.action_dim),
            "returns_to_go": zeros(*lead, c.context),
            "return_to_go": zeros(*lead) + self.target_return,
            "steps": zeros(*lead, dtype=torch.int64),
        }

    def act(
        self,
        state: DTState,
        observation: Observation,
        carry: Carry,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """The predicted or likeliest action; with draws, a sample of discrete ones."""
        output, following = self._step(state, observation, carry)
        action = self.head.act(output, noise, action_mask)
        taken = torch.cat([following["action"][:, :, :-1], self.head.encode(action).unsqueeze(2)], dim=2)
        return action, {**following, "action": taken}

    def observe_reward(self, carry: Carry, reward: Tensor) -> Carry:
        """So much less is still to be earned."""
        return {**carry, "return_to_go": carry["return_to_go"] - reward}

    def _step(self, state: DTState, observation: Observation, carry: Carry) -> tuple[Tensor, Carry]:
        """The network's output for one more step of each row, [S, N, outputs], and the context with it.

        The newest step is the last of K places; those before the episode's beginning hold none.
        """
        newest = {
            "observation": self.flat_observation(observation),
            "action": torch.zeros_like(carry["action"][:, :, 0]),
            "returns_to_go": carry["return_to_go"],
        }
        context = {name: torch.cat([carry[name][:, :, 1:], part.unsqueeze(2)], dim=2) for name, part in newest.items()}
        places = torch.arange(1 - self.config.context, 1, device=carry["steps"].device)
        timestep = carry["steps"].unsqueeze(-1) + places
        output = state.network(
            context["returns_to_go"] / self.return_scale,
            context["observation"],
            context["action"],
            timestep.clamp(min=0),
            timestep >= 0,
            {},
        )
        return output[:, :, -1], {**carry, **context, "steps": carry["steps"] + 1}


def _filled_in(config: DTConfig) -> tuple[float, float, int]:
    """Target return, scale of returns, and timesteps; raises `RecipeError` where one of them is left open."""
    if config.target_return is None or config.return_scale is None or config.timesteps is None:
        raise RecipeError(
            "agent.target_return, agent.return_scale and agent.timesteps are left open, and there is no data to say",
            hint="name a dataset, or set all three",
        )
    return config.target_return, config.return_scale, config.timesteps


def from_data(config: DTConfig, returns: NDArray[Any], lengths: NDArray[Any]) -> DTConfig:
    """Options with the data's best return, scale and length in place of what was left open."""
    found = {
        "target_return": float(returns.max()),
        "return_scale": float(abs(returns).max()) or 1.0,
        "timesteps": int(lengths.max()),
    }
    asked = {name: value for name, value in vars(config).items() if name in found and value is not None}
    return dataclasses.replace(config, **{**found, **asked})


def doubts(config: DTConfig, returns: NDArray[Any], lengths: NDArray[Any]) -> list[str]:
    """A sentence where a return is asked for that the data never shows."""
    low, high, asked = float(returns.min()), float(returns.max()), config.target_return
    if asked is None or low <= asked <= high:
        return []
    return [
        f"agent.target_return={asked:g} is out of the range of the data's returns, {low:g} to {high:g}: what earns it "
        "was never shown."
    ]


ALGORITHM = Algorithm(
    DTConfig,
    DecisionTransformer,
    feeds=("windows",),
    actions=("continuous", "discrete", "multi-discrete"),
    summary="acts for the return that is asked of it (`agent.target_return`)",
    # No `Density`: a context holds what the policy did, and a log's steps followed what was logged.
    provides=(Validates, Scheduled, ObservesReward),
    masks=True,
    columns=(RETURN_TO_GO,),
    from_data=from_data,
    doubts=doubts,
    acts_by=("target_return",),
)
