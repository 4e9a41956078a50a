"""HDF5 files of aligned arrays: opening them safely, listing what they hold, reading rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5l, h5o
from numpy.typing import NDArray

from offrl.converters.expansion import check_expansion
from offrl.converters.source import ColumnInfo
from offrl.errors import SourceError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CACHE_BYTES = 4 * 2**20


@contextmanager
def open_hdf5(path: Path, max_expansion: int) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, once nothing in it leads to another file.

    Args:
        path: the file.
        max_expansion: see `offrl.converters.expansion`.

    Raises:
        SourceError: it is empty, not HDF5, cut short or damaged; also while it is read. Or an array of it lies in
            another file, by a link, external storage or a virtual layout, and so whatever its author named would be
            read. Or it declares much more than it holds.
    """
    with open_unseen(path) as opened:
        check_expansion(_look_through(opened, path), [path], max_expansion)
        yield opened


@contextmanager
def open_unseen(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of which each array is looked at before it is read, by `own_member`, or was before.

    Raises:
        SourceError: it is empty, not HDF5, cut short or damaged; also while it is read.
    """
    if path.stat().st_size == 0:
        raise SourceError("the file is empty", where=str(path), hint="copy or download it again")
    with open(path, "rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise SourceError("this is not an HDF5 file", where=str(path), hint="name its format with --from")
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES) as opened:
            yield opened
    except (OSError, RuntimeError, KeyError) as error:
        raise SourceError(
            f"the HDF5 file is cut short or damaged ({error})", where=str(path), hint="copy or download it again"
        ) from error


def own_member(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset | None:
    """A member of a group, or of the groups within it; None where there is none.

    Args:
        group: of a file that nobody has looked through.
        name: the member's, with `/` between the groups on the way.
        path: the file.

    Raises:
        SourceError: a link on the way isn't a plain one, or the array lies in another file.
    """
    found = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise _leads_away(f"'{part}' is a link", path)
        found = found[part]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise _leads_away(f"'{name}' lies in external storage: another file", path)
    return found


def refuse_links(group: h5py.Group, path: Path) -> None:
    """Raise `SourceError` where a member of a group is a link to another place."""
    kinds: dict[str, int] = {}
    group.id.links.iterate(lambda name, link: kinds.update({name.decode(errors="replace"): link.type}), info=True)
    for name, kind in kinds.items():
        if kind != h5l.TYPE_HARD:
            raise _leads_away(f"'{name}' is a link", path)


def _leads_away(what: str, path: Path) -> SourceError:
    return SourceError(
        f"{what}, and only the file that was named is read",
        where=str(path),
        hint="write it into one file, which h5repack does of a file that you trust",
    )


def _look_through(file: h5py.File, path: Path) -> int:
    """Bytes of all arrays, as declared, once none of them, and no link, leads to another file.

    HDF5's own functions, which are quick and follow no link, show each link and each array once.
    """
    leading: list[str] = []
    sizes: list[int] = []

    def see_link(name: bytes, link: Any) -> None:
        if link.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            leading.append(f"'{name.decode(errors='replace')}' is a link to another file")

    def see_object(name: bytes, item: Any) -> None:
        if item.type != h5o.TYPE_DATASET:
            return
        array = h5d.open(file.id, name)
        layout, space = array.get_create_plist(), array.get_space()
        sizes.append(space.get_simple_extent_npoints() * array.get_type().get_size())
        if layout.get_external_count() or layout.get_layout() == h5d.VIRTUAL:
            leading.append(f"'{name.decode(errors='replace')}' lies in external storage: another file")

    file.id.links.visit(see_link, info=True)
    h5o.visit(file.id, see_object, info=True)
    if leading:
        raise _leads_away(leading[0], path)
    return sum(sizes)


def list_arrays(file: h5py.File) -> tuple[dict[str, ColumnInfo | None], dict[str, int]]:
    """Key to what one row holds (None where it is no numbers), and key to number of rows; scalars are left aside."""
    infos: dict[str, ColumnInfo | None] = {}
    lengths: dict[str, int] = {}

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim:
            infos[key] = ColumnInfo(item.dtype, item.shape[1:]) if item.dtype.kind in "biuf" else None
            lengths[key] = len(item)

    file.visititems(visit)
    return infos, lengths


@dataclass(frozen=True)
class Hdf5Rows:
    """The rows of an HDF5 file, under the store's names: `keys` tells which of its arrays each column is."""

    path: Path
    keys: Mapping[str, str]
    columns: Mapping[str, ColumnInfo]
    count: int

    def slices(self, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        with open_unseen(self.path) as file:
            arrays = {name: file[self.keys[name]] for name in names}
            for start, stop in bounds:
                yield {name: _native(array[start:stop]) for name, array in arrays.items()}


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)
