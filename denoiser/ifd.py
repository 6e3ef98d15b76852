"""Image file directories of TIFF, BigTIFF and EXIF as raw entries: nothing is decoded.

An EXIF block is a small TIFF file (EXIF 2.3, section 4.5; TIFF 6.0, section 2). Text in any
encoding and values of any kind pass through as the bytes that they are.
"""

import contextlib
import dataclasses
import functools
import struct
from collections.abc import Iterator

HEADERS = {"<": b"II*\0", ">": b"MM\0*"}
"""First bytes of a TIFF by its byte order as `struct` has it."""
ORIENTATION, SOFTWARE, XMP = 0x0112, 0x0131, 700
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY = 0x8769, 0x8825, 0xA005
IPTC, PHOTOSHOP_RESOURCES, PHOTOSHOP_LAYERS = 33723, 34377, 37724
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
VALUE_BYTES |= {16: 8, 17: 8, 18: 8}  # BigTIFF
_FORMS = {1: "B", 3: "H", 4: "I", 5: "II", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
"""Of single numbers by kind, as `struct` has them."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a directory, its value as it stands in the file."""

    tag: int
    kind: int
    count: int
    value: bytes

    @property
    def is_whole(self) -> bool:
        """Whether the value, if it is of a known kind, is all there."""
        return len(self.value) == VALUE_BYTES.get(self.kind, 0) * self.count


@dataclasses.dataclass(frozen=True)
class Directory:
    """What a directory holds."""

    order: str
    """Byte order as `struct` has it: "<" or ">"."""
    entries: list[Entry]
    """Those of a known kind that are whole."""
    cut_off: list[int]
    """Tags of those whose values lie behind the end of the file."""

    def value(self, tag: int) -> bytes | None:
        """Find an entry's value, as it stands there."""
        return next((entry.value for entry in self.entries if entry.tag == tag), None)

    @property
    def resolution(self) -> tuple[float, float] | None:
        """In pixels per inch, across and down; None if there is none, or none that makes sense."""
        unit, x, y = self._density
        per_inch = {2.0: 1.0, 3.0: 2.54}.get(unit, 0.0)
        x, y = x * per_inch, y * per_inch
        return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None

    @property
    def is_oblong(self) -> bool:
        """Whether it tells the shape of a pixel, which is no square, and no size."""
        unit, x, y = self._density
        return unit == 1 and 0 < x != y > 0

    @functools.cached_property
    def _density(self) -> tuple[float, float, float]:
        """Unit of the resolution (1 none, 2 inch, 3 cm) and its value, each 0 if unknown."""
        entries = {entry.tag: entry for entry in self.entries}

        def number(tag: int) -> float:
            entry = entries[tag]
            above, *below = struct.unpack(self.order + _FORMS[entry.kind], entry.value)
            return float(above / below[0] if below else above)

        with contextlib.suppress(KeyError, ZeroDivisionError, struct.error):
            unit = number(RESOLUTION_UNIT) if RESOLUTION_UNIT in entries else 2.0
            return unit, number(X_RESOLUTION), number(Y_RESOLUTION)
        return 0, 0, 0


def read(data: bytes, offset: int | None = None) -> Directory:
    """Read the first directory of an EXIF block, TIFF or BigTIFF file, or that at `offset`.

    Raises:
        ValueError: It is damaged.
    """
    try:
        order, big, first = header(data)
        found = list(entries(data, first if offset is None else offset, order, big))
    except struct.error as error:
        raise ValueError(f"damaged directory: {error}") from error
    whole = [entry for entry in found if entry.kind in VALUE_BYTES and entry.is_whole]
    return Directory(order, whole, [entry.tag for entry in found if not entry.is_whole])


def header(data: bytes) -> tuple[str, bool, int]:
    """Read byte order, whether it is a BigTIFF, and where the first directory stands.

    Raises:
        ValueError: It is none.
        struct.error: It is too short.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if not order or magic not in (42, 43):
        raise ValueError("no TIFF header")
    big = magic == 43
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return order, big, offset


def entries(data: bytes, offset: int, order: str, big: bool) -> Iterator[Entry]:
    """Iterate over the entries of a directory; what lies behind the end is missing in values.

    Raises:
        struct.error: The directory itself reaches beyond it.
    """
    width = 8 if big else 4  # of counts and of inline values
    (length,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    form = order + ("HHQ" if big else "HHI")
    place = offset + (8 if big else 2)
    for _ in range(min(length, 4096)):
        tag, kind, count = struct.unpack_from(form, data, place)
        size = VALUE_BYTES.get(kind, 0) * count
        start = place + 4 + width
        if size > width:
            (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        yield Entry(tag, kind, count, data[start : start + size])
        place += 4 + 2 * width


def pack(entries: list[Entry], offset: int, order: str) -> bytes:
    """Lay out a directory of a classic TIFF, and its values behind it, to stand at `offset`."""
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
