"""A run's loop from its recipe: agent, feed, evaluation, at step 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offrl import __version__
from offrl.agents import AGENTS
from offrl.config.recipe import Recipe
from offrl.data import schema
from offrl.data.schema import space_to_json
from offrl.data.trajectories import Trajectories
from offrl.envs.collector import Collector, StepSink
from offrl.envs.evaluator import evaluate
from offrl.envs.make import environment_spec, tells_of_masks
from offrl.envs.policy import Policy
from offrl.feeds.dagger import LabeledSteps, teacher_of
from offrl.feeds.demonstrations import ImitationFeed, LearnedReturns, LengthGuard
from offrl.feeds.feed import Feed, OfflineFeed, OnlineFeed, RolloutFeed
from offrl.feeds.problem import NO_ENVIRONMENT, Task
from offrl.feeds.tabular import DemonstrationFeed, demonstrations_of, process_of
from offrl.ops.noise import NoiseSource
from offrl.replay.normalization import ObservationNormalizer, RewardScaler
from offrl.replay.ring import OnlineRing
from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.replay.row_layout import RowLayout
from offrl.replay.sampler import ReplaySampler, split_by_episode
from offrl.replay.sources import common_columns
from offrl.runs.load import fresh_policy, load_normalizer, resolve_device
from offrl.runs.loggers import make_loggers
from offrl.runs.recorder import FOLDER, EpisodeRecorder
from offrl.runs.run import Run
from offrl.runs.scores import summarize
from offrl.training.loop import Listener, Loop
from offrl.training.unused_options import warnings_of

UPDATE_STREAM, EXPLORATION_STREAM = 1, 2
DEMONSTRATION_SEEDS = 2**63
"""Added to a seed, gives that of its demonstrations: no seed is as great."""
VALIDATION_TRANSITIONS = 8_192
"""Held-out transitions that a validation loss is averaged over: a fixed sample of this size."""


def build_loop(run: Run, task: Task, listener: Listener) -> Loop:
    """Everything that a run needs, at step 0."""
    recipe = task.recipe
    training, held_out = _hold_out(task)
    agent = AGENTS[recipe.algo].build(recipe.agent, task.spec)
    normalizer, frames = _normalizer(task, training), recipe.data.frame_stack
    device = torch.device("cpu") if task.tabular else resolve_device(recipe.device)
    policy = fresh_policy(agent, recipe.seeds, device, normalizer, frames)
    recorder = _recorder(run) if task.online and recipe.online.record else None
    for text in warnings_of(recipe):
        listener.warned(text)
    validate: Callable[[], Tensor] | None = None
    finished: Callable[[], bool] | None = None
    feed: Feed
    if task.tabular:
        assert training is not None
        feed = DemonstrationFeed(agent, policy.state, demonstrations_of(process_of(recipe), training, task.spec))  # type: ignore[arg-type]
        finished = feed.converged
    elif task.imitates:
        assert training is not None
        feed = _imitation_feed(recipe, policy, recorder, training, listener)
    elif task.online:
        feed = _online_feed(recipe, policy, recorder, training)
    else:
        assert training is not None
        feed = _offline_feed(recipe, policy, training)
        if held_out is not None:
            validate = _validation(recipe, policy, held_out)
    facts = {
        **task.dataset_facts,
        "algo": recipe.algo,
        "environment": None if recipe.env == NO_ENVIRONMENT else recipe.env,
        "observation_space": space_to_json(task.spec.observation_space),
        "action_space": space_to_json(task.spec.action_space),
        "normalized": policy.normalizer is not None,
    }
    return Loop(
        run=run,
        policy=policy,
        feed=feed,
        facts=facts,
        fixed_parts={"normalizer": policy.normalizer.named_tensors()} if policy.normalizer else {},
        evaluate=_evaluation(recipe, policy, facts) if facts["environment"] else None,
        validate=validate,
        writers=make_loggers(run),
        listener=listener,
        recorder=recorder,
        finished=finished,
    )


def _hold_out(task: Task) -> tuple[Trajectories | None, Trajectories | None]:
    """Training episodes, and held-out ones for agents with a loss to validate; seeds don't matter to the split."""
    data, fraction = task.data, task.recipe.data.validation_fraction
    validates = hasattr(AGENTS[task.recipe.algo].agent, "validation_loss")
    if data is None or fraction == 0.0 or data.num_episodes < 2 or task.uses_all_data or not validates:
        return data, None
    return split_by_episode(data, fraction, seed=0)


def _normalizer(task: Task, training: Trajectories | None) -> ObservationNormalizer | None:
    """By the statistics of the training episodes; in fine-tuning, that of the policies to start from."""
    if task.origin is not None:
        return load_normalizer(task.origin)
    if training is None or not task.recipe.data.normalize_observation:
        return None
    return ObservationNormalizer.from_store(training)


def _offline_feed(recipe: Recipe, policy: Policy, data: Trajectories) -> OfflineFeed:
    sampler = ReplaySampler(
        [data],
        batch_size=recipe.batch_size,
        seeds=recipe.seeds,
        priority=recipe.priority,
        **sampling_options(recipe, policy),
    )
    noise = NoiseSource(recipe.seeds, policy.device, UPDATE_STREAM)
    return OfflineFeed(policy.agent, sampler, noise, recipe.batch_size)


def sampling_options(recipe: Recipe, policy: Policy) -> dict[str, Any]:
    """What all samplers of a run's dataset share."""
    return {
        "n_step": recipe.data.n_step,
        "discount": getattr(recipe.agent, "discount", 1.0),
        "observation_normalizer": policy.normalizer,
        "reward_scaler": RewardScaler(recipe.data.reward_scale),
        "action_map": policy.action_map,
        "device": policy.device,
        "memory_budget": recipe.data.memory_budget,
    }


def _recorder(run: Run) -> EpisodeRecorder:
    recipe = run.recipe
    assert recipe.env is not None
    return EpisodeRecorder(
        run.path / FOLDER,
        environment_spec(recipe.env),
        recipe.env,
        recipe.seeds,
        recipe.online.environments,
        {"made_by": f"offrl {__version__} train", "algo": recipe.algo, "training_seeds": list(recipe.seeds)},
        frames=recipe.data.frame_stack,
    )


def _online_feed(
    recipe: Recipe, policy: Policy, recorder: EpisodeRecorder | None, data: Trajectories | None
) -> OnlineFeed | RolloutFeed:
    if AGENTS[recipe.algo].online_by(recipe.agent) == "rollouts":
        return _rollout_feed(recipe, policy, recorder)
    online, seeds = recipe.online, recipe.seeds
    ring = OnlineRing(_step_layout(recipe, policy, data), len(seeds), online.environments, online.capacity)
    share = online.offline_fraction
    sampler = ReplaySampler(
        [ring] if data is None else [data, ring],
        batch_size=recipe.batch_size,
        seeds=seeds,
        fractions=None if data is None else [share, 1.0 - share],
        priority=recipe.priority,
        # The ring is in this machine's memory, whatever the device.
        **sampling_options(recipe, policy) | {"device": "cpu"},
    )
    teacher = teacher_of(recipe, policy.agent.spec) if AGENTS[recipe.algo].taught else None
    return OnlineFeed(
        agent=policy.agent,
        collector=_collector(recipe, policy, LabeledSteps(ring, teacher) if teacher else ring, recorder),
        ring=ring,
        sampler=sampler,
        noise=NoiseSource(seeds, policy.device, UPDATE_STREAM),
        exploration=NoiseSource(seeds, policy.device, EXPLORATION_STREAM),
        batch_size=recipe.batch_size,
        online=online,
        random_warmup=recipe.start is None,
        teacher=teacher,
    )


def _imitation_feed(
    recipe: Recipe, policy: Policy, recorder: EpisodeRecorder | None, data: Trajectories, listener: Listener
) -> ImitationFeed:
    own = _online_feed(recipe, policy, recorder, None)
    demonstrations = ReplaySampler(
        [data],
        batch_size=recipe.batch_size,
        # Not those of the replay, whose draws would go up and down with these.
        seeds=[seed + DEMONSTRATION_SEEDS for seed in recipe.seeds],
        **sampling_options(recipe, policy),
    )
    returns = None
    if hasattr(policy.agent, "reward"):
        returns = LearnedReturns(own.collector.sink, policy, recipe.online.environments)
        own.collector.sink = returns
    guard = LengthGuard(data, recipe, listener.warned)
    return ImitationFeed(own, policy.agent, demonstrations, returns, guard)


def _rollout_feed(recipe: Recipe, policy: Policy, recorder: EpisodeRecorder | None) -> RolloutFeed:
    seeds, layout = recipe.seeds, _step_layout(recipe, policy)
    rollout = RolloutBuffer(
        layout, len(seeds), recipe.online.environments, recipe.agent.rollout_steps, recipe.agent.discount
    )
    return RolloutFeed(
        agent=policy.agent,
        collector=_collector(recipe, policy, rollout, recorder),
        rollout=rollout,
        noise=NoiseSource(seeds, policy.device, UPDATE_STREAM),
        exploration=NoiseSource(seeds, policy.device, EXPLORATION_STREAM),
        critic_warmup=recipe.online.critic_warmup,
    )


def _step_layout(recipe: Recipe, policy: Policy, data: Trajectories | None = None) -> RowLayout:
    """Of online steps: with masks if the environment tells of them, or the dataset that they are mixed with does."""
    assert recipe.env is not None
    spec = policy.agent.spec
    masks = [] if data is None else [c for c in common_columns([data]) if c.name == schema.ACTION_MASK]
    if not masks and policy.honors_masks and tells_of_masks(recipe.env):
        masks = [schema.ColumnSpec(schema.ACTION_MASK, np.dtype(np.bool_), (spec.action_dim,))]
    return RowLayout.of(spec, masks)


def _collector(recipe: Recipe, policy: Policy, sink: StepSink, recorder: EpisodeRecorder | None) -> Collector:
    assert recipe.env is not None
    return Collector(
        recipe.env,
        policy,
        sink,
        list(recipe.seeds),
        recipe.online.environments,
        processes=recipe.online.processes,
        reward_scaler=RewardScaler(recipe.data.reward_scale),
        recorder=recorder,
        horizon=recipe.online.fixed_horizon,
    )


def _validation(recipe: Recipe, policy: Policy, held_out: Trajectories) -> Callable[[], Tensor]:
    """The mean loss over a fixed sample of held-out transitions, the same for every seed."""
    sampler = ReplaySampler(
        [held_out], batch_size=VALIDATION_TRANSITIONS, seeds=[0], **sampling_options(recipe, policy)
    )
    (batch,) = sampler.sample(1).unbind()
    batch = batch.repeat_seeds(policy.seeds)

    def validate() -> Tensor:
        loss: Tensor = policy.agent.validation_loss(policy.state, batch)  # type: ignore[attr-defined]
        return loss.cpu()

    return validate


def _evaluation(recipe: Recipe, policy: Policy, facts: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    environment = recipe.env
    assert environment is not None

    def evaluate_now(step: int) -> dict[str, Any]:
        evaluation = evaluate(policy, environment, recipe.evaluation.episodes, seed=step)
        return summarize(evaluation, environment, recipe.seeds, facts["reference_scores"])

    return evaluate_now
