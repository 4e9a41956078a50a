"""Taking a trained run online: the recipe of such a fine-tuning, and the policies that it starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from offrl.agents import AGENTS
from offrl.config.recipe import Recipe, recipe_from_dict, with_settings
from offrl.envs.policy import Policy
from offrl.errors import RecipeError, RequestError, RunError
from offrl.nn import Adam
from offrl.runs.checkpoint import read_facts, restore_tensors, state_tensors
from offrl.runs.load import load_policy, spec_of
from offrl.runs.run import Run
from offrl.types import Agent, Spec

WARMUP_STEPS = 1_000
"""Steps of the policy before the first update, so that no batch holds a handful of transitions over and over."""
CRITIC_WARMUP = 5_000
"""Steps of fresh critics behind a cloned policy: before they know what it is worth, they would only spoil it."""
PRETRAINED_CRITIC_WARMUP = 2_000
"""Steps of critics that have learned from the dataset: on fresh steps they find out what they overrated."""
LEFT_OF_ANCHOR = 0.5
"""What is left at the end of the weight of the distance from the data, by which the policies were pretrained. With a
hundredth, over 8,000 steps, TD3 that was pretrained on hopper-expert fell from 3240 to 150."""
SMALL_ACTOR_STEP = 3e-5
"""Adam's, of policies that know something."""
OFFLINE_FRACTION = 0.5
"""The dataset's share of a batch, where there is a dataset and a replay."""
_SMALL_STEPS = {
    "actor_learning_rate": SMALL_ACTOR_STEP,
    "critic_learning_rate": 3e-4,
    "layer_norm": True,
    "bc_alpha": 1.0,
}
CAREFUL: Mapping[str, Mapping[str, Any]] = {
    "td3": _SMALL_STEPS,
    "sac": {**_SMALL_STEPS, "initial_temperature": 0.05, "temperature_learning_rate": 0.0},
}
"""Options of an algorithm whose critics are fresh behind a cloned policy, in place of those for learning from nothing:
a thousandth, Adam's first step for every weight, already ruins a clone, and what the batch holds keeps it from actions
that the critics misjudge. SAC's temperature is low and stays: a clone of an expert has less entropy than its target,
so it would rise until noise drowned the skill."""
INITIAL_LOG_STD = -1.0
"""Of a Gaussian policy that starts from a cloned one: wide enough to learn from, narrow enough to act like it."""


def fine_tuning_recipe(
    start: Path,
    *,
    steps: int,
    algo: str | None = None,
    env: str | None = None,
    offline_fraction: float | None = None,
    checkpoint: str | None = None,
    base: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> Recipe:
    """The recipe that continues a run online.

    With the same algorithm it is that run's, its dataset and agent as they are; what was pretrained has its critics
    warmed up, its policy takes small steps, and its distance from the data loses weight by and by (`LEFT_OF_ANCHOR`,
    unless the run had an `agent.bc_decay`). Another algorithm has its own options,
    save those that the cloned policy and the dataset's selection hang on, and those of `CAREFUL`. Random actions,
    exploration that starts high, and decaying learning rates are for training from scratch, and are left out. Warm-ups
    take at most a tenth of the steps each, unless `settings` say otherwise.

    Args:
        start: the run directory.
        steps: environment steps per seed.
        algo: None takes the run's own.
        env: a Gymnasium id; None takes the run's own.
        offline_fraction: the dataset's share of every batch; None takes `OFFLINE_FRACTION` where that is possible.
        checkpoint: "last" or "best"; None for the one that training reported.
        base: options of another algorithm to begin with; None takes its defaults.
        settings: `key=value` texts that change the result.

    Raises:
        RequestError: there is no policy to start from.
        RecipeError: an option is unknown or wrong.
    """
    run, checkpoint = starting_point(start, checkpoint)
    source = run.recipe
    algo = source.algo if algo is None else algo
    if algo != source.algo and algo in AGENTS and AGENTS[algo].wraps:
        raise RecipeError(
            f"{algo} learns from demonstrations, which fine-tuning has none of",
            hint=f"offrl train {algo} --dataset NAME --from {start}",
        )
    if algo == source.algo:
        values = _continued(source)
    else:
        spec = spec_of(read_facts(run.checkpoint(checkpoint)))
        values = _succeeding(source, spec, algo, base or {})
    values |= {"start": str(start), "start_checkpoint": checkpoint, "steps": steps}
    if env is not None:
        values["env"] = env
    entry = AGENTS.get(algo)
    mixed = entry is not None and entry.online == "replay" and source.dataset is not None
    default = OFFLINE_FRACTION if mixed else 0.0
    critic_warmup = CRITIC_WARMUP
    if algo == source.algo:
        pretrained = mixed and source.start is None and hasattr(AGENTS[algo].agent, "update_critic")
        critic_warmup = PRETRAINED_CRITIC_WARMUP if pretrained else 0
        if pretrained:
            agent = values["agent"]
            agent["actor_learning_rate"] = min(agent["actor_learning_rate"], SMALL_ACTOR_STEP)
    values["online"] = {
        **values.get("online", {}),
        "warmup_steps": min(WARMUP_STEPS, steps // 10),
        "critic_warmup": min(critic_warmup, steps // 10),
        "offline_fraction": default if offline_fraction is None else offline_fraction,
        "record": True,
    }
    values = with_settings(values, list(settings))
    if algo == source.algo and not any(text.partition("=")[0].strip() == "agent.bc_decay" for text in settings):
        values["agent"] = _letting_go(values)
    return recipe_from_dict(values, f"the recipe that continues {start}")


def _letting_go(values: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's options; where it is held near the data and nothing lets go of it, with `bc_decay`."""
    agent, online = dict(values["agent"]), values["online"]
    learning = values["steps"] - online["warmup_steps"] - online["critic_warmup"]
    actor_steps = learning * online.get("updates_per_step", 1.0) / agent.get("policy_delay", 1)
    if agent.get("bc_alpha") and agent.get("bc_decay") == 1.0 and actor_steps >= 1.0:
        agent["bc_decay"] = LEFT_OF_ANCHOR ** (1.0 / actor_steps)
    return agent


def starting_point(start: Path, kind: str | None = None) -> tuple[Run, str]:
    """The run to start from, and the kind of checkpoint: the one asked for, or that training reported.

    Raises:
        RequestError: there is no such checkpoint.
    """
    try:
        run = Run.open(start)
        kind = kind or run.reported_checkpoint
        run.checkpoint(kind)
    except RunError as error:
        raise RequestError(
            f"there is no policy to fine-tune: {error.what}",
            where=error.where,
            hint="name a run that offrl train has trained up to a checkpoint, or ask for its other checkpoint "
            "(--checkpoint last|best)",
        ) from error
    return run, kind


def check_fine_tuning(recipe: Recipe, source: Recipe) -> None:
    """Whether an algorithm can go on from another, and from what data.

    Raises:
        RecipeError: it can't; the message says which can.
    """
    algo, entry = recipe.algo, AGENTS[recipe.algo]
    if not _goes_online(algo):
        raise RecipeError(f"{algo} learns from a dataset only, so it can't go on online", hint=_successors(source))
    if algo != source.algo and (source.algo != "bc" or not hasattr(_learner(recipe), "adopt_policy")):
        raise RecipeError(f"{algo} can't start from a policy that {source.algo} trained", hint=_successors(source))
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
    if recipe.online.critic_warmup and not hasattr(_learner(recipe), "update_critic"):
        raise RecipeError(f"{algo} has no critics apart from its policy", hint="set online.critic_warmup=0")
    if mixes_data(recipe) and entry.online == "rollouts":
        raise RecipeError(
            f"{algo} learns from its own newest steps only, so no data can be mixed in",
            hint="leave --offline-fraction and online.offline_fraction out",
        )
    if mixes_data(recipe) and recipe.dataset is None:
        raise RecipeError(
            "there is no data to mix in: the run to start from had no dataset",
            hint="leave --offline-fraction out, or name a dataset with --set dataset=NAME",
        )


def _goes_online(algo: str) -> bool:
    return AGENTS[algo].online != "none" or AGENTS[algo].wraps


def _successors(source: Recipe) -> str:
    """What can go on from a run, as a hint."""
    if source.algo == "bc":
        able = sorted(
            name for name, entry in AGENTS.items() if hasattr(entry.agent, "adopt_policy") and not entry.wraps
        )
        return f"choose what goes on from a cloned policy with --algo: {', '.join(able)}"
    if _goes_online(source.algo):
        return f"leave --algo out to go on with {source.algo}; only cloned policies (bc) start another algorithm"
    return "name a run that can go on: one of an algorithm that learns online, or a cloned policy (bc)"


def _learner(recipe: Recipe) -> Callable[..., Agent[Any]]:
    """What acts: the algorithm's class, or that of the agent it wraps."""
    entry = AGENTS[recipe.algo]
    return AGENTS[recipe.agent.generator].agent if entry.wraps else entry.agent


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
    if not AGENTS[recipe.algo].wraps:
        raise RecipeError(
            f"{recipe.algo} doesn't imitate by acting, so --from isn't for it",
            hint=f"offrl finetune {start} --algo {recipe.algo} goes on with a cloned policy",
        )
    if source.algo == recipe.algo:
        return {"seeds": list(source.seeds), **values, "start": str(start), "start_checkpoint": checkpoint}
    spec = spec_of(read_facts(run.checkpoint(checkpoint)))
    known, agent = source.to_dict(), dict(values.get("agent", {}))
    options = agent.get("generator_options", {})
    agent["generator_options"] = {**options, **_bound_options(source, spec, recipe.agent.generator)}
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


def mixes_data(recipe: Recipe) -> bool:
    """Whether batches hold a dataset's transitions, at any time of a fine-tuning."""
    online = recipe.online
    return online.offline_fraction > 0.0 or (online.offline_fraction_steps > 0 and online.offline_fraction_end > 0.0)


def take_over(policy: Policy, recipe: Recipe) -> None:
    """Give fresh agents what those of the recipe's `start` have learned: all their state, or a cloned policy.

    Raises:
        RecipeError: the agent's options don't fit what is to be taken over, or leave it nothing to learn with.
        SpaceMismatchError: the policies read other observations.
    """
    assert recipe.start is not None
    run = Run.open(Path(recipe.start))
    source, _ = load_policy(run, recipe.start_checkpoint, str(policy.device))
    if run.recipe.algo != recipe.algo:
        agent: Any = source.agent
        policy.agent.adopt_policy(policy.state, agent.acting_network(source.state), agent.kind)  # type: ignore[attr-defined]
        return
    try:
        restore_tensors(state_tensors(policy.state), state_tensors(source.state), recipe.start)
    except RunError as error:
        raise RecipeError(
            f"the agent's options don't fit the networks that it is to go on with: {error.what}",
            where=error.where,
            hint="leave options that shape networks or optimizers (agent.hidden, agent.max_kl and the like) as that "
            "run has them",
        ) from error
    _require_steps_left(policy.state, recipe, recipe.start)


def _require_steps_left(state: Any, recipe: Recipe, start: str) -> None:
    """Schedules count from a run's first step, so they may have ended before the fine-tuning begins."""
    taken = [int(part.steps) for part in _optimizers(state) if part.stands_still]
    transitions, decay_steps = getattr(state, "transitions", None), getattr(recipe.agent, "decay_steps", 0)
    if transitions is not None and 0 < decay_steps <= int(transitions):
        taken = [int(transitions)]
    if taken:
        raise RecipeError(
            f"agent.decay_steps={decay_steps} has ended: it counts from the first step of the run to go on from, which "
            f"took {max(taken):,}",
            where=start,
            hint=f"leave agent.decay_steps out, or add {max(taken):,} steps to it",
        )


def _optimizers(state: Any) -> Iterator[Adam]:
    """Those of an agent's state, and of states in it."""
    for part in vars(state).values():
        if isinstance(part, Adam):
            yield part
        elif is_dataclass(part):
            yield from _optimizers(part)


def _continued(source: Recipe) -> dict[str, Any]:
    """The same algorithm's recipe; what it learned is in its state. When to stop was the source's own affair."""
    values = source.to_dict()
    for section in ("cross_validation", "early_stopping"):
        values.pop(section)
    values["online"].pop("stop_at", None)
    values["agent"] |= _without_schedules(values["agent"])
    return values


def _succeeding(source: Recipe, spec: Spec, algo: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """Another algorithm's recipe, with what the source's policies and data are bound to."""
    known = source.to_dict()
    agent = {**base.get("agent", {}), **CAREFUL.get(algo, {}), **_bound_options(source, spec, algo)}
    seen = ("top_fraction", "validation_fraction", "normalize_observation", "frame_stack")
    data = {key: known["data"][key] for key in seen}
    values = {
        **base,
        "algo": algo,
        "seeds": known["seeds"],
        "device": known["device"],
        "env": known.get("env"),
        "agent": agent | _without_schedules(agent),
        "data": {**base.get("data", {}), **data},
    }
    if "dataset" in known:
        values["dataset"] = known["dataset"]
    return values


def _bound_options(source: Recipe, spec: Spec, algo: str) -> dict[str, Any]:
    """Options of another algorithm that its policy must have, or had better have, to start from the source's."""
    known = source.to_dict()["agent"]
    adopted = getattr(AGENTS[algo].agent, "adopted_options", ()) if algo in AGENTS else ()
    options: dict[str, Any] = {key: known[key] for key in adopted if key in known}
    fields = AGENTS[algo].config.__dataclass_fields__ if algo in AGENTS else {}
    if "policy" in fields and source.algo == "bc":
        options["policy"] = _stochastic(AGENTS["bc"].build(source.agent, spec).kind, spec)  # type: ignore[attr-defined]
    if "initial_log_std" in fields:
        options["initial_log_std"] = INITIAL_LOG_STD
    if "normalize_observation" in fields:
        # The data's statistics are in use already, and a policy sees the world through them.
        options["normalize_observation"] = False
    return options


def _stochastic(kind: str, spec: Spec) -> str:
    """The kind of policy that explores around one of this kind."""
    if kind != "deterministic":
        return kind
    return "squashed_gaussian" if spec.action_space.is_bounded("both") else "gaussian"  # type: ignore[attr-defined]


def _without_schedules(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Options that stop what a training from scratch begins with, or ends with."""
    steady: dict[str, Any] = {}
    if agent.get("generator_options"):
        options = agent["generator_options"]
        steady["generator_options"] = {**options, **_without_schedules(options)}
    if "decay_steps" in agent:
        steady["decay_steps"] = 0
    if "epsilon_end" in agent:
        steady["epsilon_start"] = agent["epsilon_end"]
    return steady
