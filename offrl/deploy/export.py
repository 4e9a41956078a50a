"""From a run to one file that acts without offrl, checked against the run's own policy before it is left behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl import __version__, plugins
from offrl.agents.algorithm import Algorithm
from offrl.data.schema import OBSERVATION, unflatten_value
from offrl.data.space_encoding import space_to_json
from offrl.deploy.file_formats import (
    ACTION,
    FORMATS,
    LOG_PROB,
    NEXT_CARRY,
    Carry,
    Runner,
    as_tensors,
    carried,
    handed_names,
    output_names,
)
from offrl.deploy.module import Columns, InferencePolicy, as_observation, random_observations
from offrl.envs.policy import Policy
from offrl.errors import ExportError, RequestError, SpaceMismatchError
from offrl.files import naming, whole_path
from offrl.ops.trees import tree_leaves
from offrl.runs.load import load_policy, policy_of_seed
from offrl.runs.run import Run
from offrl.types import Density, Observation

EXAMPLE_ROWS = 3
"""Rows that a policy is traced with; one would be taken for a constant."""
CHECKED_ROWS = (1, 64)
"""Batches of random observations that an exported file is tried on."""
TOLERANCE = 1e-5
"""How far floats may differ, times the value or half the bounds' width where these exceed 1; integers may not."""
EXAMPLE_SEED, CHECK_SEED = 7, 8


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file.
        metadata: what it says of itself; see `export_policy`.
        difference: the largest one from the run's own policy in any output; None where it could not be run here.
    """

    path: Path
    metadata: dict[str, Any]
    difference: float | None


def export_policy(
    run: Run,
    path: Path,
    format: str = "onnx",
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
    log_prob: bool = False,
    overwrite: bool = False,
) -> Export:
    """Write one seed's greedy policy to a file.

    The file takes raw observations [batch, …], `observation`, or `observation.<key>` for each part of a nested one:
    float32 where the environment's are floats (float64 where they have an offset that float32 can't hold, as Unix time
    has), else of the environment's type; with `data.frame_stack` the newest frames, as the policy sees them. It gives
    `action` in the environment's own units and numbers: float32 [batch, …] within the bounds, int64 [batch] for
    Discrete, int64 [batch, …] for MultiDiscrete. The normalizer is inside. All actions count as allowed; where some
    aren't, choose among the log-probabilities.

    Where acting remembers something, the file takes that too, `carry` or `carry.<part>`, [batch, …], and gives what to
    hand to the next call, `next_carry…`; the metadata has what an episode begins with, as `initial`. Policies that go
    by the rewards that they earn also take `reward`, float32 [batch]: what the action before earned.

    In the file is JSON, under "offrl": version, algorithm, environment, spaces, step, checkpoint, seed, frame stack,
    inputs and outputs.

    Args:
        run: a run with a checkpoint.
        path: the file; folders are made if need be.
        format: a name in `FORMATS`.
        checkpoint: "last" or "best"; None for the one that training reported.
        seed: which of the run's seeds; None for the only one.
        log_prob: give the log-probabilities of all Discrete actions too, float32 [batch, A], in nats: what
            `offrl.off_policy.target_policies.OnnxPolicy` needs to value the policy that samples.
        overwrite: replace a file at `path`, once the new one is whole.

    Raises:
        RequestError: the path is taken, the seed isn't the run's, or packages are missing.
        SpaceMismatchError: log-probabilities are asked for, and there are none to list.
        RunError: there is no such checkpoint.
        ExportError: the policy can't be written in that format, or the file would act differently.
        StoreError: there is no room, or the file can't be written for another reason.
    """
    if format not in FORMATS:
        raise RequestError(f"there is no format '{format}'", hint=f"choose {' or '.join(FORMATS)}")
    kind = FORMATS[format]
    kind.require()
    if os.path.lexists(path) and not overwrite:
        raise RequestError("the destination exists", where=str(path), hint="give another --out, or say --overwrite")
    position = _position(run, seed)
    checkpoint = run.choose_checkpoint(checkpoint)
    whole, facts = load_policy(run, checkpoint)
    if log_prob:
        _require_probabilities(whole, plugins.algorithms[run.recipe.algo], run.recipe.algo)
    chosen = run.recipe.seeds[position]
    module = InferencePolicy(policy_of_seed(whole, position, chosen), log_prob=log_prob)
    example = random_observations(whole, EXAMPLE_ROWS, EXAMPLE_SEED)
    carry = _initial(module, EXAMPLE_ROWS)
    metadata = {
        "offrl": __version__,
        "algo": run.recipe.algo,
        "environment": facts["environment"],
        "checkpoint": checkpoint,
        "step": facts["step"],
        "seed": chosen,
        "frame_stack": whole.frame_stack,
        "observation_space": space_to_json(whole.agent.spec.observation_space),
        "action_space": space_to_json(whole.agent.spec.action_space),
        # Networks look their layers up at first use, and must do so before they are traced.
        **_signature(module, example, carry),
    }
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_path(path) as temporary:
        kind.write(module, example, carry, temporary, metadata)
        runner = kind.open(temporary)
        difference = None if runner is None else _compare(runner, whole, position, module)
    return Export(path, metadata, difference)


def _position(run: Run, seed: int | None) -> int:
    """Where a seed is among the run's."""
    seeds = run.recipe.seeds
    if seed is None and len(seeds) == 1:
        return 0
    if seed not in seeds:
        wrong = "a file holds one policy, and the run has several" if seed is None else f"the run has no seed {seed}"
        raise RequestError(
            wrong, where=str(run.path), hint=f"choose one with --seed: {', '.join(str(each) for each in seeds)}"
        )
    return seeds.index(seed)


def _require_probabilities(policy: Policy, algorithm: Algorithm, algo: str) -> None:
    agent: Any = policy.agent
    space, dense = agent.spec.action_space, algorithm.can(Density) and agent.has_density
    if not dense or not isinstance(space, gym.spaces.Discrete):
        reason = f"{algo} here samples no actions" if not dense else f"actions are {space}, not Discrete"
        raise SpaceMismatchError(f"there are no log-probabilities to list: {reason}", hint="leave out --log-prob")


def _initial(module: InferencePolicy, rows: int) -> Carry:
    """What acting is handed where episodes begin, [rows, …] each."""
    remembered = (np.repeat(part.cpu().numpy(), rows, axis=0) for part in module.initial_carry.values())
    return (*_no_reward(module, rows), *remembered)


def _no_reward(module: InferencePolicy, rows: int) -> Carry:
    """Rewards of 0, for policies that are told of such."""
    return (np.zeros(rows, np.float32),) if module.goes_by_reward else ()


def _signature(module: InferencePolicy, example: Columns, carry: Carry) -> dict[str, Any]:
    """Name, type and shape of what goes in and comes out."""
    given = module(as_observation(example), as_tensors(carry))
    given = given if isinstance(given, tuple) else (given,)
    handed = zip(handed_names(module), carry, strict=True)
    return {
        "inputs": [
            *(_described(name, values) for name, values in example.items()),
            *(_described(name, part) | {"initial": part[0].tolist()} for name, part in handed),
        ],
        "outputs": [_described(name, part.numpy()) for name, part in zip(output_names(module), given, strict=True)],
    }


def _described(name: str, values: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "dtype": str(values.dtype), "shape": ["batch", *values.shape[1:]]}


def _compare(runner: Runner, policy: Policy, position: int, module: InferencePolicy) -> float:
    """The largest difference between a file's outputs and what the run's policy does; raises ExportError.

    Two steps are taken, the second one with what the first one remembered, and earned.
    """
    largest, names = 0.0, output_names(module)
    for rows in CHECKED_ROWS:
        carry, remembered = _initial(module, rows), policy.initial_carry(rows)
        for step in range(2):
            columns = random_observations(policy, rows, CHECK_SEED + step)
            have = dict(zip(names, runner(columns, carry), strict=True))
            seen = policy.observe(_shown_to_all(policy, columns))
            want = _log_probs(policy, position, seen, remembered, rows) if module.log_prob else {}
            action, remembered = policy.act(seen, remembered)
            want[ACTION] = np.split(policy.to_environment(action), policy.seeds)[position]
            want |= {
                name: part[position].cpu().numpy()
                for name, part in zip(carried(NEXT_CARRY, module), _changing(module, remembered), strict=True)
            }
            for name in names:
                scale = _scale(policy) if name == ACTION else 1.0
                largest = max(largest, _difference(name, want[name], have[name], scale))
            earned = tuple(part + 1.0 for part in _no_reward(module, rows))
            carry = (*earned, *(have[name] for name in carried(NEXT_CARRY, module)))
            remembered = policy.observe_reward(remembered, np.ones(rows * policy.seeds))
    return largest


def _changing(module: InferencePolicy, carry: Any) -> list[Tensor]:
    """What the file has of what all seeds' policies remember."""
    return [part for (_, part), changes in zip(tree_leaves(carry), module.changing, strict=True) if changes]


def _scale(policy: Policy) -> NDArray[Any]:
    """Half the width of each action component's bounds."""
    if policy.action_map is None:
        return np.ones(())
    return policy.action_map.half.reshape(policy.agent.spec.action_space.shape or ())


def _difference(name: str, want: NDArray[Any], have: NDArray[Any], scale: NDArray[Any] | float = 1.0) -> float:
    if have.shape != want.shape or have.dtype != want.dtype:
        raise ExportError(
            f"the file's '{name}' is {have.dtype} {have.shape}, not {want.dtype} {want.shape}", hint=_HINT
        )
    error = np.abs(have.astype(np.float64) - want.astype(np.float64))
    allowed = TOLERANCE * np.maximum(np.maximum(scale, 1.0), np.abs(want)) if want.dtype.kind == "f" else 0.0
    if not (error <= allowed).all():
        raise ExportError(f"the file's '{name}' is off the policy's by {error.max():.3g}; it was not kept", hint=_HINT)
    return float(error.max())


_HINT = "try the other --format, and report this"


def _log_probs(policy: Policy, position: int, seen: Observation, carry: Any, rows: int) -> dict[str, NDArray[Any]]:
    """Of all actions, one after the other."""
    space = policy.agent.spec.action_space
    assert isinstance(space, gym.spaces.Discrete)
    parts = [
        policy.log_prob(seen, torch.full((policy.seeds, rows), action), carry)[position]
        for action in range(int(space.start), int(space.start + space.n))
    ]
    return {LOG_PROB: torch.stack(parts, dim=-1).numpy()}


def _shown_to_all(policy: Policy, columns: Columns) -> Any:
    """The same observations for every seed, nested as the space is."""
    repeated = {name: np.concatenate([values] * policy.seeds) for name, values in columns.items()}
    return unflatten_value(policy.agent.spec.observation_space, repeated, OBSERVATION)
