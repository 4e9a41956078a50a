"""From other formats to a store: `plan_conversion` says what was understood, `convert` writes it."""

from offrl.data.convert.conversion import convert, plan_conversion
from offrl.data.convert.options import ConvertOptions, parse_mapping
from offrl.data.convert.registry import FORMATS, Format
from offrl.data.convert.report import ConversionReport, Dropped, Problem

__all__ = [
    "FORMATS",
    "ConversionReport",
    "ConvertOptions",
    "Dropped",
    "Format",
    "Problem",
    "convert",
    "parse_mapping",
    "plan_conversion",
]
