"""From other formats to a store: `plan_conversion` says what was understood, `convert` writes it."""

from offrl.converters.convert import convert, plan_conversion
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
