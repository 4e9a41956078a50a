"""Small MDPs whose values are known exactly, and fast simulation of many episodes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.off_policy.target_policies import ProbabilityPolicy
from offrl.types import Spec


@dataclass(frozen=True)
class FiniteMDP:
    """S states, A actions; `transition` may sum to less than 1: the rest is the chance of termination.

    Attributes:
        start: [S].
        transition: [S, A, S].
        reward: [S, A]; the mean, to which noise of `noise` standard deviations is added.
        behavior, target: [S, A].
        discount: γ.
        horizon: steps until the time limit, a part of the task.
    """

    start: Array
    transition: Array
    reward: Array
    behavior: Array
    target: Array
    discount: float
    horizon: int
    noise: float = 0.5

    def values(self, policy: Array) -> tuple[Array, Array]:
        """Q [horizon + 1, S, A] and V [horizon + 1, S] by backward induction; 0 at the horizon."""
        states, actions = self.reward.shape
        q, v = np.zeros((self.horizon + 1, states, actions)), np.zeros((self.horizon + 1, states))
        for t in reversed(range(self.horizon)):
            q[t] = self.reward + self.discount * self.transition @ v[t + 1]
            v[t] = np.sum(policy * q[t], axis=1)
        return q, v

    @cached_property
    def value(self) -> float:
        """What the target policy earns in an episode."""
        return float(self.start @ self.values(self.target)[1][0])

    def simulate(self, episodes: int, seed: int, *, error: float = 0.0) -> EpisodeLog:
        """Episodes of the behavior policy, with the target's values; wrong by `error` throughout.

        V̂ = Σ_a π(a|s) Q̂(s, a) holds whatever the error. Seen are the states' numbers.
        """
        rng = np.random.default_rng(seed)
        q = self.values(self.target)[0][: self.horizon]
        q = q + error * np.random.default_rng(7).normal(size=q.shape)
        v = np.sum(self.target * q, axis=2)
        state = _choose(rng, np.broadcast_to(self.start, (episodes, len(self.start))))
        alive, states = np.ones(episodes, dtype=bool), [state]
        names = ("alive", "reward", "behavior", "target", "q", "v", "action")
        rows: dict[str, list[Array]] = {name: [] for name in names}
        for t in range(self.horizon):
            action = _choose(rng, self.behavior[state])
            reward = self.reward[state, action] + self.noise * rng.normal(size=episodes)
            parts = (
                alive,
                reward,
                self.behavior[state, action],
                self.target[state, action],
                q[t, state, action],
                v[t, state],
                action,
            )
            for values, part in zip(rows.values(), parts, strict=True):
                values.append(part)
            going_on = self.transition[state, action]
            following = _choose(rng, np.column_stack([going_on, 1.0 - going_on.sum(axis=1)]))
            alive = alive & (following < len(self.start))
            state = np.where(following < len(self.start), following, state)
            states.append(state)
        kept = np.stack(rows.pop("alive"), axis=1)
        flat = {name: np.stack(values, axis=1)[kept] for name, values in rows.items()}
        lengths = kept.sum(axis=1)
        seen = np.arange(self.horizon + 1) <= lengths[:, np.newaxis]
        with np.errstate(divide="ignore"):
            target = np.log(flat["target"])
        return EpisodeLog(
            flat["reward"],
            np.log(flat["behavior"]),
            target,
            np.concatenate([[0], np.cumsum(lengths)]),
            ~alive,
            alive,
            self.discount,
            horizon=self.horizon,
            q=flat["q"],
            v=flat["v"],
            spaces=Spec(gym.spaces.Discrete(len(self.start)), gym.spaces.Discrete(self.reward.shape[1])),
            observations=np.stack(states, axis=1)[seen],
            taken=flat["action"].astype(np.int64),
        )

    def recorded(self, episodes: int, seed: int, *, distractors: int = 0) -> EpisodeLog:
        """Episodes as a dataset holds them: without values, and seen as vectors that hold noise too.

        Args:
            episodes: how many.
            seed: of the simulation.
            distractors: components of the noise. By them, networks can tell rows apart, and learn what one of them
                earned by heart.
        """
        log = self.simulate(episodes, seed)
        noise = np.random.default_rng([seed, 1]).normal(size=(log.rows, distractors))
        seen = np.concatenate([np.eye(len(self.start))[np.asarray(log.observations)], noise], axis=1)
        space = gym.spaces.Box(-np.inf, np.inf, seen.shape[1:], np.float32)
        return replace(
            log,
            target_log_prob=None,
            horizon=None,
            q=None,
            v=None,
            v_final=None,
            spaces=replace(log.spec, observation_space=space),
            observations=seen.astype(np.float32),
            name="finite",
        )

    def target_policy(self, name: str = "target") -> ProbabilityPolicy:
        """The target policy, as one acts that sees what `recorded` gives."""
        return ProbabilityPolicy(lambda seen: self.target[seen[:, : len(self.start)].argmax(axis=1)], name)


def _choose(rng: np.random.Generator, probabilities: Array) -> NDArray[np.int64]:
    """One column for each row, by its probabilities."""
    draws = rng.random((len(probabilities), 1))
    chosen: NDArray[np.int64] = np.sum(draws > np.cumsum(probabilities, axis=1)[:, :-1], axis=1)
    return chosen


def select(log: EpisodeLog, first: int, last: int) -> EpisodeLog:
    """The episodes `first` … `last` - 1."""
    rows = slice(int(log.offsets[first]), int(log.offsets[last]))
    assert log.q is not None
    assert log.v is not None
    assert log.v_final is not None
    return replace(
        log,
        reward=log.reward[rows],
        behavior_log_prob=log.behavior_log_prob[rows],
        target_log_prob=log.target_log_prob[rows],
        offsets=log.offsets[first : last + 1] - log.offsets[first],
        terminated=log.terminated[first:last],
        truncated=log.truncated[first:last],
        q=log.q[rows],
        v=log.v[rows],
        v_final=log.v_final[first:last],
        observations=None,
        taken=None,
    )


def _random_mdp(seed: int, *, going_on: float, discount: float, horizon: int) -> FiniteMDP:
    rng = np.random.default_rng(seed)
    states, actions = 4, 3
    target = rng.dirichlet(np.full(actions, 3.0), states)
    behavior = 0.5 * target + 0.5 / actions
    transition = rng.dirichlet(np.ones(states), (states, actions))
    # How likely an episode goes on depends on what is done, so lengths and weights are not independent.
    transition *= going_on + (1.0 - going_on) * rng.random((states, actions, 1)) if going_on < 1.0 else 1.0
    reward = rng.normal(0.5, 1.0, (states, actions))
    return FiniteMDP(rng.dirichlet(np.ones(states)), transition, reward, behavior, target, discount, horizon)


MDPS = {
    "fixed horizon": _random_mdp(1, going_on=1.0, discount=1.0, horizon=4),
    "episodes of variable length": _random_mdp(2, going_on=0.4, discount=0.95, horizon=30),
    "time limit": _random_mdp(3, going_on=0.8, discount=0.9, horizon=5),
}
"""Variable lengths: hardly any episode reaches the limit; time limit: most end by it, some terminate before."""
