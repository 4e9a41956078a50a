"""Discrete batch-constrained Q-learning (Fujimoto, Conti, Ghavamzadeh & Pineau, 2019), arXiv 1910.01708.

https://arxiv.org/abs/1910.01708: double Q-learning over those actions alone that whoever made the data might have
taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import keep_exploring_as_at_the_end
from offrl.agents.space_checks import require_discrete
from offrl.config.fields import (
    STRICT,
    Activation,
    Convolutions,
    Count,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    ProbabilityBelowOne,
    Widths,
)
from offrl.nn import MLP, Adam, FlatModule, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.distributions import allowed_logits, including
from offrl.nn.encoder import Encoder
from offrl.ops.discrete_values import EpsilonGreedy, allowed, of_choice
from offrl.types import Batch, Metrics, Noise, Observation, Scheduled, Spec


@dataclass(frozen=True)
class BCQConfig(Schedule):
    """Options of discrete BCQ, with the values of the authors' code for observations that are vectors.

    For Atari games the paper has Adam with steps of 6.25e-5 and an ε of 1.5e-4 (here 1e-8), a target that is copied
    every 8,000 updates, and one hidden layer of 512 units behind convolutions. Exploration is that of DQN here;
    the authors' is 1 step of 10 throughout, or less and less in games.

    Attributes:
        threshold: τ: an action may be taken where G(a | s) / max G(· | s) is above it; 0 leaves double DQN, towards 1
            it is behavior cloning. The paper's.
        logit_penalty: coefficient of the logits' mean square in the loss, of the authors' code.
        hidden: widths of the hidden layers, behind the convolutions where there are any.
        convolutions: layers [channels, kernel, stride] for each image in the observation; "auto" has some for images
            of its size, "impala" a residual network, and none leaves them flat; see `offrl.nn.encoder.Encoder`.
        activation, layer_norm: of the hidden layers, see `offrl.nn.MLP`; the convolutions have the same activation.
        max_gradient_norm: longer gradients are scaled to this norm; 0 leaves them alone.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size (in the paper it stays), see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: how far the target network moves towards the network; 1 copies it, as for Atari games.
        target_every: updates between such moves.
        epsilon_start, epsilon_end: chance of a random action while collecting, at first and at last.
        epsilon_steps: exploring steps of each seed in which it goes from one to the other, linearly.
    """

    __pydantic_config__ = STRICT

    threshold: ProbabilityBelowOne = 0.3
    logit_penalty: NonNegative = 0.01
    hidden: Widths = (256, 256)
    convolutions: Convolutions = "auto"
    activation: Activation = "relu"
    layer_norm: bool = False
    max_gradient_norm: NonNegative = 0.0
    learning_rate: Positive = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    target_every: Count = 1
    epsilon_start: Probability = 1.0
    epsilon_end: Probability = 0.05
    epsilon_steps: Count = 10_000


class BCQNetwork(FlatModule):
    """Q(s, ·) and the logits of G(· | s): convolutions in common, as in the authors' code, and hidden layers each.

    What an image shows matters to both; behind it, imitation would have its way with the features that values need.

    Args:
        config: widths, and what the layers are.
        space: the observation space.
        actions: A, how many there are.
        generators: one per seed.
    """

    def __init__(
        self, config: BCQConfig, space: gym.Space[Any], actions: int, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        c = config
        self.encoder = Encoder(space, c.convolutions, c.activation, generators)
        self.value, self.behavior = (
            MLP(
                self.encoder.width,
                actions,
                c.hidden,
                generators,
                activation=c.activation,
                layer_norm=c.layer_norm,
            )
            for _ in range(2)
        )
        self.flatten()

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Values and logits, [S, B, A] each."""
        features = self.encoder(observation)
        return self.value(features), self.behavior(features)


@dataclass
class BCQState:
    """All that training changes.

    Attributes:
        network: values, and the model of what the data does.
        target_network: the slowly moving copy that targets' values come from; what it has of the model isn't read.
        optimizer: of the network.
        updates: int64, made so far; every seed's.
        exploration_steps: int64, the steps that each seed's environments have explored for: acting counts them.
    """

    network: BCQNetwork
    target_network: BCQNetwork
    optimizer: Adam
    updates: Tensor
    exploration_steps: Tensor


class BCQ:
    """Values of the actions that the data's behavior makes likely enough, and that behavior's model G.

    Raises:
        SpaceMismatchError: actions aren't discrete.
        RecipeError: the convolutions don't fit the observations.
    """

    batches_per_update = 1

    def __init__(self, config: BCQConfig, spec: Spec) -> None:
        # What keeps near the data too.
        space = require_discrete(spec, "BCQ", {"continuous": "td3 with agent.bc_alpha=2.5 (TD3+BC), rebrac or iql"})
        self.config, self.spec, self.discount = config, spec, config.discount
        self.actions, self.first_action = int(space.n), int(space.start)
        self.exploration = EpsilonGreedy(config.epsilon_start, config.epsilon_end, config.epsilon_steps)
        self.acting_noise_shape: tuple[int, ...] = (self.actions,)
        self._network([0])

    def init(self, seeds: Sequence[int], device: torch.device) -> BCQState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, network = self.config, self._network(seeds).to(device)
        return BCQState(
            network=network,
            target_network=network.clone(),
            optimizer=Adam(network, c.learning_rate, max_gradient_norm=c.max_gradient_norm, schedule=c),
            updates=torch.zeros((), dtype=torch.int64, device=device),
            exploration_steps=torch.zeros((), dtype=torch.int64, device=device),
        )

    def _network(self, seeds: Sequence[int]) -> BCQNetwork:
        return BCQNetwork(self.config, self.spec.observation_space, self.actions, seed_generators(seeds))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """No draws: targets are of greedy actions."""
        return {}

    def update(self, state: BCQState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on w · (td_loss + imitation_loss + logit_penalty · mean logit²), then one of the target.

        Where the batch carries importance weights w, `td_error` is |Q(s, a) − y|, [1, S, B].
        """
        c, (batch,) = self.config, batches
        target = self.targets(state, batch)
        values, logits = state.network(batch.observation)
        choice = batch.action - self.first_action if self.first_action else batch.action
        mask = batch.action_mask
        if mask is not None:
            mask = including(mask, choice.unsqueeze(-1), (self.actions,))
        q = of_choice(values, choice)
        losses = {
            "td_loss": huber_loss(q, target, reduction="none"),
            "imitation_loss": imitation_loss(logits, choice, mask),
            "logit_penalty": c.logit_penalty * mean_square(logits, mask),
        }
        if batch.weight is not None:
            losses = {name: loss * batch.weight for name, loss in losses.items()}
        loss = losses["td_loss"] + losses["imitation_loss"] + losses["logit_penalty"]
        state.optimizer.minimize(loss.mean(dim=1).sum())
        state.updates += 1
        state.target_network.move_at_times(state.network, c.target_rate, c.target_every, state.updates)
        metrics = {name: loss.detach() for name, loss in losses.items()} | {"q": values.detach(), "target_q": target}
        if batch.weight is not None:
            metrics["td_error"] = (q.detach() - target).abs().unsqueeze(0)
        return metrics

    @torch.no_grad()
    def targets(self, state: BCQState, batch: Batch) -> Tensor:
        """y = r + γ Q'(s', argmax Q(s', a')) over the a' that G makes likely enough and the mask allows, [S, B]."""
        values, logits = state.network(batch.next_observation)
        choice = self.choose(values, logits, batch.next_action_mask)
        next_values, _ = state.target_network(batch.next_observation)
        return torch.addcmul(batch.reward, batch.discount, of_choice(next_values, choice))

    def choose(self, values: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
        """The best one of the actions that G makes likely enough, among those allowed, int64 [S, B], from 0."""
        return allowed(values, likely_enough(logits, mask, self.config.threshold)).argmax(dim=-1)

    def ended_schedule(self, state: BCQState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def initial_carry(self, state: BCQState, count: int) -> tuple[()]:
        """Nothing: acting needs no memory."""
        return ()

    def act(
        self,
        state: BCQState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The best likely action, int64 [S, N]; with draws [S, N, A] a random allowed one with a chance of ε."""
        values, logits = state.network(observation)
        action = self.choose(values, logits, action_mask)
        if noise is not None:
            action = self.exploration(action, noise, action_mask, state.exploration_steps)
        return action + self.first_action if self.first_action else action, carry


def likely_enough(logits: Tensor, mask: Tensor | None, threshold: float) -> Tensor:
    """Whether G(a | s) / max G(· | s) > τ, and the mask allows a, bool [S, B, A]; the likeliest action always is.

    Args:
        logits: of G, [S, B, A]: their differences are logarithms of the ratios.
        mask: bool [S, B, A]; None allows all. The likeliest action is the likeliest allowed one.
        threshold: τ, from 0 to below 1.
    """
    likely = allowed(logits, mask)
    log_threshold = math.log(threshold) if threshold else -math.inf
    return likely - likely.amax(dim=-1, keepdim=True) > log_threshold


def imitation_loss(logits: Tensor, choice: Tensor, mask: Tensor | None) -> Tensor:
    """−log G(a | s), among the allowed actions, [S, B]."""
    return -of_choice(allowed_logits(logits, mask).log_softmax(dim=-1), choice)


def mean_square(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Of logits [S, B, A], [S, B]; those of forbidden actions count as 0."""
    return (logits if mask is None else logits.masked_fill(~mask, 0.0)).square().mean(dim=-1)


ALGORITHM = Algorithm(
    BCQConfig,
    BCQ,
    feeds=("dataset", "replay"),
    actions=("discrete",),
    provides=(Scheduled,),
    summary="double Q-learning over actions that the data makes likely (`agent.threshold`)",
    masks=True,
    td_errors=True,
    images=True,
    goes_on=keep_exploring_as_at_the_end,
)
