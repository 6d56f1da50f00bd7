"""Files and fillings that the GPU check shares: `.safetensors` without its package, and the hash-filled weights of
`yolo_core::testing`, so that two programs see the same numbers."""

import json
import struct

import numpy as np

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def read(path):
    """Tensors by name as arrays, and the metadata of the file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[begin:end], KINDS[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"]).copy()
    return tensors, metadata


def write(path, tensors, metadata=None):
    """Writes arrays by name."""
    names = {np.dtype(kind): name for name, kind in KINDS.items()}
    header, at = {"__metadata__": metadata or {"format": "pt"}}, 0
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        # An array without axes becomes one with one axis on its way through `ascontiguousarray`.
        shape = list(np.shape(tensors[name]))
        header[name] = {"dtype": names[array.dtype], "shape": shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())


def graph_of(metadata):
    """The graph that a checkpoint of `yolo` describes itself with."""
    return json.loads(metadata["graph"])


def hashed(key, count):
    """`count` numbers in [-1, 1) from a name: MurmurHash3's finaliser on index and FNV-1a of the name."""
    start = 0x811C9DC5
    for byte in key.encode():
        start = (start ^ byte) * 0x01000193 & 0xFFFFFFFF
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(start)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return x.astype(np.float64) / 2147483648.0 - 1.0


def fill(tensors, gain=2.5):
    """Values that keep the size of activations through a deep network, so that an error in any layer is seen in the outputs.
    Counters, indexes and anchors stay."""
    filled = {}
    for key, old in tensors.items():
        last = key.rsplit(".", 1)[-1]
        if old.dtype.kind != "f" or last == "anchors":
            filled[key] = old
            continue
        r = hashed(key, old.size)
        if last == "running_mean":
            r = 0.1 * r
        elif last == "running_var":
            r = 1.0 + 0.5 * np.abs(r)
        elif last == "relative_position_bias_table":
            r = 0.5 * r
        elif last.endswith("weight") and old.ndim >= 2:
            r = r * (gain / np.sqrt(old.size / old.shape[0]))
        elif last.endswith("weight"):
            r = 1.0 + 0.5 * r
        else:
            r = 0.1 * r
        filled[key] = r.astype(old.dtype).reshape(old.shape)
    return filled


def image(n, c, h, w):
    """The test image `[n, c, h, w]`, noise plus a ramp, in 0..1."""
    noise = ((hashed("input", n * c * h * w) + 1.0) / 2.0).reshape(n, c, h, w)
    y, x, channel = np.arange(h)[:, None], np.arange(w)[None, :], np.arange(c)[:, None, None]
    ramp = (3 * y + 5 * x + 37 * channel) % 64 / 64.0
    return (0.5 * noise + 0.5 * ramp).astype(np.float32)
