"""PNG (PNG 3, W3C 2025): its chunks, and 16 bits per channel, which Pillow lacks."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import ImageFile

from denoiser.errors import InputError
from denoiser.picture import Mode, Picture, with_mode

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_XMP_KEY = "XML:com.adobe.xmp"
_COLOUR_BYTES = {b"cHRM": 32, b"gAMA": 4, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
_FOR_PILLOW = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"pHYs", b"acTL", b"fcTL", b"fdAT"}
_OTHER_CHUNKS = _FOR_PILLOW | {b"bKGD", b"sBIT", b"hIST", b"sPLT", b"tIME"}
# hints for decoders, and places on a canvas, of macOS and ImageMagick
_OTHER_CHUNKS |= {b"iDOT", b"CgBI", b"orNT", b"vpAg", b"caNv", b"oFFs", b"dSIG"}
_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
_RAW_PROFILE = b"Raw profile type "
_LONGEST_TEXT = 2**20  # bytes, as Pillow reads it
_LONGEST_PROFILE = 2**26


def is_deep(data: bytes) -> bool:
    """Whether a PNG has 16 bits per channel."""
    return data[24] == 16


def bare(data: bytes) -> bytes:
    """Take out the chunks that `describe` reads; Pillow would refuse a picture for them."""
    chunks = list(_chunks(data))
    if all(kind in _FOR_PILLOW for kind, _, _ in chunks):
        return data
    view = memoryview(data)
    parts = [view[start:end] for kind, start, end in chunks if kind in _FOR_PILLOW]
    return b"".join([SIGNATURE, *parts])


def describe(picture: Picture, data: bytes) -> bytes | None:
    """Collect what the chunks tell of a picture, also those behind the pixels.

    Returns:
        The EXIF block if one of the chunks holds it.

    Raises:
        InputError: Pixels are damaged, which decoders do not notice near the end.
    """
    block, others, view = None, [], memoryview(data)
    for kind, start, end in _chunks(data):
        crc = struct.pack(">I", zlib.crc32(view[start + 4 : end - 4]))
        intact = view[end - 4 : end] == crc
        if not kind.isalpha() or (kind == b"IDAT" and not intact):
            raise InputError("its pixels are damaged")
        if kind == b"IDAT":
            continue
        body = data[start + 8 : end - 4]
        is_xmp = kind == b"iTXt" and body.startswith(_XMP_KEY.encode() + b"\0")
        is_kept = kind in _COLOUR_BYTES or kind == b"eXIf" or is_xmp
        if is_kept and not (intact and len(body) == _COLOUR_BYTES.get(kind, len(body))):
            picture.notes.append(f"its chunk {kind.decode()} is damaged: dropped")
        elif kind in _COLOUR_BYTES:
            picture.png_chunks[kind] = body
        elif kind == b"iCCP":
            picture.icc = _icc(body)
        elif kind == b"eXIf":
            block = body
        elif is_xmp:
            picture.xmp = _itxt(body)
            if not picture.xmp:
                picture.notes.append("its XMP is damaged: dropped")
        elif kind in _TEXT_CHUNKS and body.startswith(_RAW_PROFILE):
            picture.notes.append("a raw profile of ImageMagick in it is dropped")
        elif kind in _TEXT_CHUNKS:
            if intact and _is_text(kind, body):
                picture.texts.append((kind, body))
            else:
                picture.notes.append("a damaged text in it is dropped")
        elif kind not in _OTHER_CHUNKS:
            others.append(kind.decode("latin-1"))
    picture.notes += [f"its chunk {kind} is dropped" for kind in dict.fromkeys(others)]
    return block


def scale_transparency(file: ImageFile.ImageFile, data: bytes) -> None:
    """Scale the transparent grey of 2 and 4 bits, as Pillow scales the pixels but not that."""
    bits, told = data[24], file.info.get("transparency")
    if file.mode == "L" and bits < 8 and told is not None:
        file.info["transparency"] = told * (255 // (2**bits - 1))


def decode_deep(data: bytes) -> tuple[np.ndarray, Mode]:
    """Decode 16 bits per channel to (H, W, C) uint16."""
    import imagecodecs

    return with_mode(np.array(imagecodecs.png_decode(data)))


def encode(picture: Picture, file: IO[bytes]) -> None:
    """Let Pillow or, of 16 bits, imagecodecs compress the pixels, then put our chunks before."""
    if picture.pixels.dtype == np.uint16:
        import imagecodecs

        pixels = picture.pixels[..., 0] if picture.mode == "L" else picture.pixels
        encoded = memoryview(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1))
    else:
        picture.as_image().save(written := io.BytesIO(), "PNG")
        encoded = written.getbuffer()
    chunks = dict(picture.png_chunks)
    if picture.icc:
        chunks.pop(b"sRGB", None)
        chunks[b"iCCP"] = b"ICC Profile\0\0" + zlib.compress(picture.icc)
    if picture.dpi:
        x, y = (round(value / 0.0254) for value in picture.dpi)
        chunks[b"pHYs"] = struct.pack(">IIB", x, y, 1)
    if picture.exif:
        chunks[b"eXIf"] = picture.exif
    if picture.xmp:
        chunks[b"iTXt"] = _XMP_KEY.encode() + b"\0\0\0\0\0" + picture.xmp
    file.write(encoded[:33])  # signature and IHDR
    for kind, body in [*chunks.items(), *picture.texts]:
        crc = zlib.crc32(kind + body)
        file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc))
    file.write(encoded[33:])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the chunks: kind, and where the chunk starts (at its length) and ends."""
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start, start + 12 + length
        start += 12 + length
        if kind == b"IEND":
            return


def _is_text(kind: bytes, body: bytes) -> bool:
    """Whether a text chunk is as PNG 3, section 11.3.3, has it, and not too long for readers."""
    keyword, end, rest = body.partition(b"\0")
    if not end or not 1 <= len(keyword) <= 79:
        return False
    packed = rest[1:]
    if kind == b"iTXt":
        parts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
        if len(parts) < 3 or rest[:1] not in (b"\0", b"\1"):
            return False
        packed = parts[2]
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return len(body) <= _LONGEST_TEXT
    inflate = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        inflate.decompress(packed, _LONGEST_TEXT)
    return inflate.eof


def _icc(body: bytes) -> bytes:
    """Profile of an iCCP chunk (PNG 3, section 11.3.2.3), as far as it is there."""
    _, _, packed = body.partition(b"\0")
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj().decompress(packed[1:], _LONGEST_PROFILE)
    return b""


def _itxt(body: bytes) -> bytes | None:
    """Text of an iTXt chunk (PNG 3, section 11.3.3.4), as UTF-8."""
    _, _, rest = body.partition(b"\0")
    compressed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.split(b"\0", 2)[-1]  # behind language and translated keyword
    with contextlib.suppress(zlib.error):
        return (zlib.decompress(text) if compressed else text) or None
    return None
