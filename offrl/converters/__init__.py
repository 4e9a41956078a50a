"""From other formats to a store: `plan_conversion` says what was understood, `convert` writes it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offrl.converters.conversion import convert, plan_conversion
    from offrl.converters.formats import Format
    from offrl.converters.options import ConvertOptions, parse_mapping
    from offrl.converters.report import ConversionReport, Dropped, Problem

__all__ = [
    "ConversionReport",
    "ConvertOptions",
    "Dropped",
    "Format",
    "Problem",
    "convert",
    "parse_mapping",
    "plan_conversion",
]

_HOMES = {
    "conversion": ("convert", "plan_conversion"),
    "formats": ("Format",),
    "options": ("ConvertOptions", "parse_mapping"),
    "report": ("ConversionReport", "Dropped", "Problem"),
}
"""Most who open a dataset convert nothing, so modules are imported when a name is asked for."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return vars(import_module(f"{__name__}.{module}"))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
