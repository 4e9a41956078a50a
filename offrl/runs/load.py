"""Policies of a run: fresh ones, and those of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from offrl.agents import AGENTS
from offrl.data.schema import space_from_json
from offrl.envs.policy import Policy
from offrl.errors import RecipeError
from offrl.replay.normalization import ActionMap, ObservationNormalizer
from offrl.runs.checkpoint import read_facts, read_part, restore_tensors, state_tensors
from offrl.runs.run import Run
from offrl.types import Agent, Spec


def fresh_policy(
    agent: Agent[Any],
    seeds: tuple[int, ...],
    device: torch.device,
    normalizer: ObservationNormalizer | None,
    frame_stack: int = 1,
) -> Policy:
    """An agent at step 0, one for each seed."""
    space = agent.spec.action_space
    return Policy(
        agent=agent,
        state=agent.init(seeds, device),
        seeds=len(seeds),
        device=device,
        normalizer=normalizer,
        frame_stack=frame_stack,
        action_map=ActionMap.from_space(space) if isinstance(space, gym.spaces.Box) else None,
    )


def load_policy(run: Run, checkpoint: str, device: str = "cpu") -> tuple[Policy, dict[str, Any]]:
    """A run's trained policies, ready to act, and the facts of the checkpoint.

    Raises:
        RunError: there is no such checkpoint, or it is damaged.
    """
    directory = run.checkpoint(checkpoint)
    facts = read_facts(directory)
    frames = run.recipe.data.frame_stack
    agent = AGENTS[run.recipe.algo].build(run.recipe.agent, spec_of(facts))
    policy = fresh_policy(agent, run.recipe.seeds, resolve_device(device), load_normalizer(directory), frames)
    restore_tensors(state_tensors(policy.state), read_part(directory, "state"), str(directory))
    return policy, facts


def load_normalizer(directory: Path) -> ObservationNormalizer | None:
    """What a checkpoint's policies see observations through; None where they see them as they are."""
    if not read_facts(directory)["normalized"]:
        return None
    return ObservationNormalizer.from_named_tensors(read_part(directory, "normalizer"))


def spec_of(facts: dict[str, Any]) -> Spec:
    """The spaces that a checkpoint's policies are for."""
    return Spec(space_from_json(facts["observation_space"]), space_from_json(facts["action_space"]))


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
        raise RecipeError(f"there is no device {name!r}", hint="use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no CUDA device here", hint="use --device cpu or auto")
    return device
