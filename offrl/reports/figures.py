"""Figures as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offrl.errors import RequestError
from offrl.files import naming, write_whole
from offrl.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")
DOTS_PER_INCH = 150
MOST_DRAWN = 1e300
"""Values beyond are as good as infinite: what axes are worked out from them would overflow."""


def drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values, with NaN, which leaves a gap, for those that no axis can hold."""
    return np.where(np.abs(values) <= MOST_DRAWN, values, np.nan)


def save_picture(figure: Figure, destination: Path) -> None:
    """Write a figure in the format that its name ends in; folders are made if need be.

    Raises:
        RequestError: the name doesn't end as one of `FORMATS`.
        DiskFullError: there is no room; what was there before still is.
        StoreError: the file can't be written for another reason.
    """
    suffix = destination.suffix.lower()
    if suffix not in FORMATS:
        raise RequestError(
            f"a picture can't be written as '{destination.name}'",
            where="--out",
            hint=f"give a name that ends in {', '.join(FORMATS)}",
        )
    content = picture_of(figure, suffix.removeprefix("."), DOTS_PER_INCH)
    with naming(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
    write_whole(destination, content)


def picture_of(figure: Figure, format: str, dots_per_inch: int) -> bytes:
    """A figure as the content of a file; all text in it stands there as it was given, dollar signs among it.

    Args:
        figure: what was drawn; no more text should be added to it.
        format: "png", "pdf" or "svg".
        dots_per_inch: of a PNG.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    # Names of runs and datasets aren't mathematics, nor orders to whoever shows them. Text made while a figure is drawn
    # follows the context.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_text(printable(text.get_text()))
    buffer = io.BytesIO()
    with rc_context({"text.parse_math": False, "text.usetex": False}):
        figure.savefig(buffer, format=format, dpi=dots_per_inch)
    return buffer.getvalue()
