"""Figures written as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from offrl.errors import RequestError
from offrl.files import naming, whole_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
DOTS_PER_INCH = 150


def save_picture(figure: Figure, destination: Path) -> None:
    """Write a figure in the format that its name ends in; folders are made if need be.

    Raises:
        RequestError: the name doesn't end as one of `FORMATS`.
        StoreError: the file can't be written.
    """
    if destination.suffix.lower() not in FORMATS:
        raise RequestError(
            f"a picture can't be written as '{destination.name}'",
            where="--out",
            hint=f"give a name that ends in {', '.join(FORMATS)}",
        )
    with naming(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
    with whole_path(destination) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH)
