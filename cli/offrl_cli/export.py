"""`offrl export`: a run's policy as one file that needs no offrl."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import offrl
from offrl_cli.errors import command
from offrl_cli.output import AsJson, note, print_json, print_pairs, working
from offrl_cli.runs import Checkpoint, RunPath


class Format(StrEnum):
    """What kind of file."""

    onnx = "onnx"
    torchscript = "torchscript"


@command
def export(
    run: RunPath,
    format: Annotated[
        Format, typer.Option(help="The kind of file; onnx needs pip install 'offrl[onnx]'.")
    ] = Format.onnx,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file. Default: policy.onnx or policy.pt in the run.")
    ] = None,
    checkpoint: Checkpoint = None,
    seed: Annotated[
        int | None, typer.Option(metavar="K", help="Whose policy, where the run trained several seeds.")
    ] = None,
    log_prob: Annotated[
        bool,
        typer.Option("--log-prob", help="Give all discrete actions' log-probabilities too, as offrl ope reads them."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, once the new one is whole.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained policy to one file that acts without offrl.

    Raw observations go in, as the environment gives them, and greedy actions
    come out, within its bounds; the observation normalizer is inside, and the
    batch is of any size. The file is tried on random observations first, and
    only left where it acts as the run's own policy does.

    Example: offrl export runs/bc-hopper-expert-20250101-120000 --format onnx
    """
    with working("Exporting"):
        result = offrl.export(
            run, format.value, out, checkpoint=checkpoint, seed=seed, log_prob=log_prob, overwrite=overwrite
        )
    report = {"path": result.path, "format": format.value, **result.metadata, "difference": result.difference}
    if as_json:
        print_json(report)
        return
    trained = f"step {report['step']} ({report['checkpoint']} checkpoint)"
    print_pairs(
        {
            "file": result.path,
            "policy": f"{report['algo']}, seed {report['seed']}, {trained}",
            "inputs": "\n".join(map(_line, report["inputs"])),
            "outputs": "\n".join(map(_line, report["outputs"])),
            "checked": None if result.difference is None else f"largest difference {result.difference:.2g}",
        }
    )
    if result.difference is None:
        note("note: not checked, for onnxruntime isn't installed (pip install onnxruntime)")


def _line(part: dict[str, object]) -> str:
    """`observation float32 [batch, 11]`."""
    shape = part["shape"]
    assert isinstance(shape, list)
    return f"{part['name']} {part['dtype']} [{', '.join(map(str, shape))}]"
