"""Heads of cloned policies: what turns a network's output into actions, a loss and a density."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import torch
from torch import Tensor

from offrl.errors import SpaceMismatchError
from offrl.nn import distributions as dist
from offrl.nn.clipping import Clipping
from offrl.nn.flatten import one_hot
from offrl.nn.policy_heads import is_bounded
from offrl.ops.losses import squared_error
from offrl.types import Spec


class ActionHead:
    """The last step of a policy that is fitted to actions, for outputs with any leading axes.

    Args:
        kind: "deterministic" (tanh of the output where actions are bounded), "gaussian", "squashed_gaussian", "mixture"
            (of Gaussians, whose means are squashed where actions are bounded) or "categorical".
        spec: the spaces.
        choices: how many actions each choice of a categorical policy has, and the number of its first one.
        components: of a mixture.

    Attributes:
        outputs: width of the network's output.
        draws: standard normal draws that sampling an action takes.
    """

    def __init__(
        self, kind: str, spec: Spec, choices: tuple[tuple[int, ...], tuple[int, ...]], components: int = 1
    ) -> None:
        self.kind, self.actions, self.components = kind, spec.action_dim, components
        self.choices, self.first_choice = choices
        self.is_single = isinstance(spec.action_space, gym.spaces.Discrete)
        self.bounded = is_bounded(spec)
        self.clips = Clipping(spec.action_space).changes
        self.outputs = self.draws = spec.action_dim
        if kind in ("gaussian", "squashed_gaussian"):
            self.outputs = 2 * spec.action_dim
        if kind == "mixture":
            self.outputs = components * (2 * spec.action_dim + 1)
            self.draws = components + spec.action_dim

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: a deterministic or a clipped one has none."""
        return self.kind in ("categorical", "squashed_gaussian") or (
            self.kind in ("gaussian", "mixture") and not self.clips
        )

    def loss(self, output: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """Squared error summed over action components, or negative log-likelihood among allowed actions, […].

        Args:
            output: the network's, [..., outputs].
            action: what was done, as batches have it; it counts as allowed in any case.
            mask: what was allowed, bool [..., A].
        """
        if self.kind == "deterministic":
            return squared_error(self.regression(output), action)
        if mask is not None:
            mask = dist.including(mask, self.choice(action), self.choices)
        return -self.log_prob(output, action, mask)

    def act(self, output: Tensor, noise: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The mean or likeliest action, as batches have it; with draws [..., draws], a sample where there is a spread.

        Greedily, a mixture gives the mean of its likeliest component.
        """
        if self.kind == "categorical":
            log_probs = dist.split_categoricals(output, self.choices, mask)
            choice = dist.categorical_mode(log_probs) if noise is None else dist.categorical_sample(log_probs, noise)
            action = _shifted(choice, self.first_choice)
            return action.squeeze(-1) if self.is_single else action
        if self.kind == "deterministic":
            return self.regression(output)
        if self.kind == "mixture":
            mixture = self.mixture(output)
            action = dist.mixture_mode(mixture) if noise is None else dist.mixture_sample(mixture, noise)
        else:
            mean, log_std = dist.split_gaussian(output)
            action = mean if noise is None else mean + log_std.exp() * noise
        if self.kind == "squashed_gaussian":
            return action.tanh()
        return action.clamp(-1.0, 1.0) if self.bounded else action

    def log_prob(self, output: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """log π(a | s), […], in nats; densities are with respect to actions in [-1, 1].

        Raises:
            SpaceMismatchError: the policy is deterministic.
        """
        if self.kind == "categorical":
            return dist.categorical_log_prob(dist.split_categoricals(output, self.choices, mask), self.choice(action))
        if self.kind == "gaussian":
            log_prob: Tensor = dist.gaussian_log_prob(*dist.split_gaussian(output), action)
            return log_prob
        if self.kind == "squashed_gaussian":
            return dist.squashed_gaussian_log_prob(*dist.split_gaussian(output), action)
        if self.kind == "mixture":
            return dist.mixture_log_prob(self.mixture(output), action)
        raise SpaceMismatchError(
            "a deterministic policy has no density", hint="train with --set agent.policy=gaussian, or categorical"
        )

    def regression(self, output: Tensor) -> Tensor:
        """A deterministic policy's action."""
        return output.tanh() if self.bounded else output

    def mixture(self, output: Tensor) -> dist.Mixture:
        """The mixture of Gaussians that an output stands for."""
        mixture = dist.split_mixture(output, self.components, self.actions)
        return mixture._replace(mean=mixture.mean.tanh()) if self.bounded else mixture

    def encode(self, action: Tensor) -> Tensor:
        """Actions, as batches have them, for a network to read, [..., A]: each choice one-hot."""
        if self.kind != "categorical":
            return action
        columns = self.choice(action).unbind(-1)
        return torch.cat([one_hot(column, count) for column, count in zip(columns, self.choices, strict=True)], dim=-1)

    def choice(self, action: Tensor) -> Tensor:
        """Discrete actions as one column for each choice, from 0, int64 [..., K]."""
        columns = (action.unsqueeze(-1) if self.is_single else action).long()
        return _shifted(columns, [-first for first in self.first_choice])


def _shifted(columns: Tensor, by: Sequence[int]) -> Tensor:
    """Integers [..., K], each column moved by a number of its own."""
    if not any(by):
        return columns
    return torch.stack([column + shift for column, shift in zip(columns.unbind(-1), by, strict=True)], dim=-1)
