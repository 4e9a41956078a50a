"""Kinds of option values that configs share: a value out of range is an error that names the option.

They say what `offrl.config.validation` asks of values, and need nothing that checks: an agent works where that isn't
installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

STRICT: dict[str, Any] = {"extra": "forbid"}
"""As a config's `__pydantic_config__`: a key that it doesn't have is an error."""


LARGEST = 1e38
"""About as large as single precision goes."""


class IsFinite:
    """Neither NaN nor infinite, in single precision either: a mark on a float, read by pydantic."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(source) | {"allow_inf_nan": False, "ge": -LARGEST, "le": LARGEST}


class IsCheckpoint:
    """A mark on a str that names a checkpoint, read by pydantic."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        check = {"type": "no-info", "function": _named_checkpoint}
        return {"type": "function-after", "function": check, "schema": handler(source)}


def _named_checkpoint(name: str) -> str:
    if not re.fullmatch(r"last|best|step-\d{1,18}", name):
        raise ValueError("should be last, best, or one that the run keeps, such as step-5000")
    return name


Finite = Annotated[float, IsFinite()]
Positive = Annotated[Finite, Gt(0.0)]
NonNegative = Annotated[Finite, Ge(0.0)]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Probability = Annotated[float, Ge(0.0), Le(1.0)]
ProbabilityBelowOne = Annotated[float, Ge(0.0), Lt(1.0)]
PositiveFraction = Annotated[float, Gt(0.0), Le(1.0)]
Share = Annotated[float, Gt(0.0), Lt(1.0)]
CheckpointKind = Annotated[str, IsCheckpoint()]
"""Which checkpoint of a run: "last", "best", or one that it keeps, such as "step-5000"."""
Widths = tuple[Count, ...]
Activation = Literal["relu", "tanh", "elu", "gelu", "silu"]
Convolutions = Literal["auto", "impala"] | tuple[tuple[Count, Count, Count], ...]
