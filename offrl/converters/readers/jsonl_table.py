"""Tables as JSON lines."""

from offrl.converters.formats import Format

FORMAT = Format(
    "table, one JSON object per line and step", "offrl.converters.readers.table:open_jsonl", (".jsonl", ".ndjson")
)
