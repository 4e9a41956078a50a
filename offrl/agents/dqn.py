"""Deep Q-network (Mnih et al., 2015), https://doi.org/10.1038/nature14236, with the improvements that came after it.

As options: double Q-learning (van Hasselt et al., 2016), https://arxiv.org/abs/1509.06461; dueling networks (Wang et
al., 2016), https://arxiv.org/abs/1511.06581; noisy networks (Fortunato et al., 2018), https://arxiv.org/abs/1706.10295;
and for learning from a dataset alone the conservative penalty of CQL (Kumar et al., 2020),
https://arxiv.org/abs/2006.04779. Prioritized replay and multi-step returns are how batches are drawn and made: recipes
have `priority.kind` and `data.n_step`, and the update goes by the batch's weights, rewards and discounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from offrl.nn import Adam, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.q_network import QNetwork
from offrl.ops.discrete_values import EpsilonGreedy, allowed, of_choice
from offrl.ops.losses import log_sum_exp_gap
from offrl.types import Batch, Metrics, Noise, Observation, Scheduled, Spec


@dataclass(frozen=True)
class DQNConfig(Schedule):
    """Options of DQN, with values for small networks and short runs on vectors, not those of the paper's Atari games.

    The paper has RMSProp with steps of 2.5e-4, batches of 32, a target that is copied every 10,000 updates, a chance of
    random actions that falls to 0.1 over a million frames, one hidden layer of 512 units behind convolutions, and
    gradients that aren't clipped by their norm.

    On a dataset alone the values of actions that were never tried run away, so set `conservative` there, as the recipe
    `dqn/offline` does.

    Attributes:
        hidden: widths of the hidden layers, behind the convolutions where there are any.
        convolutions: layers [channels, kernel, stride] for each image in the observation; "auto" has some for images
            of its size, "impala" a residual network, and none leaves them flat; see `offrl.nn.encoder.Encoder`.
        activation, layer_norm: of the hidden layers, see `offrl.nn.MLP`; the convolutions have the same activation.
        dropout: chance of zeroing a hidden unit in the loss; targets see all units.
        weight_decay: decoupled decay rate.
        max_gradient_norm: longer gradients are scaled to this norm (10 is of dueling networks); 0 leaves them alone.
        learning_rate: Adam's step size, as of TD3 and SAC.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size (in the papers it stays), see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ: how far the target network moves towards the network; 1 copies it, the paper's way.
        target_every: updates between such moves.
        double: let the network choose the action whose value the target network gives.
        dueling: the state's value and the actions' advantages have hidden layers of their own; the mean advantage is
            taken off.
        noisy: explore by noise on the weights of the hidden and output layers, in place of random actions.
        conservative: coefficient of log Σ_a exp Q(s, a) − Q(s, a_data) in the loss: on a dataset alone, it keeps the
            values of actions that were never tried from growing; 0 leaves it out.
        epsilon_start, epsilon_end: chance of a random action while collecting, at first and at last.
        epsilon_steps: exploring steps of each seed in which it goes from one to the other, linearly.
    """

    __pydantic_config__ = STRICT

    hidden: Widths = (256, 256)
    convolutions: Convolutions = "auto"
    activation: Activation = "relu"
    layer_norm: bool = False
    dropout: ProbabilityBelowOne = 0.0
    weight_decay: NonNegative = 0.0
    max_gradient_norm: NonNegative = 10.0
    learning_rate: Positive = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    target_every: Count = 1
    double: bool = False
    dueling: bool = False
    noisy: bool = False
    conservative: NonNegative = 0.0
    epsilon_start: Probability = 1.0
    epsilon_end: Probability = 0.05
    epsilon_steps: Count = 10_000


@dataclass
class DQNState:
    """All that training changes.

    Attributes:
        network, target_network: Q, and the slowly moving copy of it that targets come from.
        optimizer: of the network.
        updates: int64, made so far; every seed's.
        exploration_steps: int64, the steps that each seed's environments have explored for: acting counts them.
    """

    network: QNetwork
    target_network: QNetwork
    optimizer: Adam
    updates: Tensor
    exploration_steps: Tensor


class DQN:
    """Values of discrete actions, learned off-policy: from a replay of its own steps, or from a dataset.

    Raises:
        SpaceMismatchError: actions aren't discrete.
        RecipeError: the convolutions don't fit the observations.
    """

    batches_per_update = 1

    def __init__(self, config: DQNConfig, spec: Spec) -> None:
        space = require_discrete(spec, "DQN")
        self.config, self.spec, self.discount = config, spec, config.discount
        self.actions, self.first_action = int(space.n), int(space.start)
        self.exploration = EpsilonGreedy(config.epsilon_start, config.epsilon_end, config.epsilon_steps)
        example = self._network([0])
        self.noise_width, self.streams = example.noise_width, len(example.streams)
        self.acting_noise_shape: tuple[int, ...] = (self.noise_width,) if config.noisy else (self.actions,)

    def init(self, seeds: Sequence[int], device: torch.device) -> DQNState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, network = self.config, self._network(seeds).to(device)
        return DQNState(
            network=network,
            target_network=network.clone(),
            optimizer=Adam(
                network,
                c.learning_rate,
                weight_decay=c.weight_decay,
                max_gradient_norm=c.max_gradient_norm,
                schedule=c,
            ),
            updates=torch.zeros((), dtype=torch.int64, device=device),
            exploration_steps=torch.zeros((), dtype=torch.int64, device=device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Each pass through a noisy network has a sample of weights of its own: values, targets, choice of actions."""
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {}
        if c.dropout:
            shapes["dropout"] = (batch_size, self.streams * sum(c.hidden))
        if c.noisy:
            shapes["weights"] = (3 if c.double else 2, 1, self.noise_width)
        return shapes

    def update(self, state: DQNState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on w · (td_loss + conservative · conservative_loss), then a move of the target network.

        Where the batch carries importance weights w, `td_error` is |Q(s, a) − y|, [1, S, B].
        """
        c, (batch,) = self.config, batches
        for_values, for_targets, *for_choice = noise["weights"].unbind(1) if c.noisy else (None, None, None)
        target = self._target(state, batch, for_targets, *for_choice)
        values = state.network(batch.observation, noise=for_values, dropout_noise=noise.get("dropout"))
        choice = batch.action - self.first_action if self.first_action else batch.action
        losses = {"td_loss": self.td_loss(values, choice, target)}
        if c.conservative:
            losses["conservative_gap"] = self.conservative_loss(values, choice, batch.action_mask)
        if batch.weight is not None:
            losses = {name: loss * batch.weight for name, loss in losses.items()}
        loss = losses["td_loss"]
        if c.conservative:
            loss = loss + c.conservative * losses["conservative_gap"]
        state.optimizer.minimize(loss.mean(dim=1).sum())
        state.updates += 1
        state.target_network.move_at_times(state.network, c.target_rate, c.target_every, state.updates)
        metrics = {name: loss.detach() for name, loss in losses.items()} | {"q": values.detach(), "target_q": target}
        if batch.weight is not None:
            metrics["td_error"] = (of_choice(values.detach(), choice) - target).abs().unsqueeze(0)
        return metrics

    def td_loss(self, values: Tensor, choice: Tensor, target: Tensor) -> Tensor:
        """Each transition's Huber loss (1964) of δ = Q(s, a) − y, [S, B]: δ²/2 for |δ| ≤ 1, |δ| − 1/2 beyond.

        Args:
            values: Q(s, ·), [S, B, A].
            choice: the actions that were taken, int64 [S, B], from 0.
            target: y, [S, B].
        """
        return huber_loss(of_choice(values, choice), target, reduction="none")

    def conservative_loss(self, values: Tensor, choice: Tensor, mask: Tensor | None) -> Tensor:
        """CQL's log Σ_a exp Q(s, a) − Q(s, a_data) over the actions that the mask allows, [S, B]."""
        return log_sum_exp_gap(values, choice, mask)

    @torch.no_grad()
    def _target(
        self, state: DQNState, batch: Batch, noise: Tensor | None, noise_of_choice: Tensor | None = None
    ) -> Tensor:
        """y = r + γ max_a' Q'(s', a') over the allowed actions; double: r + γ Q'(s', argmax_a' Q(s', a')); [S, B]."""
        observation, mask = batch.next_observation, batch.next_action_mask
        next_values: Tensor = state.target_network(observation, noise=noise)
        if self.config.double:
            choosing = state.network(observation, noise=noise_of_choice)
            bootstrap = of_choice(next_values, allowed(choosing, mask).argmax(dim=-1))
        else:
            bootstrap = allowed(next_values, mask).amax(dim=-1)
        return torch.addcmul(batch.reward, batch.discount, bootstrap)

    def ended_schedule(self, state: DQNState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def initial_carry(self, state: DQNState, count: int) -> tuple[()]:
        """Nothing: acting needs no memory."""
        return ()

    def act(
        self,
        state: DQNState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """argmax_a Q(s, a), int64 [S, N]; exploring with draws [S, N, A], or [S, N, noise_width] for noisy weights."""
        noisy = self.config.noisy
        values = state.network(observation, noise=noise if noisy else None)
        action = allowed(values, action_mask).argmax(dim=-1)
        if noise is not None and not noisy:
            action = self.exploration(action, noise, action_mask, state.exploration_steps)
        return action + self.first_action if self.first_action else action, carry

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
            dropout=c.dropout,
            dueling=c.dueling,
            noisy=c.noisy,
        )


ALGORITHM = Algorithm(
    DQNConfig,
    DQN,
    feeds=("dataset", "replay"),
    actions=("discrete",),
    provides=(Scheduled,),
    summary="double, dueling, noisy networks, n-step returns, prioritized replay, a conservative penalty",
    masks=True,
    td_errors=True,
    images=True,
    goes_on=keep_exploring_as_at_the_end,
)
