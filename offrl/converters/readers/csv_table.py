"""Tables as comma- or tab-separated text."""

from offrl.converters.formats import Format

FORMAT = Format("table, one row per step", "offrl.converters.readers.tabular:open_csv", (".csv", ".tsv"), table=True)
