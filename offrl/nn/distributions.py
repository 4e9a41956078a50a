"""Action distributions as pure functions of their parameters, for any leading axes."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

FORBIDDEN = -1e8
"""The logit of an action that the mask forbids; minus infinity would make its share of the entropy 0 · ∞."""
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
SQUASH_MARGIN = 1e-4
"""Logged actions within this distance of ±1 count as that far inside: arctanh(±1) is infinite."""
MIXTURE_STD_MIN = 1e-4
"""Of a mixture's components, as robomimic has it: softplus alone could fall to 0."""


def split_gaussian(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """A network's output [..., 2A] as mean and log standard deviation, [..., A] each; the latter is clamped."""
    mean, log_std = parameters.chunk(2, dim=-1)
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


def gaussian_log_prob(mean: Tensor, log_std: Tensor, value: Tensor) -> Tensor:
    """log N(value; mean, diag exp(2 log_std)), summed over the last axis."""
    z = (value - mean) * torch.exp(-log_std)
    return -(0.5 * z.square() + (log_std + 0.5 * math.log(2.0 * math.pi))).sum(dim=-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian in nats, summed over the last axis."""
    return (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1)


def log_std_of_entropy(entropy: float) -> float:
    """log standard deviation of the one-dimensional Gaussian of this entropy in nats, clamped as policies are."""
    return min(max(entropy - 0.5 * math.log(2.0 * math.pi * math.e), LOG_STD_MIN), LOG_STD_MAX)


def squashed_gaussian_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """log-density of a = tanh(u), u ~ N(mean, exp(2 log_std)) (Haarnoja et al., 2018, appendix C)."""
    inside = action.clamp(-1.0 + SQUASH_MARGIN, 1.0 - SQUASH_MARGIN)
    before = torch.atanh(inside)
    return gaussian_log_prob(mean, log_std, before) - log_tanh_derivative(before).sum(dim=-1)


def squashed_gaussian_sample(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The reparameterized sample a = tanh(u), u = mean + std · noise, and its log-density.

    The density is evaluated before the squashing: inverting tanh would lose precision, and time. With
    log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u)) it is
    log π(a) = Σ (2u + 2 softplus(−2u) − log_std − noise²/2) − A (log(2π)/2 + 2 log 2).

    Args:
        parameters: a network's output [..., 2A], as `split_gaussian` takes it.
        noise: standard normal draws, [..., A].

    Returns:
        [..., A], and nats, [...].
    """
    mean, log_std = split_gaussian(parameters)
    before = torch.addcmul(mean, log_std.exp(), noise)
    terms = 2.0 * (before + softplus(-2.0 * before)) - log_std - 0.5 * noise.square()
    constant = noise.shape[-1] * (0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0))
    return before.tanh(), terms.sum(dim=-1) - constant


def squashed_gaussian_action(parameters: Tensor, noise: Tensor | None = None) -> Tensor:
    """tanh of the mean; with standard normal draws, [..., A], a sample.

    Args:
        parameters: a network's output [..., 2A], as `split_gaussian` takes it.
        noise: draws, or None.
    """
    mean, log_std = split_gaussian(parameters)
    return (mean if noise is None else mean + log_std.exp() * noise).tanh()


def squashed_gaussian_entropy(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """One-sample estimate of a squashed Gaussian's entropy in nats; it has no closed form.

    H = H[N] + E[log dtanh/du], with u = mean + exp(log_std) · noise.
    """
    before = mean + torch.exp(log_std) * noise
    return gaussian_entropy(log_std) + log_tanh_derivative(before).sum(dim=-1)


class Mixture(NamedTuple):
    """A mixture of M diagonal Gaussians.

    Attributes:
        log_weight: of each component, [..., M]; their exponentials add up to 1.
        mean, std: of each component, [..., M, A].
    """

    log_weight: Tensor
    mean: Tensor
    std: Tensor


def split_mixture(parameters: Tensor, components: int, actions: int) -> Mixture:
    """A network's output [..., M (1 + 2A)] as a mixture of M Gaussians; standard deviations are softplus + 1e-4."""
    size = components * actions
    logits, mean, raw = parameters.split([components, size, size], dim=-1)
    shape = (components, actions)
    std = softplus(raw.unflatten(-1, shape)) + MIXTURE_STD_MIN
    return Mixture(logits.log_softmax(dim=-1), mean.unflatten(-1, shape), std)


def mixture_log_prob(mixture: Mixture, value: Tensor) -> Tensor:
    """log Σ_m w_m N(value; mean_m, std_m), […], of values [..., A]."""
    parts = gaussian_log_prob(mixture.mean, mixture.std.log(), value.unsqueeze(-2))
    return (mixture.log_weight + parts).logsumexp(dim=-1)


def mixture_mode(mixture: Mixture) -> Tensor:
    """The mean of the likeliest component, [..., A]: the limit of a sample whose spread goes to 0."""
    return _of_component(mixture.mean, mixture.log_weight.argmax(dim=-1))


def mixture_sample(mixture: Mixture, noise: Tensor) -> Tensor:
    """A value [..., A] from standard normal draws [..., M + A]: M choose the component, A are scaled and shifted."""
    components = mixture.log_weight.shape[-1]
    chosen = categorical_sample([mixture.log_weight], noise[..., :components]).squeeze(-1)
    return _of_component(mixture.mean, chosen) + _of_component(mixture.std, chosen) * noise[..., components:]


def _of_component(parts: Tensor, component: Tensor) -> Tensor:
    """[..., M, A] of one component, int64 […]: [..., A]."""
    index = component[..., None, None].expand(*component.shape, 1, parts.shape[-1])
    return parts.gather(-2, index).squeeze(-2)


def log_tanh_derivative(before: Tensor) -> Tensor:
    """log(1 − tanh²(u)), in the form that doesn't lose precision for large |u|."""
    return 2.0 * (math.log(2.0) - before - softplus(-2.0 * before))


def allowed_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits [..., A] by which no action that the mask, bool [..., A], forbids is taken; as they are without one."""
    return logits if mask is None else logits.masked_fill(~mask, FORBIDDEN)


def including(mask: Tensor, choice: Tensor, choices: tuple[int, ...]) -> Tensor:
    """Masks, bool [..., ΣK], that allow what was done besides, for the loss of doing it to have a minimum.

    Args:
        mask: what was said to be allowed.
        choice: what was done, int64 [..., K], one column per independent choice, each from 0.
        choices: how many actions each choice has.
    """
    firsts = accumulate((0, *choices[:-1]))
    places = [column + first for column, first in zip(choice.unbind(dim=-1), firsts, strict=True)]
    return mask.scatter(-1, torch.stack(places, dim=-1), True)


def split_categoricals(logits: Tensor, choices: tuple[int, ...], mask: Tensor | None = None) -> list[Tensor]:
    """Joined logits [..., ΣK] as normalized log-probabilities [..., K_i] of each independent choice."""
    return [part.log_softmax(dim=-1) for part in allowed_logits(logits, mask).split(list(choices), dim=-1)]


def categorical_log_prob(log_probs: list[Tensor], action: Tensor) -> Tensor:
    """log-probability of integer actions [..., K], one column per independent choice."""
    columns = action.unbind(dim=-1)
    chosen = [part.gather(-1, column.unsqueeze(-1)) for part, column in zip(log_probs, columns, strict=True)]
    return torch.cat(chosen, dim=-1).sum(dim=-1)


def categorical_entropy(log_probs: list[Tensor]) -> Tensor:
    """Entropy in nats, summed over the independent choices."""
    return torch.stack([-(part.exp() * part).sum(dim=-1) for part in log_probs]).sum(dim=0)


def categorical_mode(log_probs: list[Tensor]) -> Tensor:
    """The likeliest action, int64 [..., K]."""
    return torch.stack([part.argmax(dim=-1) for part in log_probs], dim=-1)


def categorical_sample(log_probs: list[Tensor], noise: Tensor) -> Tensor:
    """An action drawn by the Gumbel-max trick from standard normal draws [..., ΣK], int64 [..., K].

    The normal's distribution function makes the draws uniform, −log(−log u) makes those Gumbel.
    """
    uniform = torch.special.ndtr(noise.double()).clamp(1e-12, 1.0 - 1e-12)
    gumbel = -torch.log(-torch.log(uniform))
    draws = gumbel.split([part.shape[-1] for part in log_probs], dim=-1)
    return torch.stack([(part + draw).argmax(dim=-1) for part, draw in zip(log_probs, draws, strict=True)], dim=-1)
