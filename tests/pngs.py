"""PNG files of every depth, interlaced or not, which Pillow itself does not write."""

import struct
import zlib
from pathlib import Path

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Colour types of a PNG (its specification, table 11.1)."""
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Passes: first row and column, steps of rows and columns."""


def write_png(
    path: Path, pixels: np.ndarray, bits: int, kind: int = GREY, interlaced: bool = False, palette: bytes = b""
) -> Path:
    """Write (h, w) or (h, w, channels) values of `bits` bits as they are."""
    height, width = pixels.shape[:2]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [pixels[row::down, column::right] for row, column, down, right in passes]
    data = b"".join(b"\0" + _packed(line, bits) for part in parts if part.size for line in part)  # 0: no filter
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced))]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))
    return path


def _packed(line: np.ndarray, bits: int) -> bytes:
    flat = line.ravel()
    if bits == 16:
        return flat.astype(">u2").tobytes()
    return np.packbits((flat[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)).tobytes()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
