"""Where an HDF5 file keeps the bytes of its arrays, found without the library.

Opening a dataset costs the library more than reading one of Minari's short ones, and there are thousands. This reads
the structures that it writes by default (HDF5 File Format Specification 3.0: version 1 object headers and B-trees,
symbol-table groups, uncompressed chunks). Whatever looks different raises `UnusualLayout`, and the library reads it.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

_SUPERBLOCK = Struct("<8sB4xBB9xQ")
_HEADER = Struct("<BxHII4x")
_MESSAGE = Struct("<HH4x")
_NODE = Struct("<4sBBH16x")
_HEAP = Struct("<4s20xQ")
_SYMBOL_NODE = Struct("<4sBxH")
_SYMBOL = Struct("<QQ24x")
_TWO_ADDRESSES = Struct("<QQ")
_ATTRIBUTE_SIZES = Struct("<BxHHH")

_NOTHING, _DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = (
    0,
    1,
    3,
    8,
    11,
    12,
    16,
    17,
)
_LAYOUT_VERSION, _CHUNKED = 3, 2
_SIGNED = 8


class UnusualLayout(Exception):
    """The file holds a structure that this module doesn't read."""


_BROKEN = (struct.error, IndexError, KeyError, ValueError, OverflowError)
"""What a damaged file leads to. It is left to the library, which can say what is wrong."""


class StoredArray(NamedTuple):
    """An array in the file.

    Attributes:
        shape: its shape.
        datatype: its datatype as the file spells it: equal bytes mean equal types.
        chunk: the shape of one chunk.
        pieces: the index of each chunk's first element, and where in the file it starts.
    """

    shape: tuple[int, ...]
    datatype: bytes
    chunk: tuple[int, ...]
    pieces: list[tuple[tuple[int, ...], int]]


class _Pattern(NamedTuple):
    """An array's header with its shape, chunks and B-tree cut out: a header of the same form differs in these only.

    Attributes:
        form: unpacks what stands before the shape, the shape, what stands before the B-tree, the B-tree, the chunk's
            shape, and what follows.
        rank: the number of dimensions.
        fixed: what stands between them.
        datatype: the datatype as the file spells it.
    """

    form: Struct
    rank: int
    fixed: tuple[bytes, bytes, bytes]
    datatype: bytes

    def match(self, data: mmap.mmap, address: int) -> tuple[tuple[int, ...], int, tuple[int, ...]] | None:
        """Shape, B-tree and chunk of the array at `address`; None where its header has another form."""
        values = self.form.unpack_from(data, address)
        rank = self.rank
        if (values[0], values[rank + 1], values[-1]) != self.fixed:
            return None
        return values[1 : rank + 1], values[rank + 2], values[rank + 3 : -1]


class DirectFile:
    """A memory map of an HDF5 file. A context manager."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _, *layout = _SUPERBLOCK.unpack_from(self._map, 0)
        self._is_usual = layout == [0, 8, 8, 0]  # version, bytes per address and per length, start of the file
        self._patterns: dict[str, _Pattern] = {}
        self._names: dict[str, tuple[tuple[int, ...], bytes, list[str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()

    def members(self, address: int, like: str) -> dict[str, int]:
        """Name to address, for the members of a group.

        Args:
            address: where its header is.
            like: groups of the same name here are expected to have members of the same names; that saves time.

        Raises:
            UnusualLayout: it is no symbol-table group.
        """
        try:
            for kind, start, _ in self._messages(address):
                if kind == _SYMBOL_TABLE:
                    tree, heap = _TWO_ADDRESSES.unpack_from(self._map, start)
                    signature, texts = _HEAP.unpack_from(self._map, heap)
                    _expect(signature == b"HEAP")
                    offsets, addresses = zip(*self._symbols(tree), strict=True)
                    return dict(zip(self._member_names(texts, offsets, like), addresses, strict=True))
        except _BROKEN as error:
            raise UnusualLayout from error
        raise UnusualLayout

    def _member_names(self, texts: int, offsets: tuple[int, ...], like: str) -> list[str]:
        """The texts at these offsets of a heap: those of the last group that was alike, if the bytes are the same."""
        known_offsets, known_bytes, known = self._names.get(like, ((), b"", []))
        if known_offsets == offsets and self._map[texts : texts + len(known_bytes)] == known_bytes:
            return known
        names = [self._text(texts + offset) for offset in offsets]
        length = max(offset + len(name.encode()) + 1 for offset, name in zip(offsets, names, strict=True))
        self._names[like] = (offsets, self._map[texts : texts + length], names)
        return names

    def integer_attribute(self, address: int, name: str) -> int | None:
        """A whole number among the attributes of the object at `address`; None where there is none of that name.

        Raises:
            UnusualLayout: it is no integer of 8 bytes.
        """
        try:
            for kind, start, _ in self._messages(address):
                if kind != _ATTRIBUTE:
                    continue
                version, *sizes = _ATTRIBUTE_SIZES.unpack_from(self._map, start)
                _expect(version == 1)
                at = start + _ATTRIBUTE_SIZES.size
                if self._text(at) == name:
                    datatype, _, value = (at := at + -(-size // 8) * 8 for size in sizes)
                    _expect(self._map[datatype] == 0x10 and self._map[datatype + 4] == 8)
                    signed = bool(self._map[datatype + 1] & _SIGNED)
                    return int.from_bytes(self._map[value : value + 8], "little", signed=signed)
        except _BROKEN as error:
            raise UnusualLayout from error
        return None

    def array(self, address: int, like: str) -> StoredArray:
        """The array at `address`.

        Args:
            address: where its header is.
            like: arrays of the same name here are expected to have headers of the same form; that saves time.

        Raises:
            UnusualLayout: it is compressed, or not stored in chunks, or some were never written.
        """
        try:
            pattern = self._patterns.get(like)
            found = None if pattern is None else pattern.match(self._map, address)
            if pattern is None or found is None:
                pattern = self._patterns[like] = self._describe(address)
                found = pattern.match(self._map, address)
            if found is None:
                raise UnusualLayout
            shape, tree, chunk = found
            _expect(all(chunk))
            pieces = self._pieces(tree, len(shape))
            if chunk != shape or len(pieces) != 1:
                _expect(len(pieces) == math.prod([-(-n // c) for n, c in zip(shape, chunk, strict=True)]))
        except _BROKEN as error:
            raise UnusualLayout from error
        return StoredArray(shape, pattern.datatype, chunk, pieces)

    def read(self, array: StoredArray, out: NDArray[Any]) -> None:
        """Copy an array of the same shape and dtype out of the map.

        Raises:
            UnusualLayout: a chunk lies outside the file or the array.
        """
        try:
            for index, address in array.pieces:
                part = np.ndarray(array.chunk, out.dtype, self._map, address)
                if array.chunk == array.shape:
                    out[...] = part
                    return
                target = out[tuple([slice(i, i + n) for i, n in zip(index, array.chunk, strict=True)])]
                target[...] = part if target.shape == array.chunk else part[tuple([slice(n) for n in target.shape])]
        except (TypeError, ValueError, OverflowError) as error:
            raise UnusualLayout from error

    def _messages(self, address: int) -> list[tuple[int, int, int]]:
        """Kind, start and size of the messages of an object header."""
        _expect(self._is_usual)
        version, count, _, size = _HEADER.unpack_from(self._map, address)
        _expect(version == 1)
        blocks = [(address + _HEADER.size, size)]
        found: list[tuple[int, int, int]] = []
        for start, length in blocks:
            at, end = start, start + length
            while at < end and len(found) < count:
                kind, size = _MESSAGE.unpack_from(self._map, at)
                at += _MESSAGE.size
                found.append((kind, at, size))
                if kind == _CONTINUATION:
                    blocks.append(_TWO_ADDRESSES.unpack_from(self._map, at))
                at += size
        return found

    def _describe(self, address: int) -> _Pattern:
        """The form of an array's header: which messages lie where, up to the one that says how it is laid out."""
        messages = self._messages(address)
        found = {kind: (start, size) for kind, start, size in messages}
        _expect(_FILTERS not in found and _CONTINUATION not in found)
        space, (start, size), layout = found[_DATASPACE][0], found[_DATATYPE], found[_LAYOUT][0]
        version, rank, has_most = self._map[space : space + 3]
        dimensions, tree = space + 8, layout + 3
        after = layout + found[_LAYOUT][1]
        _expect(version == 1 and 0 < rank <= _MOST_DIMENSIONS)
        _expect(self._map[layout:tree] == bytes((_LAYOUT_VERSION, _CHUNKED, rank + 1)))
        _expect(space < layout and messages[-1][0] in (_LAYOUT, _NOTHING))
        end = after + (_MESSAGE.size if messages[-1][0] == _NOTHING else 0)
        skipped = 8 * rank if has_most & 1 else 0
        between = tree - dimensions - 8 * rank - skipped
        form = Struct(f"<{dimensions - address}s{rank}Q{skipped}x{between}sQ{rank}I{end - tree - 8 - 4 * rank}s")
        first, *_, last = values = form.unpack_from(self._map, address)
        return _Pattern(form, rank, (first, values[rank + 1], last), self._map[start : start + size])

    def _symbols(self, address: int) -> Iterator[tuple[int, int]]:
        """Offset of the name and address of the object, for everything below a group's B-tree node."""
        signature, kind, level, count = _NODE.unpack_from(self._map, address)
        _expect(signature == b"TREE" and kind == 0)
        for i in range(count):
            (child,) = struct.unpack_from("<Q", self._map, address + _NODE.size + 8 + 16 * i)
            if level:
                yield from self._symbols(child)
                continue
            signature, _, entries = _SYMBOL_NODE.unpack_from(self._map, child)
            _expect(signature == b"SNOD")
            start = child + _SYMBOL_NODE.size
            yield from _SYMBOL.iter_unpack(self._map[start : start + entries * _SYMBOL.size])

    def _text(self, address: int) -> str:
        return self._map[address : self._map.find(b"\0", address)].decode()

    def _pieces(self, address: int, rank: int) -> list[tuple[tuple[int, ...], int]]:
        """Index and address of each chunk below a B-tree's node."""
        signature, kind, level, count = _NODE.unpack_from(self._map, address)
        if signature != b"TREE" or kind != 1:
            raise UnusualLayout
        entry = _CHUNK[rank]
        start = address + _NODE.size
        if count == 1 and not level:
            *index, child = entry.unpack_from(self._map, start)
            return [(tuple(index), child)]
        entries = entry.iter_unpack(self._map[start : start + count * entry.size])
        if level:
            return [piece for item in entries for piece in self._pieces(item[-1], rank)]
        return [(item[:-1], item[-1]) for item in entries]


_MOST_DIMENSIONS = 32
_CHUNK = [Struct(f"<8x{rank}Q8xQ") for rank in range(_MOST_DIMENSIONS + 1)]
"""By rank, an entry of a chunks' B-tree: size and filters, the index (and an offset in the element), the address."""


def _expect(condition: bool) -> None:
    if not condition:
        raise UnusualLayout
