"""Fitted Q evaluation (Le et al., 2019), https://arxiv.org/abs/1903.08738: a policy's values by regression on a log.

Values are cross-fitted over episodes (Chernozhukov et al., 2018, https://arxiv.org/abs/1608.00060): each episode's come
from a network that hasn't seen it. Networks that have seen it reproduce part of its noise, so that what doubly robust
estimators correct with is too small, and their intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.nn import MLP, Adam, Schedule, seed_generators
from offrl.off_policy.choices import Choices
from offrl.off_policy.doubly_robust import FITTED, direct_method
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimator import Estimator
from offrl.off_policy.folds import fold_of_episodes

ROWS_AT_ONCE = 16_384
"""Rows whose values are computed together, once the networks are fitted."""
BATCHES_AT_ONCE = 64


@dataclass(frozen=True)
class FQEConfig:
    """How values are fitted.

    Attributes:
        folds: the episodes are split into so many parts; each part's values come from a network fitted to the others.
        hidden: widths of the networks' hidden layers.
        steps: gradient steps.
        batch_size: transitions in each, for each network.
        learning_rate: Adam's step size at the start; it falls linearly to 0.
        target_rate: share of the way that the target network goes towards the fitted one in each step.
    """

    folds: int = 2
    hidden: Sequence[int] = (128, 128)
    steps: int = 5_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    target_rate: float = 0.05


@dataclass(frozen=True)
class FittedValues:
    """Values of P policies at every step of a log, in units of the reward, by networks that haven't seen its episode.

    Attributes:
        q: float64 [P, R]; of the logged actions, the policy acting afterwards.
        v: float64 [P, R]; of the policy's own.
        v_final: float64 [P, N]; at the last observation of each episode: 0 behind a termination or the horizon.
        spread: float64 [P]; standard deviation, over the networks, of the mean value of all episodes' starts.
        error: float64 [P]; root mean square of r + γ V(s') − Q(s, a), in units of the reward.
    """

    q: NDArray[np.float64]
    v: NDArray[np.float64]
    v_final: NDArray[np.float64]
    spread: NDArray[np.float64]
    error: NDArray[np.float64]


def fit_q(
    log: EpisodeLog,
    policies: Sequence[Choices],
    config: FQEConfig | None = None,
    seed: int = 0,
    *,
    discount: float,
    horizon: int | None = None,
) -> FittedValues:
    """Fit Q ← r + γ E_π Q'(s', ·), for all policies and folds at once.

    A termination or the horizon ends the sum; a truncation doesn't: the value of what would have followed is taken
    from the network. Targets are clipped to the least and greatest sum that the logged rewards allow. With a horizon
    the networks see how much of it is over.

    Args:
        log: a dataset's, not cut: what lies behind the horizon is fitted too.
        policies: what each does at the log's rows.
        config: how; None for the defaults.
        seed: of folds, weights and batches.
        discount: γ, per step.
        horizon: values are of the first so many steps of an episode; None counts all that follow.

    Raises:
        RequestError: there is a single episode: no network could be fitted that hasn't seen it.
    """
    fit = _Fit(log, policies, config or FQEConfig(), seed, discount, horizon)
    for batch in fit.batches():
        fit.descend(*batch)
    return fit.values()


class _Fit:
    """Networks of P policies, one for each of K folds, and the log as tensors."""

    def __init__(
        self,
        log: EpisodeLog,
        policies: Sequence[Choices],
        config: FQEConfig,
        seed: int,
        discount: float,
        horizon: int | None,
    ) -> None:
        self.log, self.config, self.seed = log, config, seed
        fold = fold_of_episodes(log.episodes, config.folds, seed, "values")
        self.count, self.folds = len(policies), int(fold.max()) + 1
        self.step_fold = torch.from_numpy(fold[log.episode])
        self.row_fold = torch.from_numpy(np.repeat(fold, log.lengths + 1))
        self.training = [torch.nonzero(self.step_fold != k).squeeze(1) for k in range(self.folds)]
        self.features = torch.from_numpy(_with_time(log, horizon))
        self.row = torch.from_numpy(log.row)
        self.discrete = log.valued_actions is not None
        self.continues = log.continues if horizon is None else log.continues & (log.step + 1 < horizon)
        action = torch.from_numpy(np.ascontiguousarray(log.valued_action))
        self.action = action.long() if self.discrete else action.float()
        (low, high), to_go = value_bounds(log, discount, horizon), torch.from_numpy(_returns_to_go(log, discount))
        # Networks learn values that differ by about 1 best.
        self.scale = max(float(to_go.std(correction=0)), float(np.abs(log.reward).mean()), 1e-6)
        self.low, self.high = low / self.scale, high / self.scale
        self.reward = torch.from_numpy(log.reward / self.scale).float()
        self.discount = torch.from_numpy(discount * self.continues).float()
        self.choices = _stacked(_same_draws(policies), self.discrete)
        width = self.features.shape[1]
        weights = range(seed * config.folds, seed * config.folds + self.folds)
        self.network = MLP(
            width if self.discrete else width + self.action.shape[1],
            log.valued_actions or 1,
            config.hidden,
            # Policies start from the same weights and see the same batches: they differ by what they do alone.
            seed_generators(list(weights) * self.count),
        )
        # What was earned on average is a better start than 0: the target network takes long to get anywhere.
        starts = torch.stack([to_go[part].mean() for part in self.training]).float() / self.scale
        with torch.no_grad():
            last = self.network.own_parameters[-1].view(self.count, self.folds, -1)
            last.add_(starts.clamp(self.low, self.high)[:, None])
        self.target = self.network.clone()
        self.optimizer = Adam(self.network, config.learning_rate, schedule=Schedule(decay_steps=config.steps))

    def batches(self) -> Iterator[tuple[Tensor, int]]:
        """Indices of steps, of each network's own, [K, B], and which of the drawn actions to take next."""
        generator = torch.Generator().manual_seed(self.seed)
        size = min(self.config.batch_size, len(self.reward))
        for start in range(0, self.config.steps, BATCHES_AT_ONCE):
            count = min(BATCHES_AT_ONCE, self.config.steps - start)
            drawn = [part[torch.randint(len(part), (count, size), generator=generator)] for part in self.training]
            yield from ((index, start + i) for i, index in enumerate(torch.stack(drawn, dim=1)))

    def descend(self, index: Tensor, step: int) -> None:
        """One gradient step on the mean of (Q(s, a) − y)²."""
        row = self.row[index]
        with torch.no_grad():
            target = torch.addcmul(self.reward[index], self.discount[index], self._value(self.target, row + 1, step))
            target.clamp_(self.low, self.high)
        loss = (self._q(self.network, row, index) - target).square().mean(dim=-1)
        self.optimizer.minimize(loss.sum())
        self.target.move_towards(self.network, self.config.target_rate)

    def _apply(self, network: MLP, inputs: Tensor) -> Tensor:
        """All networks' outputs, [P, K, B, outputs], from inputs [P, K, B, …] or such that the policies share."""
        shape = (self.count, *inputs.shape[-3:])
        output: Tensor = network(inputs.expand(shape).flatten(0, 1))
        return output.view(*shape[:3], -1)

    def _q(self, network: MLP, row: Tensor, index: Tensor) -> Tensor:
        """Q of the logged actions, [P, K, B], at steps [K, B]."""
        features, action = self.features[row], self.action[index]
        if not self.discrete:
            return self._apply(network, torch.cat([features, action], dim=-1)).squeeze(-1)
        q = self._apply(network, features)
        return q.gather(-1, action.expand(q.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def _value(self, network: MLP, row: Tensor, draw: int) -> Tensor:
        """V of the policies, [P, K, B]: the expectation over discrete actions, or one of those drawn.

        Of values that are clipped already: were the expectation clipped instead, it wouldn't be that of the Q which
        doubly robust estimators take from it, and these be biased.
        """
        features = self.features[row]
        if not self.discrete:
            action = self.choices[:, draw % self.choices.shape[1], row]
            paired = torch.cat([features.expand(*action.shape[:-1], -1), action], dim=-1)
            return self._apply(network, paired).squeeze(-1).clamp_(self.low, self.high)
        q = self._apply(network, features).clamp_(self.low, self.high)
        expected: Tensor = (q * self.choices[:, row]).sum(dim=-1)
        return expected

    @torch.no_grad()
    def values(self) -> FittedValues:
        """Of the target networks: they move less than the others."""
        log = self.log
        v = self._unseen(self._state_values, torch.arange(len(self.features)), self.row_fold)
        q = self._unseen(self._action_values, torch.arange(len(self.reward)), self.step_fold)
        starts = self._state_values(torch.from_numpy(log.first_row)).mean(dim=-1)
        error = self.reward * self.scale + self.discount * v[:, self.row + 1] - q
        return FittedValues(
            q=q.numpy(),
            v=v[:, self.row].numpy(),
            v_final=v.numpy()[:, log.final_row] * self.continues[log.offsets[1:] - 1],
            spread=starts.std(dim=1, correction=0).numpy(),
            error=error.square().mean(dim=1).sqrt().numpy(),
        )

    def _state_values(self, rows: Tensor) -> Tensor:
        """V by every network at some rows [n], float64 [P, K, n], in units of the reward."""
        shared = rows.expand(self.folds, -1)
        draws = 1 if self.discrete else self.choices.shape[1]
        values = torch.stack([self._value(self.target, shared, draw) for draw in range(draws)]).mean(dim=0)
        return values.double() * self.scale

    def _action_values(self, steps: Tensor) -> Tensor:
        """Q by every network of what was done at some steps [n], likewise."""
        shared = steps.expand(self.folds, -1)
        return self._q(self.target, self.row[shared], shared).clamp(self.low, self.high).double() * self.scale

    def _unseen(self, values: Callable[[Tensor], Tensor], index: Tensor, fold: Tensor) -> Tensor:
        """Of all networks' values those of the network that hasn't seen the episode, [P, n]."""
        parts = [
            values(part).gather(1, fold[part].expand(self.count, 1, -1)).squeeze(1)
            for part in index.split(ROWS_AT_ONCE)
        ]
        return torch.cat(parts, dim=-1)


def value_bounds(log: EpisodeLog, discount: float, horizon: int | None = None) -> tuple[float, float]:
    """The least and greatest value that rewards within the logged range allow."""
    low, high = float(log.reward.min()), float(log.reward.max())
    geometric = float(horizon or log.lengths.max())
    if discount < 1.0:
        geometric = (1.0 - discount ** (horizon or np.inf)) / (1.0 - discount)
    # Where no episode ever ends, all rewards count; else some sums are of one reward only.
    ends = bool(log.terminated.any()) or horizon is not None
    least = min(low, low * geometric) if ends else low * geometric
    greatest = max(high, high * geometric) if ends else high * geometric
    return least, greatest


def _with_time(log: EpisodeLog, horizon: int | None) -> NDArray[np.float32]:
    """The features, with the share of the horizon that is over behind them if there is one."""
    if horizon is None:
        return log.features
    over = np.minimum(log.time / horizon, 1.0).astype(np.float32)
    return np.concatenate([log.features, over[:, None]], axis=1)


def _same_draws(choices: Sequence[Choices]) -> list[Choices]:
    """As many drawn actions of each policy: those that draw none repeat theirs."""
    most = max((len(each.actions) for each in choices if each.actions is not None), default=1)
    return [
        each
        if each.actions is None or len(each.actions) == most
        else replace(each, actions=np.broadcast_to(each.actions[:1], (most, *each.actions.shape[1:])))
        for each in choices
    ]


def _stacked(policies: Sequence[Choices], discrete: bool) -> Tensor:
    """Probabilities [P, rows, A], or drawn actions [P, K, rows, A]."""
    parts = [policy.probabilities if discrete else policy.actions for policy in policies]
    return torch.from_numpy(np.stack([part for part in parts if part is not None])).float()


def _returns_to_go(log: EpisodeLog, discount: float) -> NDArray[np.float64]:
    """Discounted sums of the rewards from each step to the end of its episode, [R]."""
    to_go = np.array(log.reward, np.float64)
    # Episodes side by side, from their last steps to their first.
    for back in range(1, int(log.lengths.max())):
        here = (log.offsets[1:] - 1 - back)[log.lengths > back]
        to_go[here] += discount * to_go[here + 1]
    return to_go


ESTIMATOR = Estimator(
    "fitted Q evaluation: the direct method by its values",
    lambda ask: direct_method(ask.log, "fqe"),
    needs=("values",),
    caveat=FITTED,
    has_interval=False,
)
