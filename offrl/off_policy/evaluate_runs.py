"""Off-policy evaluation of runs, of ONNX files, and of policies that are a column of a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl import plugins
from offrl.collection.collect import PolicyBehavior
from offrl.converters.catalog import open_dataset
from offrl.data.trajectories import Trajectories
from offrl.envs.episodes import Acts, rollouts, share_evenly
from offrl.envs.evaluator import MAX_PARALLEL
from offrl.envs.make import make_environment, make_environments
from offrl.envs.spaces import check_spaces, spaces_of
from offrl.envs.starts import Purpose, Starts
from offrl.errors import RequestError, SpaceMismatchError
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimator import find_estimator
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.read_log import read_log
from offrl.off_policy.results import Evaluation
from offrl.off_policy.target_policies import (
    DRAWS,
    LOG_PROB_SUFFIX,
    ColumnPolicy,
    OnnxPolicy,
    TargetPolicy,
    smoothed_choices,
)
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.types import Density, Spec

TRUTH_STREAM = 104_729


@dataclass(frozen=True)
class Acting:
    """How the policies act that are valued.

    Attributes:
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that each run's training reported.
        seed_index: only the policy of a run's so-manieth seed, from 0; None for all.
        stochastic: sample actions where the greedy ones are meant otherwise.
        epsilon: share of uniformly random actions, among discrete ones.
        kernel_bandwidth: standard deviation of noise on continuous greedy actions, mapped to [-1, 1]; 0 for none.
    """

    checkpoint: str | None = None
    seed_index: int | None = None
    stochastic: bool = False
    epsilon: float = 0.0
    kernel_bandwidth: float = 0.0


@dataclass(frozen=True)
class Trial:
    """Where the truth is from: the policies act in an environment.

    Attributes:
        environment: a Gymnasium id.
        episodes: of each policy.
        max_episode_steps: cut them there; 0 leaves the environment's own limit.
    """

    environment: str
    episodes: int = 100
    max_episode_steps: int = 0


def evaluate_policies(
    paths: Sequence[Path],
    dataset: str,
    plan: Plan,
    acting: Acting | None = None,
    *,
    column: str | None = None,
    trial: Trial | None = None,
) -> Evaluation:
    """Value policies from a dataset that others made.

    Args:
        paths: run directories, or ONNX files.
        dataset: the log.
        plan: what is asked for.
        acting: how the policies act.
        column: a column of the log that tells what a policy would have done; see
            `offrl.off_policy.target_policies.ColumnPolicy`.
        trial: where to find out the truth too; None leaves it unknown.

    Raises:
        RequestError: nothing to value is named, or the truth of what can't act.
        SpaceMismatchError: a policy is for other spaces than the log's.
    """
    acting, store = acting or Acting(), open_dataset(dataset)
    store.verify()
    plan, notes = with_time_limit(plan, store, trial)
    if not paths and column is None:
        raise RequestError("no policy is named", hint="name a run, an ONNX file, or a column with --target-column")
    name = Path(dataset).name if Path(dataset).exists() else dataset
    logged = dataclasses.replace(read_log(store, (column,) if column else ()), name=name)
    targets: list[Target] = []
    for path in paths:
        if path.suffix == ".onnx":
            if not path.is_file():
                raise RequestError("there is no such file", where=str(path), hint="name an ONNX file, or a run")
            policy = OnnxPolicy(path, LOG_PROB_SUFFIX if acting.stochastic else None, acting.epsilon)
            targets.append(_alone(policy, logged, acting, plan, trial))
        else:
            targets += targets_of(Run.open(path), store, logged, plan, acting, trial)
    if column is not None:
        targets.append(_alone(ColumnPolicy(column), logged, acting, plan, trial))
    found = evaluate(logged, _told_apart(targets), plan)
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def with_time_limit(plan: Plan, store: Trajectories, trial: Trial | None) -> tuple[Plan, list[str]]:
    """The plan with the environment's time limit as its horizon, where it has none, and what is to be told of that.

    The limit is that of the environment that the policies are tried out in, or else of the one that was logged. An
    estimator that values all that follows leaves it out.
    """
    environment = (store.metadata.environment or "") if trial is None else trial.environment
    limit = _registered_limit(environment) if trial is None else trial.max_episode_steps or _made_limit(environment)
    if limit is None or store.num_steps == store.num_episodes:
        return plan, []
    endless = [name for name in plan.estimators or () if find_estimator(name).endless]
    if plan.horizon is None and not endless:
        told = f"The horizon is the time limit of {environment}, {limit} steps (--horizon sets another)."
        return dataclasses.replace(plan, horizon=limit), [told]
    if trial is None or (plan.horizon is not None and plan.horizon <= limit):
        return plan, []
    further = f"{', '.join(endless)} value all that follows" if plan.horizon is None else "the horizon is further off"
    return plan, [f"The truth is of the {limit} steps that {environment} lasts at most, and {further}."]


def _registered_limit(environment: str) -> int | None:
    """Steps after which an environment truncates, as far as Gymnasium knows without importing what a dataset names."""
    spec = gym.registry.get(environment)
    return None if spec is None else spec.max_episode_steps


def _made_limit(environment: str) -> int | None:
    """The same of an environment that the user named."""
    made = make_environment(environment)
    made.close()
    return None if made.spec is None else made.spec.max_episode_steps


def _alone(policy: TargetPolicy, logged: EpisodeLog, acting: Acting, plan: Plan, trial: Trial | None) -> Target:
    if trial is not None:
        raise RequestError(
            f"only runs can be tried out, and {policy.name} isn't one", hint="leave out --truth, or name a run"
        )
    choices = policy.choices(logged, draws=DRAWS, seed=plan.seed)
    return _target(policy.name, choices, logged, acting, plan)


def _target(
    name: str,
    choices: Choices,
    logged: EpisodeLog,
    acting: Acting,
    plan: Plan,
    returns: NDArray[np.float64] | None = None,
    *,
    can_sample: bool = False,
) -> Target:
    if not acting.kernel_bandwidth:
        could_sample = can_sample and not acting.stochastic
        return Target(name, choices, could_sample=could_sample, true_returns=returns)
    smoothed = smoothed_choices(logged, choices, acting.kernel_bandwidth, draws=DRAWS, seed=plan.seed, name=name)
    return Target(name, smoothed, unsmoothed=choices, true_returns=returns)


def targets_of(
    run: Run, store: Trajectories, logged: EpisodeLog, plan: Plan, acting: Acting, trial: Trial | None = None
) -> list[Target]:
    """The policies of a run's seeds, to be valued.

    Args:
        run: what was trained.
        store: the log's dataset.
        logged: the log.
        plan: what is asked for.
        acting: how the policies act.
        trial: where to find out the truth too; None leaves it unknown.

    Raises:
        RequestError: there is no such checkpoint or seed.
        SpaceMismatchError: the policies are for other spaces than the log's.
    """
    policy, _ = load_policy(run, run.choose_checkpoint(acting.checkpoint))
    seeds = run.recipe.seeds
    if acting.seed_index is not None and acting.seed_index >= len(seeds):
        raise RequestError(
            f"there is no seed {acting.seed_index}: the run has {len(seeds)}, counted from 0",
            where=str(run.path),
            hint="choose a lower --seed-index",
        )
    names = [run.path.name if len(seeds) == 1 else f"{run.path.name} seed {seed}" for seed in seeds]
    has_density = plugins.algorithms[run.recipe.algo].can(Density)
    policies = AgentPolicies(policy, names, acting.stochastic, acting.epsilon, has_density)
    if acting.kernel_bandwidth and acting.stochastic:
        raise RequestError("a policy that samples needs no kernel", hint="leave out --stochastic or --kernel-bandwidth")
    choices = policies.choices(store, draws=DRAWS, seed=plan.seed)
    returns = None if trial is None else true_returns(policies, seeds, trial, plan)
    chosen = range(len(seeds)) if acting.seed_index is None else [acting.seed_index]
    true = [None] * len(seeds) if returns is None else list(returns)
    return [
        _target(names[i], choices[i], logged, acting, plan, true[i], can_sample=policies.can_sample) for i in chosen
    ]


def true_returns(policies: AgentPolicies, seeds: tuple[int, ...], trial: Trial, plan: Plan) -> NDArray[np.float64]:
    """Discounted returns of episodes in which each seed's policy acts itself, [S, episodes].

    Raises:
        RequestError: the environment can't be made.
        SpaceMismatchError: its spaces are not those of the policies.
    """
    policy = policies.policy
    copies, quota = share_evenly(trial.episodes, MAX_PARALLEL)
    environments = make_environments(
        trial.environment,
        policy.seeds * copies,
        frame_stack=policy.frame_stack,
        max_episode_steps=trial.max_episode_steps,
    )
    try:
        check_spaces(policy.agent.spec, spaces_of(environments), trial.environment)
        resets = Starts(Purpose.TRUTH, seeds, plan.seed).reset_seeds(copies)
        returns = np.zeros((environments.count, quota))
        finished, time = np.zeros((2, environments.count), np.int64)
        acts = _acting(policies, seeds, plan.seed, copies)
        for step in rollouts(acts, environments, quota, resets):
            counted = step.running if plan.horizon is None else step.running & (time < plan.horizon)
            (running,) = np.nonzero(counted)
            returns[running, finished[running]] += plan.discount ** time[running] * step.reward[running]
            ended = step.terminated | step.truncated
            time = np.where(ended, 0, time + 1)
            finished += ended
    finally:
        environments.close()
    return returns.reshape(policy.seeds, trial.episodes)


def _acting(policies: AgentPolicies, seeds: tuple[int, ...], seed: int, copies: int) -> Acts:
    """As the policies that are valued act."""
    policy = policies.policy
    behavior = PolicyBehavior(policy, policies.has_density, seeds, seed, policies.stochastic, copies)
    return SometimesRandom(behavior, policies.epsilon, policy.agent.spec, seed) if policies.epsilon else behavior


class SometimesRandom:
    """What another one does, with a share of uniformly random actions among the Discrete ones that are allowed."""

    def __init__(self, acts: Acts, share: float, spec: Spec, seed: int) -> None:
        if not isinstance(spec.action_space, gym.spaces.Discrete):
            raise SpaceMismatchError("only discrete actions are mixed with random ones", hint="leave out --epsilon")
        self.acts, self.share, self.space = acts, share, spec.action_space
        self.generator = np.random.default_rng([TRUTH_STREAM, seed])

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        action, space, generator = self.acts.act(observation, action_mask), self.space, self.generator
        if action_mask is None:
            random = generator.integers(space.start, space.start + space.n, len(action))
        else:
            random = space.start + np.where(action_mask, generator.random(action_mask.shape), -1.0).argmax(axis=-1)
        return np.where(generator.random(len(action)) < self.share, random, action)

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Hand on what the step earned and which episodes ended."""
        self.acts.stepped(reward, done)


def _told_apart(targets: Sequence[Target]) -> list[Target]:
    """Where two have the same name, all get a number in front."""
    names = [target.name for target in targets]
    if len(set(names)) == len(names):
        return list(targets)
    return [dataclasses.replace(target, name=f"{position}: {target.name}") for position, target in enumerate(targets)]
