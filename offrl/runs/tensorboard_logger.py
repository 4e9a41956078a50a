"""Metrics as TensorBoard shows them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from offrl.errors import RequestError
from offrl.files import own_folder
from offrl.runs.loggers import Logger, per_seed
from offrl.runs.run import Run


class TensorBoardLogger(Logger):
    """TensorBoard event files in `tensorboard/seed-<number>`; needs the `tensorboard` extra."""

    @classmethod
    def require(cls) -> None:
        if find_spec("tensorboard") is None:
            raise RequestError("TensorBoard is not installed", hint="pip install 'offrl[tensorboard]'")

    def __init__(self, run: Run, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(run, first_step)
        folders = {seed: run.path / "tensorboard" / f"seed-{seed}" for seed in run.recipe.seeds}
        own_folder(run.path / "tensorboard")
        for path in folders.values():
            own_folder(path)
        self.writers = {seed: SummaryWriter(str(path), purge_step=first_step) for seed, path in folders.items()}

    def write(self, line: Mapping[str, Any]) -> None:
        for seed, name, value in per_seed(line, self.run.recipe.seeds):
            self.writers[seed].add_scalar(name, value, line["step"])

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
