"""A small recurrent agent: its carry goes every way that the library has for acting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from offrl.agents.algorithm import Algorithm
from offrl.config.fields import Count, Positive
from offrl.nn import Adam, FlatModule, FlatObservation, seed_generators
from offrl.nn.distributions import categorical_log_prob, categorical_sample, split_categoricals
from offrl.nn.distributions import squashed_gaussian_log_prob as squashed_log_prob
from offrl.nn.flat import uniform_per_seed
from offrl.types import Batch, Density, Metrics, Noise, Observation, Spec

LOG_STD = -1.0
"""Of a Box action before it is squashed."""


@dataclass(frozen=True)
class RecallConfig:
    """Options of the recurrent agent.

    Attributes:
        width: of what it remembers.
        learning_rate: Adam's step size.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    width: Count = 5
    learning_rate: Positive = 1e-2


class Gated(FlatModule):
    """A gated unit, and the state that it has before an episode's first step, which is learned as well."""

    def __init__(self, inputs: int, width: int, outputs: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.inward = nn.Parameter(uniform_per_seed((inputs + width, 2 * width), 1.0, generators))
        self.outward = nn.Parameter(uniform_per_seed((width, outputs), 1.0, generators))
        self.begin = nn.Parameter(uniform_per_seed((width,), 1.0, generators))
        self.flatten()

    def forward(self, shown: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [S, N, outputs], and the state behind the step, [S, N, width]."""
        gate, candidate = torch.bmm(torch.cat([shown, hidden], dim=-1), self.inward).chunk(2, dim=-1)
        following = hidden + gate.sigmoid() * (candidate.tanh() - hidden)
        return torch.bmm(following, self.outward), following


@dataclass
class RecallState:
    """All that training changes."""

    network: Gated
    optimizer: Adam


Carry = dict[str, Tensor]


class Recall:
    """Remembers a gated summary of an episode, its own last action, and how many steps it took.

    Actions are squashed Gaussians or categorical ones. It learns to take, as if at the start of an episode, the actions
    that batches hold.
    """

    discount = 0.9
    batches_per_update = 1
    has_density = True

    def __init__(self, config: RecallConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.acting_noise_shape = (spec.action_dim,)
        self.flat_observation = FlatObservation(spec.observation_space)
        space = spec.action_space
        self.first = int(space.start) if isinstance(space, gym.spaces.Discrete) else None

    def init(self, seeds: Sequence[int], device: torch.device) -> RecallState:
        """Fresh networks for each seed."""
        inputs = self.flat_observation.width + self.spec.action_dim + 1
        network = Gated(inputs, self.config.width, self.spec.action_dim, seed_generators(seeds)).to(device)
        return RecallState(network, Adam(network, self.config.learning_rate))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """It draws nothing."""
        return {}

    def update(self, state: RecallState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on the negative log-likelihood of the actions."""
        (batch,) = batches
        output, _ = self._step(state, batch.observation, self.initial_carry(state, batch.reward.shape[1]))
        loss = -self._log_prob(output, batch.action)
        state.optimizer.minimize(loss.mean(dim=1).sum())
        return {"loss": loss.detach()}

    def initial_carry(self, state: RecallState, count: int) -> Carry:
        """The learned beginning, no action, no steps."""
        begin = state.network.begin
        return {
            "hidden": begin.unsqueeze(1).expand(-1, count, -1),
            "last": begin.new_zeros(len(begin), count, self.spec.action_dim),
            "steps": torch.zeros(len(begin), count, dtype=torch.int64, device=begin.device),
        }

    def act(
        self,
        state: RecallState,
        observation: Observation,
        carry: Carry,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """The likeliest action, or a sample with draws [S, N, action_dim]."""
        output, hidden = self._step(state, observation, carry)
        if self.first is None:
            action = last = (output if noise is None else output + torch.exp(output.new_tensor(LOG_STD)) * noise).tanh()
        else:
            (log_prob,) = split_categoricals(output, (self.spec.action_dim,), action_mask)
            chosen = log_prob.argmax(-1) if noise is None else categorical_sample([log_prob], noise).squeeze(-1)
            last = nn.functional.one_hot(chosen, self.spec.action_dim).to(output.dtype)
            action = chosen + self.first
        return action, {"hidden": hidden, "last": last, "steps": carry["steps"] + 1}

    @torch.no_grad()
    def log_prob(
        self,
        state: RecallState,
        observation: Observation,
        action: Tensor,
        carry: Carry,
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s, what is remembered), [S, N]."""
        return self._log_prob(self._step(state, observation, carry)[0], action, action_mask)

    def _step(self, state: RecallState, observation: Observation, carry: Carry) -> tuple[Tensor, Tensor]:
        steps = 0.3 * carry["steps"].unsqueeze(-1).float()
        shown: Tensor = torch.cat([self.flat_observation(observation).tanh(), carry["last"], steps], dim=-1)
        output, hidden = state.network(shown, carry["hidden"])
        return output, hidden

    def _log_prob(self, output: Tensor, action: Tensor, action_mask: Tensor | None = None) -> Tensor:
        if self.first is None:
            return squashed_log_prob(output, torch.full_like(output, LOG_STD), action)
        log_probs = split_categoricals(output, (self.spec.action_dim,), action_mask)
        return categorical_log_prob(log_probs, action.unsqueeze(-1) - self.first)


ALGORITHM = Algorithm(
    RecallConfig,
    Recall,
    feeds=("dataset", "replay"),
    actions=("continuous", "discrete"),
    summary="a gated memory",
    provides=(Density,),
    masks=True,
)
