"""Photoshop's image resources, as JPEG and TIFF carry them."""

import contextlib
import struct
from collections.abc import Iterator

IPTC = 0x0404
_PATHS = range(2000, 2999)
_TOLD = {0x040A: "copyright flag", 0x040B: "URL"} | dict.fromkeys(_PATHS, "paths")
"""What a person may have put there; the rest is Photoshop's own: thumbnails, guides, printing."""


def resources(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Iterate over image resources, as far as they are whole: number and content."""
    place = 0
    with contextlib.suppress(struct.error):
        while place < len(data):
            number, name_bytes = struct.unpack_from(">HB", data, place + 4)
            place += 6 + (name_bytes + 2) // 2 * 2
            (size,) = struct.unpack_from(">I", data, place)
            yield number, data[place + 4 : place + 4 + size]
            place += 4 + (size + 1) // 2 * 2


def iptc(data: bytes) -> bytes | None:
    """Gather the IPTC of image resources; None if there is none."""
    return b"".join(content for number, content in resources(data) if number == IPTC) or None


def lost(data: bytes) -> list[str]:
    """Say what else is there that a person may miss, a line for all."""
    present = (number for number, content in resources(data) if content.strip(b"\0"))
    found = dict.fromkeys(_TOLD[number] for number in present if number in _TOLD)
    return [f"dropped of Photoshop's: {', '.join(found)}"] if found else []


def pack_iptc(content: bytes) -> bytes:
    """Make an image resource without a name of IPTC."""
    head = b"8BIM" + struct.pack(">HHI", IPTC, 0, len(content))
    return head + content + b"\0" * (len(content) % 2)
