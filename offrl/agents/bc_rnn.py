"""Behavior cloning with a recurrent network, BC-RNN (Mandlekar et al., 2021), https://arxiv.org/abs/2108.03298."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.space_checks import PolicyKind, choices_of, policy_kind
from offrl.config.fields import STRICT, Count, Positive
from offrl.nn import Adam, FlatObservation, Schedule, seed_generators
from offrl.nn.action_head import ActionHead
from offrl.nn.adam import ended_schedule
from offrl.nn.recurrent import Recurrent
from offrl.ops.minibatches import merge_axes
from offrl.ops.padding import mean_over_steps
from offrl.types import Batch, Density, Metrics, Noise, Observation, Scheduled, Spec, Validates

Carry = dict[str, Tensor]


@dataclass(frozen=True)
class BCRNNConfig(Schedule):
    """Options of BC-RNN, with the paper's values for low-dimensional observations unless noted.

    Attributes:
        policy: "mixture" maximizes the likelihood of a mixture of Gaussians (the paper's BC-RNN-GMM), the others are
            those of `bc`; "auto" takes "mixture" for continuous actions and "categorical" for discrete ones.
        components: of the mixture.
        cell: "lstm" or "gru".
        width: of the recurrent layers. The paper has 400, and 1000 with images.
        layers: how many of them.
        context: steps of the windows that it learns from, and after which acting forgets, as no window is longer.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size, see `offrl.nn.Schedule`.
    """

    __pydantic_config__ = STRICT

    policy: PolicyKind = "auto"
    components: Count = 5
    cell: Literal["lstm", "gru"] = "lstm"
    width: Count = 400
    layers: Count = 2
    context: Count = 10
    learning_rate: Positive = 1e-4


@dataclass
class BCRNNState:
    """All that training changes."""

    policy: Recurrent
    optimizer: Adam


class BCRNN:
    """A policy that remembers, fitted to the dataset's actions, given all observations of a window before them.

    Every window begins with nothing remembered, wherever in its episode that is; so does acting where an episode
    begins, and every `context` steps from there.

    Raises:
        SpaceMismatchError: the policy kind doesn't fit the action space.
    """

    batches_per_update = 1
    discount = 1.0

    def __init__(self, config: BCRNNConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        kinds: tuple[PolicyKind, ...] = ("mixture", "deterministic", "gaussian", "squashed_gaussian")
        kind = policy_kind(config.policy, spec, kinds)
        self.head = ActionHead(kind, spec, choices_of(spec.action_space), config.components)
        self.acting_noise_shape: tuple[int, ...] = (self.head.draws,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> BCRNNState:
        """A fresh network for each seed."""
        c = self.config
        network = Recurrent(
            c.cell, self.flat_observation.width, self.head.outputs, c.width, c.layers, seed_generators(seeds)
        ).to(device)
        return BCRNNState(network, Adam(network, c.learning_rate, schedule=c))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """It draws nothing."""
        return {}

    def update(self, state: BCRNNState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on the imitation loss."""
        (batch,) = batches
        loss = self.imitation_loss(state, batch)
        state.optimizer.minimize(loss.sum())
        return {"imitation_loss": loss.detach()}

    def imitation_loss(self, state: BCRNNState, batch: Batch) -> Tensor:
        """Squared error or negative log-likelihood, averaged over the windows' steps that aren't padding, [S]."""
        windows, steps = batch.reward.shape[1:]
        shown = self.flat_observation(merge_axes(batch.observation)).unflatten(1, (windows, steps))
        output, _ = state.policy(shown, state.policy.initial(windows))
        return mean_over_steps(self.head.loss(output, batch.action, batch.action_mask), batch)

    @torch.no_grad()
    def validation_loss(self, state: BCRNNState, batch: Batch) -> Tensor:
        """The imitation loss, [S]."""
        return self.imitation_loss(state, batch)

    def ended_schedule(self, state: BCRNNState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def initial_carry(self, state: BCRNNState, count: int) -> Carry:
        """Nothing remembered, and no steps taken since."""
        memory: Carry = state.policy.initial(count)
        return {**memory, "steps": torch.zeros_like(memory["hidden"][..., 0, 0], dtype=torch.int64)}

    def act(
        self,
        state: BCRNNState,
        observation: Observation,
        carry: Carry,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """The mean or likeliest action, of a mixture the mean of its likeliest component; with draws, a sample."""
        output, following = self._step(state, observation, carry)
        return self.head.act(output, noise, action_mask), following

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: a deterministic or a clipped one has none."""
        return self.head.has_density

    @torch.no_grad()
    def log_prob(
        self,
        state: BCRNNState,
        observation: Observation,
        action: Tensor,
        carry: Carry,
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s, what is remembered), [S, N], in nats; densities are with respect to actions in [-1, 1].

        Raises:
            SpaceMismatchError: the policy is deterministic.
        """
        return self.head.log_prob(self._step(state, observation, carry)[0], action, action_mask)

    def _step(self, state: BCRNNState, observation: Observation, carry: Carry) -> tuple[Tensor, Carry]:
        """The network's output [S, N, outputs] for one step of each row, and the next carry."""
        goes_on = (carry["steps"] > 0)[..., None, None].float()
        memory = {name: part * goes_on for name, part in carry.items() if name != "steps"}
        output, kept = state.policy(self.flat_observation(observation).unsqueeze(2), memory)
        return output.squeeze(2), {**kept, "steps": (carry["steps"] + 1) % self.config.context}


ALGORITHM = Algorithm(
    BCRNNConfig,
    BCRNN,
    feeds=("windows",),
    actions=("continuous", "discrete", "multi-discrete"),
    summary="LSTM or GRU (`agent.cell`), a mixture of Gaussians as in BC-RNN-GMM or the policies of `bc`",
    provides=(Density, Validates, Scheduled),
    masks=True,
    reads_rewards=False,
    loss_options=("policy",),
)
