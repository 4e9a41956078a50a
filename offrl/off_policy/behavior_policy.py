"""The probabilities of what was logged, where the log doesn't hold them: a policy cloned from it, checked by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.distributions import categorical_log_prob, gaussian_log_prob, split_categoricals, split_gaussian
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.folds import fold_of_episodes

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
        stopping_share: of the episodes that a network is fitted to, the share that it is only watched on, to stop it.
        check_every: gradient steps between looks at the likelihood of these.
        patience: looks without a better one after which a network is done; its best weights count.
    """

    folds: int = 5
    hidden: Sequence[int] = (64, 64)
    learning_rate: float = 1e-3
    batch_size: int = 512
    steps: int = 4_000
    stopping_share: float = 0.2
    check_every: int = 200
    patience: int = 3


@dataclass(frozen=True)
class BehaviorEstimate:
    """Probabilities of the logged actions, each by a network that hasn't seen its episode, nor was stopped by it.

    Attributes:
        log_prob: float64 [R], in nats and the environment's action units.
        held_out_log_likelihood: mean of `log_prob`.
        baseline_log_likelihood: the same for the policy that does what was done on average, whatever it sees.
        calibration_error: how far shares are from the probabilities that were foretold for them, on average: of each
            action among the steps that it had such a probability in, or, of continuous actions, below each quantile.
        folds: how many networks there were.
        steps: gradient steps of each network.
        warnings: what speaks against using it, one sentence each.
    """

    log_prob: NDArray[np.float64]
    held_out_log_likelihood: float
    baseline_log_likelihood: float
    calibration_error: float
    folds: int
    steps: tuple[int, ...]
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
    fit = _Fit(logged, config or BehaviorConfig(), seed)
    steps = fit.descend()
    return fit.judged(steps)


class _Fit:
    """One network for each fold, side by side on the seed axis."""

    def __init__(self, logged: EpisodeLog, config: BehaviorConfig, seed: int) -> None:
        self.logged, self.config, self.seed = logged, config, seed
        self.observation = torch.from_numpy(logged.features[logged.row])
        self.action = torch.from_numpy(np.ascontiguousarray(logged.agent_action))
        fold = fold_of_episodes(logged.episodes, config.folds, seed, "the behavior policy")
        self.folds = int(fold.max()) + 1
        self.held_out = [self._steps(fold == k) for k in range(self.folds)]
        self.training, self.stopping = zip(*(self._split(fold != k, k) for k in range(self.folds)), strict=True)
        outputs = logged.actions or 2 * self.action.shape[1]
        self.network = MLP(self.observation.shape[1], outputs, config.hidden, seed_generators([seed] * self.folds))
        self.optimizer = Adam(self.network, config.learning_rate)

    def _steps(self, episodes: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.flatnonzero(episodes[self.logged.episode]))

    def _split(self, seen: NDArray[np.bool_], fold: int) -> tuple[Tensor, Tensor]:
        """Of the episodes that a fold's network may see, the steps that it is fitted to, and those that stop it."""
        chosen = np.random.default_rng([self.seed, fold]).permutation(np.flatnonzero(seen))
        count = max(1, round(self.config.stopping_share * len(chosen)))
        stopping = np.isin(np.arange(len(seen)), chosen[:count])
        # A single episode has to do for both: it is neither reported on nor weighed by this network.
        return self._steps(seen & ~stopping if count < len(chosen) else seen), self._steps(stopping)

    def descend(self) -> tuple[int, ...]:
        """Fit each network until the likelihood of its stopping episodes falls; returns its best number of steps."""
        generator = torch.Generator().manual_seed(self.seed)
        best, best_step = np.full(self.folds, -np.inf), np.zeros(self.folds, np.int64)
        best_weights = [parameter.detach().clone() for parameter in self.network.own_parameters]
        for step in range(1, self.config.steps + 1):
            index = torch.stack([part[self._draw(len(part), generator)] for part in self.training])
            output = self.network(self.observation[index])
            self.optimizer.minimize(-self._log_prob(output, self.action[index]).mean(dim=1).sum())
            if step % self.config.check_every == 0 or step == self.config.steps:
                likelihood = self._likelihoods(self.stopping)
                better = (likelihood > best) & (step - best_step <= self.config.patience * self.config.check_every)
                best, best_step = np.where(better, likelihood, best), np.where(better, step, best_step)
                for kept, parameter in zip(best_weights, self.network.own_parameters, strict=True):
                    kept[better] = parameter.detach()[better]
                if (step - best_step >= self.config.patience * self.config.check_every).all():
                    break
        with torch.no_grad():
            for kept, parameter in zip(best_weights, self.network.own_parameters, strict=True):
                parameter.copy_(kept)
        return tuple(best_step.tolist())

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(count, (self.config.batch_size,), generator=generator)

    def _log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        if self.logged.actions is not None:
            return categorical_log_prob(split_categoricals(output, (self.logged.actions,)), action.unsqueeze(-1))
        log_prob: Tensor = gaussian_log_prob(*split_gaussian(output), action)
        return log_prob

    @torch.no_grad()
    def _outputs(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Of each network at steps of its own, [n, outputs] each."""
        results: list[list[Tensor]] = [[] for _ in parts]
        for start in range(0, max(len(part) for part in parts), ROWS_AT_ONCE):
            pieces = [part[start : start + ROWS_AT_ONCE] for part in parts]
            width = max(len(piece) for piece in pieces)
            padded = torch.stack([torch.nn.functional.pad(piece, (0, width - len(piece))) for piece in pieces])
            for result, piece, output in zip(results, pieces, self.network(self.observation[padded]), strict=True):
                result.append(output[: len(piece)])
        return [torch.cat(result) for result in results]

    def _likelihoods(self, parts: Sequence[Tensor]) -> NDArray[np.float64]:
        """Mean log-likelihood of each network at steps of its own, [K]."""
        outputs = self._outputs(parts)
        means = [self._log_prob(output, self.action[part]).mean() for output, part in zip(outputs, parts, strict=True)]
        return np.array([float(mean) for mean in means])

    def _unseen_outputs(self) -> Tensor:
        """Of each step, by the network that hasn't seen it, [R, outputs]."""
        result = self.observation.new_empty(len(self.observation), self.network.own_parameters[-1].shape[-1])
        for part, output in zip(self.held_out, self._outputs(self.held_out), strict=True):
            result[part] = output
        return result

    def judged(self, steps: tuple[int, ...]) -> BehaviorEstimate:
        """What came out, and how good it is."""
        output = self._unseen_outputs()
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
