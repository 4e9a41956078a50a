"""Policies of a run: fresh ones, and those of a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe
from offrl.data.space_encoding import space_from_json
from offrl.envs.policy import Policy
from offrl.errors import RecipeError, RunError
from offrl.nn.state import modules_of, restore_state, state_tensors
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler
from offrl.runs.checkpoint import read_facts, read_part
from offrl.runs.run import Run
from offrl.types import Agent, ObservesReward, Spec

FORMER = {"exploration", "acting_steps"}
"""Parts of states that versions up to 0.1.0 saved: what SAC's policies explored by, which acting carries now."""


def fresh_policy(
    algorithm: Algorithm,
    agent: Agent[Any, Any],
    recipe: Recipe,
    device: torch.device,
    normalizer: ObservationNormalizer | None,
) -> Policy:
    """A recipe's agent at step 0, one for each seed.

    Args:
        algorithm: the recipe's.
        agent: built by it.
        recipe: its seeds, and frames that are shown together.
        device: where the state is to live.
        normalizer: what observations are seen through.
    """
    space = agent.spec.action_space
    return Policy(
        agent=agent,
        state=agent.init(recipe.seeds, device),
        seeds=len(recipe.seeds),
        device=device,
        normalizer=normalizer,
        action_map=ActionMap.from_space(space) if isinstance(space, gym.spaces.Box) else None,
        frame_stack=recipe.data.frame_stack,
        masks=algorithm.learner(recipe.agent).masks,
        rewards=RewardScaler(recipe.data.reward_scale) if algorithm.can(ObservesReward) else None,
    )


def load_policy(run: Run, checkpoint: str, device: str = "cpu") -> tuple[Policy, dict[str, Any]]:
    """A run's trained policies, ready to act, and the facts of the checkpoint.

    Raises:
        RunError: there is no such checkpoint, or it is damaged.
    """
    directory, recipe = run.checkpoint(checkpoint), run.recipe
    facts = read_facts(directory)
    algorithm: Algorithm = plugins.algorithms[recipe.algo]
    agent = algorithm.build(recipe.agent, spec_of(facts))
    policy = fresh_policy(algorithm, agent, recipe, resolve_device(device), load_normalizer(directory))
    restore_state(policy.state, saved_state(directory, policy.state), str(directory))
    return policy, facts


def policy_of_seed(policy: Policy, position: int, seed: int) -> Policy:
    """The policy of one of S seeds alone, with parameters of its own that have no gradient.

    Args:
        policy: of S seeds.
        position: which of them, counted from 0.
        seed: its number.
    """
    state = policy.agent.init((seed,), policy.device)
    parts = state_tensors(policy.state).items()
    restore_state(
        state,
        {name: whole if whole.dim() == 0 else whole[position : position + 1] for name, whole in parts},
        "the run's state",
    )
    for network in modules_of(state):
        network.requires_grad_(False)
    return dataclasses.replace(policy, state=state, seeds=1)


def saved_state(directory: Path, state: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint's agent, without what former versions kept there and the state has no place for."""
    saved, wanted = read_part(directory, "state").items(), state_tensors(state)
    tensors = {name: tensor for name, tensor in saved if name in wanted or name.rpartition(".")[2] not in FORMER}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(
                f"the tensor '{name}' of the checkpoint is not finite, so its policy can't act",
                where=str(directory),
                hint="choose another checkpoint, or train again",
            )
    return tensors


def load_normalizer(directory: Path) -> ObservationNormalizer | None:
    """What a checkpoint's policies see observations through; None where they see them as they are.

    Raises:
        RunError: it is damaged.
    """
    facts = read_facts(directory)
    if not facts["normalized"]:
        return None
    try:
        normalizer = ObservationNormalizer.from_named_tensors(read_part(directory, "normalizer"))
        normalizer.require_fit(spec_of(facts).observation_space)
    except ValueError as error:
        raise RunError(
            f"the checkpoint's normalizer is damaged: {error}", where=str(directory), hint="choose another"
        ) from error
    return normalizer


def spec_of(facts: dict[str, Any]) -> Spec:
    """The spaces that a checkpoint's policies are for.

    Raises:
        RunError: they are damaged.
    """
    try:
        return Spec(space_from_json(facts["observation_space"]), space_from_json(facts["action_space"]))
    except ValueError as error:
        raise RunError(f"the checkpoint's spaces are damaged: {error}", hint="choose another checkpoint") from error


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
