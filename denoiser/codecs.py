"""Bytes to pictures and back: Pillow for 8 bits, `png`, `deep` and `tiff` for more."""

import contextlib
import io
import logging
import re
import struct
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from denoiser import deep, exif, ifd, jpeg, png
from denoiser.errors import InputError, ModelError
from denoiser.picture import FORMATS, HEIF_MISSING, OBLONG, Format, Mode, Picture, check_size

logging.getLogger("imagecodecs").setLevel(logging.CRITICAL)  # one line on stderr is ours

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UNSPECIFIED = (2, 2)  # codes of H.273: primaries and transfer
_OTHER_COLOURS = "its colours (primaries {}, transfer {} of H.273) are taken for those of sRGB"
_XMP_SIDES = {b"PixelXDimension": b"PixelYDimension", b"ImageWidth": b"ImageLength"}
_XMP_SIDES |= {other: side for side, other in _XMP_SIDES.items()}
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))[2-8]""")
_TIFF_HEADERS = (*ifd.HEADERS.values(), b"II+\0", b"MM\0+")


def decode(data: bytes) -> Picture:
    """Decode a file, upright.

    Raises:
        UnidentifiedImageError: No supported format.
        InputError: Too large, or pixels of a kind that is not supported.
        ModelError: It needs an extra that is not installed.
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
            if file.format == "PNG" and png.is_deep(data):
                picture.pixels, picture.mode = png.decode_deep(data)
            elif bits := picture.encoding.get("bits"):
                decode_deep = deep.decode_avif if file.format == "AVIF" else deep.decode_heif
                picture.pixels, picture.mode = decode_deep(data, bits)
            else:
                if file.format == "PNG":
                    png.scale_transparency(file, data)
                picture.pixels, picture.mode = _decode_8bit(file)
    if picture.icc is not None and not _is_whole(picture.icc):
        picture.icc = None
        picture.notes.append("its ICC profile is damaged: dropped")
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
    elif format.name == "PNG":
        png.encode(picture, file)
    else:
        _encode_lossy(picture, file, format, quality)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read a header without Pillow's own limit, which 100 megapixels pass; ours is checked then."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:64]:
        _load_heif()
    if data.startswith(png.SIGNATURE):
        data = png.bare(data)
    with jpeg.PILLOW_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            if not data.startswith(jpeg.SIGNATURE):
                raise
            without, block = jpeg.part_exif(data)  # on which Pillow stumbles
            file = Image.open(io.BytesIO(without))
            file.info["exif"] = block
            return file
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _load_heif() -> None:
    """Teach Pillow HEIF.

    Raises:
        ModelError: The extra is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise ModelError(HEIF_MISSING) from None
    pillow_heif.register_heif_opener()


def _describe(file: ImageFile.ImageFile, data: bytes) -> Picture:
    """Collect all that stands beside the pixels, before they are decoded."""
    info = file.info
    name = "JPEG" if file.format == "MPO" else str(file.format)
    picture = Picture(np.empty((0, 0, 0), np.uint8), "L", name, icc=info.get("icc_profile") or None)
    block, picture.xmp = info.get("exif") or b"", _to_bytes(info.get("xmp"))
    codes, bits = _UNSPECIFIED, 8
    if name == "JPEG":
        jpeg.describe(picture, file, data)
    elif name == "WEBP":
        picture.encoding = {"lossless": b"VP8L" in _riff_chunks(data)}
    elif name == "BMP":
        _describe_bmp(picture, data)
    elif name == "PNG":
        block = png.describe(picture, data) or block
    elif name == "AVIF":
        bits = deep.avif_bits(data)
        if bits > 8 and getattr(file, "n_frames", 1) > 1:
            picture.notes.append("frames of more than 8 bits per channel are read as 8 bits")
            bits = 8
        codes = _nclx(data)
    elif name == "HEIF":
        bits = info["bit_depth"]
        if info["depth_images"] or info["aux"]:
            picture.notes.append("its HDR gain map, depth map or the like is dropped")
        nclx = info.get("nclx_profile") or {}
        codes = (nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2))
    if bits > 8:
        picture.encoding = {"bits": bits}
    shape = info.get("aspect") or (info.get("jfif_unit") == 0 and info.get("jfif_density"))
    if shape and all(shape) and shape[0] != shape[1]:
        picture.notes.append(OBLONG)
    if not picture.icc and not _is_srgb(*codes):
        picture.notes.append(_OTHER_COLOURS.format(*codes))
    while block.startswith(exif.HEADER):
        block = block.removeprefix(exif.HEADER)
    if block:
        picture.exif = _checked_exif(block, picture.notes)
    if name == "JPEG" and picture.exif and not picture.iptc:  # where TIFF has it
        picture.iptc = ifd.read(picture.exif).value(ifd.IPTC)
    if "dpi" in info and (name != "JPEG" or _has_density(info, picture.exif)):
        x, y = (float(value) for value in info["dpi"])
        picture.dpi = (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None
    elif picture.exif:
        picture.dpi = ifd.read(picture.exif).resolution
    frames = getattr(file, "n_frames", 1)
    if frames > 1:
        part = "pictures in it" if file.format == "MPO" else "frames"
        picture.notes.append(f"only the first of {frames} {part} is restored")
    return picture


def _is_whole(icc: bytes) -> bool:
    """Whether all that the tag table of an ICC profile speaks of is there (ICC.1, 7.3)."""
    if len(icc) < 132:
        return False
    end = 132 + 12 * struct.unpack_from(">I", icc, 128)[0]
    return end <= len(icc) and all(
        start + size <= len(icc) for _, start, size in struct.iter_unpack(">4sII", icc[132:end])
    )


def _checked_exif(block: bytes, notes: list[str]) -> bytes | None:
    try:
        if block[2:4] not in (b"*\0", b"\0*"):
            raise ValueError("no TIFF header")
        if exif.parse(block).broken:
            notes.append("a part of its EXIF is damaged")
        return exif.without_thumbnail(block)
    except (ValueError, struct.error):
        notes.append("its EXIF is damaged: dropped")
        return exif.only_orientation(block)


def _has_density(info: dict[Any, Any], block: bytes | None) -> bool:
    """Whether a JPEG states its resolution; Pillow makes up 72 dpi where it does not."""
    stated = info.get("jfif_unit", 0) in (1, 2)
    return stated or (block is not None and exif.has_tag(block, ifd.X_RESOLUTION))


def _to_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes | bytearray) and value else None


def _without_element(xml: bytes, name: bytes) -> bytes:
    """Take every element of a name, without attributes, out of an XML packet."""
    opening, closing = (re.compile(rb"<%b%b\s*>" % (sign, name)) for sign in (b"", b"/"))
    parts, start = [], 0
    while (begin := opening.search(xml, start)) and (end := closing.search(xml, begin.end())):
        parts.append(xml[start : begin.start()])
        start = end.end()
    return b"".join([*parts, xml[start:]])


def _riff_chunks(data: bytes) -> list[bytes]:
    """Kinds of the chunks of a WebP file, which lie one after the other from byte 12 on."""
    kinds, place = [], 12
    while place + 8 <= len(data):
        kinds.append(data[place : place + 4])
        if kinds[-1] == b"ANMF":  # a frame, whose chunks begin behind its place and duration
            kinds.append(data[place + 24 : place + 28])
        (length,) = struct.unpack_from("<I", data, place + 4)
        place += 8 + length + length % 2
    return kinds


def _describe_bmp(picture: Picture, data: bytes) -> None:
    """Take out the ICC profile, as BITMAPV5HEADER tells of it: kind, place behind byte 14, size."""
    if int.from_bytes(data[14:18], "little") >= 124:
        start, size = struct.unpack_from("<II", data, 126)
        if data[70:74] == b"DEBM":
            picture.icc = data[14 + start : 14 + start + size]
        elif data[70:74] == b"KNIL":
            picture.notes.append("its ICC profile lies in another file: dropped")


def _nclx(data: bytes) -> tuple[int, int]:
    """Find an AVIF's codes of primaries and transfer (ISO 14496-12, 12.1.5; ITU-T H.273)."""
    place = data.find(b"colrnclx")
    if place < 0 or len(data) < place + 12:
        return _UNSPECIFIED
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
    if file.format == "BMP" and mode == "RGBA" and not pixels[..., 3].any():  # unused, as often
        return np.ascontiguousarray(pixels[..., :3]), "RGB"
    return (pixels[..., None] if pixels.ndim == 2 else pixels), mode


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
        picture.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", picture.xmp)
        if orientation >= 5:
            names = b"|".join(_XMP_SIDES)
            picture.xmp = re.sub(
                rb"(?<=:)(" + names + rb")\b", lambda found: _XMP_SIDES[found[1]], picture.xmp
            )


class _WithoutDescriptor:
    """A file that Pillow cannot write past Python, which it would without noticing a full disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write, self.flush = file.write, file.flush
        self.seek, self.tell = file.seek, file.tell


def _encode_lossy(picture: Picture, file: IO[bytes], format: Format, quality: int | None) -> None:
    options: dict[str, Any] = {"icc_profile": picture.icc}
    block = picture.exif
    if block and format.name == "AVIF":  # Pillow writes anew what has it, and not as it was
        block = exif.without(block, ifd.ORIENTATION)
    if block:
        options["exif"] = exif.HEADER + block
    if picture.dpi:
        options["dpi"] = picture.dpi
    if picture.xmp:
        options["xmp"] = picture.xmp
    if format.name == "JPEG":
        options |= jpeg.options_of(picture, quality)
    elif format.name == "WEBP":
        same = picture.format == "WEBP" and quality is None
        lossless = same and picture.encoding.get("lossless", False)
        options |= {"lossless": lossless, "quality": quality or 90, "exact": True}
    elif format.name == "AVIF":
        options |= {"quality": quality or 90, "subsampling": "4:4:4"}
    elif format.name == "HEIF":
        _load_heif()
        options["quality"] = quality or 90
        if picture.pixels.dtype == np.uint16:
            deep.encode_heif(picture, file, options)
            return
    image = picture.as_image()
    with jpeg.room_for(picture) if format.name == "JPEG" else contextlib.nullcontext():
        image.save(_WithoutDescriptor(file), format.name, **options)  # type: ignore[arg-type]
