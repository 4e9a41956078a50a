"""What a log must be like before anything is estimated from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from offrl.errors import DataError, RequestError

if TYPE_CHECKING:
    from offrl.off_policy.episode_log import EpisodeLog

PROBABILITY_SLACK = 1e-6
"""How far above 0 a float32 log-probability of 1 may come out."""
BY_STEP = ("reward", "behavior_log_prob", "target_log_prob", "q", "v")
BY_EPISODE = ("terminated", "truncated", "v_final")


def check_shapes(log: EpisodeLog) -> None:
    """Refuse arrays that don't belong together.

    Raises:
        DataError: an episode has no steps, or observations and actions are not those of the steps.
        RequestError: another array is of the wrong shape, the discount or the horizon can't be, or values are there in
            part only.
    """
    if not 0.0 <= log.discount <= 1.0:
        raise RequestError(f"the discount is {log.discount}", hint="give one between 0 and 1")
    if log.horizon is not None and log.horizon < 1:
        raise RequestError(f"the horizon is {log.horizon} steps", hint="give at least 1, or none for no limit")
    if log.offsets.ndim != 1 or len(log.offsets) < 2:
        raise DataError("the log holds no episode", hint="give at least one")
    if log.offsets[0] != 0 or (log.lengths < 1).any():
        bad = 0 if log.offsets[0] else int(np.argmax(log.lengths < 1))
        raise DataError(
            f"episode {bad} has no rows", where="offsets", hint="leave empty episodes out; offsets begin with 0"
        )
    for names, count, what in ((BY_STEP, int(log.offsets[-1]), "row"), (BY_EPISODE, log.episodes, "episode")):
        for name in names:
            value = vars(log)[name]
            if value is not None and value.shape != (count,):
                raise RequestError(
                    f"{name} has the shape {value.shape}, and there are {count} {what}s",
                    where=name,
                    hint=f"give one value for each {what}",
                )
    if log.v is None and (log.q is not None or log.v_final is not None):
        raise RequestError(
            "action values or final values are there without the state values v",
            where="v",
            hint="give v, the expectation of Q̂ under the target policy, with them",
        )
    _check_seen(log)


def _check_seen(log: EpisodeLog) -> None:
    if log.observations is None or log.taken is None:
        return
    parts = log.observations.values() if isinstance(log.observations, Mapping) else [log.observations]
    seen = {len(part) for part in parts}
    if seen != {log.rows} or len(log.taken) != log.steps:
        raise DataError(
            f"{log.episodes} episodes of {log.steps} steps in all don't go with {', '.join(map(str, sorted(seen)))} "
            f"observations and {len(log.taken)} actions",
            hint="give one observation more than actions for each episode",
        )


def check_values(log: EpisodeLog) -> None:
    """Refuse what is no number or no log-probability; probabilities only where both policies' are there.

    Raises:
        DataError: of the first wrong value, where it stands.
    """
    # The extremes say whether anything is wrong, NaN included, with fewer passes than it takes to say what.
    for name in ("reward", "q", "v", "v_final"):
        values = vars(log)[name]
        if values is not None and not np.isfinite(_extremes(values)).all():
            _refuse(log, name, ~np.isfinite(values), "NaN or infinite", "check what it came from")
    behavior, target = log.behavior_log_prob, log.target_log_prob
    if behavior is None or target is None:
        return
    bound = np.finfo(np.float64).max if log.density else PROBABILITY_SLACK
    least, largest = _extremes(behavior)
    if least > -np.inf and largest <= bound and _extremes(target)[1] <= bound:
        return
    _refuse(log, "behavior_log_prob", np.isnan(behavior), "NaN", "a log needs every logged action's probability")
    _refuse(log, "target_log_prob", np.isnan(target), "NaN", "check the target policy at these rows")
    _refuse(
        log,
        "behavior_log_prob",
        behavior == -np.inf,
        "of probability 0 although they were logged",
        "what was done had a chance: check the probabilities, or estimate the behavior policy",
    )
    for name, values in (("behavior_log_prob", behavior), ("target_log_prob", target)):
        _refuse(
            log,
            name,
            values > bound,
            "infinite" if log.density else "of a probability above 1",
            _logarithms(log, name),
        )


def _logarithms(log: EpisodeLog, name: str) -> str:
    """How to give log-probabilities that are some."""
    if log.spaces is None:
        return "give natural logarithms of probabilities; of densities, say so with density=True"
    if name == "behavior_log_prob":
        return "convert the log anew: --map behavior_prob=COLUMN, or --map behavior_log_prob=COLUMN for logarithms"
    return "the policy has to give natural logarithms of probabilities"


def check_final_values(log: EpisodeLog) -> None:
    """Refuse values that say nothing of what truncated episodes would have gone on to earn.

    Raises:
        RequestError: there are such episodes and no values of the states that they stopped in.
    """
    if log.v_final is None and log.broken_off.any():
        raise RequestError(
            f"{int(log.broken_off.sum())} episodes were truncated before the horizon, and the value of the states that "
            "they stopped in is not known",
            where="v_final",
            hint="give v_final; or, where the time limit is a part of the task, give it as the horizon",
        )


def _refuse(log: EpisodeLog, name: str, wrong: NDArray[np.bool_], what: str, hint: str) -> None:
    if not wrong.any():
        return
    first = int(np.argmax(wrong))
    if name in BY_EPISODE:
        place = f"episode {first}"
    else:
        episode = int(np.searchsorted(log.offsets, first, side="right")) - 1
        place = f"episode {episode}, step {first - int(log.offsets[episode])}"
    count = int(wrong.sum())
    raise DataError(
        f"{count} of {len(wrong)} values of {name} {'is' if count == 1 else 'are'} {what}",
        where=f"{name}, first at {place}",
        hint=hint,
    )


def _extremes(values: NDArray[Any]) -> tuple[float, float]:
    """The least and the largest; NaN where there is one."""
    # PyTorch takes no read-only memory.
    least, largest = torch.aminmax(torch.from_numpy(values if values.flags.writeable else values.copy()))
    return float(least), float(largest)
