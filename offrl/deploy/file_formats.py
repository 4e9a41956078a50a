"""The formats that policies are exported in: how a file of each is written, and how it is run."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from offrl import __version__
from offrl.deploy.module import Columns, InferencePolicy, as_observation
from offrl.errors import ExportError, RequestError
from offrl.replay.normalization import observation_key

METADATA = "offrl"
"""The key of the metadata, JSON text: of ONNX's metadata properties, of TorchScript's extra files."""
ACTION, LOG_PROB = "action", "log_prob"
CARRY, NEXT_CARRY = "carry", "next_carry"
"""Prefixes of the names of what acting remembers: as it goes in, and as it comes out."""
REWARD = "reward"
"""The name of what the action before earned, which policies that go by it are given in front of what they remember."""
Carry = tuple[NDArray[Any], ...]
"""What acting is handed beside observations, [N, …] each, in the order of `handed_names`."""


def carried(prefix: str, module: InferencePolicy) -> list[str]:
    """Names of what acting remembers: `carry.<part>`, or `carry` where it is one tensor; none without a memory."""
    return [f"{prefix}.{name}" if name else prefix for name in module.initial_carry]


def handed_names(module: InferencePolicy) -> list[str]:
    """Names of what acting is handed beside observations."""
    return [*([REWARD] if module.goes_by_reward else []), *carried(CARRY, module)]


def output_names(module: InferencePolicy) -> list[str]:
    """In the order in which the module gives them."""
    return [ACTION, *([LOG_PROB] if module.log_prob else []), *carried(NEXT_CARRY, module)]


class Runner(Protocol):
    """A file that was opened."""

    def __call__(self, columns: Columns, carry: Carry) -> list[NDArray[Any]]:
        """Its outputs for rows of observations, and of what acting remembers."""


class Format(Protocol):
    """A kind of file.

    Attributes:
        suffix: what its names end in.
    """

    suffix: str

    def require(self) -> None:
        """Raises RequestError unless what writes it is installed."""

    def write(
        self, module: InferencePolicy, example: Columns, carry: Carry, path: Path, metadata: Mapping[str, Any]
    ) -> None:
        """Trace a policy with rows that show it what observations look like.

        Raises:
            ExportError: it can't be traced.
        """

    def open(self, path: Path) -> Runner | None:
        """What runs it; None where that isn't installed."""


class Onnx:
    """ONNX, with the number of rows left open."""

    suffix = ".onnx"

    def require(self) -> None:
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise RequestError(
                f"exporting to ONNX needs the package '{error.name}'", hint="pip install 'offrl[onnx]'"
            ) from error

    def write(
        self, module: InferencePolicy, example: Columns, carry: Carry, path: Path, metadata: Mapping[str, Any]
    ) -> None:
        rows = {0: torch.export.Dim("batch")}
        keys = [observation_key(name) for name in example]
        try:
            with _quiet():
                remembered = {"carry": as_tensors(carry)} if carry else {}
                program = torch.onnx.export(
                    module,
                    kwargs={"observation": as_observation(example), **remembered},
                    input_names=[*example, *handed_names(module)],
                    output_names=output_names(module),
                    dynamic_shapes={
                        "observation": rows if keys == [""] else dict.fromkeys(keys, rows),
                        **{name: (rows,) * len(carry) for name in remembered},
                    },
                    dynamo=True,
                    verbose=False,
                )
                assert program is not None
                _tidy(program.model, metadata)
                program.save(path, external_data=False)
        except OSError:
            raise
        except Exception as error:
            raise _untraceable("ONNX", error, "torchscript") from error

    def open(self, path: Path) -> Runner | None:
        try:
            import onnxruntime
        except ImportError:
            return None
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        names = [each.name for each in session.get_inputs() if each.name.split(".")[0] in (REWARD, CARRY)]

        def run(columns: Columns, carry: Carry) -> list[NDArray[Any]]:
            outputs: list[NDArray[Any]] = session.run(None, columns | dict(zip(names, carry, strict=True)))
            return outputs

        return run


class TorchScript:
    """TorchScript, traced; nested observations are one mapping of dotted keys, what acting remembers is one tuple."""

    suffix = ".pt"

    def require(self) -> None:
        """PyTorch itself writes it."""

    def write(
        self, module: InferencePolicy, example: Columns, carry: Carry, path: Path, metadata: Mapping[str, Any]
    ) -> None:
        try:
            with _quiet():
                given = (as_observation(example), *((as_tensors(carry),) if carry else ()))
                traced = torch.jit.trace(module, given, check_trace=False, strict=False)
                # Into memory: what is written to a path has the path's name inside.
                archive = io.BytesIO()
                torch.jit.save(torch.jit.freeze(traced), archive, _extra_files={METADATA: json.dumps(metadata)})
            path.write_bytes(archive.getvalue())
        except OSError:
            raise
        except Exception as error:
            raise _untraceable("TorchScript", error, "onnx") from error

    def open(self, path: Path) -> Runner | None:
        with _quiet():
            module = torch.jit.load(str(path))

        def run(columns: Columns, carry: Carry) -> list[NDArray[Any]]:
            with torch.no_grad():
                outputs = module(as_observation(columns), *((as_tensors(carry),) if carry else ()))
            tensors: Sequence[Any] = outputs if isinstance(outputs, tuple) else (outputs,)
            return [np.asarray(tensor) for tensor in tensors]

        return run


def as_tensors(carry: Carry) -> tuple[torch.Tensor, ...]:
    """As `InferencePolicy` takes what acting remembers."""
    return tuple(torch.from_numpy(part) for part in carry)


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torchscript": TorchScript()}


def _tidy(model: Any, metadata: Mapping[str, Any]) -> None:
    """Put the metadata in, and take the exporter's notes out, which name the files of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props[METADATA] = json.dumps(metadata)
    model.graph.name, model.producer_name, model.producer_version = "policy", "offrl", __version__


def _untraceable(name: str, error: Exception, other: str) -> ExportError:
    reason = next((line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()), "no message")
    return ExportError(
        f"the policy can't be written as {name}: {type(error).__name__}: {reason}", hint=f"try --format {other}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks to themselves: deprecations, packages they look for, shapes that are constants."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
