"""Going on from what another run has learned: which policies, whether they fit, and handing them over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe
from offrl.converters.catalog import name_anywhere
from offrl.envs.make import environment_spec
from offrl.envs.policy import Policy
from offrl.envs.spaces import check_spaces
from offrl.errors import RecipeError, RequestError, RunError
from offrl.feeds.problem import NO_ENVIRONMENT, Problem, chosen_episodes, mixes_data, open_finite
from offrl.nn.state import copy_state
from offrl.runs.checkpoint import read_facts
from offrl.runs.load import load_policy, spec_of
from offrl.runs.run import Run
from offrl.types import GivesPolicy, Scheduled, StartsFromPolicy


def fine_tuning_problem(recipe: Recipe, checkpoint: Path | None) -> Problem:
    """An environment, the policies to start from, and the data that is mixed in, if any.

    Args:
        recipe: names the run to start from.
        checkpoint: the folder of the run's own last one, if there is one: no more of what it started from is needed.

    Raises:
        RequestError: there is no policy to start from.
        RecipeError: the algorithm can't go on from it.
        SpaceMismatchError: dataset, environment and policy don't belong together.
    """
    assert recipe.start is not None
    start = Path(recipe.start).resolve()
    recipe = dataclasses.replace(recipe, start=str(start), dataset=recipe.dataset and name_anywhere(recipe.dataset))
    origin = checkpoint
    if origin is None:
        recipe, origin = begun_from(recipe, start)
    facts = read_facts(origin)
    spec = spec_of(facts)
    if recipe.env in (None, NO_ENVIRONMENT):
        raise RecipeError("fine-tuning needs an environment, and none is named", hint="add --env ID")
    frames = recipe.data.frame_stack
    check_spaces(spec, environment_spec(recipe.env).stacked(frames), recipe.env)
    told = {name: facts[name] for name in ("dataset", "fingerprint", "reference_scores")}
    if not mixes_data(recipe):
        return Problem(recipe, spec, None, told, origin)
    assert recipe.dataset is not None
    store = open_finite(recipe.dataset)
    check_spaces(spec, store.spec.stacked(frames), recipe.dataset)
    told |= {"dataset": recipe.dataset, "fingerprint": store.fingerprint}
    return Problem(recipe, spec, chosen_episodes(store, recipe), told, origin)


def begun_from(recipe: Recipe, start: Path) -> tuple[Recipe, Path]:
    """The recipe, which names the checkpoint to start from, and its folder: of a run that it can go on from."""
    run, kind = starting_point(start, recipe.start_checkpoint)
    check_fine_tuning(recipe, run.recipe)
    named = dataclasses.replace(recipe, start_checkpoint=kind)
    return named, run.checkpoint(kind)


def starting_point(start: Path, kind: str | None = None) -> tuple[Run, str]:
    """The run to start from, and the kind of checkpoint: the one asked for, or that training reported.

    Raises:
        RequestError: there is no such checkpoint.
    """
    try:
        run = Run.open(start)
        kind = run.choose_checkpoint(kind)
        run.checkpoint(kind)
    except RunError as error:
        raise RequestError(
            f"there is no policy to fine-tune: {error.what}",
            where=error.where,
            hint="name a run that offrl train has trained up to a checkpoint, or ask for another of its checkpoints "
            "(--checkpoint last|best|step-N)",
        ) from error
    return run, kind


def check_fine_tuning(recipe: Recipe, source: Recipe) -> None:
    """Whether an algorithm can go on from another, and from what data.

    Raises:
        RecipeError: it can't; the message says which can.
    """
    algo, algorithm = recipe.algo, _algorithm(recipe)
    learner = algorithm.learner(recipe.agent)
    if algo != source.algo and not (_algorithm(source).can(GivesPolicy) and learner.can(StartsFromPolicy)):
        raise RecipeError(f"{algo} can't start from a policy that {source.algo} trained", hint=successors(source))
    if recipe.seeds != source.seeds:
        raise RecipeError(
            f"the run to start from has the seeds {list(source.seeds)}, the recipe {list(recipe.seeds)}",
            hint="leave seeds out: each trained policy goes on as the seed that it was",
        )
    if recipe.data.normalize_observation != source.data.normalize_observation:
        raise RecipeError(
            f"the policies to start from were trained with data.normalize_observation="
            f"{str(source.data.normalize_observation).lower()}",
            hint="leave data.normalize_observation out: they go on seeing observations as they learned to",
        )
    if recipe.data.frame_stack != source.data.frame_stack:
        raise RecipeError(
            f"the policies to start from see {source.data.frame_stack} observations at once, and the recipe says "
            f"{recipe.data.frame_stack}",
            hint="leave data.frame_stack out: they go on seeing observations as they learned to",
        )
    if mixes_data(recipe) and not mixes(algorithm):
        raise RecipeError(
            f"{algo} learns from its own newest steps only, so no data can be mixed in",
            hint="leave --offline-fraction and online.offline_fraction out",
        )
    if mixes_data(recipe) and recipe.dataset is None:
        raise RecipeError(
            "there is no data to mix in: the run to start from had no dataset",
            hint="leave --offline-fraction out, or name a dataset with --set dataset=NAME",
        )


def goes_online(algorithm: Algorithm) -> bool:
    """Whether it can learn from own steps."""
    return any(plugins.feeds[name].online for name in algorithm.feeds)


def mixes(algorithm: Algorithm) -> bool:
    """Whether data can be mixed with its own steps."""
    return any(plugins.feeds[name].mixes_data for name in algorithm.feeds)


def _algorithm(recipe: Recipe) -> Algorithm:
    found: Algorithm = plugins.algorithms[recipe.algo]
    return found


def successors(source: Recipe) -> str:
    """What can go on from a run of this recipe, as a hint."""
    algorithm = _algorithm(source)
    if algorithm.can(GivesPolicy):
        able = plugins.algorithms.able(lambda record: record.can(StartsFromPolicy) and not record.wraps)
        return f"choose what goes on from a cloned policy with --algo: {', '.join(able)}"
    if goes_online(algorithm):
        return f"leave --algo out to go on with {source.algo}; only cloned policies (bc) start another algorithm"
    return "name a run that can go on: one of an algorithm that learns online, or a cloned policy (bc)"


def take_over(policy: Policy, problem: Problem) -> None:
    """Give fresh agents what those of the recipe's `start` have learned: all their state, or a cloned policy.

    Raises:
        RecipeError: the agent's options don't fit what is to be taken over, or leave it nothing to learn with.
        SpaceMismatchError: the policies read other observations.
    """
    recipe = problem.recipe
    assert recipe.start is not None
    assert recipe.start_checkpoint is not None
    run = Run.open(Path(recipe.start))
    source, _ = load_policy(run, recipe.start_checkpoint, str(policy.device))
    agent: Any = policy.agent
    if run.recipe.algo != recipe.algo:
        cloned: Any = source.agent
        agent.adopt_policy(policy.state, cloned.policy_network(source.state), cloned.kind)
        return
    try:
        copy_state(policy.state, source.state, recipe.start)
    except RunError as error:
        raise RecipeError(
            f"the agent's options don't fit the networks that it is to go on with: {error.what}",
            where=error.where,
            hint="leave options that shape networks or optimizers (agent.hidden, agent.max_kl and the like) as that "
            "run has them",
        ) from error
    taken = agent.ended_schedule(policy.state) if problem.algorithm.can(Scheduled) else 0
    if taken:
        raise RecipeError(
            "step sizes have fallen to 0: agent.decay_steps counts from the first step of the run to go on from, which "
            f"took {taken:,}",
            where=recipe.start,
            hint=f"leave agent.decay_steps out, or add {taken:,} steps to it",
        )
