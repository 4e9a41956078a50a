"""Whether an ONNX file keeps numbers in other files, which onnxruntime would open wherever the file says.

An ONNX file is a protocol buffer. Only the path down to its tensors is read here (onnx.proto3 names the fields).
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""By kind of message, the numbers of its fields that lead to tensors, and what these hold."""


def keeps_data_elsewhere(model: bytes) -> bool:
    """Whether any tensor of an ONNX model lies in another file.

    Raises:
        ValueError: it is no protocol buffer.
    """
    waiting = [("model", memoryview(model))]
    while waiting:
        kind, message = waiting.pop()
        for number, content in _fields(message):
            if kind == "tensor":
                # A location of 0 says that the numbers are in the model.
                if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and content != 0):
                    return True
            elif number in _INNER[kind] and isinstance(content, memoryview):
                waiting.append((_INNER[kind][number], content))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            content, at = _varint(message, at)
            yield key >> 3, content
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field is of the kind {kind}")
        if at + length > len(message):
            raise ValueError("a field goes beyond the end")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 70:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("a number goes beyond the end")
