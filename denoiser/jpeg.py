"""JPEG segments (ITU-T T.81, annex B): what they tell, and room for Pillow to write them."""

import contextlib
import re
import struct
import threading
from collections.abc import Iterator
from typing import Any

from PIL import ImageFile
from PIL.JpegImagePlugin import get_sampling

from denoiser import exif, photoshop
from denoiser.picture import Picture

PILLOW_LOCK = threading.Lock()
"""For settings of Pillow, which are the same for all threads."""
SIGNATURE = b"\xff\xd8\xff"
_PHOTOSHOP = b"Photoshop 3.0\0"  # begins a segment of image resources
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # none of scans
_TOLD = {"APP3", "APP6", "APP7", "APP8", "APP9", "APP11"}
"""Segments that are missed: stereo, GoPro's, C2PA's and so on; the rest is kept, or is what cameras
and Photoshop note for themselves."""
_LARGE = 4096  # bytes behind the picture that are more than a camera's notes for itself
_XMP_POINTER = re.compile(
    rb"\s*xmpNote:HasExtendedXMP=([\"'])\w*\1|<(xmpNote:HasExtendedXMP)>\w*</\2>"
)
_ICC = b"ICC_PROFILE\0"
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_PILLOWS_BLOCK = ImageFile.MAXBLOCK
_wanted: list[int] = [0]  # bytes for the files that are being written


def part_exif(data: bytes) -> tuple[bytes, bytes]:
    """Take the EXIF segments out of a file.

    Returns:
        The file without them, and their block.
    """
    rest, block, place = data[:2], b"", 2
    while data[place : place + 1] == b"\xff" and data[place + 1] != 0xDA:  # of the scan
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place:end]
        if segment[1:2] == b"\xe1" and segment[4:10] == exif.HEADER:
            block += segment[10:]
        else:
            rest += segment
        place = end
    return rest + data[place:], block


def describe(picture: Picture, file: ImageFile.ImageFile, data: bytes) -> None:
    """Collect what the segments tell of a picture whose `xmp` is set."""
    sampling = get_sampling(file)
    picture.encoding = {
        "qtables": file.quantization,  # type: ignore[attr-defined]
        "subsampling": sampling if sampling >= 0 else 0,
        "progressive": bool(file.info.get("progressive")),
    }
    segments: list[tuple[str, bytes]] = file.applist  # type: ignore[attr-defined]
    resources = b"".join(
        body.removeprefix(_PHOTOSHOP)
        for kind, body in segments
        if kind == "APP13" and body.startswith(_PHOTOSHOP)
    )
    picture.iptc = photoshop.iptc(resources)
    picture.comment = b"\n".join(text for kind, text in segments if kind == "COM") or None
    if not picture.icc and any(text.startswith(_ICC) for _, text in segments):
        picture.icc = b""  # some of it is missing
    if any(text.startswith(_XMP_EXTENSION) for _, text in segments):
        picture.has_extended_xmp = True
        picture.xmp = picture.xmp and _XMP_POINTER.sub(b"", picture.xmp)
    picture.notes += photoshop.lost(resources)
    others = dict.fromkeys(kind for kind, _ in segments if kind in _TOLD)
    picture.notes += [f"its segment {kind} is dropped" for kind in others]
    rest = data[_end_of_picture(data) :].strip(b"\0\xff\r\n ") if file.format == "JPEG" else b""
    if b"ftyp" in rest:
        picture.notes.append("the film behind it is dropped")
    elif len(rest) > _LARGE:
        picture.notes.append(f"{len(rest)} bytes behind it, as of a gain map, are dropped")


def options_of(picture: Picture, quality: int | None) -> dict[str, Any]:
    """What Pillow is told to write a picture; without a quality it is that of the JPEG read."""
    options: dict[str, Any] = {"quality": quality or 95, "subsampling": 0, "optimize": True}
    if picture.format == "JPEG" and quality is None:
        del options["quality"]
        options |= picture.encoding
    if picture.iptc:
        options["extra"] = segment_of(picture.iptc)
    if picture.comment:
        options["comment"] = picture.comment
    if picture.dpi:
        options["dpi"] = tuple(round(value) for value in picture.dpi)
    return options


@contextlib.contextmanager
def room_for(picture: Picture) -> Iterator[None]:
    """Give Pillow's writer room for a whole file: optimised ones are written in one piece.

    Its limit, which it looks up when it begins, is one for all threads.
    """
    blocks = (picture.icc, picture.exif, picture.xmp, picture.iptc, picture.comment)
    size = 4 * picture.pixels.size + sum(len(block or b"") for block in blocks) + 65536

    def widen() -> None:
        ImageFile.MAXBLOCK = min(max(_PILLOWS_BLOCK, *_wanted), 2**31 - 1)

    with PILLOW_LOCK:
        _wanted.append(size)
        widen()
    try:
        yield
    finally:
        with PILLOW_LOCK:
            _wanted.remove(size)
            widen()


def segment_of(iptc: bytes) -> bytes:
    """Wrap IPTC into the JPEG segment APP13, as Photoshop's image resource without a name."""
    body = _PHOTOSHOP + photoshop.pack_iptc(iptc)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _end_of_picture(data: bytes) -> int:
    """Find where the first picture of a file ends; its length if nowhere."""
    place = 2
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9:
            return place
        if marker not in (0x01, 0xD8):
            place += int.from_bytes(data[place : place + 2], "big")
    return len(data)
