"""Where Minari keeps datasets, and how it writes one that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offrl.errors import StoreError
from offrl.files import whole_folder

_VARIABLE = "MINARI_DATASETS_PATH"


def minari_folder() -> Path:
    """Where Minari keeps datasets: `$MINARI_DATASETS_PATH`, or `~/.minari/datasets`."""
    return Path(os.environ.get(_VARIABLE) or Path.home() / ".minari" / "datasets")


@contextmanager
def whole_minari_dataset(dataset_id: str, *, overwrite: bool = False) -> Iterator[None]:
    """Within the block, Minari writes to a temporary root; the dataset takes its place when the block ends well.

    Args:
        dataset_id: Minari's form, `(namespace/…/)name-vN`.
        overwrite: replace the dataset that is there.

    Raises:
        RequestError: there is such a dataset, and it isn't to be replaced.
        DiskFullError: there is no room; nothing is left behind.
        StoreError: Minari wrote no such dataset, or it can't be put in its place.
    """
    before, destination = os.environ.get(_VARIABLE), minari_folder() / dataset_id
    with whole_folder(destination, overwrite=overwrite) as folder:
        root = folder / "root"
        root.mkdir(parents=True)
        os.environ[_VARIABLE] = str(root)
        try:
            yield
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before
        if not (root / dataset_id / "data").is_dir():
            raise StoreError(f"Minari wrote no dataset '{dataset_id}'", where=str(destination), hint="try it again")
        os.replace(root / dataset_id / "data", folder / "data")
        for file in root.rglob("namespace_metadata.json"):
            known = minari_folder() / file.relative_to(root)
            if not known.exists():
                os.replace(file, known)
        shutil.rmtree(root)
