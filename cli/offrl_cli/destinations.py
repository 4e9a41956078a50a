"""Where a dataset that a command writes goes."""

from __future__ import annotations

import os
from pathlib import Path


def store_path(name: str) -> Path:
    """A bare name's folder among the local datasets; a path (with a separator in it) as it is."""
    if os.sep in name or name in (os.curdir, os.pardir):
        return Path(name).expanduser()
    from offrl.converters.catalog import local_path

    return local_path(name)


def new_store_path(name: str) -> Path:
    """The same, where nothing must be yet.

    Raises:
        RequestError: something is there.
    """
    from offrl.files import require_free

    path = store_path(name)
    require_free(path)
    return path
