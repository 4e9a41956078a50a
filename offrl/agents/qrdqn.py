"""Quantile regression DQN (Dabney et al., 2018), https://arxiv.org/abs/1710.10044: the return's distribution.

As options: double Q-learning (van Hasselt et al., 2016), https://arxiv.org/abs/1509.06461; dueling networks (Wang et
al., 2016), https://arxiv.org/abs/1511.06581; and for learning from a dataset alone the conservative penalty of CQL
(Kumar et al., 2020), https://arxiv.org/abs/2006.04779, whose authors built its discrete form on this algorithm.
Prioritized replay and multi-step returns are how batches are drawn and made: recipes have `priority.kind` and
`data.n_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    Widths,
)
from offrl.nn import Adam, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.q_network import QNetwork
from offrl.ops.discrete_values import EpsilonGreedy, allowed, of_choice
from offrl.ops.losses import log_sum_exp_gap, quantile_huber_loss
from offrl.types import Batch, Metrics, Noise, Observation, Scheduled, Spec


@dataclass(frozen=True)
class QRDQNConfig(Schedule):
    """Options of QR-DQN, with values for small networks and short runs on vectors, as those of DQN here.

    For Atari games the paper has 200 quantiles, Adam with steps of 5e-5 and an ε of 0.01 / 32 (here 1e-8), batches of
    32, a target that is copied every 10,000 updates, a chance of random actions that falls to 0.01 over a million
    frames, one hidden layer of 512 units behind convolutions, and gradients that aren't clipped by their norm.

    On a dataset alone the values of actions that were never tried run away, so set `conservative` there, as the recipe
    `qrdqn/offline` does.

    Attributes:
        quantiles: N, of each action's return; 1 learns its median, by half of DQN's loss.
        hidden: widths of the hidden layers, behind the convolutions where there are any.
        convolutions: layers [channels, kernel, stride] for each image in the observation; "auto" has some for images
            of its size, "impala" a residual network, and none leaves them flat; see `offrl.nn.encoder.Encoder`.
        activation, layer_norm: of the hidden layers, see `offrl.nn.MLP`; the convolutions have the same activation.
        max_gradient_norm: longer gradients are scaled to this norm; 0 leaves them alone.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size (in the paper it stays), see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ: how far the target network moves towards the network; 1 copies it, the paper's way.
        target_every: updates between such moves.
        double: let the network choose the action whose quantiles the target network gives.
        dueling: the state's quantiles and the actions' advantages have hidden layers of their own.
        conservative: coefficient of log Σ_a exp Q(s, a) − Q(s, a_data) in the loss, where Q is the quantiles' mean: on
            a dataset alone, it keeps the values of actions that were never tried from growing; 0 leaves it out.
        epsilon_start, epsilon_end: chance of a random action while collecting, at first and at last.
        epsilon_steps: exploring steps of each seed in which it goes from one to the other, linearly.
    """

    __pydantic_config__ = STRICT

    quantiles: Count = 32
    hidden: Widths = (256, 256)
    convolutions: Convolutions = "auto"
    activation: Activation = "relu"
    layer_norm: bool = False
    max_gradient_norm: NonNegative = 10.0
    learning_rate: Positive = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    target_every: Count = 1
    double: bool = False
    dueling: bool = False
    conservative: NonNegative = 0.0
    epsilon_start: Probability = 1.0
    epsilon_end: Probability = 0.05
    epsilon_steps: Count = 10_000


@dataclass
class QRDQNState:
    """All that training changes.

    Attributes:
        network, target_network: the quantiles, and the slowly moving copy of them that targets come from.
        optimizer: of the network.
        updates: int64, made so far; every seed's.
        exploration_steps: int64, the steps that each seed's environments have explored for: acting counts them.
    """

    network: QNetwork
    target_network: QNetwork
    optimizer: Adam
    updates: Tensor
    exploration_steps: Tensor


class QRDQN:
    """Quantiles of each discrete action's return, learned off-policy; acting goes by their mean.

    Raises:
        SpaceMismatchError: actions aren't discrete.
        RecipeError: the convolutions don't fit the observations.
    """

    batches_per_update = 1

    def __init__(self, config: QRDQNConfig, spec: Spec) -> None:
        space = require_discrete(spec, "QR-DQN")
        self.config, self.spec, self.discount = config, spec, config.discount
        self.actions, self.first_action = int(space.n), int(space.start)
        self.exploration = EpsilonGreedy(config.epsilon_start, config.epsilon_end, config.epsilon_steps)
        self.acting_noise_shape: tuple[int, ...] = (self.actions,)
        self._network([0])

    def init(self, seeds: Sequence[int], device: torch.device) -> QRDQNState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, network = self.config, self._network(seeds).to(device)
        return QRDQNState(
            network=network,
            target_network=network.clone(),
            optimizer=Adam(network, c.learning_rate, max_gradient_norm=c.max_gradient_norm, schedule=c),
            updates=torch.zeros((), dtype=torch.int64, device=device),
            exploration_steps=torch.zeros((), dtype=torch.int64, device=device),
        )

    def _network(self, seeds: Sequence[int]) -> QNetwork:
        c = self.config
        return QNetwork(
            self.spec.observation_space,
            self.actions,
            c.hidden,
            seed_generators(seeds),
            convolutions=c.convolutions,
            activation=c.activation,
            layer_norm=c.layer_norm,
            dueling=c.dueling,
            quantiles=c.quantiles,
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """No draws: targets are of greedy actions."""
        return {}

    def update(self, state: QRDQNState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on w · (td_loss + conservative · conservative_gap), then a move of the target network.

        Where the batch carries importance weights w, `td_error` is |Q(s, a) − y|, [1, S, B], of the quantiles' means.
        """
        c, (batch,) = self.config, batches
        target = self.targets(state, batch)
        quantiles = state.network(batch.observation)
        choice = batch.action - self.first_action if self.first_action else batch.action
        values = quantiles.mean(dim=-1)
        losses = {"td_loss": quantile_huber_loss(quantiles_of_choice(quantiles, choice), target)}
        if c.conservative:
            losses["conservative_gap"] = log_sum_exp_gap(values, choice, batch.action_mask)
        if batch.weight is not None:
            losses = {name: loss * batch.weight for name, loss in losses.items()}
        loss = losses["td_loss"]
        if c.conservative:
            loss = loss + c.conservative * losses["conservative_gap"]
        state.optimizer.minimize(loss.mean(dim=1).sum())
        state.updates += 1
        state.target_network.move_at_times(state.network, c.target_rate, c.target_every, state.updates)
        q, target_q = values.detach(), target.mean(dim=-1)
        metrics = {name: loss.detach() for name, loss in losses.items()} | {"q": q, "target_q": target_q}
        if batch.weight is not None:
            metrics["td_error"] = (of_choice(q, choice) - target_q).abs().unsqueeze(0)
        return metrics

    @torch.no_grad()
    def targets(self, state: QRDQNState, batch: Batch) -> Tensor:
        """r + γ θ'_j(s', a'), [S, B, N], where a' is of the allowed actions the one of the largest mean, algorithm 1.

        The target network tells which, or with `double` the network.
        """
        next_quantiles: Tensor = state.target_network(batch.next_observation)
        choosing = state.network(batch.next_observation) if self.config.double else next_quantiles
        best = allowed(choosing.mean(dim=-1), batch.next_action_mask).argmax(dim=-1)
        bootstrap = quantiles_of_choice(next_quantiles, best)
        return torch.addcmul(batch.reward.unsqueeze(-1), batch.discount.unsqueeze(-1), bootstrap)

    def ended_schedule(self, state: QRDQNState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def initial_carry(self, state: QRDQNState, count: int) -> tuple[()]:
        """Nothing: acting needs no memory."""
        return ()

    def act(
        self,
        state: QRDQNState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The action of the largest mean, int64 [S, N]; with draws [S, N, A] a random one with a chance of ε."""
        values = state.network(observation).mean(dim=-1)
        action = allowed(values, action_mask).argmax(dim=-1)
        if noise is not None:
            action = self.exploration(action, noise, action_mask, state.exploration_steps)
        return action + self.first_action if self.first_action else action, carry


def quantiles_of_choice(quantiles: Tensor, choice: Tensor) -> Tensor:
    """Those of the chosen actions, of [S, B, A, N], [S, B, N]."""
    places = choice[..., None, None].expand(-1, -1, 1, quantiles.shape[-1])
    return quantiles.gather(2, places).squeeze(2)


ALGORITHM = Algorithm(
    QRDQNConfig,
    QRDQN,
    feeds=("dataset", "replay"),
    actions=("discrete",),
    provides=(Scheduled,),
    summary="quantiles of the return; double, dueling, n-step, prioritized replay, a conservative penalty",
    masks=True,
    td_errors=True,
    images=True,
    goes_on=keep_exploring_as_at_the_end,
)
