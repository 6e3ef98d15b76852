"""EXIF blocks: read, laid out anew, and changed in place where values must keep their offsets."""

import contextlib
import dataclasses
import io
import itertools
import struct
from collections.abc import Container, Iterator
from typing import IO

from denoiser import ifd
from denoiser.ifd import EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY, Entry

HEADER = b"Exif\0\0"
"""What stands before a block in JPEG, and in what Pillow gives and takes."""
_SIDES, _EXIF_SIDES = (0x0100, 0x0101), (0xA002, 0xA003)  # width and height
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # where one stands, and its bytes: JPEG, strips
# what tells how a TIFF stores its pixels, colour and parts, and is written anew
_STRUCTURAL = {254, 255, 266, 280, 281, 284, 292, 293, 296, 297, 301, 318, 319, 320, 330, 332}
_STRUCTURAL |= {256, 257, 258, 259, 262, 263, 264, 265, 273, 277, 278, 279, 282, 283, 317, 347}
_STRUCTURAL |= {
    ifd.XMP,
    ifd.IPTC,
    ifd.PHOTOSHOP_LAYERS,
    ifd.PHOTOSHOP_RESOURCES,
    34675,
    EXIF_DIRECTORY,
    GPS_DIRECTORY,
    INTEROPERABILITY_DIRECTORY,
}
_STRUCTURAL |= set(range(321, 346)) | set(range(512, 533))


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


def parse(data: bytes, first: ifd.Directory | None = None) -> Block:
    """Read what an EXIF block, TIFF or BigTIFF file says.

    Args:
        data: The block or file.
        first: The directory to begin with, if not the first.

    Raises:
        ValueError: It is damaged.
    """
    first = first or ifd.read(data)
    directories, broken = {}, False
    for entry in first.entries:
        if entry.tag not in (EXIF_DIRECTORY, GPS_DIRECTORY):
            continue
        try:
            pointer = "Q" if entry.kind in (16, 18) else "I"
            (start,) = struct.unpack_from(first.order + pointer, entry.value)
            found = ifd.read(data, start).entries if start else []
        except (ValueError, struct.error):  # the rest tells all the same
            broken = True
            continue
        if inside := [inner for inner in found if inner.tag != INTEROPERABILITY_DIRECTORY]:
            directories[entry.tag] = inside
    kept = [entry for entry in first.entries if entry.tag not in _STRUCTURAL and entry.kind < 16]
    return Block(first.order, kept, directories, broken)


def has_tag(block: bytes, tag: int) -> bool:
    """Whether the first directory of an EXIF block holds a tag."""
    return tag in _places(block)


def only_orientation(block: bytes) -> bytes | None:
    """Rescue the orientation from a damaged EXIF block, as a block of its own."""
    with contextlib.suppress(ValueError, struct.error):
        order, _, offset = ifd.header(block)
        for entry in ifd.entries(block, offset, order, big=False):
            if entry.tag == ifd.ORIENTATION and entry.kind in (3, 4):
                return gather(Block(order, [entry], {}))
    return None


def gather(found: Block, without: Container[int] = ()) -> bytes | None:
    """Lay out what a TIFF file says about its picture as an EXIF block, if it says anything.

    Args:
        found: What `parse` has read.
        without: Tags of its entries to leave out.
    """
    entries = [entry for entry in found.entries if entry.tag not in without]
    if not entries and not found.directories:
        return None
    header = ifd.HEADERS[found.order] + struct.pack(found.order + "I", 8)
    return header + append(found, entries, 8)


def append(block: Block, entries: list[Entry], offset: int) -> bytes:
    """Lay out a directory with `entries` and the directories of `block`, to stand at `offset`."""
    pointers = [Entry(tag, 4, 1, bytes(4)) for tag in block.directories]
    start = offset + len(ifd.pack([*entries, *pointers], offset, block.order))
    parts = []
    for index, (tag, content) in enumerate(block.directories.items()):
        parts.append(ifd.pack(content, start, block.order))
        pointers[index] = Entry(tag, 4, 1, struct.pack(block.order + "I", start))
        start += len(parts[-1])
    return b"".join([ifd.pack([*entries, *pointers], offset, block.order), *parts])


def add_to_tiff(file: IO[bytes], block: Block, packets: dict[int, bytes | None]) -> None:
    """Give a classic TIFF a new first directory that has the block's entries as well.

    Args:
        file: The file, of the block's byte order, open for reading and writing.
        block: What to add.
        packets: More to add, by tag: `ifd.XMP`, `ifd.IPTC`.
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
    place = places.get(ifd.ORIENTATION)
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
    with contextlib.suppress(ValueError):  # of a second directory that is none
        directory = ifd.read(block, second).entries if second else []
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
                size = ifd.VALUE_BYTES.get(kind, 0) * length
                if 4 < size <= len(block) - value:
                    yield value, value + size
                if tag in (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY):
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
