"""Changes to a good folder that know its structure.

A mutation is a series of choices: whoever makes them, hypothesis or a plain generator of random
numbers, passes ``choose``. Afterwards the hashes are made to fit in nine of ten cases, since they
are no defence against whoever writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.fuzzing.container import Part, header_of, joined, parts_of, with_header
from benchmarks.fuzzing.seeds import Files, sealed
from dpqlab.checkpoint.layout import CARD, CONFIG, MANIFEST, SHARD_INDEX

Choose = Callable[[Sequence[Any]], Any]

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 255, 256, 65_535, 2**16, 2**20, 2**31, 2**31 - 1, 2**53, 2**64),
    *(10**400, 0.5, -0.0, 1.0, 1e308, float("nan"), float("inf"), True, False),
)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(None, "", "x", "../../x", "/etc/passwd", "<script>", "a" * 5000, "\x00", "\ud800"),
    *("U8", "F16", "BF16", "F32", "I32", "I64", "F8_E4M3", "BOOL", "float32", "float16"),
    *("position", "group", "layer", "kind", "model", "scalar", "codebook"),
    *([], {}, [[]], [0], [1, 2], [2**31, 2**31], {"x": {}}, ["x", ["y"]], [-1], [0.5], [None]),
)
KEYS = ("x", "../x", "pool_of", "table_rows", "auto_map", "trust_remote_code", "")
RUNS = (
    *(b"\x00", b"\x01", b"\x0a", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\x00\x00\x00\x00"),
    *(b"\x00\x7c", b"\x00\xfc", b"\x01\x7c", b"\xff\x7b", b"\xff\xfb", b"\x01\x00"),  # fp16
    *(b"\x80\x7f", b"\x80\xff", b"\xc0\x7f", b"\x7f\x7f"),  # bf16
    *(b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff\xff\x7f\x7f"),  # fp32
    *(b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x0a\x00\x00\x00"),  # int32
)
"""What to put into a tensor: NaN, infinity, the largest and the smallest of each dtype."""
NAMES = (
    *("transformer/model.pt", "transformer/diffusion_pytorch_model.bin", "model.py", ".hidden"),
    *("transformer/diffusion_pytorch_model-00001-of-00002.safetensors", SHARD_INDEX, "x" * 200),
)

IN_VAIN = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What a change raises that finds nothing to change, since an earlier one has been there."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A folder to load.

    Attributes
    ----------
    files
        Its files.
    changes
        What was done to good ones, in order.
    """

    files: Files
    changes: tuple[str, ...]

    @property
    def of_tensor(self) -> bool:
        """Whether all that is wrong is the content of one tensor."""
        return self.changes == ("content", "sealed")


def mutated(good: Files, choose: Choose) -> Input:
    """Return good files with one to three things changed."""
    files = dict(good)
    changes: list[str] = []
    for _ in range(choose((1, 1, 1, 2, 3))):
        name = choose(_WEIGHTED)
        try:
            MUTATORS[name](files, choose)
        except IN_VAIN:
            name = f"{name} in vain"
        changes.append(name)
    if "manifest" not in changes and choose(range(10)):
        files[MANIFEST] = sealed(files)
        changes.append("sealed")
    return Input(files=files, changes=tuple(changes))


def document(files: Files, choose: Choose) -> None:
    """Change something somewhere in a JSON file."""
    path = choose([path for path in files if path.endswith(".json") and path != MANIFEST])
    files[path] = json.dumps(edited(json.loads(files[path]), choose)).encode()


def layer(files: Files, choose: Choose) -> None:
    """Change a setting of a compressed layer, or of its codec."""
    config = json.loads(files[CONFIG])
    layers = config["quantization_config"]["layers"]
    entry = layers[choose(list(layers))]
    target = entry["codec"] if choose((True, False)) else entry
    key = choose(list(target))
    other = layers[choose(list(layers))]
    borrowed = other["codec"] if target is entry["codec"] else other
    action = choose(("nudge", "nudge", "value", "borrow", "share"))
    if action == "share":
        entry["pool_of"] = choose(list(layers))
    elif action == "borrow":
        target[key] = borrowed[key]
    else:
        target[key] = nudged(target[key], choose) if action == "nudge" else choose(VALUES)
    files[CONFIG] = json.dumps(config).encode()


def model(files: Files, choose: Choose) -> None:
    """Change a setting of the model."""
    config = json.loads(files[CONFIG])
    key = choose([key for key in config if key != "quantization_config"])
    config[key] = choose((nudged(config[key], choose), choose(VALUES)))
    files[CONFIG] = json.dumps(config).encode()


def header(files: Files, choose: Choose) -> None:
    """Change something somewhere in the header of a weight file, or its length."""
    path = _shard(files, choose)
    data = files[path]
    if choose(range(8)) == 0:
        length = int.from_bytes(data[:8], "little") + choose((0, 1, -1, 8))
        wrong = choose((0, 1, length, 10**8 - 1, 10**8, 10**8 + 1, 2**63, 2**64 - 1))
        files[path] = (wrong % 2**64).to_bytes(8, "little") + data[8:]
        return
    found, start = header_of(data)
    entry = found[choose(list(found))]
    key = choose(list(entry))
    action = choose(("walk", "nudge", "borrow", "rename"))
    if action == "walk":
        found = edited(found, choose)
    elif action == "nudge":
        entry[key] = nudged(entry[key], choose)
    elif action == "borrow":  # the same bytes twice, a shape that belongs elsewhere
        entry[key] = found[choose(list(found))][key]
    else:
        found[choose((*KEYS, *found))] = found.pop(choose(list(found)))
    files[path] = with_header(found, data[start:])


def content(files: Files, choose: Choose) -> None:
    """Overwrite something inside a tensor."""
    path = _shard(files, choose)
    data = files[path]
    found, start = header_of(data)
    found.pop("__metadata__")
    # the header may have been damaged before: stay inside the file
    begin, end = (
        min(start + offset, len(data)) for offset in found[choose(list(found))]["data_offsets"]
    )
    run = choose(RUNS)
    last = max((end - begin) // len(run) - 1, 0)
    at = begin + len(run) * choose((0, last, choose(range(last + 1))))
    if choose(range(8)) == 0:  # all of it
        run *= last + 1
        at = begin
    stop = min(at + len(run), end)
    files[path] = data[:at] + run[: stop - at] + data[stop:]


def container(files: Files, choose: Choose) -> None:
    """Put the tensors together in another way, into a file that is well formed."""
    path = _shard(files, choose)
    parts = parts_of(files[path])
    index = choose(range(len(parts)))
    parts[index : index + 1] = TENSOR_CHANGES[choose(list(TENSOR_CHANGES))](parts[index], choose)
    if choose(range(6)) == 0:
        parts.reverse()
    files[path] = joined(parts)


def manifest(files: Files, choose: Choose) -> None:
    """Change something in the manifest, which is then not made to fit."""
    files[MANIFEST] = json.dumps(edited(json.loads(files[MANIFEST]), choose), indent=2).encode()


def listing(files: Files, choose: Choose) -> None:
    """Remove a file, add one, or exchange two."""
    paths = [path for path in files if path != MANIFEST]
    action = choose(("remove", "add", "exchange"))
    if action == "remove":
        del files[choose(paths)]
    elif action == "add":
        files[choose(NAMES)] = choose((b"", b"x", files[choose(paths)]))
    else:
        one, other = choose(paths), choose(paths)
        files[one], files[other] = files[other], files[one]


def raw(files: Files, choose: Choose) -> None:
    """Cut, flip, insert, repeat or drop bytes of any file, wherever they are."""
    path = choose([path for path in files if path != CARD])
    data = files[path] or b"x"
    at = choose((choose(range(len(data))), choose(range(min(64, len(data))))))
    action = choose(("cut", "flip", "insert", "repeat", "drop", "prefix"))
    if action == "cut":
        files[path] = data[:at]
    elif action == "flip":
        files[path] = data[:at] + bytes([data[at] ^ (1 << choose(range(8)))]) + data[at + 1 :]
    elif action == "insert":
        odd = choose((b"\x00", b"\xff", b"[", b"{", b'"', b"\n" * 100, b"[" * 100_000, b"{}," * 50))
        files[path] = data[:at] + odd + data[at:]
    elif action == "prefix":
        files[path] = choose((b"PK\x03\x04", b"\x80\x04", b"GGUF", b"\x1f\x8b\x08", b"#!")) + data
    else:
        files[path] = data[:at] + data[at : at + 16] * 2 * (action == "repeat") + data[at + 16 :]


MUTATORS: dict[str, Callable[[Files, Choose], None]] = {
    "document": document,
    "layer": layer,
    "model": model,
    "header": header,
    "content": content,
    "container": container,
    "manifest": manifest,
    "listing": listing,
    "raw": raw,
}
_WEIGHTS = {"layer": 3, "header": 4, "content": 5, "container": 5, "model": 2, "document": 2}
_WEIGHTED = tuple(name for name in MUTATORS for _ in range(_WEIGHTS.get(name, 1)))


def _resized(part: Part, choose: Choose) -> list[Part]:
    """Give a tensor another shape, and the bytes that it needs."""
    width = len(part.data) // _product(part.shape) if _product(part.shape) else 1
    shape = list(part.shape) or [1]
    axis = choose(range(len(shape)))
    shape[axis] = choose((0, 1, shape[axis] + 1, max(shape[axis] - 1, 0), 2 * shape[axis]))
    size = width * _product(shape)
    return [replace(part, shape=tuple(shape), data=(part.data * 3)[:size].ljust(size, b"\x00"))]


TENSOR_CHANGES: dict[str, Callable[[Part, Choose], list[Part]]] = {
    "drop": lambda part, _: [],
    "rename": lambda part, choose: [replace(part, name=choose((*KEYS, f"{part.name}.x")))],
    "copy": lambda part, choose: [part, replace(part, name=choose(("x", f"{part.name}_")))],
    "retype": lambda part, choose: [
        replace(part, dtype=choose(("U8", "I8", "F16", "BF16", "F32", "I32", "F64", "BOOL")))
    ],
    "widen": lambda part, choose: [
        replace(part, dtype=choose(("F32", "I32", "F64")), data=part.data * choose((2, 4, 8)))
    ],
    "transpose": lambda part, _: [replace(part, shape=part.shape[::-1])],
    "flatten": lambda part, _: [replace(part, shape=(_product(part.shape),))],
    "dimensions": lambda part, choose: [
        replace(part, shape=(*part.shape, *(1,) * choose((1, 2, 9, 1000))))
    ],
    "resize": _resized,
}


def edited(value: Any, choose: Choose) -> Any:
    """Walk down into JSON to somewhere, and change, remove, copy or nudge what is there."""
    if isinstance(value, dict | list) and value and choose((True, True, True, False)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, action = choose(keys), choose(("down", "down", "down", "drop", "copy", "add"))
        if action == "down":
            value[key] = edited(value[key], choose)
        elif action == "drop":
            del value[key]
        elif action == "copy":
            value[choose(keys)] = value[key]
        elif isinstance(value, dict):
            value[choose(KEYS)] = choose(VALUES)
        else:
            value.append(choose(VALUES))
        return value
    return nudged(value, choose)


def nudged(value: Any, choose: Choose) -> Any:
    """Return something near a value of JSON, or anything at all."""
    if type(value) is int:
        return choose((value + 1, value - 1, value * 2, value // 2, -value, *NUMBERS))
    if isinstance(value, list) and value and choose((True, False)):
        at = choose(range(len(value)))
        return [nudged(item, choose) if i == at else item for i, item in enumerate(value)]
    if type(value) is bool and choose((True, False)):
        return not value
    return choose(VALUES)


def _shard(files: Files, choose: Choose) -> str:
    return choose([path for path in files if path.endswith(".safetensors")])


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
