"""Files damaged in ways that a disk, an editor or a stranger would: bytes, and values within what a format allows."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save

from offrl.config.toml import write_toml

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 0.5, -2.5, 1e308, 10**30, -(10**30), 10**12, 2**63, 10**400),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "text",
        "nan",
        "-inf",
        "1",
        "step-20",
        "../..",
        "a/b",
        "\x00",
        "\x1b[31m",
        "\ud800",
        "ünïcödé 🤖",
        "x" * 5000,
    ),
    *([], {}, [[]], [None], {"": {}}, [1, [2, "x"]], {"type": "Box"}, ["a", "b"], [0.0] * 1000),
)
"""What stands in place of a value."""
DEEP = 100_000
"""Levels of nesting that no parser should follow by recursion."""
TOML_VALUES = (
    *(
        "nan",
        "inf",
        "-1",
        "0",
        "99999999999999999999",
        "1e400",
        "true",
        '""',
        '"text"',
        "[]",
        "{}",
        "[[]]",
        "1979-05-27",
    ),
    *("07:32:00", '"\\u0000"', '"../.."', "[1, 'a']", "{ a = 1 }", "", "[" * DEEP, "{a=" * DEEP, "0x" + "f" * 5000),
)

Mutation = Callable[[bytes, Random], bytes]


def mutated(path: Path, content: bytes, random: Random) -> bytes:
    """What a damaged file holds: by bytes, or by what its format allows."""
    formats: dict[str, Mutation] = {
        ".json": mutated_json,
        ".jsonl": mutated_lines,
        ".toml": mutated_toml,
        ".parquet": mutated_parquet,
        ".arrow": mutated_arrow,
        ".safetensors": mutated_tensors,
    }
    structured = formats.get(path.suffix)
    if structured is None or random.random() < 0.25:
        return mutated_bytes(content, random)
    return structured(content, random)


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Cut short, emptied, some bytes flipped, some more put in, or twice the same."""
    place = random.randrange(len(content) + 1)
    match random.randrange(8):
        case 0:
            return content[:place]
        case 1:
            return b""
        case 2:
            return content[:place] + random.randbytes(random.randint(1, 20)) + content[place:]
        case 3:
            return content + content
        case 4:
            return b"\xef\xbb\xbf" + content
        case 5:
            return content[:place] + b"[" * DEEP
    damaged = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 10])):
        # What says how the rest is laid out lies at the ends of most formats.
        reach = min(len(damaged), random.choice([64, 1024, len(damaged)]))
        index = random.randrange(reach) * random.choice([1, -1]) if reach else 0
        if damaged:
            damaged[index] ^= 1 << random.randrange(8)
    return bytes(damaged)


def mutated_json(content: bytes, random: Random) -> bytes:
    """One to three values of a JSON text replaced, removed, renamed, copied or said twice."""
    value = json.loads(content)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        value = mutated_value(value, random)
    text = json.dumps(value)
    if random.random() < 0.1:
        key, other = random.choice(list(value) or [""]) if isinstance(value, dict) else "", random.choice(STRANGE)
        text = text.rstrip("}") + f", {json.dumps(key)}: {json.dumps(other)}" + "}"
    if random.random() < 0.05:
        text = text.replace("1", "[" * DEEP + "]" * DEEP, 1)
    return text.encode()


def mutated_lines(content: bytes, random: Random) -> bytes:
    """One line of JSON lines changed."""
    lines = content.splitlines(keepends=True)
    place = random.randrange(len(lines))
    lines[place] = mutated_json(lines[place], random) + b"\n"
    return b"".join(lines)


def mutated_toml(content: bytes, random: Random) -> bytes:
    """A value of a TOML text replaced by TOML of another kind, a line taken out or said twice, or as `mutated_json`."""
    if random.random() < 0.4:
        value = mutated_value(tomllib.loads(content.decode()), random)
        try:
            return write_toml(value).encode()
        except (AttributeError, UnicodeEncodeError):
            return repr(value).encode("utf-8", "replace")
    lines = content.decode().splitlines()
    place = random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[place])
        case _:
            settings = [index for index, line in enumerate(lines) if "=" in line]
            place = random.choice(settings)
            lines[place] = f"{lines[place].partition('=')[0]}= {random.choice(TOML_VALUES)}"
    return "\n".join(lines).encode()


def mutated_parquet(content: bytes, random: Random) -> bytes:
    """A Parquet file with a column or its metadata changed."""
    table = pq.read_table(BytesIO(content))
    metadata = dict(table.schema.metadata or {})
    if b"offrl" in metadata and random.random() < 0.6:
        table = table.replace_schema_metadata({**metadata, b"offrl": mutated_json(metadata[b"offrl"], random)})
    else:
        table = mutated_table(table, random)
    buffer = BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def mutated_arrow(content: bytes, random: Random) -> bytes:
    """An Arrow file with a column changed."""
    table = mutated_table(pa.ipc.open_file(BytesIO(content)).read_all(), random)
    buffer = BytesIO()
    batches = table.combine_chunks().to_batches() or [pa.record_batch([[]] * table.num_columns, schema=table.schema)]
    with pa.ipc.new_file(buffer, table.schema) as writer:
        for batch in batches * random.choice([1, 1, 1, 2]):
            writer.write_batch(batch)
    return buffer.getvalue()


def mutated_tensors(content: bytes, random: Random) -> bytes:
    """A safetensors file with a tensor changed, or its header."""
    tensors: dict[str, Any] = load(content)
    name = random.choice(list(tensors))
    values = tensors[name]
    match random.randrange(7):
        case 0:
            del tensors[name]
        case 1:
            tensors[random.choice(["other", "", f"{name}.x", "🤖"])] = tensors.pop(name)
        case 2:
            tensors[name] = values.reshape(-1) if values.ndim != 1 else values[None]
        case 3:
            tensors[name] = values.reshape(-1)[:0]
        case 4:
            with np.errstate(all="ignore"):
                tensors[name] = values.astype(random.choice([np.float16, np.float64, np.int64, np.uint8, np.bool_]))
        case 5:
            strange = random.choice([np.nan, np.inf, -1.0, 0.0, 1e30])
            with np.errstate(all="ignore"):
                tensors[name] = np.full_like(values, np.asarray(strange).astype(values.dtype))
        case 6:
            size = int.from_bytes(content[:8], "little")
            header = mutated_json(content[8 : 8 + size], random)
            return len(header).to_bytes(8, "little") + header + content[8 + size :]
    try:
        return save({key: np.ascontiguousarray(value) for key, value in tensors.items()})
    except (SafetensorError, UnicodeEncodeError):
        return b""


def mutated_table(table: pa.Table, random: Random) -> pa.Table:
    """A column taken out, renamed, of another type, with other numbers or nulls; or rows taken out or repeated."""
    place = random.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    match random.randrange(7):
        case 0:
            return table.drop_columns([name])
        case 1:
            return table.rename_columns([f"{each}x" if each == name else each for each in table.column_names])
        case 2:
            return table.slice(0, random.randrange(table.num_rows + 1))
        case 3:
            return pa.concat_tables([table, table.slice(random.randrange(table.num_rows + 1))])
        case 4:
            values = pa.array([None] * table.num_rows, column.type)
        case 5:
            values = pa.array([random.choice(["text", "", "1"])] * table.num_rows)
        case _:
            numbers = [random.choice([0, 1, -1, 5, 2**62, -(2**62)]) for _ in range(table.num_rows)]
            values = pa.array(numbers) if random.random() < 0.5 else pa.array([float(number) for number in numbers])
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                values = values.cast(column.type, safe=False)
    return table.set_column(place, name, values)


def mutated_value(value: Any, random: Random) -> Any:
    """Plain values with one of them changed."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or random.random() < 0.02:
        return random.choice(STRANGE)
    container, key = random.choice(places)
    item = container[key]
    match random.randrange(8):
        case 0:
            del container[key]
        case 1 if isinstance(container, dict):
            container[random.choice(["other", "", f"{key} ", "ключ"])] = container.pop(key)
        case 2 if isinstance(container, list):
            container.insert(random.randrange(len(container) + 1), copy.deepcopy(item))
        case 3 if type(item) in (int, float):
            container[key] = random.choice([-item, item + 1, item * 1_000_003, str(item), [item], item / 2])
        case 4 if isinstance(item, str):
            container[key] = random.choice([item.upper(), item + item, item[:-1], f"../{item}", list(item)])
        case 5 if isinstance(item, list | dict):
            container[key] = copy.deepcopy(random.choice(places)[0])
        case _:
            container[key] = copy.deepcopy(random.choice(STRANGE))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
