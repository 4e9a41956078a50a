"""What a source format is, and which of `offrl.plugins.formats` a path holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from offrl import plugins
from offrl.converters.options import ConvertOptions
from offrl.converters.report import Log
from offrl.converters.source import Source
from offrl.documents import read_json
from offrl.errors import DatasetNotFoundError, PluginError, RequestError, SourceError

Opener = Callable[[Path, ConvertOptions, Log], Source]
Detector = Callable[[Path, bytes], bool]
_START_BYTES = 16


@dataclass(frozen=True)
class Format:
    """One source format: an entry of `offrl.plugins.formats`.

    Its module is imported whenever a format is to be told from a path, so it leaves heavy packages to its opener.

    Attributes:
        description: one line for people.
        opener: understands a source of this format; or its `"module:function"`, imported when it is needed.
        suffixes: endings of its files' names, in lower case: what counts where nothing in the file tells.
        magic: what its files, whatever their names are, begin with.
        detect: whether a path holds it for certain: gets the path, and the first 16 bytes (none of a folder). It goes
            before the magic and suffixes of other formats.
        table: its sources are tables, of which the user may say that each row or each file is an episode.

    Example:
        >>> FORMAT = Format("lines of my simulator", "my_package.reader:open_log", suffixes=(".simlog",))
    """

    description: str
    opener: str | Opener
    suffixes: tuple[str, ...] = ()
    magic: bytes | None = None
    detect: Detector | None = None
    table: bool = False

    def open(self, path: Path, options: ConvertOptions, log: Log) -> Source:
        """Understand a source of this format.

        Raises:
            OffrlError: it can't be read, or leaves something open that must be said.
        """
        opener = self.opener
        if isinstance(opener, str):
            module, _, function = opener.partition(":")
            opener = vars(import_module(module))[function]
        return opener(path, options, log)

    def certainty(self, path: Path, start: bytes) -> int:
        """How surely a path holds this format: 3 by a look into it, 2 by its magic, 1 by its suffix, or 0."""
        if self.detect is not None and self.detect(path, start):
            return 3
        if self.magic is not None and start.startswith(self.magic):
            return 2
        return int(path.is_file() and path.suffix.lower() in self.suffixes)


def format_of(name: str) -> Format:
    """The format of that name.

    Raises:
        RequestError: there is none; the message names the nearest ones.
        PluginError: another package's can't be imported, or isn't a `Format`.
    """
    found = plugins.formats[name]
    if not isinstance(found, Format):
        raise PluginError(
            f"the format '{name}' is a {type(found).__name__}, not a Format of offrl.converters",
            where=plugins.formats.origin(name),
            hint="update or uninstall that package",
        )
    return found


def detect(path: Path) -> str:
    """The name of the format that a path seems to hold.

    Raises:
        DatasetNotFoundError: there is nothing at the path.
        RequestError: it is a dataset of offrl's own already, or may be of several formats.
        SourceError: it is none of the formats.
        PluginError: it is none of them, but another package's format can't be loaded.
    """
    if not path.exists():
        raise DatasetNotFoundError("there is no such file or folder", where=str(path), hint="check the path")
    start = b"" if path.is_dir() else _start_of(path)
    found: dict[str, int] = {}
    broken: PluginError | None = None
    for name in plugins.formats:
        try:
            found[name] = format_of(name).certainty(path, start)
        except PluginError as error:
            broken = error
    most = max(found.values())
    likely = [name for name, certainty in found.items() if certainty == most]
    if most and len(likely) == 1:
        return likely[0]
    if most:
        raise RequestError(f"this may be {' or '.join(likely)}", where=str(path), hint="say which with --from")
    if broken is not None:
        raise broken
    _refuse_own(path)
    raise SourceError(
        "the format of the source is not known",
        where=str(path),
        hint=f"name it with --from: {', '.join(plugins.formats)}",
    )


def json_keys(path: Path) -> set[str]:
    """The keys of the object in a JSON file; empty where there is none."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return set()
    return set(value) if isinstance(value, dict) else set()


def _start_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        raise SourceError("the file is empty", where=str(path), hint="copy or download it again")
    return start


def _refuse_own(path: Path) -> None:
    if "schema_version" in json_keys(path / "metadata.json"):
        raise RequestError("this is a trajectory store already", where=str(path), hint="use it as it is")
    if (path / "steps.parquet").is_file():
        raise RequestError(
            "this is a dataset that offrl exported", where=str(path), hint="open it by its path, as it is"
        )
