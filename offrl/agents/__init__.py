"""The algorithms, one file each, and the table that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from offrl.agents.bc import BC, BCConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.types import Agent, Spec


class Entry(NamedTuple):
    """An algorithm's options, how to build it from options and spaces, and whether it can collect its own data."""

    config: type[Any]
    build: Callable[[Any, Spec], Agent[Any]]
    learns_online: bool


AGENTS: dict[str, Entry] = {
    "bc": Entry(BCConfig, BC, learns_online=False),
    "td3": Entry(TD3Config, TD3, learns_online=True),
}
"""Name on the command line and in recipes, to algorithm."""
