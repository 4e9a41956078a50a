"""A run's policy for programs that step an environment themselves: one raw observation or many in, actions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offrl.data.schema import OBSERVATION, flatten_space, flatten_value, unflatten_value
from offrl.envs.policy import Actor, Policy
from offrl.errors import RequestError, SpaceMismatchError
from offrl.ops.noise import NoiseSource
from offrl.runs.load import load_policy, policy_of_seed

if TYPE_CHECKING:
    from offrl.runs.run import Run

SAMPLING_STREAM = 7


class ActingPolicy:
    """One seed's policy, called with what the environment shows.

    Observations and actions are in the environment's own units, types and shapes; the normalizer, frame stacks and
    what acting remembers of an episode are inside.

    Args:
        policy: of one seed.
        name: what it is, for people.
        seed: picks samples.
        stochastic: sample actions, where the algorithm does; greedy ones otherwise.

    Example:
        >>> policy = run.policy()
        >>> observation, info = env.reset()
        >>> action = policy(observation)
    """

    def __init__(self, policy: Policy, name: str, *, seed: int = 0, stochastic: bool = False) -> None:
        self.policy, self.name, self.stochastic = policy, name, stochastic
        leaves = flatten_space(policy.agent.spec.observation_space, OBSERVATION)
        self.dtypes = {name: space.dtype for name, space in leaves.items()}
        # Of one observation: those that the agent sees have the frames in front.
        self.shapes = {name: (space.shape or ())[policy.frame_stack > 1 :] for name, space in leaves.items()}
        self.noise = NoiseSource([seed], policy.device, SAMPLING_STREAM)
        self.reset()

    def __call__(
        self, observation: Any, *, action_mask: ArrayLike | None = None, reward: ArrayLike | None = None
    ) -> Any:
        """The action for an observation, or the actions [N, …] for N of them.

        Args:
            observation: as the environment's space has it; with a leading axis in every part, it is N of them, one of
                each episode that goes on side by side.
            action_mask: which Discrete actions are allowed, [A], or [N, A]; algorithms that can't heed it don't.
            reward: what the actions before earned, a number or [N]; only policies that go by it need to be told. Where
                an episode begins it doesn't matter.

        Raises:
            SpaceMismatchError: it isn't an observation of the policy's space.
            RequestError: N is another number than since the last `reset`, and the policy remembers episodes; or it goes
                by rewards, and isn't told of one within an episode.
        """
        columns, single = self._columns(observation)
        count = len(next(iter(columns.values())))
        actor = self._actor_for(count)
        if self.policy.rewards is not None:
            actor.stepped(self._earned(reward), np.zeros(count, np.bool_))
        shown = unflatten_value(self.policy.agent.spec.observation_space, self._stacked(columns), OBSERVATION)
        mask = None if action_mask is None else np.asarray(action_mask, np.bool_).reshape(count, -1)
        draws = None
        if self.stochastic:
            draws = self.noise.draw((count, *self.policy.agent.acting_noise_shape))
        action = self.policy.to_environment(actor.act(self.policy.observe(shown), draws, mask))
        self._begins = np.zeros(count, np.bool_)
        return action[0] if single else action

    def reset(self, ended: ArrayLike | None = None) -> None:
        """Begin a new episode: what is remembered of the one before is forgotten.

        Args:
            ended: bool [N], where episodes go on side by side: those that ended; None for all.
        """
        if ended is None or self._actor is None:
            self._actor: Actor | None = None
            self._frames: dict[str, NDArray[Any]] = {}
            self._begins = np.ones(0, np.bool_)
            return
        done = np.asarray(ended, np.bool_).reshape(-1)
        self._actor.ended(done)
        self._begins |= done

    def __repr__(self) -> str:
        return f"<{self.name}{', sampling' if self.stochastic else ''}>"

    def _columns(self, observation: Any) -> tuple[dict[str, NDArray[Any]], bool]:
        """The parts of one or several observations, [N, …], and whether it was one."""
        parts = flatten_value(self.policy.agent.spec.observation_space, observation, OBSERVATION)
        arrays = {name: np.asarray(part, self.dtypes[name]) for name, part in parts.items()}
        extra = {array.ndim - len(self.shapes[name]) for name, array in arrays.items()}
        if extra == {0}:
            arrays = {name: array[None] for name, array in arrays.items()}
        fits = all(array.shape[1:] == self.shapes[name] for name, array in arrays.items())
        if extra not in ({0}, {1}) or not fits or len({len(array) for array in arrays.values()}) > 1:
            shapes = ", ".join(f"{name} {list(np.shape(part))}" for name, part in parts.items())
            wanted = ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
            raise SpaceMismatchError(
                f"the policy was shown {shapes}", hint=f"show it {wanted}, or that with one leading axis more for many"
            )
        return arrays, extra == {0}

    def _earned(self, reward: ArrayLike | None) -> NDArray[np.float64]:
        """What the steps before earned, [N]; nothing where episodes begin."""
        if reward is None and not self._begins.all():
            raise RequestError(
                "the policy goes by the rewards that it earns, and wasn't told what its last action earned",
                hint="hand it over: policy(observation, reward=reward); or call reset() where an episode begins",
            )
        earned = np.zeros(1) if reward is None else np.asarray(reward, np.float64).reshape(-1)
        return np.where(self._begins, 0.0, earned)

    def _actor_for(self, count: int) -> Actor:
        """What remembers the episodes that go on side by side."""
        if self._actor is not None and len(self._begins) != count:
            if self._actor.remembers or self.policy.frame_stack > 1:
                raise RequestError(
                    f"the policy remembers {len(self._begins)} episodes, and was shown {count} observations",
                    hint="call its reset() before episodes begin, and show it one observation of each from then on",
                )
            self._actor = None
        if self._actor is None:
            self._actor, self._begins = Actor(self.policy, count), np.ones(count, np.bool_)
        return self._actor

    def _stacked(self, columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """With the newest frames along a second axis, if it sees several: the first one stands for those before it."""
        frames, begins = self.policy.frame_stack, self._begins
        if frames == 1:
            return columns
        for name, newest in columns.items():
            repeated = np.repeat(newest[:, None], frames, axis=1)
            if not begins.all():
                moved = np.concatenate([self._frames[name][:, 1:], newest[:, None]], axis=1)
                repeated[~begins] = moved[~begins]
            self._frames[name] = repeated
        return self._frames


def acting_policy(run: Run, checkpoint: str, seed: int, *, stochastic: bool) -> ActingPolicy:
    """One of a run's policies, ready to act.

    Raises:
        RequestError: the run has no such seed.
        RunError: there is no such checkpoint, or it is damaged.
    """
    seeds = run.recipe.seeds
    if seed not in seeds:
        raise RequestError(
            f"the run has no seed {seed}", where=str(run.path), hint=f"choose from {', '.join(map(str, seeds))}"
        )
    policy, facts = load_policy(run, checkpoint)
    name = f"policy of {run.path}, {run.recipe.algo}, seed {seed}, step {facts['step']} ({checkpoint} checkpoint)"
    return ActingPolicy(policy_of_seed(policy, seeds.index(seed), seed), name, seed=seed, stochastic=stochastic)
