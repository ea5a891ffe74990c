"""How much of a video file is missing, by what its own headers say: for files whose end is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO


def missing_bytes(path: Path) -> int:
    """How many bytes a file lacks by what its own headers say: ISO boxes (mp4, mov), RIFF (avi), EBML (mkv, webm)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return max(0, _boxes_end(file, size) - size)
        if head[:4] == b"RIFF":
            return max(0, 8 + int.from_bytes(head[4:8], "little") - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _segment_end(head) - size)
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level box of an ISO file ends (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or not head[4:8].isalnum():  # up to the end, or no box at all
            return size
        at += length
    return at


def _segment_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends, 0 if it does not say (RFC 8794: an element is id, size, body)."""
    size, at = _ebml_size(head, 4)
    at += size or 0
    if size is None or head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _ebml_size(head, at + 4)
    return 0 if size is None else at + size


def _ebml_size(head: bytes, at: int) -> tuple[int | None, int]:
    """The size written at a place, None if it is left open, and where the body begins (RFC 8794, 4)."""
    width = 9 - head[at].bit_length() if at < len(head) else 9
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    at += width
    known = width <= 8 and at <= len(head) and value != (1 << 7 * width) - 1
    return (value if known else None), at
