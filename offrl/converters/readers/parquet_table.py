"""Tables as Parquet."""

from offrl.converters.formats import Format

FORMAT = Format(
    "table, one row per step",
    "offrl.converters.readers.tabular:open_parquet",
    (".parquet", ".pq"),
    magic=b"PAR1",
    table=True,
)
