"""Bytes to pictures and back: Pillow for 8 bits, imagecodecs for 16-bit PNG, tifffile for TIFF."""

import contextlib
import io
import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import get_sampling
from PIL.PngImagePlugin import PngInfo

from denoiser import exif, photoshop
from denoiser.errors import IN_FOLDER, InputError
from denoiser.picture import FORMATS, Format, Mode, Picture, check_size

logging.getLogger("imagecodecs").setLevel(logging.CRITICAL)  # one line on stderr is ours

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHER_COLOURS = "its colours (primaries {}, transfer {} of H.273) are taken for those of sRGB"
_XMP_KEY = "XML:com.adobe.xmp"
_PNG_COLOUR_CHUNKS = {b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI"}
_PNG_OTHER_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"pHYs", b"bKGD"}
_PNG_OTHER_CHUNKS |= {b"sBIT", b"hIST", b"sPLT", b"tIME", b"acTL", b"fcTL", b"fdAT"}
_PNG_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
_PNG_RAW_PROFILE = b"Raw profile type "
_PHOTOSHOP = b"Photoshop 3.0\0"  # begins a JPEG's segment of image resources
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # none of scans
_JPEG_SEGMENTS = {"APP0", "APP1", "APP2", "APP13", "APP14", "COM"}
_LONGEST_TEXT = 2**20  # bytes of a PNG's text, as Pillow reads it
_XMP_SIDES = {b"PixelXDimension": b"PixelYDimension", b"ImageWidth": b"ImageLength"}
_XMP_SIDES |= {other: side for side, other in _XMP_SIDES.items()}
_XMP_POINTER = re.compile(
    rb"\s*xmpNote:HasExtendedXMP=([\"'])\w*\1|<(xmpNote:HasExtendedXMP)>\w*</\2>"
)
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_PILLOWS_BLOCK = ImageFile.MAXBLOCK
_settings = threading.Lock()  # for those of Pillow, which are the same for all threads
_wanted: list[int] = [0]  # bytes for the files that are being written
_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode(data: bytes) -> Picture:
    """Decode a file, upright.

    Raises:
        UnidentifiedImageError: No supported format.
        InputError: Too large, or pixels of a kind that is not supported.
        Exception: Whatever the decoders raise on damaged files.
    """
    if data[:4] in _TIFF_HEADERS:
        from denoiser import tiff

        picture = tiff.decode(data)
    else:
        with _open(data) as file:
            if file.format not in {format.name for format in FORMATS} | {"MPO"}:
                raise UnidentifiedImageError
            check_size(*file.size)
            picture = _describe(file, data)
            if file.format == "PNG" and data[24] == 16:
                picture.pixels, picture.mode = _decode_deep_png(data)
            else:
                picture.pixels, picture.mode = _decode_8bit(file)
    if picture.xmp:  # which show the picture as it was
        for prefix in (b"xmp", b"xap"):
            picture.xmp = _without_element(picture.xmp, prefix + b":Thumbnails")
    _make_upright(picture)
    return picture


def encode(picture: Picture, file: IO[bytes], format: Format, quality: int | None) -> None:
    """Encode an adapted picture into a file open for reading and writing."""
    if format.name == "TIFF":
        from denoiser import tiff

        tiff.encode(picture, file)
    elif picture.pixels.dtype == np.uint16:
        _encode_deep_png(picture, file)
    else:
        _encode_8bit(picture, file, format, quality)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read a header without Pillow's own limit, which 100 megapixels pass; ours is checked then."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _load_heif()
    with _settings:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(io.BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _load_heif() -> None:
    """Teach Pillow HEIF.

    Raises:
        InputError: The extra is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise InputError(f"HEIC needs more: {IN_FOLDER} pip install '.[heif]'") from None
    pillow_heif.register_heif_opener()


def _describe(file: ImageFile.ImageFile, data: bytes) -> Picture:
    """Collect all that stands beside the pixels, before they are decoded."""
    info = file.info
    name = "JPEG" if file.format == "MPO" else str(file.format)
    picture = Picture(np.empty((0, 0, 0), np.uint8), "L", name, icc=info.get("icc_profile") or None)
    block, picture.xmp = info.get("exif") or b"", _to_bytes(info.get("xmp"))
    if name == "JPEG":
        sampling = get_sampling(file)
        picture.encoding = {
            "qtables": file.quantization,  # type: ignore[attr-defined]
            "subsampling": sampling if sampling >= 0 else 0,
            "progressive": bool(info.get("progressive")),
        }
        segments: list[tuple[str, bytes]] = file.applist  # type: ignore[attr-defined]
        resources = b"".join(
            body.removeprefix(_PHOTOSHOP)
            for kind, body in segments
            if kind == "APP13" and body.startswith(_PHOTOSHOP)
        )
        picture.iptc = photoshop.iptc(resources)
        picture.notes += photoshop.lost(resources)
        others = dict.fromkeys(kind for kind, _ in segments if kind not in _JPEG_SEGMENTS)
        picture.notes += [f"its segment {kind} is dropped" for kind in others]
        if file.format == "JPEG" and (rest := len(data[_end_of_jpeg(data) :].strip(b"\0\xff"))):
            picture.notes.append(f"{rest} bytes behind the picture, as of a film, are dropped")
        picture.comment = b"\n".join(text for kind, text in segments if kind == "COM") or None
        if any(text.startswith(_XMP_EXTENSION) for _, text in segments):
            picture.has_extended_xmp = True
            picture.xmp = picture.xmp and _XMP_POINTER.sub(b"", picture.xmp)
    elif name == "WEBP":
        picture.encoding = {"lossless": b"VP8L" in _riff_chunks(data)}
    elif name == "PNG":
        for kind, start, end in _png_chunks(data):  # also those behind the pixels
            body = data[start + 8 : end - 4]
            if kind in _PNG_COLOUR_CHUNKS:
                picture.png_chunks[kind] = body
            elif kind == b"eXIf":
                block = body
            elif kind == b"iTXt" and body.startswith(_XMP_KEY.encode() + b"\0"):
                picture.xmp = _itxt(body)
            elif kind in _PNG_TEXT_CHUNKS and body.startswith(_PNG_RAW_PROFILE):
                picture.notes.append("a raw profile of ImageMagick in it is dropped")
            elif kind not in _PNG_TEXT_CHUNKS | _PNG_OTHER_CHUNKS:
                picture.notes.append(f"its chunk {kind.decode('latin-1')} is dropped")
            elif kind in _PNG_TEXT_CHUNKS:
                crc = struct.pack(">I", zlib.crc32(kind + body))
                if data[end - 4 : end] == crc and _is_text(kind, body):
                    picture.texts.append((kind, body))
                else:
                    picture.notes.append("a damaged text in it is dropped")
    elif name == "AVIF":
        if _avif_is_deep(data):
            picture.notes.append("AVIF of more than 8 bits per channel is read as 8 bits")
        if not picture.icc and not _is_srgb(*(codes := _nclx(data))):
            picture.notes.append(_OTHER_COLOURS.format(*codes))
    elif name == "HEIF":
        if info["bit_depth"] > 8:
            picture.notes.append("HEIF of more than 8 bits per channel is read as 8 bits")
        if info["depth_images"] or info["aux"]:
            picture.notes.append("its depth map or other maps are dropped")
        nclx = info.get("nclx_profile") or {}
        codes = (nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2))
        if not picture.icc and not _is_srgb(*codes):
            picture.notes.append(_OTHER_COLOURS.format(*codes))
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    if block:
        picture.exif = _checked_exif(block, picture.notes)
    if name == "JPEG" and picture.exif and not picture.iptc:  # where TIFF has it
        picture.iptc = exif.value_of(picture.exif, exif.IPTC)
    if "dpi" in info and (name != "JPEG" or _has_density(info, picture.exif)):
        x, y = (float(value) for value in info["dpi"])
        picture.dpi = (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None
    frames = getattr(file, "n_frames", 1)
    if frames > 1:
        part = "pictures in it" if file.format == "MPO" else "frames"
        picture.notes.append(f"only the first of {frames} {part} is restored")
    return picture


def _checked_exif(block: bytes, notes: list[str]) -> bytes | None:
    try:
        if block[2:4] not in (b"*\0", b"\0*"):
            raise ValueError("no TIFF header")
        exif.parse(block)
        return exif.without_thumbnail(block)
    except (ValueError, struct.error):
        notes.append("its EXIF is damaged: dropped")
        return None


def _has_density(info: dict[Any, Any], block: bytes | None) -> bool:
    """Whether a JPEG states its resolution; Pillow makes up 72 dpi where it does not."""
    stated = info.get("jfif_unit", 0) in (1, 2)
    return stated or (block is not None and exif.has_tag(block, exif.X_RESOLUTION))


def _to_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes | bytearray) and value else None


def _without_element(xml: bytes, name: bytes) -> bytes:
    """Take every element of a name, without attributes, out of an XML packet."""
    opening, closing = b"<%b>" % name, b"</%b>" % name
    parts, start = [], 0
    while (begin := xml.find(opening, start)) >= 0 and (end := xml.find(closing, begin)) >= 0:
        parts.append(xml[start:begin])
        start = end + len(closing)
    return b"".join([*parts, xml[start:]])


def _end_of_jpeg(data: bytes) -> int:
    """Find where the first picture of a JPEG ends (ITU-T T.81, annex B); its length if nowhere."""
    place = 2
    while found := _JPEG_MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9:
            return place
        if marker not in (0x01, 0xD8):
            place += int.from_bytes(data[place : place + 2], "big")
    return len(data)


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


def _riff_chunks(data: bytes) -> list[bytes]:
    """Kinds of the chunks of a WebP file, which lie one after the other from byte 12 on."""
    kinds, place = [], 12
    while place + 8 <= len(data):
        kinds.append(data[place : place + 4])
        (length,) = struct.unpack_from("<I", data, place + 4)
        place += 8 + length + length % 2
    return kinds


def _avif_is_deep(data: bytes) -> bool:
    """Look up `high_bitdepth` in the AV1 configuration (AV1-ISOBMFF, section 2.3.3)."""
    place = data.find(b"av1C")
    return 0 < place < len(data) - 7 and bool(data[place + 6] & 0x40)


def _nclx(data: bytes) -> tuple[int, int]:
    """Find an AVIF's codes of primaries and transfer (ISO 14496-12, 12.1.5; ITU-T H.273)."""
    place = data.find(b"colrnclx")
    if place < 0 or len(data) < place + 12:
        return 2, 2  # unspecified
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    return primaries, transfer


def _is_srgb(primaries: int, transfer: int) -> bool:
    """Whether codes of H.273 say that colours are those of sRGB, or nothing."""
    return primaries in (1, 2) and transfer in (1, 2, 6, 13)


def _decode_8bit(file: ImageFile.ImageFile) -> tuple[np.ndarray, Mode]:
    file.load()
    transparent = "transparency" in file.info
    targets: dict[str, Mode] = {
        "1": "LA" if transparent else "L",
        "L": "LA" if transparent else "L",
        "LA": "LA",
        "La": "LA",
        "P": "RGBA" if transparent else "RGB",
        "PA": "RGBA",
        "RGB": "RGBA" if transparent else "RGB",
        "RGBX": "RGB",
        "YCbCr": "RGB",
        "RGBA": "RGBA",
        "RGBa": "RGBA",
        "CMYK": "CMYK",
    }
    if file.mode not in targets:
        raise InputError(f"pixels of kind {file.mode} are not supported: convert it to RGB first")
    mode = targets[file.mode]
    pixels = np.array(file if file.mode == mode else file.convert(mode))
    return (pixels[..., None] if pixels.ndim == 2 else pixels), mode


def _decode_deep_png(data: bytes) -> tuple[np.ndarray, Mode]:
    import imagecodecs

    pixels = np.array(imagecodecs.png_decode(data))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    modes: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")
    return pixels, modes[pixels.shape[2] - 1]


def _make_upright(picture: Picture) -> None:
    """Apply the EXIF orientation to the pixels and set it to 1, in EXIF and in XMP."""
    if picture.exif is None:
        return
    orientation, picture.exif = exif.reset_orientation(picture.exif)
    if orientation not in range(2, 9):
        return
    if orientation >= 5:
        picture.pixels = picture.pixels.transpose(1, 0, 2)
        picture.dpi = picture.dpi and picture.dpi[::-1]
    if orientation in (2, 3, 6, 7):
        picture.pixels = picture.pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture.pixels = picture.pixels[::-1]
    picture.pixels = np.ascontiguousarray(picture.pixels)
    if picture.xmp:
        picture.xmp = re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", picture.xmp)
        if orientation >= 5:
            names = b"|".join(_XMP_SIDES)
            picture.xmp = re.sub(
                rb"(?<=:)(" + names + rb")\b", lambda found: _XMP_SIDES[found[1]], picture.xmp
            )


@contextlib.contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Give Pillow's JPEG writer room for a whole file: optimised ones are written in one piece.

    Its limit, which it looks up when it begins, is one for all threads.
    """

    def widen() -> None:
        ImageFile.MAXBLOCK = min(max(_PILLOWS_BLOCK, *_wanted), 2**31 - 1)

    with _settings:
        _wanted.append(size)
        widen()
    try:
        yield
    finally:
        with _settings:
            _wanted.remove(size)
            widen()


class _WithoutDescriptor:
    """A file that Pillow cannot write past Python, which it would without noticing a full disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write, self.flush = file.write, file.flush
        self.seek, self.tell = file.seek, file.tell


def _encode_8bit(picture: Picture, file: IO[bytes], format: Format, quality: int | None) -> None:
    pixels = np.ascontiguousarray(picture.pixels)
    image = Image.frombuffer(picture.mode, pixels.shape[1::-1], pixels, "raw", picture.mode, 0, 1)
    options: dict[str, Any] = {"icc_profile": picture.icc}
    if picture.exif:
        options["exif"] = b"Exif\0\0" + picture.exif
    if picture.dpi:
        options["dpi"] = picture.dpi
    if picture.xmp and format.name != "PNG":
        options["xmp"] = picture.xmp
    same = picture.format == format.name
    if format.name == "JPEG":
        options |= {"quality": quality or 95, "subsampling": 0, "optimize": True}
        if same and quality is None:
            del options["quality"]
            options |= picture.encoding
        if picture.iptc:
            options["extra"] = _photoshop_segment(picture.iptc)
        if picture.comment:
            options["comment"] = picture.comment
        if "dpi" in options:
            options["dpi"] = tuple(round(value) for value in options["dpi"])
    elif format.name == "WEBP":
        lossless = same and quality is None and picture.encoding.get("lossless", False)
        options |= {"lossless": lossless, "quality": quality or 90, "exact": True}
    elif format.name == "AVIF":
        options |= {"quality": quality or 90, "subsampling": "4:4:4"}
    elif format.name == "HEIF":
        _load_heif()
        options["quality"] = quality or 90
    elif format.name == "PNG":
        options["pnginfo"] = info = PngInfo()
        if picture.xmp:
            info.add_itxt(_XMP_KEY, picture.xmp.decode("utf-8", "replace"))
        for kind, body in [*picture.png_chunks.items(), *picture.texts]:
            info.add(kind, body)
    blocks = (picture.icc, picture.exif, picture.xmp, picture.iptc, picture.comment)
    metadata = sum(len(block or b"") for block in blocks)
    with _room_for(4 * pixels.size + metadata + 65536 if format.name == "JPEG" else 0):
        image.save(_WithoutDescriptor(file), format.name, **options)  # type: ignore[arg-type]


def _photoshop_segment(iptc: bytes) -> bytes:
    """Wrap IPTC into the JPEG segment APP13, as Photoshop's image resource without a name."""
    body = _PHOTOSHOP + photoshop.pack_iptc(iptc)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _encode_deep_png(picture: Picture, file: IO[bytes]) -> None:
    """Let imagecodecs compress the pixels, then put our chunks before them."""
    import imagecodecs

    pixels = picture.pixels[..., 0] if picture.mode == "L" else picture.pixels
    encoded = memoryview(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1))
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


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the chunks: kind, and where the chunk starts (at its length) and ends."""
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start, start + 12 + length
        start += 12 + length


def _itxt(body: bytes) -> bytes | None:
    """Text of an iTXt chunk (PNG 3, section 11.3.3.4), as UTF-8."""
    _, _, rest = body.partition(b"\0")
    compressed, rest = rest[:1] == b"\1", rest[2:]
    text = rest.split(b"\0", 2)[-1]  # behind language and translated keyword
    with contextlib.suppress(zlib.error):
        return (zlib.decompress(text) if compressed else text) or None
    return None
