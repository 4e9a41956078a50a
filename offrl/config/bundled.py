"""Where the recipes and datasets that come with offrl lie."""

from __future__ import annotations

from pathlib import Path


def bundled_root() -> Path:
    """The folder of `recipes/` and `datasets/`: inside an installed package, the repository's root in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "bundled"
    return installed if installed.is_dir() else package.parent
