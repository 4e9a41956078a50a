"""Episodes of a trained policy, or of random actions, written as a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from offrl import __version__, plugins
from offrl.data import schema
from offrl.data.schema import flatten_value
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.envs.episodes import CountedStep, rollouts, share_evenly
from offrl.envs.evaluator import MAX_PARALLEL, evaluate_random
from offrl.envs.exploration import random_actions, random_log_prob
from offrl.envs.make import Environments, environment_spec, make_environments
from offrl.envs.policy import Actor, Policy
from offrl.envs.spaces import check_spaces, single_precision, spaces_of
from offrl.errors import RequestError
from offrl.feeds.table import table_of
from offrl.files import whole_folder
from offrl.mdp import optimal_policy, soft_values
from offrl.ops.noise import NoiseSource
from offrl.replay.frame_stack import newest
from offrl.replay.normalization import ActionMap
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.types import Density, Spec

COLLECTION_STREAM, SAMPLING_STREAM, RANDOM_STREAM, TABLE_STREAM = 15_485_863, 4, 5, 6
DISCOUNT = 0.99
SHARD_BYTES = 8 * 2**20
"""Of rows that are written at once, less than usual: a full disk is found early, and little waits in memory."""


def collect(
    run: Run,
    *,
    episodes: int,
    destination: Path,
    checkpoint: str | None = None,
    seed: int = 0,
    env: str | None = None,
    stochastic: bool = False,
    reference_scores: bool = False,
    max_episode_steps: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run a policy for complete episodes and store them.

    The store takes its name once it is whole; a kill or Ctrl-C before leaves nothing of that name.

    A run of several seeds shares the episodes among its policies; each episode's source names the policy.

    Args:
        run: a run with a checkpoint.
        episodes: how many, over all the run's seeds.
        destination: a new directory for the store.
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
        seed: picks initial states and samples.
        env: a Gymnasium id in place of the run's own.
        stochastic: sample actions where the greedy ones are meant otherwise; their log-density is stored as
            `behavior_log_prob` where the policy has one (in the environment's action units).
        reference_scores: measure random actions over as many episodes as well, and store both mean returns
            as the dataset's reference scores.
        max_episode_steps: cut episodes there, whatever limit the environment has; None for the run's recipe's;
            one that nothing limits and that takes 50,000 steps is refused.
        overwrite: replace what is at `destination`, once the new store is whole.

    Returns:
        path, episodes, steps, mean, standard deviation, least and greatest return, and the reference scores.

    Raises:
        RequestError: the episodes can't be shared evenly among the seeds, no environment is known, or something is at
            the destination.
    """
    checkpoint = run.choose_checkpoint(checkpoint)
    policy, facts = load_policy(run, checkpoint)
    environment = env or facts["environment"]
    if environment is None:
        raise RequestError("this run names no environment to collect in", hint="name one with --env")
    if episodes % policy.seeds:
        raise RequestError(
            f"{episodes} episodes can't be shared evenly among the run's {policy.seeds} seeds",
            hint=f"ask for a multiple of {policy.seeds}",
        )
    copies, quota = share_evenly(episodes // policy.seeds, MAX_PARALLEL)
    limit = run.recipe.evaluation.max_episode_steps if max_episode_steps is None else max_episode_steps
    environments = make_environments(
        environment, policy.seeds * copies, frame_stack=policy.frame_stack, max_episode_steps=limit
    )
    try:
        check_spaces(policy.agent.spec, spaces_of(environments), environment)
        # Policies act on float32, so that is what the data holds of MuJoCo's float64 observations.
        spec = single_precision(environment_spec(environment))
        has_density = plugins.algorithms[run.recipe.algo].can(Density)
        behavior = PolicyBehavior(policy, has_density, run.recipe.seeds, seed, stochastic, copies)
        provenance = {
            "made_by": f"offrl {__version__} collect",
            "algo": run.recipe.algo,
            "checkpoint": checkpoint,
            "step": facts["step"],
            "training_seeds": list(run.recipe.seeds),
            "seed": seed,
            "stochastic": stochastic,
        }
        with whole_folder(destination, overwrite=overwrite) as folder:
            writer = _writer(folder, spec, environment, provenance, destination.name)
            store = _write(writer, _episodes(behavior, environments, spec, quota, seed, policy.frame_stack))
            if reference_scores:
                random = evaluate_random(environment, episodes, seed=seed, max_episode_steps=limit).returns
                scores = {
                    "random": float(random.mean()),
                    "expert": float(store.episodes.return_.mean()),
                    "measured_on": f"{environment}, {episodes} episodes each",
                }
                StoreWriter(folder, spec, append=True, reference_scores=scores).close()
    finally:
        environments.close()
    return _report(TrajectoryStore.open(destination))


def collect_random(
    environment: str,
    *,
    episodes: int,
    destination: Path,
    seed: int = 0,
    max_episode_steps: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Take random actions for complete episodes and store them, with their `behavior_log_prob`.

    Components of an action are uniform between two bounds, exponential beyond a single one (of mean 1), and standard
    normal without any, as Gymnasium samples them; their log-density is in the environment's action units. Discrete
    actions are each as probable as the others that the environment allows.

    Args:
        environment: a Gymnasium id.
        episodes: how many.
        destination: a new directory for the store.
        seed: picks initial states and actions.
        max_episode_steps: as in `collect`; 0 leaves the environment's own limit.
        overwrite: as in `collect`.

    Returns:
        what `collect` does.

    Raises:
        SpaceMismatchError: actions of that kind aren't drawn, or observations can't be stored.
        RequestError: the environment can't be made, or something is at the destination.
    """
    copies, quota = share_evenly(episodes, MAX_PARALLEL)
    environments = make_environments(environment, copies, max_episode_steps=max_episode_steps)
    try:
        spec = single_precision(spaces_of(environments))
        behavior = RandomBehavior(spec, copies, seed)
        provenance = {"made_by": f"offrl {__version__} collect --random", "seed": seed}
        with whole_folder(destination, overwrite=overwrite) as folder:
            writer = _writer(folder, spec, environment, provenance, destination.name)
            _write(writer, _episodes(behavior, environments, spec, quota, seed))
    finally:
        environments.close()
    return _report(TrajectoryStore.open(destination))


def collect_optimal(
    environment: str,
    *,
    episodes: int,
    destination: Path,
    seed: int = 0,
    temperature: float = 0.0,
    max_episode_steps: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Store complete episodes of a policy that is optimal for a toy-text environment's true reward, or softly so.

    Values are discounted by 0.99, without regard to a time limit.

    Args:
        environment: the Gymnasium id of an environment with a table of transitions.
        episodes: how many.
        destination: a new directory for the store.
        seed: picks initial states and actions.
        temperature: actions are drawn from the policy of maximum entropy for rewards divided by this, and their
            log-probability is stored; 0 takes the best action, the first one of several.
        max_episode_steps: as in `collect`; 0 leaves the environment's own limit.
        overwrite: as in `collect`.

    Returns:
        what `collect` does.

    Raises:
        RequestError: the environment can't be made, has no table of transitions, or something is at the destination.
    """
    behavior = TableBehavior(environment, seed, temperature)
    copies, quota = share_evenly(episodes, MAX_PARALLEL)
    environments = make_environments(environment, copies, max_episode_steps=max_episode_steps)
    try:
        provenance = {
            "made_by": f"offrl {__version__} collect --optimal",
            "seed": seed,
            "temperature": temperature,
            "discount": DISCOUNT,
        }
        spec = spaces_of(environments)
        with whole_folder(destination, overwrite=overwrite) as folder:
            writer = _writer(folder, spec, environment, provenance, destination.name)
            _write(writer, _episodes(behavior, environments, spec, quota, seed))
    finally:
        environments.close()
    return _report(TrajectoryStore.open(destination))


class Behavior(Protocol):
    """What acts while collecting.

    Attributes:
        names: who acts; each in the same number of copies, in this order.
        log_prob: [N], of the actions that `act` gave last; None where they have no density.
        masks: whether it does what the environment allows only; masks are stored, then.
    """

    names: list[str]
    log_prob: NDArray[np.float32] | None
    masks: bool

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment, and bool [N, A] if it tells of what it allows."""

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Told after each step what it earned, [N], and which episodes ended with it, bool [N]."""


class RandomBehavior:
    """Random actions, see `offrl.envs.exploration.random_actions`."""

    masks = True

    def __init__(self, spec: Spec, copies: int, seed: int) -> None:
        self.names, self.spec, self.copies = ["random actions"], spec, copies
        self.noise = NoiseSource([seed], torch.device("cpu"), RANDOM_STREAM)
        space = spec.action_space
        self.action_map = ActionMap.from_space(space) if isinstance(space, gym.spaces.Box) else None
        self.log_prob: NDArray[np.float32] | None = None

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        (draws,) = self.noise.draw((self.copies, self.spec.action_dim))
        chosen = random_actions(self.spec, draws, action_mask)
        self.log_prob = random_log_prob(self.spec, chosen, action_mask).astype(np.float32)
        action = chosen.numpy()
        raw = action if self.action_map is None else self.action_map.from_unit(action)
        return raw.reshape(self.copies, *(self.spec.action_space.shape or ()))

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """There is nothing to remember."""


class TableBehavior:
    """The policy that is optimal for a table's true reward, or that of maximum entropy at a temperature.

    The table has all actions, whatever the environment's mask says: it forbids those of no effect, as in Taxi.
    """

    masks = False

    def __init__(self, environment: str, seed: int, temperature: float) -> None:
        mdp = replace(table_of(environment, discount=DISCOUNT), horizon=None)
        assert mdp.reward is not None
        reward = mdp.expected_reward(mdp.reward)
        policy = soft_values(mdp, reward / temperature).log_policy.exp() if temperature else optimal_policy(mdp, reward)
        self.policy: NDArray[np.float64] = policy.numpy()
        self.names, self.temperature = ["optimal policy"], temperature
        self.rng = np.random.default_rng([TABLE_STREAM, seed])
        self.log_prob: NDArray[np.float32] | None = None

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        chances = self.policy[observation]
        draws = self.rng.random(len(chances)) * chances.sum(-1)
        action: NDArray[np.int64] = (chances.cumsum(-1) <= draws[:, None]).sum(-1)
        if self.temperature:
            self.log_prob = np.log(chances[np.arange(len(action)), action]).astype(np.float32)
        return action

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """There is nothing to remember."""


class PolicyBehavior:
    """The policy as it acts while collecting, and the log-density of what it just did.

    Args:
        policy: S seeds' policies.
        has_density: whether their algorithm tells densities, be it for some options only.
        seeds: their numbers.
        seed: picks samples.
        stochastic: whether to sample.
        copies: environments of each seed.
    """

    def __init__(
        self, policy: Policy, has_density: bool, seeds: tuple[int, ...], seed: int, stochastic: bool, copies: int
    ) -> None:
        self.policy, self.stochastic, self.actor = policy, stochastic, Actor(policy, copies)
        self.names, self.masks = [f"policy of seed {each}" for each in seeds], policy.masks
        agent: Any = policy.agent
        self.has_density = stochastic and has_density and agent.has_density
        self.shape = (copies, *agent.acting_noise_shape)
        agent_seeds = [int(np.random.SeedSequence([each, seed]).generate_state(1)[0]) for each in seeds]
        self.noise = NoiseSource(agent_seeds, policy.device, SAMPLING_STREAM)
        self.log_prob: NDArray[np.float32] | None = None

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        if not self.stochastic:
            return self.actor.greedy(observation, action_mask)
        policy, carry = self.policy, self.actor.carry
        observed = policy.observe(observation)
        action = self.actor.act(observed, self.noise.draw(self.shape), action_mask)
        if self.has_density:
            log_prob: NDArray[np.float32] = (
                policy.log_prob(observed, action, carry, action_mask).flatten().cpu().numpy()
            )
            self.log_prob = log_prob - _log_volume(policy.action_map)
        return policy.to_environment(action)

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Take in what the step earned, and forget the episodes that ended."""
        self.actor.stepped(reward, done)


def _log_volume(action_map: ActionMap | None) -> float:
    return 0.0 if action_map is None else action_map.log_volume


def _writer(folder: Path, spec: Spec, environment: str, provenance: dict[str, Any], name: str) -> StoreWriter:
    return StoreWriter(folder, spec, environment=environment, provenance=provenance, name=name, shard_bytes=SHARD_BYTES)


def _write(writer: StoreWriter, episodes: Iterator[EpisodeBlock]) -> TrajectoryStore:
    with writer:
        for block in episodes:
            writer.append(block)
    return TrajectoryStore.open(writer.path)


def _report(store: TrajectoryStore) -> dict[str, Any]:
    returns = store.episodes.return_
    return {
        "path": str(store.path),
        "environment": store.metadata.environment,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "mean_return": float(returns.mean()),
        "std_return": float(returns.std()),
        "min_return": float(returns.min()),
        "max_return": float(returns.max()),
        "reference_scores": store.metadata.reference_scores,
    }


def _episodes(
    behavior: Behavior, environments: Environments, spec: Spec, quota: int, seed: int, frames: int = 1
) -> Iterator[EpisodeBlock]:
    """Each complete episode as soon as it ends; of stacked observations, the newest one in each step."""
    copies = environments.count // len(behavior.names)
    reset_seeds = np.random.SeedSequence([COLLECTION_STREAM, seed]).generate_state(environments.count).tolist()
    running: list[list[dict[str, NDArray[Any]]]] = [[] for _ in reset_seeds]
    for step in rollouts(behavior, environments, quota, reset_seeds):
        mask, next_mask = (step.action_mask, step.next_action_mask) if behavior.masks else (None, None)
        rows = _rows(_shown(spec, step.observation, mask, frames), step, behavior.log_prob)
        final = _shown(spec, step.next_observation, next_mask, frames)
        for copy in np.nonzero(step.running)[0]:
            running[copy].append({name: values[copy] for name, values in rows.items()})
            if step.terminated[copy] or step.truncated[copy]:
                last = {name: values[copy] for name, values in final.items()}
                yield _block(running[copy], last, behavior.names[copy // copies])
                running[copy] = []


def _rows(
    shown: dict[str, NDArray[Any]], step: CountedStep, log_prob: NDArray[np.float32] | None
) -> dict[str, NDArray[Any]]:
    rows = {
        **shown,
        schema.ACTION: step.action,
        schema.REWARD: np.asarray(step.reward, np.float64),
        schema.TERMINATED: step.terminated,
        schema.TRUNCATED: step.truncated,
    }
    return rows if log_prob is None else {**rows, schema.BEHAVIOR_LOG_PROB: log_prob}


def _shown(spec: Spec, observation: Any, mask: NDArray[np.bool_] | None, frames: int) -> dict[str, NDArray[Any]]:
    columns = newest(flatten_value(spec.observation_space, observation, schema.OBSERVATION), frames)
    return columns if mask is None else {**columns, schema.ACTION_MASK: mask}


def _block(rows: list[dict[str, NDArray[Any]]], final: dict[str, NDArray[Any]], source: str) -> EpisodeBlock:
    """T rows and the final observation as one episode; the final row is zero but for the observation and its mask."""
    columns = {}
    for name in rows[0]:
        values = np.stack([row[name] for row in rows])
        last = final.get(name, np.zeros_like(values[0]))
        columns[name] = _single(np.concatenate([values, np.asarray(last, values.dtype)[None]]))
    return EpisodeBlock(columns=columns, lengths=np.array([len(rows)]), sources=[source])


def _single(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float64 else values
