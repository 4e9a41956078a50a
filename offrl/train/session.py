"""From a recipe to a finished run, and from a run back to a policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from offrl import __version__
from offrl.agents import AGENTS
from offrl.data.catalog import open_dataset
from offrl.data.layout import RowLayout
from offrl.data.normalization import ActionMap, ObservationNormalizer, RewardScaler
from offrl.data.ring import OnlineRing
from offrl.data.rollout import RolloutBuffer
from offrl.data.sampler import ReplaySampler, split_by_episode, top_by_return
from offrl.data.schema import space_from_json, space_to_json
from offrl.data.trajectories import Trajectories
from offrl.envs.collector import Collector, StepSink
from offrl.envs.evaluator import evaluate
from offrl.envs.make import environment_spec
from offrl.envs.policy import Policy
from offrl.envs.spaces import check_spaces
from offrl.envs.video import film
from offrl.errors import RecipeError, RequestError
from offrl.recipes import Recipe
from offrl.train.checkpoint import read_facts, read_part, restore_tensors, state_tensors, write_atomically
from offrl.train.cross_validation import cross_validate, with_coefficient
from offrl.train.feeds import Feed, OfflineFeed, OnlineFeed, RolloutFeed
from offrl.train.loop import Listener, Loop
from offrl.train.metrics import make_writers, require_tensorboard
from offrl.train.noise import NoiseSource
from offrl.train.recording import FOLDER, EpisodeRecorder
from offrl.train.run import Run
from offrl.train.scores import summarise
from offrl.types import Agent, Spec

UPDATE_STREAM, EXPLORATION_STREAM = 1, 2
NO_ENVIRONMENT = "none"
"""As a recipe's `env`: evaluate nowhere, whatever environment the dataset names."""
VALIDATION_TRANSITIONS = 8_192
"""Held-out transitions that a validation loss is averaged over: a fixed sample of this size."""


class SilentListener:
    """Tells nobody."""

    def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
        """Nothing to show."""

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        """Nothing to show."""


def train(recipe: Recipe, path: Path | None = None, listener: Listener | None = None) -> Run:
    """Train from scratch in a new run directory, and evaluate at the end if there is an environment.

    Args:
        recipe: what to train.
        path: the run directory; None makes one under `runs/`.
        listener: told of progress.

    Raises:
        OffrlError: see the messages; what had been checkpointed is kept.
        Interrupted: Ctrl-C; continue with `resume`.
    """
    task = Task.of(recipe)
    check_buildable(task)
    run = Run.create(path or Run.default_path(recipe, datetime.now()), task.recipe)
    with run.lock():
        if recipe.cross_validation.kind != "none":
            task = choose_coefficient(run, task)
        return _finish(build_loop(run, task, listener or SilentListener()))


def check_buildable(task: Task) -> None:
    """Raise what would go wrong later before a run directory exists.

    Raises:
        OffrlError: the device, the agent's options, the metric writers or the cross-validation don't fit.
    """
    recipe = task.recipe
    resolve_device(recipe.device)
    AGENTS[recipe.algo].build(recipe.agent, task.spec)
    if "tensorboard" in recipe.writers:
        require_tensorboard()
    kind = recipe.cross_validation.kind
    if kind != "none" and (task.data is None or not hasattr(recipe.agent, kind)):
        raise RecipeError(
            f"{recipe.algo} has no coefficient '{kind}' to cross-validate on a dataset",
            mend="cross-validate bc with --dataset NAME",
        )


def resume(path: Path, listener: Listener | None = None, steps: int | None = None) -> Run:
    """Continue a run from its last checkpoint (from the start, where it has none yet).

    Args:
        path: the run directory.
        listener: told of progress.
        steps: train up to this step in place of the recipe's.

    Raises:
        RunInUseError: another process is writing to the run.
        RunError: there is no run, or its checkpoint is damaged.
    """
    run = Run.open(path)
    with run.lock():
        if steps is not None:
            run.change_recipe(dataclasses.replace(run.recipe, steps=steps))
        task = Task.of(run.recipe)
        if run.recipe.cross_validation.kind != "none":
            task = choose_coefficient(run, task)
        loop = build_loop(run, task, listener or SilentListener())
        if run.has_checkpoint("last"):
            loop.resume()
        else:
            run.forget_after(-1)
        return _finish(loop)


def evaluate_run(
    run: Run,
    *,
    episodes: int,
    checkpoint: str = "last",
    seed: int = 0,
    env: str | None = None,
    video: Path | None = None,
) -> dict[str, Any]:
    """Greedy returns of a run's policies.

    Args:
        run: a run with a checkpoint.
        episodes: complete episodes per seed.
        checkpoint: "last" or "best".
        seed: picks the initial states.
        env: a Gymnasium id in place of the run's own.
        video: a folder for one film per seed.

    Returns:
        what `offrl.train.scores.summarise` returns, and the files in `videos`.

    Raises:
        RunError: there is no such checkpoint.
        RequestError: there is no environment to evaluate in.
    """
    policy, facts = load_policy(run, checkpoint)
    environment = env or facts["environment"]
    if environment is None:
        raise RequestError("this run names no environment to evaluate in", mend="name one with --env")
    evaluation = evaluate(policy, environment, episodes, seed=seed)
    scores = summarise(evaluation, environment, run.recipe.seeds, facts["reference_scores"])
    if video is not None:
        files = film(policy, environment, video, seeds=run.recipe.seeds, seed=seed)
        scores["videos"] = [str(file) for file in files]
    return scores


def load_policy(run: Run, checkpoint: str, device: str = "cpu") -> tuple[Policy, dict[str, Any]]:
    """A run's trained policies, ready to act, and the facts of the checkpoint.

    Raises:
        RunError: there is no such checkpoint, or it is damaged.
    """
    directory = run.checkpoint(checkpoint)
    facts = read_facts(directory)
    spec = Spec(space_from_json(facts["observation_space"]), space_from_json(facts["action_space"]))
    agent = AGENTS[run.recipe.algo].build(run.recipe.agent, spec)
    normalizer = None
    if facts["normalized"]:
        normalizer = ObservationNormalizer.from_named_tensors(read_part(directory, "normalizer"))
    policy = _fresh_policy(agent, run.recipe.seeds, resolve_device(device), normalizer)
    restore_tensors(state_tensors(policy.state), read_part(directory, "state"), str(directory))
    return policy, facts


def resolve_device(name: str) -> torch.device:
    """The device of a recipe; "auto" takes CUDA where there is one.

    Raises:
        RecipeError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"there is no device {name!r}", mend="use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no CUDA device here", mend="use --device cpu or auto")
    return device


@dataclasses.dataclass(frozen=True)
class Task:
    """What a recipe's names stand for.

    Attributes:
        recipe: with the environment filled in from the dataset where it named none.
        spec: the spaces.
        data: the episodes to train on, before any are held out; None online.
        dataset_facts: name and fingerprint of the data, and its reference scores.
    """

    recipe: Recipe
    spec: Spec
    data: Trajectories | None
    dataset_facts: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe) -> Task:
        """Open the dataset and compare it with the environment.

        Raises:
            RecipeError: neither a dataset nor an environment is named.
            SpaceMismatchError: the two don't belong together.
        """
        if recipe.dataset is None:
            return cls._online(recipe)
        if not AGENTS[recipe.algo].offline:
            raise RecipeError(
                f"{recipe.algo} learns from its own steps only, and a dataset is named",
                mend="clone the dataset first (offrl train bc), then fine-tune that run (offrl finetune RUN --algo "
                f"{recipe.algo})",
            )
        store = open_dataset(recipe.dataset)
        environment = store.metadata.environment if recipe.env is None else recipe.env
        recipe = dataclasses.replace(recipe, env=environment, dataset=_anywhere(recipe.dataset))
        if recipe.env not in (None, NO_ENVIRONMENT):
            check_spaces(store.spec, environment_spec(recipe.env), recipe.env)
        facts = {
            "dataset": recipe.dataset,
            "fingerprint": store.fingerprint,
            "reference_scores": store.metadata.reference_scores,
        }
        return cls(recipe, store.spec, top_by_return(store, recipe.data.top_fraction), facts)

    @classmethod
    def _online(cls, recipe: Recipe) -> Task:
        if AGENTS[recipe.algo].online == "none":
            raise RecipeError(f"{recipe.algo} learns from a dataset, and none is named", mend="add --dataset NAME")
        if recipe.env in (None, NO_ENVIRONMENT):
            raise RecipeError("the recipe names neither a dataset nor an environment", mend="add --dataset or --env")
        facts: dict[str, Any] = {"dataset": None, "fingerprint": None, "reference_scores": {}}
        return cls(recipe, environment_spec(recipe.env), None, facts)


def choose_coefficient(run: Run, task: Task) -> Task:
    """Cross-validate, write `cross_validation.json`, and put the chosen coefficient into the run's recipe."""
    recipe, plan = task.recipe, task.recipe.cross_validation
    assert task.data is not None
    # A coefficient above zero tells the agent to compute the penalty; the candidates replace its value.
    options = dataclasses.replace(recipe.agent, **{plan.kind: 1.0})
    positions = (recipe.seeds[0],) * (len(plan.coefficients) * plan.folds)
    normalizer = ObservationNormalizer.from_store(task.data) if recipe.data.normalize_observation else None
    agent = AGENTS[recipe.algo].build(options, task.spec)
    policy = _fresh_policy(agent, positions, resolve_device(recipe.device), normalizer)
    result = cross_validate(recipe, policy, task.data, _sampling(recipe, policy))
    write_atomically(run.path / "cross_validation.json", json.dumps(result, indent=1))
    run.change_recipe(with_coefficient(recipe, result))
    return dataclasses.replace(task, recipe=run.recipe)


def build_loop(run: Run, task: Task, listener: Listener) -> Loop:
    """Everything that a run needs, at step 0."""
    recipe = task.recipe
    device = resolve_device(recipe.device)
    agent = AGENTS[recipe.algo].build(recipe.agent, task.spec)
    validate: Callable[[], Tensor] | None = None
    recorder: EpisodeRecorder | None = None
    if task.data is None:
        policy = _fresh_policy(agent, recipe.seeds, device, None)
        recorder = _recorder(run) if recipe.online.record else None
        feed: Feed = _online_feed(recipe, policy, recorder)
    else:
        training, held_out = _hold_out(recipe, task.data)
        normalizer = ObservationNormalizer.from_store(training) if recipe.data.normalize_observation else None
        policy = _fresh_policy(agent, recipe.seeds, device, normalizer)
        feed = _offline_feed(recipe, policy, training)
        if held_out is not None and hasattr(agent, "validation_loss"):
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
        writers=make_writers(run),
        listener=listener,
        recorder=recorder,
    )


def _finish(loop: Loop) -> Run:
    """Train, then evaluate what early stopping, or else the last step, left."""
    try:
        loop.train()
    finally:
        if loop.recorder is not None:
            loop.recorder.close()
    run, recipe = loop.run, loop.run.recipe
    if loop.evaluate:
        kind = "best" if loop.validate and recipe.early_stopping.patience else "last"
        scores = evaluate_run(run, episodes=recipe.evaluation.final_episodes, checkpoint=kind)
        run.log("evaluations.jsonl", {"step": loop.step, "final": True, "checkpoint": kind, **scores})
    return run


def _anywhere(dataset: str) -> str:
    """A dataset's name such that it means the same in every working directory: paths become absolute."""
    return str(Path(dataset).resolve()) if Path(dataset).exists() else dataset


def _fresh_policy(
    agent: Agent[Any], seeds: tuple[int, ...], device: torch.device, normalizer: ObservationNormalizer | None
) -> Policy:
    space = agent.spec.action_space
    return Policy(
        agent=agent,
        state=agent.init(seeds, device),
        seeds=len(seeds),
        device=device,
        normalizer=normalizer,
        action_map=ActionMap.from_space(space) if isinstance(space, gym.spaces.Box) else None,
    )


def _hold_out(recipe: Recipe, data: Trajectories) -> tuple[Trajectories, Trajectories | None]:
    """Training and held-out episodes; the split doesn't depend on the training seeds."""
    fraction = recipe.data.validation_fraction
    if fraction == 0.0 or data.num_episodes < 2:
        return data, None
    return split_by_episode(data, fraction, seed=0)


def _offline_feed(recipe: Recipe, policy: Policy, data: Trajectories) -> OfflineFeed:
    sampler = ReplaySampler([data], batch_size=recipe.batch_size, seeds=recipe.seeds, **_sampling(recipe, policy))
    noise = NoiseSource(recipe.seeds, policy.device, UPDATE_STREAM)
    return OfflineFeed(policy.agent, sampler, noise, recipe.batch_size)


def _sampling(recipe: Recipe, policy: Policy) -> dict[str, Any]:
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
    )


def _online_feed(recipe: Recipe, policy: Policy, recorder: EpisodeRecorder | None) -> Feed:
    if AGENTS[recipe.algo].online == "rollouts":
        return _rollout_feed(recipe, policy, recorder)
    online, seeds = recipe.online, recipe.seeds
    ring = OnlineRing(RowLayout.of(policy.agent.spec), len(seeds), online.environments, online.capacity)
    sampler = ReplaySampler(
        [ring],
        batch_size=recipe.batch_size,
        seeds=seeds,
        n_step=recipe.data.n_step,
        discount=recipe.agent.discount,
    )
    return OnlineFeed(
        agent=policy.agent,
        collector=_collector(recipe, policy, ring, recorder),
        ring=ring,
        sampler=sampler,
        noise=NoiseSource(seeds, policy.device, UPDATE_STREAM),
        exploration=NoiseSource(seeds, policy.device, EXPLORATION_STREAM),
        batch_size=recipe.batch_size,
        updates_per_step=online.updates_per_step,
        warmup_steps=online.warmup_steps,
    )


def _rollout_feed(recipe: Recipe, policy: Policy, recorder: EpisodeRecorder | None) -> RolloutFeed:
    seeds, layout = recipe.seeds, RowLayout.of(policy.agent.spec)
    rollout = RolloutBuffer(
        layout, len(seeds), recipe.online.environments, recipe.agent.rollout_steps, recipe.agent.discount
    )
    return RolloutFeed(
        agent=policy.agent,
        collector=_collector(recipe, policy, rollout, recorder),
        rollout=rollout,
        noise=NoiseSource(seeds, policy.device, UPDATE_STREAM),
        exploration=NoiseSource(seeds, policy.device, EXPLORATION_STREAM),
    )


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
    )


def _validation(recipe: Recipe, policy: Policy, held_out: Trajectories) -> Callable[[], Tensor]:
    """The mean loss over a fixed sample of held-out transitions, the same for every seed."""
    sampler = ReplaySampler([held_out], batch_size=VALIDATION_TRANSITIONS, seeds=[0], **_sampling(recipe, policy))
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
        return summarise(evaluation, environment, recipe.seeds, facts["reference_scores"])

    return evaluate_now
