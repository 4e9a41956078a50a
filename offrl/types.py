"""The types that every part of offrl shares: what an environment looks like, what a batch is, what an agent does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space

if TYPE_CHECKING:
    # Datasets are listed, converted and checked without PyTorch, which takes seconds to import.
    import torch
    from torch import Tensor

Observation: TypeAlias = "Tensor | dict[str, Tensor]"
"""One tensor, or a flat mapping of dotted keys (``"camera.left"``) to tensors where the space is nested."""

Metrics: TypeAlias = "dict[str, Tensor]"
"""Name to a tensor of shape [S, …], left on the device until somebody reads it: each seed's mean is its value.

Where batches carry importance weights, `td_error` [C, S, B] tells prioritized replay each transition's |TD error|.
"""

Noise: TypeAlias = "dict[str, Tensor]"
"""Name to standard normal draws of shape [S, …]: an update's randomness arrives as data."""

NEXT_ACTION, RETURN_TO_GO = "next_action", "return_to_go"
COLUMNS = (NEXT_ACTION, RETURN_TO_GO)
"""What batches hold only for algorithms that ask for it, by declaring it in their records' `columns`."""

NOT_SAVED: Mapping[str, bool] = {"saved": False}
"""Metadata of a field of an agent's state that checkpoints leave out: there it is as at the start of training."""


@dataclass(frozen=True)
class Spec:
    """What an agent must know of the task: the two spaces, as Gymnasium describes them."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    @property
    def is_continuous(self) -> bool:
        return isinstance(self.action_space, gym.spaces.Box)

    @property
    def action_dim(self) -> int:
        """Length of the flat action vector: a Box's components, or all the choices of a Discrete or MultiDiscrete."""
        space = self.action_space
        if isinstance(space, gym.spaces.Box):
            return int(np.prod(space.shape))
        if isinstance(space, gym.spaces.Discrete):
            return int(space.n)
        if isinstance(space, gym.spaces.MultiDiscrete):
            return int(space.nvec.sum())
        raise TypeError(f"no agent acts in a {type(space).__name__} space")

    def stacked(self, frames: int) -> Spec:
        """With `frames` observations along a new leading axis of every part; as they are for a single one."""
        if frames == 1:
            return self
        return Spec(batch_space(self.observation_space, frames), self.action_space)


@dataclass(frozen=True)
class Batch:
    """Transitions for one gradient step, as the agent sees them: observations normalized, actions mapped to [-1, 1].

    Leading axes are [S, B]: seeds, then transitions. A whole cycle's worth of batches carries one more axis in front
    ([C, S, B]); `unbind` takes it apart. Windows carry a time axis behind ([S, B, T]), and so do rollouts: there B
    counts a seed's environments, and the T consecutive steps of each may cross the ends of episodes.

    Attributes:
        observation: float32 [S, B, …] (uint8 for images), or a mapping of such tensors.
        action: float32 [S, B, A] for a Box, int64 [S, B] for Discrete, int64 [S, B, K] for MultiDiscrete.
        reward: float32 [S, B]; with n-step returns the discounted sum of up to n rewards.
        discount: float32 [S, B]; the factor on the bootstrap value: γ^k for k rewards summed, 0 after `terminated`.
        next_observation: like `observation`; the state that the bootstrap value is taken in.
        terminated: float32 [S, B]; 1 where the transition ended in a terminal state. A truncation is not one.
        truncated: float32 [S, B, T], in rollouts; 1 where the episode was cut off behind the step: `next_observation`
            is bootstrapped from, and nothing flows back from the step behind.
        behavior_log_prob: float32 [S, B]; log-density or log-probability under the policy that acted, where logged.
        action_mask: bool [S, B, A]; the actions that were allowed; all, where that was not logged.
        next_action_mask: bool [S, B, A]; those allowed in `next_observation`; all, where that was not logged.
        mask: bool [S, B, T] for windows; False on padding.
        timestep: int64 [S, B, T] for windows; how many steps of its episode came before each, its last on padding.
        weight: float32 [S, B]; importance weights of prioritized replay.
        index: int64 [S, B]; the transition's index at its source; in prioritized replay, its place there.
        next_action: like `action`, only where it is asked for; what was done in `next_observation`. Where nothing was,
            or it isn't known, it is the action of the step before, and to be left out of account.
        next_action_known: float32 [S, B], beside `next_action`; 0 where the episode ended, or is running and has come
            no further, in `next_observation`.
        return_to_go: float32 [S, B], only where it is asked for; the discounted sum of the rewards, as agents see them,
            from this step to the episode's end. Of an episode that was truncated it holds what was seen, without an
            estimate of the rest. -inf while an own episode is running, as its return is not known yet.
    """

    observation: Observation
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Observation
    terminated: Tensor
    truncated: Tensor | None = None
    behavior_log_prob: Tensor | None = None
    action_mask: Tensor | None = None
    next_action_mask: Tensor | None = None
    mask: Tensor | None = None
    timestep: Tensor | None = None
    weight: Tensor | None = None
    index: Tensor | None = None
    next_action: Tensor | None = None
    next_action_known: Tensor | None = None
    return_to_go: Tensor | None = None

    def unbind(self) -> list[Batch]:
        """Take the leading axis apart, without copying."""
        columns = [_unbound(getattr(self, name)) for name in self.__dataclass_fields__]
        return [Batch(*values) for values in zip(*columns, strict=False)]

    def repeat_seeds(self, seeds: int) -> Batch:
        """One seed's batch [1, B, …] as that of several seeds, [seeds, B, …], without copying."""
        return replace(self, **{f.name: _repeat(getattr(self, f.name), seeds) for f in fields(self)})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        import torch

        if self.reward.device == torch.device(device):
            return self
        return replace(self, **{f.name: _move(getattr(self, f.name), device) for f in fields(self)})


def _unbound(value: Any) -> Iterable[Any]:
    """A field's values along the leading axis; None without end where there are none."""
    if isinstance(value, dict):
        parts = zip(*(tensor.unbind() for tensor in value.values()), strict=True)
        return [dict(zip(value, part, strict=True)) for part in parts]
    return itertools.repeat(None) if value is None else value.unbind()


def _repeat(value: Any, seeds: int) -> Any:
    if isinstance(value, dict):
        return {key: _repeat(tensor, seeds) for key, tensor in value.items()}
    return None if value is None else value.expand(seeds, *value.shape[1:])


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, dict):
        return {key: tensor.to(device, non_blocking=True) for key, tensor in value.items()}
    return None if value is None else value.to(device, non_blocking=True)


StateT = TypeVar("StateT")
CarryT = TypeVar("CarryT")


class Agent(Protocol[StateT, CarryT]):
    """One algorithm for one task (options and spaces are its constructor's arguments).

    It never knows where a batch came from, and everything that training changes is in its state.

    Attributes:
        spec: the task's spaces.
        discount: γ, per step; what `Batch.discount` is made of. 1 where nothing is bootstrapped.
        batches_per_update: batches that one `update` call consumes (TD3: `policy_delay`, one for each critic step).
        acting_noise_shape: shape, for each observation, of the standard normal draws that make `act` explore.
    """

    spec: Spec
    discount: float
    batches_per_update: int
    acting_noise_shape: tuple[int, ...]

    def init(self, seeds: Sequence[int], device: torch.device) -> StateT:
        """Networks, targets and optimizers for S seeds; parameters are [S, …]."""

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Shapes, per seed, of the standard normal draws that one `update` consumes."""

    def update(self, state: StateT, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """Change `state` in place by one whole cycle of the algorithm; a deterministic function of its arguments.

        Losses are computed and differentiated by autograd. The training loop calls it once, and from then on repeats
        what it did to tensors: nothing may hang on their values (no `if`, no `item()`), and no NumPy may come between.
        """

    def initial_carry(self, state: StateT, count: int) -> CarryT:
        """What acting remembers where an episode begins: tensors [S, count, …] in tuples, dicts or dataclasses.

        `()` where acting needs no memory.
        """

    def act(
        self,
        state: StateT,
        observation: Observation,
        carry: CarryT,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, CarryT]:
        """Actions for observations [S, N, …], and what to hand on to the next call.

        Args:
            state: what `init` made.
            observation: [S, N, …].
            carry: of each observation's episode, from `initial_carry` or the call before.
            noise: standard normal draws [S, N, *acting_noise_shape] to explore with; greedy without.
            action_mask: bool [S, N, A], the actions that the environment allows, any of them; only algorithms that
                declare `masks` are told.
        """


class Density(Protocol):
    """A policy whose sampled actions have a density, or a probability.

    Attributes:
        has_density: whether they do with these options: a deterministic or a clipped action has none.
    """

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`."""

    def log_prob(
        self, state: Any, observation: Observation, action: Tensor, carry: Any, action_mask: Tensor | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats, without a gradient; densities are with respect to actions in [-1, 1].

        `carry` is what `act` was, or would be, given.
        """


class CriticOnly(Protocol):
    """Critics that can learn while the policy stands still."""

    def update_critic(self, state: Any, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`update` with the policy left as it is."""


class Validates(Protocol):
    """A loss that tells on held-out data how well the data is fitted: less of it is a better policy.

    So has what imitates. What improves on the data has no such loss: a temporal-difference error is measured against
    targets that the same networks make, and is least where they have learned nothing; the likelihood of the data's
    actions is greatest where the policy leaves them as they are.
    """

    def validation_loss(self, state: Any, batch: Batch) -> Tensor:
        """The loss of the weights that act, [S], without a gradient."""


class Penalized(Protocol):
    """Coefficients of penalties that may differ from seed to seed, and can therefore be cross-validated side by side.

    Attributes:
        penalties: their names, options of the algorithm.
    """

    penalties: ClassVar[tuple[str, ...]]

    def set_penalty(self, state: Any, name: str, values: Tensor) -> None:
        """Give each seed a coefficient of its own, [S]."""


class GivesPolicy(Protocol):
    """A policy network that other algorithms can start from.

    Attributes:
        kind: "deterministic", "gaussian", "squashed_gaussian" or "categorical".
    """

    kind: str

    def policy_network(self, state: Any) -> Any:
        """The `offrl.nn.MLP` that acts."""


class StartsFromPolicy(Protocol):
    """An actor that can start as another algorithm's policy.

    Attributes:
        adopted_options: options that the two must share.
    """

    adopted_options: ClassVar[tuple[str, ...]]

    def adopt_policy(self, state: Any, policy: Any, kind: str) -> None:
        """Make the greedy actions those of `policy`, an `offrl.nn.MLP`.

        Args:
            state: changed in place.
            policy: what `GivesPolicy.policy_network` gave.
            kind: its `GivesPolicy.kind`.

        Raises:
            RecipeError: the kind doesn't fit, or options of the two networks differ.
            SpaceMismatchError: the networks read observations of different widths.
        """


class Scheduled(Protocol):
    """Step sizes that may fall to nothing at some step, as `offrl.nn.Schedule` has them."""

    def ended_schedule(self, state: Any) -> int:
        """The steps taken, where a schedule has ended and nothing will be learned any more; else 0."""


class ObservesReward(Protocol):
    """Acting that goes by the rewards that it earned, such as by a return that is still to be reached."""

    def observe_reward(self, carry: Any, reward: Tensor) -> Any:
        """What is remembered once the last actions earned these rewards, float32 [S, N], scaled as those of batches.

        `carry` is what `act` gave with those actions.
        """


class EpisodesCut(Protocol):
    """An agent that goes on from the end of one rollout to the beginning of the next."""

    def episodes_cut(self, state: Any) -> None:
        """The running episodes were cut behind the last rollout: nothing goes on from there."""


class GivesReward(Protocol):
    """A reward that was learned from demonstrations.

    Attributes:
        length_bias: which episode lengths the form of the reward favors by itself: "positive" rewards favor long ones,
            "negative" short ones, "logit" either; "" where something keeps lengths out of it.
    """

    @property
    def length_bias(self) -> str:
        """Which episode lengths the form of the reward favors by itself."""

    def reward(self, state: Any, batch: Batch) -> Tensor:
        """Rewards of transitions, float32 [S, B], without a gradient.

        Args:
            state: of the agent, for S seeds.
            batch: [S, B, …], as agents see it; of it, the observations, the action and `terminated` are read.
        """


class Demonstrated(Protocol):
    """An agent whose updates take batches of demonstrations behind its own.

    Attributes:
        demonstration_batches: how many.
    """

    demonstration_batches: int
