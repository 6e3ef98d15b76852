"""EXIF blocks and TIFF directories as raw entries: nothing is decoded, so nothing is changed.

An EXIF block is a small TIFF file (EXIF 2.3, section 4.5; TIFF 6.0, section 2). Text in any
encoding and values of any kind pass through as the bytes that they are.
"""

import contextlib
import dataclasses
import io
import struct
from typing import IO

ORIENTATION, X_RESOLUTION, XMP = 0x0112, 0x011A, 700
EXIF_DIRECTORY, GPS_DIRECTORY = 0x8769, 0x8825
IPTC = 33723
_WIDTH, _HEIGHT = 0xA002, 0xA003  # of the EXIF directory
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # where one stands, and its bytes: JPEG, strips
_INTEROPERABILITY = 0xA005
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_VALUE_BYTES |= {16: 8, 17: 8, 18: 8}  # BigTIFF
# what tells how a TIFF stores its pixels, colour and parts, and is written anew
_STRUCTURAL = {254, 255, 266, 280, 281, 284, 285, 292, 293, 296, 297, 301, 318, 319, 320, 330, 332}
_STRUCTURAL |= {256, 257, 258, 259, 262, 263, 264, 265, 273, 277, 278, 279, 282, 283, 317, 347}
_STRUCTURAL |= {XMP, 34377, 34675, EXIF_DIRECTORY, GPS_DIRECTORY, _INTEROPERABILITY}
_STRUCTURAL |= set(range(321, 346)) | set(range(512, 533))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a directory, its value as it stands in the file."""

    tag: int
    kind: int
    count: int
    value: bytes


@dataclasses.dataclass(frozen=True)
class Block:
    """What an EXIF block or a TIFF says about its picture."""

    order: str
    """Byte order as `struct` has it: "<" or ">"."""
    entries: list[Entry]
    directories: dict[int, list[Entry]]
    """The EXIF and GPS directories that there are, by the tag that points to them."""


def parse(data: bytes) -> Block:
    """Read an EXIF block, TIFF or BigTIFF file.

    Raises:
        ValueError: It is damaged.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    try:
        (magic,) = struct.unpack_from(order + "H", data, 2)
        if not order or magic not in (42, 43):
            raise ValueError("no TIFF header")
        big = magic == 43
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        first = _read_directory(data, offset, order, big)
        directories = {}
        for entry in first:
            if entry.tag in (EXIF_DIRECTORY, GPS_DIRECTORY):
                (offset,) = struct.unpack_from(order + _pointer(entry), entry.value)
                found = _read_directory(data, offset, order, big)
                directories[entry.tag] = [
                    inner for inner in found if inner.tag != _INTEROPERABILITY
                ]
    except struct.error as error:
        raise ValueError(f"damaged directory: {error}") from error
    kept = [entry for entry in first if entry.tag not in _STRUCTURAL and entry.kind < 16]
    return Block(order, kept, directories)


def has_tag(block: bytes, tag: int) -> bool:
    """Whether the first directory of an EXIF block holds a tag."""
    return tag in _places(block)


def from_tiff(data: bytes) -> bytes | None:
    """Gather what a TIFF file says about its picture into an EXIF block; None if nothing.

    Raises:
        ValueError: The file is damaged.
    """
    found = parse(data)
    if not found.entries and not found.directories:
        return None
    header = {"<": b"II*\0", ">": b"MM\0*"}[found.order] + struct.pack(found.order + "I", 8)
    return header + append(found, found.entries, 8)


def append(block: Block, entries: list[Entry], offset: int) -> bytes:
    """Lay out a directory with `entries` and the directories of `block`, to stand at `offset`."""
    pointers = [Entry(tag, 4, 1, bytes(4)) for tag in block.directories]
    start = offset + len(_pack_directory([*entries, *pointers], offset, block.order))
    parts = []
    for index, (tag, content) in enumerate(block.directories.items()):
        parts.append(_pack_directory(content, start, block.order))
        pointers[index] = Entry(tag, 4, 1, struct.pack(block.order + "I", start))
        start += len(parts[-1])
    return b"".join([_pack_directory([*entries, *pointers], offset, block.order), *parts])


def add_to_tiff(file: IO[bytes], block: Block, packets: dict[int, bytes | None]) -> None:
    """Give a classic TIFF a new first directory that has the block's entries as well.

    Args:
        file: The file, of the block's byte order, open for reading and writing.
        block: What to add.
        packets: More to add, by tag: `XMP`, `IPTC`.
    """
    file.seek(4)
    (offset,) = struct.unpack(block.order + "I", file.read(4))
    file.seek(offset)
    (length,) = struct.unpack(block.order + "H", file.read(2))
    raw = file.read(12 * length)  # entries as they are: their values stay where they stand
    entries = []
    for place in range(0, len(raw), 12):
        tag, kind, count = struct.unpack_from(block.order + "HHI", raw, place)
        entries.append(Entry(tag, kind, count, raw[place + 8 : place + 12]))
    present = {entry.tag for entry in entries}
    entries += [entry for entry in block.entries if entry.tag not in present]
    entries += [Entry(tag, 1, len(data), data) for tag, data in packets.items() if data]
    end = file.seek(0, io.SEEK_END)
    end += file.write(b"\0" * (end % 2))
    file.write(append(block, entries, end))
    file.seek(4)
    file.write(struct.pack(block.order + "I", end))


def reset_orientation(block: bytes) -> tuple[int, bytes]:
    """Set the orientation to 1 in place, so that maker notes keep their offsets.

    Width and height that the block tells are exchanged if that turns the picture on its side.

    Returns:
        The orientation found (1 if there is none), and the EXIF block with 1 in its place.
    """
    order = _order(block)
    place = _places(block).get(ORIENTATION)
    kind = struct.unpack_from(order + "H", block, place + 2)[0] if place else 0
    if place is None or kind not in (3, 4):
        return 1, block
    form = order + ("H" if kind == 3 else "I")
    (orientation,) = struct.unpack_from(form, block, place + 8)
    upright = bytearray(block)
    struct.pack_into(form, upright, place + 8, 1)
    if orientation in range(5, 9) and (pointer := _places(block).get(EXIF_DIRECTORY)):
        (start,) = struct.unpack_from(order + "I", block, pointer + 8)
        places = _places(block, start)
        if _WIDTH in places and _HEIGHT in places:
            width, height = (slice(places[tag] + 2, places[tag] + 12) for tag in (_WIDTH, _HEIGHT))
            upright[width], upright[height] = block[height], block[width]
    return orientation, bytes(upright)


def without_thumbnail(block: bytes) -> bytes:
    """Erase the thumbnail in place: it shows the picture as it was, and turned as it was."""
    order = _order(block)
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    pointer, erased = start + 2 + 12 * count, bytearray(block)
    with contextlib.suppress(struct.error):  # of a second directory that is none
        (second,) = struct.unpack_from(order + "I", block, pointer)
        struct.pack_into(order + "I", erased, pointer, 0)
        directory = _read_directory(block, second, order, False) if second else []
        found = {entry.tag: _numbers(entry, order) for entry in directory}
        for where, lengths in _THUMBNAILS:
            parts = zip(found.get(where, ()), found.get(lengths, ()), strict=False)
            for start, length in parts:
                end = min(start + length, len(erased))
                erased[start:end] = bytes(max(0, end - start))
                if 8 < start < len(erased) <= end + 1:
                    del erased[start:]  # as usual it was the last that the block holds
    return bytes(erased)


def _numbers(entry: Entry, order: str) -> tuple[int, ...]:
    """Values of an entry of whole numbers; none if it holds something else."""
    form = {3: "H", 4: "I"}.get(entry.kind)
    return struct.unpack(f"{order}{entry.count}{form}", entry.value) if form else ()


def _order(block: bytes) -> str:
    return "<" if block[:2] == b"II" else ">"


def _places(block: bytes, start: int | None = None) -> dict[int, int]:
    """Where each entry of the directory at `start` stands, of the first if None, by its tag."""
    order = _order(block)
    if start is None:
        (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    return {struct.unpack_from(order + "H", block, place)[0]: place for place in places}


def _pointer(entry: Entry) -> str:
    return "Q" if entry.kind in (16, 18) else "I"


def _read_directory(data: bytes, offset: int, order: str, big: bool) -> list[Entry]:
    width = 8 if big else 4  # of counts and of inline values
    (length,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    form = order + ("HHQ" if big else "HHI")
    entries = []
    place = offset + (8 if big else 2)
    for _ in range(min(length, 4096)):
        tag, kind, count = struct.unpack_from(form, data, place)
        size = _VALUE_BYTES.get(kind, 0) * count
        start = place + 4 + width
        if size > width:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        value = data[start : start + size]
        if kind in _VALUE_BYTES and len(value) == size:
            entries.append(Entry(tag, kind, count, value))
        place += 4 + 2 * width
    return entries


def _pack_directory(entries: list[Entry], offset: int, order: str) -> bytes:
    head = [struct.pack(order + "H", len(entries))]
    tail = b""
    after = offset + 2 + 12 * len(entries) + 4
    for entry in sorted(entries, key=lambda entry: entry.tag):
        head.append(struct.pack(order + "HHI", entry.tag, entry.kind, entry.count))
        if len(entry.value) <= 4:
            head.append(entry.value.ljust(4, b"\0"))
        else:
            head.append(struct.pack(order + "I", after + len(tail)))
            tail += entry.value + b"\0" * (len(entry.value) % 2)
    return b"".join(head) + bytes(4) + tail
