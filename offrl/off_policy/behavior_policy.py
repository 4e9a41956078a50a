"""The probabilities of what was logged, where the log doesn't hold them: a policy cloned from it, checked by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.errors import RequestError
from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.distributions import categorical_log_prob, gaussian_log_prob, split_categoricals, split_gaussian
from offrl.off_policy.episode_log import EpisodeLog

ROWS_AT_ONCE = 16_384
CALIBRATION_BINS = 15
CALIBRATION_LIMIT = 0.05
"""A calibration error above this is warned of."""
LIKELIHOOD_SLACK = 0.02
"""Nats per step that the estimate may be worse than the average policy: where that one acted, no network is as good."""


@dataclass(frozen=True)
class BehaviorConfig:
    """How the behavior policy is fitted: a categorical one, or a Gaussian for continuous actions.

    Attributes:
        folds: the episodes are split into so many parts; each part's probabilities come from a network fitted to the
            others.
        hidden: widths of the networks' hidden layers.
        learning_rate: Adam's step size.
        batch_size: steps of the log in each gradient step.
        steps: gradient steps at most.
        check_every: gradient steps between looks at the held-out likelihood.
        patience: looks without a better one after which fitting ends; the best weights count.
    """

    folds: int = 5
    hidden: Sequence[int] = (64, 64)
    learning_rate: float = 1e-3
    batch_size: int = 512
    steps: int = 4_000
    check_every: int = 200
    patience: int = 3


@dataclass(frozen=True)
class BehaviorEstimate:
    """Probabilities of the logged actions, each by a network that hasn't seen its episode.

    Attributes:
        log_prob: float64 [R], in nats and the environment's action units.
        held_out_log_likelihood: mean of `log_prob`.
        baseline_log_likelihood: the same for the policy that does what was done on average, whatever it sees.
        calibration_error: how far shares are from the probabilities that were foretold for them, on average: of each
            action among the steps that it had such a probability in, or, of continuous actions, below each quantile.
        folds: how many networks there were.
        steps: gradient steps of each.
        warnings: what speaks against using it, one sentence each.
    """

    log_prob: NDArray[np.float64]
    held_out_log_likelihood: float
    baseline_log_likelihood: float
    calibration_error: float
    folds: int
    steps: int
    warnings: tuple[str, ...]


def estimate_behavior(logged: EpisodeLog, config: BehaviorConfig | None = None, seed: int = 0) -> BehaviorEstimate:
    """Clone the policy that acted, by maximum likelihood, cross-fitted over episodes.

    Args:
        logged: the log.
        config: how; None for the defaults.
        seed: of folds, weights and batches.

    Raises:
        RequestError: there is a single episode: nothing is left to check with.
    """
    config = config or BehaviorConfig()
    episodes = len(logged.lengths)
    if episodes < 2:
        raise RequestError(
            "the behavior policy can't be estimated from a single episode: none is left to check it with",
            hint="name a log of more episodes, or one that holds behavior_log_prob",
        )
    fit = _Fit(logged, config, min(config.folds, episodes), seed)
    steps = fit.descend()
    return fit.judged(steps)


class _Fit:
    """One network for each fold, side by side on the seed axis."""

    def __init__(self, logged: EpisodeLog, config: BehaviorConfig, folds: int, seed: int) -> None:
        self.logged, self.config, self.folds, self.seed = logged, config, folds, seed
        self.observation = torch.from_numpy(logged.features[logged.row])
        self.action = torch.from_numpy(np.ascontiguousarray(logged.agent_action))
        order = np.random.default_rng(seed).permutation(len(logged.lengths))
        fold_of_episode = np.empty(len(order), np.int64)
        fold_of_episode[order] = np.arange(len(order)) % folds
        self.fold = np.repeat(fold_of_episode, logged.lengths)
        self.training = [torch.from_numpy(np.flatnonzero(self.fold != k)) for k in range(folds)]
        self.held_out = [torch.from_numpy(np.flatnonzero(self.fold == k)) for k in range(folds)]
        outputs = logged.actions or 2 * self.action.shape[1]
        self.network = MLP(self.observation.shape[1], outputs, config.hidden, seed_generators([seed] * folds))
        self.optimizer = Adam(self.network, config.learning_rate)

    def descend(self) -> int:
        """Fit until the held-out likelihood falls; returns the number of steps that was best."""
        generator = torch.Generator().manual_seed(self.seed)
        best, best_step, best_flat = -np.inf, 0, self.network.flat.clone()
        for step in range(1, self.config.steps + 1):
            index = torch.stack([part[self._draw(len(part), generator)] for part in self.training])
            output = self.network(self.observation[index])
            self.optimizer.minimize(-self._log_prob(output, self.action[index]).mean(dim=1).sum())
            if step % self.config.check_every == 0:
                likelihood = float(self._held_out_log_prob().mean())
                if likelihood > best:
                    best, best_step = likelihood, step
                    best_flat.copy_(self.network.flat)
                elif step - best_step >= self.config.patience * self.config.check_every:
                    break
        self.network.flat.copy_(best_flat)
        return best_step

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(count, (self.config.batch_size,), generator=generator)

    def _log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        if self.logged.actions is not None:
            return categorical_log_prob(split_categoricals(output, (self.logged.actions,)), action.unsqueeze(-1))
        log_prob: Tensor = gaussian_log_prob(*split_gaussian(output), action)
        return log_prob

    @torch.no_grad()
    def _outputs(self) -> Tensor:
        """Of each step, by the network that hasn't seen it, [R, outputs]."""
        result = self.observation.new_empty(len(self.observation), self.network.own_parameters[-1].shape[-1])
        longest = max(len(part) for part in self.held_out)
        for start in range(0, longest, ROWS_AT_ONCE):
            parts = [part[start : start + ROWS_AT_ONCE] for part in self.held_out]
            width = max(len(part) for part in parts)
            padded = torch.stack([torch.nn.functional.pad(part, (0, width - len(part))) for part in parts])
            for part, output in zip(parts, self.network(self.observation[padded]), strict=True):
                result[part] = output[: len(part)]
        return result

    def _held_out_log_prob(self) -> Tensor:
        return self._log_prob(self._outputs(), self.action)

    def judged(self, steps: int) -> BehaviorEstimate:
        """What came out, and how good it is."""
        output = self._outputs()
        log_prob = self._log_prob(output, self.action).double().numpy()
        discrete = self.logged.actions is not None
        error = self._discrete_error(output) if discrete else self._continuous_error(output)
        baseline, likelihood = self._baseline(), float(log_prob.mean())
        warnings = []
        if error > CALIBRATION_LIMIT:
            warnings.append(
                f"The estimated behavior policy is off by {error:.3f} on average (calibration error on held-out "
                "episodes): weights that divide by its probabilities are biased."
            )
        if likelihood < baseline - LIKELIHOOD_SLACK:
            warnings.append("The estimated behavior policy foretells held-out actions worse than their average does.")
        return BehaviorEstimate(
            log_prob=log_prob - self.logged.log_volume,
            held_out_log_likelihood=likelihood - self.logged.log_volume,
            baseline_log_likelihood=baseline - self.logged.log_volume,
            calibration_error=error,
            folds=self.folds,
            steps=steps,
            warnings=tuple(warnings),
        )

    def _discrete_error(self, output: Tensor) -> float:
        probabilities = output.softmax(dim=-1).double().numpy()
        steps, actions = probabilities.shape
        taken = np.eye(actions)[self.action.numpy()]
        bins = np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        # Each action has bins of its own: what one is foretold too often, another is too rarely.
        bins += CALIBRATION_BINS * np.arange(actions)
        excess = np.bincount(bins.ravel(), (taken - probabilities).ravel())
        return float(np.abs(excess).sum() / (steps * actions))

    def _continuous_error(self, output: Tensor) -> float:
        mean, log_std = split_gaussian(output)
        quantile = np.sort(torch.special.ndtr((self.action - mean) * torch.exp(-log_std)).double().numpy(), axis=0)
        levels = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
        shares = np.stack([np.searchsorted(column, levels) / len(column) for column in quantile.T])
        return float(np.abs(shares - levels).mean())

    def _baseline(self) -> float:
        """Mean log-likelihood of the best policy that sees nothing."""
        if self.logged.actions is not None:
            shares = np.bincount(self.action.numpy(), minlength=self.logged.actions) / len(self.action)
            return float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
        std = self.action.double().std(dim=0, correction=0).clamp(min=1e-6)
        return float(-(std.log() + 0.5 * np.log(2.0 * np.pi * np.e)).sum())
