"""What in a recipe won't do what it seems to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offrl.config.recipe import Recipe

if TYPE_CHECKING:
    from offrl.feeds.feed import Feed


def warnings_of(recipe: Recipe, feed: type[Feed]) -> list[str]:
    """A sentence for each doubt.

    Args:
        recipe: what is to be trained.
        feed: how it learns.
    """
    (unread, why), warmup, texts = feed.unread(recipe), recipe.online.warmup_steps, []
    if feed.online and "online.capacity" not in unread and recipe.steps < warmup:
        texts.append(
            f"Nothing is learned: the first {warmup:,} steps only fill the replay, and there are {recipe.steps:,}. "
            "Take more (--steps), or fewer of those (--set online.warmup_steps=N)."
        )
    changed = []
    for name in unread:
        section, _, option = name.rpartition(".")
        table = vars(recipe)[section] if section else recipe
        if vars(table)[option] != vars(type(table))[option]:
            changed.append(name)
    if changed:
        texts.append(f"Without effect on {recipe.algo} here: {', '.join(changed)}; {why}.")
    if recipe.online.offline_fraction_end and not recipe.online.offline_fraction_steps:
        texts.append(
            "online.offline_fraction_end has no effect: the data's share stays at online.offline_fraction, unless "
            "online.offline_fraction_steps says how long it takes to get there."
        )
    return texts
