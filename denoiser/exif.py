"""EXIF blocks and TIFF directories as raw entries: nothing is decoded, so nothing is changed.

An EXIF block is a small TIFF file (EXIF 2.3, section 4.5; TIFF 6.0, section 2). Text in any
encoding and values of any kind pass through as the bytes that they are.
"""

import contextlib
import dataclasses
import io
import itertools
import struct
from collections.abc import Container, Iterator
from typing import IO

HEADERS = {"<": b"II*\0", ">": b"MM\0*"}
"""First bytes of a TIFF by its byte order as `struct` has it."""
ORIENTATION, SOFTWARE, XMP = 0x0112, 0x0131, 700
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
EXIF_DIRECTORY, GPS_DIRECTORY = DIRECTORIES = 0x8769, 0x8825
IPTC, PHOTOSHOP_RESOURCES, PHOTOSHOP_LAYERS = 33723, 34377, 37724
_SIDES, _EXIF_SIDES = (0x0100, 0x0101), (0xA002, 0xA003)  # width and height
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # where one stands, and its bytes: JPEG, strips
_INTEROPERABILITY = 0xA005
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_VALUE_BYTES |= {16: 8, 17: 8, 18: 8}  # BigTIFF
_FORMS = {1: "B", 3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
"""Of single numbers by kind, as `struct` has them."""
# what tells how a TIFF stores its pixels, colour and parts, and is written anew
_STRUCTURAL = {254, 255, 266, 280, 281, 284, 292, 293, 296, 297, 301, 318, 319, 320, 330, 332}
_STRUCTURAL |= {256, 257, 258, 259, 262, 263, 264, 265, 273, 277, 278, 279, 282, 283, 317, 347}
_STRUCTURAL |= {
    XMP,
    IPTC,
    PHOTOSHOP_LAYERS,
    PHOTOSHOP_RESOURCES,
    34675,
    EXIF_DIRECTORY,
    GPS_DIRECTORY,
    _INTEROPERABILITY,
}
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
    broken: bool = False
    """Whether one of them cannot be read."""


def parse(data: bytes, offset: int | None = None) -> Block:
    """Read an EXIF block, TIFF or BigTIFF file: its first directory, or that at `offset`.

    Raises:
        ValueError: It is damaged.
    """
    try:
        order, big, first = _directory(data, offset)
    except struct.error as error:
        raise ValueError(f"damaged directory: {error}") from error
    directories, broken = {}, False
    for entry in first:
        if entry.tag not in DIRECTORIES:
            continue
        try:
            (start,) = struct.unpack_from(order + _pointer(entry), entry.value)
            found = _read_directory(data, start, order, big) if start else []
        except struct.error:  # the rest tells all the same
            broken = True
            continue
        if inside := [inner for inner in found if inner.tag != _INTEROPERABILITY]:
            directories[entry.tag] = inside
    kept = [entry for entry in first if entry.tag not in _STRUCTURAL and entry.kind < 16]
    return Block(order, kept, directories, broken)


def value_of(data: bytes, tag: int, offset: int | None = None) -> bytes | None:
    """Find an entry's value in a directory that `parse` has read, as it stands there."""
    return next((entry.value for entry in _directory(data, offset)[2] if entry.tag == tag), None)


def has_tag(block: bytes, tag: int) -> bool:
    """Whether the first directory of an EXIF block holds a tag."""
    return tag in _places(block)


def cut_off(data: bytes, offset: int) -> list[int]:
    """List the tags of a directory of a TIFF whose values lie behind the end of the file."""
    order, big, _ = _header(data)
    return [entry.tag for entry in _entries(data, offset, order, big) if not _is_whole(entry)]


def only_orientation(block: bytes) -> bytes | None:
    """Rescue the orientation from a damaged EXIF block, as a block of its own."""
    with contextlib.suppress(ValueError, struct.error):
        order, _, offset = _header(block)
        for entry in _entries(block, offset, order, big=False):
            if entry.tag == ORIENTATION and entry.kind in (3, 4):
                return gather(Block(order, [entry], {}))
    return None


def resolution(data: bytes, offset: int | None = None) -> tuple[float, float] | None:
    """Find the resolution that an EXIF block, or the directory of a TIFF at `offset`, tells.

    Returns:
        In pixels per inch, across and down; None if there is none, or none that makes sense.
    """
    unit, x, y = _density(data, offset)
    per_inch = {2.0: 1.0, 3.0: 2.54}.get(unit, 0.0)
    x, y = x * per_inch, y * per_inch
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def is_oblong(data: bytes, offset: int | None = None) -> bool:
    """Whether a directory of a TIFF tells the shape of a pixel, which is no square, and no size."""
    unit, x, y = _density(data, offset)
    return unit == 1 and 0 < x != y > 0


def _density(data: bytes, offset: int | None) -> tuple[float, float, float]:
    """Unit of the resolution (1 none, 2 inch, 3 cm) and its value across and down, 0 if unknown."""
    with contextlib.suppress(KeyError, ValueError, ZeroDivisionError, struct.error):
        order, _, directory = _directory(data, offset)
        entries = {entry.tag: entry for entry in directory}

        def number(tag: int) -> float:
            entry = entries[tag]
            above, *below = struct.unpack(order + _FORMS[entry.kind], entry.value)
            return float(above / below[0] if below else above)

        unit = number(RESOLUTION_UNIT) if RESOLUTION_UNIT in entries else 2.0
        return unit, number(X_RESOLUTION), number(Y_RESOLUTION)
    return 0, 0, 0


def gather(found: Block, without: Container[int] = ()) -> bytes | None:
    """Lay out what a TIFF file says about its picture as an EXIF block, if it says anything.

    Args:
        found: What `parse` has read.
        without: Tags of its entries to leave out.
    """
    entries = [entry for entry in found.entries if entry.tag not in without]
    if not entries and not found.directories:
        return None
    header = HEADERS[found.order] + struct.pack(found.order + "I", 8)
    return header + append(found, entries, 8)


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
    order, places = _order(block), _places(block)
    place = places.get(ORIENTATION)
    kind = struct.unpack_from(order + "H", block, place + 2)[0] if place else 0
    if place is None or kind not in (3, 4):
        return 1, block
    form = order + ("H" if kind == 3 else "I")
    (orientation,) = struct.unpack_from(form, block, place + 8)
    upright = bytearray(block)
    struct.pack_into(form, upright, place + 8, 1)
    if orientation in range(5, 9):
        _exchange(upright, places, _SIDES)
        with contextlib.suppress(struct.error, KeyError):  # of a pointer that is none
            (start,) = struct.unpack_from(order + "I", block, places[EXIF_DIRECTORY] + 8)
            _exchange(upright, _places(block, start), _EXIF_SIDES)
    return orientation, bytes(upright)


def without(block: bytes, tag: int) -> bytes:
    """Take an entry out of the first directory in place, so that all values keep their offsets."""
    order, place = _order(block), _places(block).get(tag)
    if place is None:
        return block
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    end = start + 2 + 12 * count
    shorter = bytearray(block)
    shorter[place : end - 8] = block[place + 12 : end + 4]  # the pointer behind them moves, too
    shorter[end - 8 : end + 4] = bytes(12)
    struct.pack_into(order + "H", shorter, start, count - 1)
    return bytes(shorter)


def _exchange(block: bytearray, places: dict[int, int], tags: tuple[int, int]) -> None:
    """Exchange kinds and values of two entries, if there are both."""
    if tags[0] in places and tags[1] in places:
        one, other = (slice(places[tag] + 2, places[tag] + 12) for tag in tags)
        block[one], block[other] = block[other], block[one]


def without_thumbnail(block: bytes) -> bytes:
    """Erase the thumbnail in place: it shows the picture as it was, and turned as it was.

    Nothing else is touched, wherever a damaged block says that its thumbnail lies.
    """
    order = _order(block)
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    pointer, used = start + 2 + 12 * count, list(_used(block, order))
    if pointer + 4 > len(block) or any(a < pointer + 4 and pointer < b for a, b in used):
        return block  # written without a pointer to a second directory
    (second,) = struct.unpack_from(order + "I", block, pointer)
    erased, end = bytearray(block), len(block)
    with contextlib.suppress(struct.error):  # of a second directory that is none
        directory = _read_directory(block, second, order, False) if second else []
        entries = {entry.tag: entry for entry in directory}
        for where, lengths in _THUMBNAILS:
            starts, sizes = (_numbers(entries.get(tag), order) for tag in (where, lengths))
            for first, size in itertools.zip_longest(starts, sizes[: len(starts)]):
                last = len(block) if size is None else min(first + size, len(block))
                erased[first:last] = bytes(max(0, last - first))
                if first < end <= last + 1:
                    end = first  # as usual it is the last that the block holds
    for first, last in used:
        erased[first:last] = block[first:last]
    erased[pointer : pointer + 4] = bytes(4)
    return bytes(erased[: max(end, pointer + 4, *(last for _, last in used))])


def _used(block: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Where the header stands, and the directories but for the second, and their values."""
    yield 0, 8
    starts, known = [struct.unpack_from(order + "I", block, 4)[0]], set()
    while starts:
        start = starts.pop()
        if start in known:
            continue
        known.add(start)
        with contextlib.suppress(struct.error):
            (count,) = struct.unpack_from(order + "H", block, start)
            yield start, min(start + 2 + 12 * count, len(block))
            for place in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, length, value = struct.unpack_from(order + "HHII", block, place)
                size = _VALUE_BYTES.get(kind, 0) * length
                if 4 < size <= len(block) - value:
                    yield value, value + size
                if tag in (*DIRECTORIES, _INTEROPERABILITY):
                    starts.append(value)


def _numbers(entry: Entry | None, order: str) -> tuple[int, ...]:
    """Values of an entry of whole numbers; none if it holds something else or is missing."""
    form = {3: "H", 4: "I"}.get(entry.kind) if entry else None
    return struct.unpack(f"{order}{entry.count}{form}", entry.value) if entry and form else ()


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


def _directory(data: bytes, offset: int | None) -> tuple[str, bool, list[Entry]]:
    """Read byte order, whether it is a BigTIFF, and a directory's entries; None is the first."""
    order, big, first = _header(data)
    return order, big, _read_directory(data, first if offset is None else offset, order, big)


def _header(data: bytes) -> tuple[str, bool, int]:
    """Read byte order, whether it is a BigTIFF, and where the first directory stands."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if not order or magic not in (42, 43):
        raise ValueError("no TIFF header")
    big = magic == 43
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return order, big, offset


def _pointer(entry: Entry) -> str:
    return "Q" if entry.kind in (16, 18) else "I"


def _read_directory(data: bytes, offset: int, order: str, big: bool) -> list[Entry]:
    """Read the entries of a directory that are of a known kind and whole."""
    entries = _entries(data, offset, order, big)
    return [entry for entry in entries if entry.kind in _VALUE_BYTES and _is_whole(entry)]


def _is_whole(entry: Entry) -> bool:
    """Whether the value of an entry, if it is of a known kind, is all there."""
    return len(entry.value) == _VALUE_BYTES.get(entry.kind, 0) * entry.count


def _entries(data: bytes, offset: int, order: str, big: bool) -> Iterator[Entry]:
    """Iterate over the entries of a directory; what lies behind the end is missing in values."""
    width = 8 if big else 4  # of counts and of inline values
    (length,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    form = order + ("HHQ" if big else "HHI")
    place = offset + (8 if big else 2)
    for _ in range(min(length, 4096)):
        tag, kind, count = struct.unpack_from(form, data, place)
        size = _VALUE_BYTES.get(kind, 0) * count
        start = place + 4 + width
        if size > width:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        yield Entry(tag, kind, count, data[start : start + size])
        place += 4 + 2 * width


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
