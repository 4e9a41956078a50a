"""Tables as JSON lines."""

from offrl.converters.formats import Format

FORMAT = Format(
    "table, one JSON object per line and step",
    "offrl.converters.readers.tabular:open_jsonl",
    (".jsonl", ".ndjson"),
    table=True,
)
