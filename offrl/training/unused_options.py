"""What in a recipe won't do what it seems to."""

from __future__ import annotations

import dataclasses

from offrl.agents import AGENTS
from offrl.config.recipe import OnlineConfig, Recipe
from offrl.feeds.problem import learns_online

REPLAY_OPTIONS = ("online.capacity", "online.updates_per_step", "data.n_step")
"""Those that only a replay, or a dataset, reads."""
SELECTION_OPTIONS = ("data.top_fraction", "data.episodes", "data.memory_budget")
"""Those that only a dataset reads."""


def warnings_of(recipe: Recipe) -> list[str]:
    """A sentence for each doubt."""
    return [text for text in (_warmup(recipe), _unread(recipe), _unread_end(recipe)) if text]


def _warmup(recipe: Recipe) -> str:
    warmup = recipe.online.warmup_steps
    replay = learns_online(recipe) and AGENTS[recipe.algo].online_by(recipe.agent) == "replay"
    if not replay or recipe.steps >= warmup:
        return ""
    return (
        f"Nothing is learned: the first {warmup:,} steps only fill the replay, and there are {recipe.steps:,}. "
        "Take more (--steps), or fewer of those (--set online.warmup_steps=N)."
    )


def _unread(recipe: Recipe) -> str:
    entry = AGENTS[recipe.algo]
    if not learns_online(recipe):
        names = tuple(f"online.{field.name}" for field in dataclasses.fields(OnlineConfig))
        return _ignored(recipe, names, "it learns from the dataset alone")
    if entry.online_by(recipe.agent) == "rollouts":
        # Imitators draw demonstrations in batches of that size.
        names = REPLAY_OPTIONS if entry.wraps else ("batch_size", *REPLAY_OPTIONS)
        return _ignored(recipe, names, "each update takes the newest agent.rollout_steps steps of every environment")
    if recipe.dataset is None:
        return _ignored(recipe, SELECTION_OPTIONS, "it learns from its own steps alone")
    return ""


def _unread_end(recipe: Recipe) -> str:
    if not recipe.online.offline_fraction_end or recipe.online.offline_fraction_steps:
        return ""
    return (
        "online.offline_fraction_end has no effect: the data's share stays at online.offline_fraction, unless "
        "online.offline_fraction_steps says how long it takes to get there."
    )


def _ignored(recipe: Recipe, names: tuple[str, ...], why: str) -> str:
    """A warning of the options among these that aren't at their defaults."""
    changed = [name for name in names if _changed(recipe, name)]
    return f"Without effect on {recipe.algo} here: {', '.join(changed)}; {why}." if changed else ""


def _changed(recipe: Recipe, name: str) -> bool:
    section, _, option = name.rpartition(".")
    table = getattr(recipe, section) if section else recipe
    return bool(getattr(table, option) != getattr(type(table), option))
