"""Deep Q-network (Mnih et al., 2015), https://doi.org/10.1038/nature14236, with the improvements that came after it.

As options: double Q-learning (van Hasselt et al., 2016), https://arxiv.org/abs/1509.06461; dueling networks (Wang et
al., 2016), https://arxiv.org/abs/1511.06581; noisy networks (Fortunato et al., 2018), https://arxiv.org/abs/1706.10295;
and for learning from a dataset alone the conservative penalty of CQL (Kumar et al., 2020),
https://arxiv.org/abs/2006.04779. Prioritized replay and multi-step returns are how batches are drawn and made: recipes
have `priority.kind` and `data.n_step`, and the update goes by the batch's weights, rewards and discounts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import gymnasium as gym
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, NonNegativeInt
from torch import Tensor, nn

from offrl.agents.space_checks import require_discrete
from offrl.config.fields import (
    Activation,
    Count,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    ProbabilityBelowOne,
    Widths,
)
from offrl.nn import MLP, Adam, FlatModule, seed_generators
from offrl.nn.conv import Encoder
from offrl.nn.flat import joined
from offrl.nn.noisy import NoisyMLP
from offrl.nn.numpy_mlp import without_gradients
from offrl.ops.losses import chosen_huber, log_sum_exp_gap
from offrl.ops.numpy_or_torch import Array, at_hand, handed_back, namespace, one_hot
from offrl.types import Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class DQNConfig:
    """Options of DQN.

    On a dataset alone the values of actions that were never tried run away, so set `conservative` there, as the recipe
    `dqn/offline` does.

    Attributes:
        hidden: widths of the hidden layers, behind the convolutions where there are any.
        convolutions: layers [channels, kernel, stride] for each image in the observation; "auto" has some for images
            of its size, and none leaves them flat; see `offrl.nn.conv.Encoder`.
        activation, layer_norm: of the hidden layers, see `offrl.nn.MLP`; the convolutions have the same activation.
        dropout: chance of zeroing a hidden unit in the loss; targets see all units.
        weight_decay: decoupled decay rate.
        max_gradient_norm: longer gradients are scaled to this norm; 0 leaves them as they are.
        learning_rate: Adam's step size.
        decay_steps: updates over which it falls linearly to 0; 0 keeps it (the papers' way).
        discount: γ, per step.
        target_rate: τ: how far the target network moves towards the network; 1 copies it.
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

    __pydantic_config__ = ConfigDict(extra="forbid")

    hidden: Widths = (256, 256)
    convolutions: Literal["auto"] | tuple[tuple[Count, Count, Count], ...] = "auto"
    activation: Activation = "relu"
    layer_norm: bool = False
    dropout: ProbabilityBelowOne = 0.0
    weight_decay: NonNegative = 0.0
    max_gradient_norm: NonNegative = 10.0
    learning_rate: Positive = 3e-4
    decay_steps: NonNegativeInt = 0
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


class QNetwork(FlatModule):
    """Q(s, ·): an encoder and one stream of layers to all values; or dueling, V(s) + A(s, ·) − mean A(s, ·).

    Attributes:
        parts: the streams.
        noise_width: how many draws one sample of a noisy network takes; 0 where it isn't noisy.
    """

    def __init__(
        self, config: DQNConfig, space: gym.Space[Any], actions: int, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        c = config
        self.encoder = Encoder(space, c.convolutions, c.activation, generators)
        # Without images, an encoder comes down to this.
        vectors = None if self.encoder.image_keys else self.encoder.flat
        self.see: Callable[[Observation | NDArray[Any]], Array] = vectors or self.encoder.forward
        kind = NoisyMLP if c.noisy else MLP
        options: dict[str, Any] = {"activation": c.activation, "layer_norm": c.layer_norm, "dropout": c.dropout}
        outputs = (1, actions) if c.dueling else (actions,)
        self.parts = [kind(self.encoder.width, n, c.hidden, generators, **options) for n in outputs]
        self.streams = nn.ModuleList(self.parts)
        self.noise_widths = [stream.noise_width for stream in self.parts if isinstance(stream, NoisyMLP)]
        self.noise_width = sum(self.noise_widths)
        self.flatten()

    def forward(
        self,
        observation: Observation | NDArray[Any],
        *,
        noise: Tensor | None = None,
        dropout_noise: Tensor | None = None,
    ) -> Array:
        """The values of all actions, [S, B, A].

        Args:
            observation: [S, B, …].
            noise: draws [S, B, noise_width] for a noisy network, or [S, 1, noise_width] for one sample in all the
                batch; None takes the weights' means.
            dropout_noise: draws [S, B, streams · sum(hidden)]; None leaves dropout off.
        """
        features = self.see(observation)
        if len(self.parts) == 1:
            return _apply_stream(self.parts[0], features, noise, dropout_noise)
        features = handed_back(features)
        noises = (None, None) if noise is None else noise.split(self.noise_widths, dim=-1)
        dropped = (None, None) if dropout_noise is None else dropout_noise.chunk(2, dim=-1)
        value, advantage = map(_apply_stream, self.parts, (features, features), noises, dropped)
        return value + advantage - advantage.mean(dim=-1, keepdim=True)

    def record(
        self,
        observation: Observation | NDArray[Any],
        *,
        noise: Tensor | None = None,
        dropout_noise: Tensor | None = None,
    ) -> tuple[Array, Callable[[Array], Tensor]]:
        """`forward`, and what makes a gradient by its values one by `flat`.

        A single stream without convolutions in front does without autograd; see `MLP.record`.
        """
        stream = self.parts[0]
        if len(self.parts) == 1 and isinstance(stream, MLP) and not self.encoder.image_keys:
            recorded = stream.record(at_hand(self.see(observation)), dropout_noise=dropout_noise)
            return recorded.output, recorded.gradient
        values = handed_back(self(observation, noise=noise, dropout_noise=dropout_noise))

        def gradient(by_values: Array) -> Tensor:
            return joined(torch.autograd.grad(values, self.own_parameters, handed_back(by_values)))

        return at_hand(values.detach()), gradient


def _apply_stream(stream: MLP | NoisyMLP, features: Array, noise: Tensor | None, dropout_noise: Tensor | None) -> Array:
    if isinstance(stream, MLP):
        return stream(features, dropout_noise=dropout_noise)
    return stream(handed_back(features), noise=noise, dropout_noise=dropout_noise)


@dataclass
class DQNState:
    """All that training changes; `updates` and `exploration_steps` count for all seeds, int64.

    `exploration_steps` is on the CPU: acting reads it at every step.
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
    tells_errors = True
    acts_on_arrays = True
    honors_masks = True

    def __init__(self, config: DQNConfig, spec: Spec) -> None:
        space = require_discrete(spec, "DQN")
        self.config, self.spec = config, spec
        self.actions, self.first_action = int(space.n), int(space.start)
        example = self._network([0])
        self.noise_width, self.streams = example.noise_width, len(example.streams)
        self.exploration_shape: tuple[int, ...] = (self.noise_width,) if config.noisy else (self.actions,)

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
                decay_steps=c.decay_steps,
            ),
            updates=torch.zeros((), dtype=torch.int64, device=device),
            exploration_steps=torch.zeros((), dtype=torch.int64),
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
        """One gradient step on w · (huber(Q(s, a) − y) + conservative · (log Σ_a exp Q(s, a) − Q(s, a))).

        Where the batch carries importance weights w, `td_error` is |Q(s, a) − y|, [1, S, B].
        """
        c, (batch,) = self.config, batches
        for_values, for_targets, *for_choice = noise["weights"].unbind(1) if c.noisy else (None, None, None)
        target = self._target(state, batch, for_targets, *for_choice)
        q, gradient = state.network.record(
            at_hand(batch.observation), noise=for_values, dropout_noise=noise.get("dropout")
        )
        choice, weight = at_hand(batch.action) - self.first_action, at_hand(batch.weight)
        loss, slope, error = chosen_huber(q, choice, target, weight)
        metrics: Metrics = {"td_loss": handed_back(loss), "q": handed_back(q), "target_q": handed_back(target)}
        if c.conservative:
            metrics["conservative_gap"], more = log_sum_exp_gap(
                handed_back(q), handed_back(choice), batch.action_mask, batch.weight
            )
            slope = slope + c.conservative * at_hand(more)
        state.optimizer.descend(gradient(slope))
        self._move_target(state)
        if batch.weight is not None:
            metrics["td_error"] = handed_back(abs(error)).unsqueeze(0)
        return metrics

    @without_gradients
    def _target(
        self, state: DQNState, batch: Batch, noise: Tensor | None, noise_of_choice: Tensor | None = None
    ) -> Array:
        """y = r + γ max_a' Q'(s', a') over the allowed actions; double: r + γ Q'(s', argmax_a' Q(s', a')); [S, B]."""
        observation, mask = at_hand(batch.next_observation), at_hand(batch.next_action_mask)
        next_q = at_hand(state.target_network(observation, noise=noise))
        if self.config.double:
            choosing_q = at_hand(state.network(observation, noise=noise_of_choice))
            best = allowed(choosing_q, mask).argmax(-1)
            value = (next_q * one_hot(best, self.actions)).sum(-1)
        else:
            value = namespace(next_q).amax(allowed(next_q, mask), -1)
        return at_hand(batch.reward) + at_hand(batch.discount) * value

    def _move_target(self, state: DQNState) -> None:
        """Towards the network after every `target_every`-th update; on CUDA a tensor decides: nobody waits for it."""
        every, rate = self.config.target_every, self.config.target_rate
        state.updates += 1
        if every > 1 and state.updates.is_cuda:
            state.target_network.move_towards(state.network, (state.updates % every == 0) * rate)
        elif every == 1 or state.updates.item() % every == 0:
            state.target_network.move_towards(state.network, rate)

    @without_gradients
    def act(
        self, state: DQNState, observation: Observation | NDArray[Any], noise: Array = None, action_mask: Array = None
    ) -> Array:
        """argmax_a Q(s, a), int64 [S, N]; exploring with draws [S, N, A], or [S, N, noise_width] for noisy weights."""
        noisy = self.config.noisy
        q = at_hand(state.network(observation, noise=handed_back(noise) if noisy else None))
        mask = at_hand(action_mask)
        action = allowed(q, mask).argmax(-1)
        if noise is not None and not noisy:
            action = self._sometimes_random(state, action, at_hand(noise), mask)
        return handed_back(action + self.first_action if self.first_action else action, to=observation)

    def _sometimes_random(self, state: DQNState, action: Any, draws: Any, mask: Any) -> Any:
        """ε-greedy: the place of the largest allowed draw is a uniformly random action, whatever the draws' sum is."""
        c, steps = self.config, state.exploration_steps.numpy()
        taken = steps.item()
        epsilon = c.epsilon_start + min(taken / c.epsilon_steps, 1.0) * (c.epsilon_end - c.epsilon_start)
        steps[()] = taken + draws.shape[1]
        # Φ(sum / √A) is uniform on [0, 1].
        explores = draws.sum(-1) < normal_quantile(epsilon) * self.actions**0.5
        if not namespace(explores).count_nonzero(explores):
            return action
        return action + explores * (allowed(draws, mask).argmax(-1) - action)

    def _network(self, seeds: Sequence[int]) -> QNetwork:
        return QNetwork(self.config, self.spec.observation_space, self.actions, seed_generators(seeds))


@lru_cache(maxsize=1)
def normal_quantile(probability: float) -> float:
    """Φ⁻¹; infinite at 0 and 1."""
    return NormalDist().inv_cdf(probability) if 0.0 < probability < 1.0 else math.copysign(math.inf, probability - 0.5)


def allowed(q: Array, mask: Array | None) -> Array:
    """Numbers [S, B, A] of the actions that a mask allows, −∞ for the others; all, where there is no mask."""
    return q if mask is None else namespace(q).where(mask, q, -math.inf)
