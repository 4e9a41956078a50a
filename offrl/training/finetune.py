"""The recipe that takes a trained run online."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe, merged, recipe_from_dict
from offrl.errors import RecipeError
from offrl.feeds import feed_of
from offrl.feeds.warm_start import mixes, starting_point
from offrl.runs.checkpoint import read_facts
from offrl.runs.load import spec_of
from offrl.types import CriticOnly, GivesPolicy, Spec

WARMUP_STEPS = 1_000
"""Steps of the policy before the first update, so that no batch holds a handful of transitions over and over."""
CRITIC_WARMUP = 5_000
"""Steps of fresh critics behind a cloned policy: before they know what it is worth, they would only spoil it."""
PRETRAINED_CRITIC_WARMUP = 2_000
"""Steps of critics that have learned from the dataset: on fresh steps they find out what they overrated."""
OFFLINE_FRACTION = 0.5
"""The dataset's share of a batch, where there is a dataset and a replay."""
SEEN = ("top_fraction", "validation_fraction", "normalize_observation", "frame_stack")
"""Options of the data that policies and dataset hang on."""


def fine_tuning_recipe(
    start: Path,
    *,
    steps: int,
    algo: str | None = None,
    env: str | None = None,
    offline_fraction: float | None = None,
    checkpoint: str | None = None,
    base: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe that continues a run online.

    With the same algorithm it is that run's, its dataset and agent as they are, but for what the algorithm changes
    where it goes on (`Algorithm.going_on`); what was pretrained has its critics warmed up. Another algorithm has its
    own options, save those that the cloned policy and the dataset's selection hang on, and what the algorithm changes
    behind a clone (`Algorithm.from_clone`). Random actions are for training from scratch, and are left out. Warm-ups
    take at most a tenth of the steps each, unless `settings` say otherwise.

    Args:
        start: the run directory.
        steps: environment steps per seed.
        algo: None takes the run's own.
        env: a Gymnasium id; None takes the run's own.
        offline_fraction: the dataset's share of every batch; None takes `OFFLINE_FRACTION` where that is possible.
        checkpoint: "last" or "best"; None for the one that training reported.
        base: options of another algorithm to begin with; None takes its defaults.
        settings: dotted keys to values that change the result.

    Raises:
        RequestError: there is no policy to start from.
        RecipeError: an option is unknown or wrong.
    """
    run, checkpoint = starting_point(start, checkpoint)
    source, settings = run.recipe, settings or {}
    algo = source.algo if algo is None else algo
    algorithm: Algorithm = plugins.algorithms[algo]
    same = algo == source.algo
    if not same and algorithm.wraps:
        raise RecipeError(
            f"{algo} learns from demonstrations, which fine-tuning has none of",
            hint=f"offrl train {algo} --dataset NAME --from {start}",
        )
    if same:
        values = _continued(source)
    else:
        values = _succeeding(source, spec_of(read_facts(run.checkpoint(checkpoint))), algo, base or {})
    values |= {"start": str(start), "start_checkpoint": checkpoint, "steps": steps}
    if env is not None:
        values["env"] = env
    mixed = mixes(algorithm) and source.dataset is not None
    pretrained = same and mixed and not feed_of(source).online and algorithm.can(CriticOnly)
    critic_warmup = CRITIC_WARMUP if not same else PRETRAINED_CRITIC_WARMUP if pretrained else 0
    default = OFFLINE_FRACTION if mixed else 0.0
    values["online"] = {
        **values.get("online", {}),
        "warmup_steps": min(WARMUP_STEPS, steps // 10),
        "critic_warmup": min(critic_warmup, steps // 10),
        "offline_fraction": default if offline_fraction is None else offline_fraction,
        "record": True,
    }
    where = f"the recipe that continues {start}"
    recipe = recipe_from_dict(merged(values, settings), where)
    if not same:
        return recipe
    online = recipe.online
    updates = (recipe.steps - online.warmup_steps - online.critic_warmup) * online.updates_per_step
    values["agent"] = dataclasses.asdict(algorithm.going_on(recipe.agent, updates, pretrained))
    return recipe_from_dict(merged(values, settings), where)


def imitation_values(values: Mapping[str, Any], start: Path) -> dict[str, Any]:
    """A recipe's plain values for imitating with a generator that starts from the cloned policies that a run reported.

    Seeds, and options that the policies hang on, are theirs; the critics learn alone before the policy moves.

    Raises:
        RequestError: there is no policy to start from.
        RecipeError: what `recipe_from_dict` finds wrong in the values.
    """
    run, checkpoint = starting_point(start)
    source = run.recipe
    recipe = recipe_from_dict(values)
    algorithm: Algorithm = plugins.algorithms[recipe.algo]
    if not algorithm.wraps:
        raise RecipeError(
            f"{recipe.algo} doesn't imitate by acting, so --from isn't for it",
            hint=f"offrl finetune {start} --algo {recipe.algo} goes on with a cloned policy",
        )
    if source.algo == recipe.algo:
        return {"seeds": list(source.seeds), **values, "start": str(start), "start_checkpoint": checkpoint}
    spec = spec_of(read_facts(run.checkpoint(checkpoint)))
    known, agent = source.to_dict(), dict(values.get("agent", {}))
    learner, options = algorithm.learner(recipe.agent), algorithm.learner_options(recipe.agent)
    agent["generator_options"] = dataclasses.asdict(
        learner.from_clone(options, source.agent, _kind(source, spec), spec)
    )
    data = {key: known["data"][key] for key in ("normalize_observation", "frame_stack")}
    critic_warmup = min(CRITIC_WARMUP, recipe.steps // 10)
    return {
        "seeds": known["seeds"],
        **values,
        "start": str(start),
        "start_checkpoint": checkpoint,
        "agent": agent,
        "data": {**values.get("data", {}), **data},
        "online": {"critic_warmup": critic_warmup, **values.get("online", {})},
    }


def _continued(source: Recipe) -> dict[str, Any]:
    """The same algorithm's recipe; what it learned is in its state.

    When to stop, and how the data's share was to change, was the source's own affair.
    """
    values = source.to_dict()
    for section in ("cross_validation", "early_stopping"):
        values.pop(section)
    for option in ("stop_at", "offline_fraction_end", "offline_fraction_steps"):
        values["online"].pop(option, None)
    return values


def _succeeding(source: Recipe, spec: Spec, algo: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """Another algorithm's recipe, with what the source's policies and data are bound to."""
    known = source.to_dict()
    algorithm: Algorithm = plugins.algorithms[algo]
    options = algorithm.sparing(algorithm.options(base.get("agent", {})))
    agent = algorithm.from_clone(options, source.agent, _kind(source, spec), spec)
    values = {
        **base,
        "algo": algo,
        "seeds": known["seeds"],
        "device": known["device"],
        "env": known.get("env"),
        "agent": dataclasses.asdict(agent),
        "data": {**base.get("data", {}), **{key: known["data"][key] for key in SEEN}},
    }
    if "dataset" in known:
        values["dataset"] = known["dataset"]
    return values


def _kind(source: Recipe, spec: Spec) -> str:
    """The kind of a source's policy; empty where it gives none."""
    algorithm: Algorithm = plugins.algorithms[source.algo]
    if not algorithm.can(GivesPolicy):
        return ""
    agent: Any = algorithm.build(source.agent, spec)
    kind: str = agent.kind
    return kind
