"""Cloning of discrete actions by logits that are linear in the observation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.space_checks import require_discrete
from offrl.config.fields import Positive
from offrl.nn import MLP, Adam, FlatObservation, seed_generators
from offrl.nn.distributions import categorical_log_prob, categorical_mode, categorical_sample, split_categoricals
from offrl.types import Batch, Density, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class TinyConfig:
    """Options."""

    learning_rate: Positive = 0.01


@dataclass
class TinyState:
    """All that training changes."""

    policy: MLP
    optimizer: Adam


class Tiny:
    """A linear policy; actions are counted from 0."""

    batches_per_update = 1
    discount = 1.0
    has_density = True

    def __init__(self, config: TinyConfig, spec: Spec) -> None:
        require_discrete(spec, "tiny")
        self.config, self.spec = config, spec
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> TinyState:
        """Fresh weights for each seed."""
        policy = MLP(self.flat_observation.width, self.spec.action_dim, (), seed_generators(seeds)).to(device)
        return TinyState(policy, Adam(policy, self.config.learning_rate))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """None are needed."""
        return {}

    def update(self, state: TinyState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step on −log π(a | s)."""
        (batch,) = batches
        loss = -self._log_prob(state, batch.observation, batch.action).mean(dim=1)
        state.optimizer.minimize(loss.sum())
        return {"tiny_loss": loss.detach()}

    def initial_carry(self, state: TinyState, count: int) -> tuple[()]:
        """Nothing."""
        return ()

    def act(
        self,
        state: TinyState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The likeliest action, or a sample."""
        log_probs = self._log_probs(state, observation)
        choice = categorical_mode(log_probs) if noise is None else categorical_sample(log_probs, noise)
        return choice.squeeze(-1), carry

    @torch.no_grad()
    def log_prob(
        self,
        state: TinyState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N]."""
        return self._log_prob(state, observation, action)

    def _log_probs(self, state: TinyState, observation: Observation) -> list[Tensor]:
        return split_categoricals(state.policy(self.flat_observation(observation)), (self.spec.action_dim,))

    def _log_prob(self, state: TinyState, observation: Observation, action: Tensor) -> Tensor:
        return categorical_log_prob(self._log_probs(state, observation), action.long().unsqueeze(-1))


ALGORITHM = Algorithm(TinyConfig, Tiny, feeds=("twice",), actions=("discrete",), provides=(Density,), summary="linear")
UNFED = Algorithm(TinyConfig, Tiny, feeds=("broken",), actions=("discrete",), summary="linear")
