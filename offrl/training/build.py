"""A run's loop from its problem: policy, feed, evaluation, at step 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offrl import __version__
from offrl.config.recipe import Recipe
from offrl.data.space_encoding import space_to_json
from offrl.data.trajectories import Trajectories
from offrl.envs.make import environment_spec
from offrl.envs.policy import Policy
from offrl.feeds import feed_of
from offrl.feeds.materials import Materials, sampling_options
from offrl.feeds.problem import NO_ENVIRONMENT, Problem
from offrl.replay.normalization import ObservationNormalizer
from offrl.replay.sampler import ReplaySampler, split_by_episode
from offrl.runs.load import fresh_policy, load_normalizer, resolve_device
from offrl.runs.loggers import make_loggers
from offrl.runs.run import Run
from offrl.training.loop import Loop
from offrl.training.reward_doubts import reward_doubts
from offrl.training.unused_options import warnings_of
from offrl.types import Batch, Validates

if TYPE_CHECKING:
    from offrl.runs.listener import Listener
    from offrl.runs.recorder import EpisodeRecorder

VALIDATION_TRANSITIONS = 8_192
"""Held-out transitions that a validation loss is averaged over: a fixed sample of this size."""


def build_loop(run: Run, problem: Problem, listener: Listener) -> Loop:
    """Everything that a run needs, at step 0."""
    recipe, kind = problem.recipe, feed_of(problem.recipe)
    training, held_out = _hold_out(problem, kind.holds_out)
    device = resolve_device(recipe.device)
    policy = fresh_policy(problem.algorithm, problem.agent, recipe, device, _normalizer(problem, training))
    recorder = _recorder(run) if kind.online and recipe.online.record else None
    for text in (*warnings_of(recipe, kind), *reward_doubts(problem), *problem.doubts):
        listener.warned(text)
    facts = {
        **problem.dataset_facts,
        "algo": recipe.algo,
        "environment": None if recipe.env == NO_ENVIRONMENT else recipe.env,
        "observation_space": space_to_json(problem.spec.observation_space),
        "action_space": space_to_json(problem.spec.action_space),
        "normalized": policy.normalizer is not None,
    }
    return Loop(
        run=run,
        policy=policy,
        feed=kind.build(Materials(problem, policy, training, recorder, listener)),
        facts=facts,
        fixed_parts={"normalizer": policy.normalizer.named_tensors()} if policy.normalizer else {},
        evaluate=partial(_evaluated, recipe, policy, facts) if facts["environment"] else None,
        validate=None if held_out is None else _validation(recipe, policy, held_out),
        writers=make_loggers(run),
        listener=listener,
        recorder=recorder,
    )


def _hold_out(problem: Problem, holds_out: bool) -> tuple[Trajectories | None, Trajectories | None]:
    """Training episodes, and held-out ones for agents with a loss to validate; seeds don't matter to the split."""
    data, fraction = problem.data, problem.recipe.data.validation_fraction
    validates = holds_out and problem.algorithm.can(Validates)
    if data is None or fraction == 0.0 or data.num_episodes < 2 or not validates:
        return data, None
    return split_by_episode(data, fraction, seed=0)


def _normalizer(problem: Problem, training: Trajectories | None) -> ObservationNormalizer | None:
    """By the statistics of the training episodes; in fine-tuning, that of the policies to start from."""
    if problem.origin is not None:
        return load_normalizer(problem.origin)
    if training is None or not problem.recipe.data.normalize_observation:
        return None
    return ObservationNormalizer.from_store(training)


def _recorder(run: Run) -> EpisodeRecorder:
    from offrl.runs.recorder import FOLDER, EpisodeRecorder

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


def _validation(recipe: Recipe, policy: Policy, held_out: Trajectories) -> Callable[[], Tensor]:
    """The mean loss over a fixed sample of held-out transitions, the same for every seed."""
    agent: Any = policy.agent

    @cache
    def batch() -> Batch:
        options = sampling_options(recipe, policy)
        size = VALIDATION_TRANSITIONS // (options["window"] or 1)
        sampler = ReplaySampler([held_out], batch_size=max(1, size), seeds=[0], **options)
        return sampler.batches(1)[0].repeat_seeds(policy.seeds)

    def validate() -> Tensor:
        loss: Tensor = agent.validation_loss(policy.state, batch())
        return loss.cpu()

    return validate


def _evaluated(recipe: Recipe, policy: Policy, facts: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What the policies are worth at a step."""
    from offrl.envs.evaluator import evaluate
    from offrl.envs.starts import Purpose, Starts
    from offrl.runs.scores import summarize

    assert recipe.env is not None
    plan = recipe.evaluation
    starts = Starts(Purpose.PROGRESS if step else Purpose.BEGINNING, recipe.seeds, step)
    evaluation = evaluate(policy, recipe.env, plan.episodes, starts, max_episode_steps=plan.max_episode_steps)
    return summarize(evaluation, recipe.env, starts, facts["reference_scores"])
