"""What in a recipe won't do what it seems to."""

from __future__ import annotations

from offrl.config.recipe import Recipe
from offrl.feeds import feed_of


def warnings_of(recipe: Recipe) -> list[str]:
    """A sentence for each doubt."""
    return [text for text in (_warmup(recipe), _unread(recipe), _unread_end(recipe)) if text]


def _warmup(recipe: Recipe) -> str:
    warmup, kind = recipe.online.warmup_steps, feed_of(recipe)
    fills = kind.online and "online.capacity" not in kind.unread(recipe)[0]
    if not fills or recipe.steps >= warmup:
        return ""
    return (
        f"Nothing is learned: the first {warmup:,} steps only fill the replay, and there are {recipe.steps:,}. "
        "Take more (--steps), or fewer of those (--set online.warmup_steps=N)."
    )


def _unread(recipe: Recipe) -> str:
    """A warning of the options that nothing reads, where they aren't at their defaults."""
    names, why = feed_of(recipe).unread(recipe)
    changed = [name for name in names if _changed(recipe, name)]
    return f"Without effect on {recipe.algo} here: {', '.join(changed)}; {why}." if changed else ""


def _unread_end(recipe: Recipe) -> str:
    if not recipe.online.offline_fraction_end or recipe.online.offline_fraction_steps:
        return ""
    return (
        "online.offline_fraction_end has no effect: the data's share stays at online.offline_fraction, unless "
        "online.offline_fraction_steps says how long it takes to get there."
    )


def _changed(recipe: Recipe, name: str) -> bool:
    section, _, option = name.rpartition(".")
    table = vars(recipe)[section] if section else recipe
    return bool(vars(table)[option] != vars(type(table))[option])
