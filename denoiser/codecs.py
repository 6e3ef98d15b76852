"""Bytes to pictures and back.

Pillow handles everything of 8 bits but writing TIFF, OpenCV the pixels of 16-bit PNG, tifffile the
rest of TIFF.
"""

import contextlib
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from denoiser.errors import InputError, OutputError
from denoiser.picture import FORMATS, Format, Mode, Picture, white_of

LARGEST_MP = 1000
"""Larger pictures are taken for decompression bombs."""

_ORIENTATION, _EXIF_IFD, _GPS_IFD, _XMP, _ICC = 0x0112, 0x8769, 0x8825, 700, 34675
_XMP_KEY = "XML:com.adobe.xmp"
# IFD0 tags of a TIFF that describe the picture, not how this file stores its pixels
_TIFF_DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x8298)
_PNG_COLOUR_CHUNKS = {b"cHRM", b"gAMA", b"sRGB", b"cICP"}


def decode(data: bytes) -> Picture:
    """Decode a file, upright.

    Raises:
        UnidentifiedImageError: No supported format.
        InputError: Too large, or pixels of a kind that is not supported.
        Exception: Whatever the decoders raise on damaged files.
    """
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        deep = _decode_deep_tiff(data)
        if deep is not None:
            return deep
    with _pixel_limit(), Image.open(io.BytesIO(data)) as file:
        if file.format not in {format.name for format in FORMATS} and file.format != "MPO":
            raise UnidentifiedImageError
        _check_size(*file.size)
        picture = _describe(file, data)
        if file.format == "PNG" and data[24] == 16:
            picture.pixels, picture.mode = _decode_deep_png(file, data)
        else:
            picture.pixels, picture.mode = _decode_8bit(file)
    _make_upright(picture)
    return picture


@contextlib.contextmanager
def _pixel_limit() -> Iterator[None]:
    """Lift Pillow's own limit, which 100 megapixels would pass; ours is checked from the header."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_MP * 1e6:
        raise InputError(
            f"{width} x {height} pixels are more than {LARGEST_MP} megapixels:"
            " a decompression bomb, or a picture to cut into parts first"
        )


def _describe(file: ImageFile.ImageFile, data: bytes) -> Picture:
    """Collect all that stands beside the pixels, before they are decoded."""
    info = file.info
    name = "JPEG" if file.format == "MPO" else str(file.format)
    picture = Picture(np.empty((0, 0, 0), np.uint8), "L", name, icc=info.get("icc_profile") or None)
    if name == "TIFF":
        picture.exif = _exif_of_tiff(data)
        picture.xmp = _to_bytes(file.tag_v2.get(_XMP))  # type: ignore[attr-defined]
        picture.encoding = {"compression": info.get("compression", "raw")}
    else:
        exif = info.get("exif") or b""
        picture.exif = exif.removeprefix(b"Exif\0\0") or None
        picture.xmp = _to_bytes(info.get("xmp") or info.get(_XMP_KEY))
    if "dpi" in info and all(value > 0 for value in info["dpi"]):
        picture.dpi = float(info["dpi"][0]), float(info["dpi"][1])
    if name == "JPEG":
        from PIL.JpegImagePlugin import get_sampling

        sampling = get_sampling(file)
        picture.encoding = {
            "qtables": file.quantization,  # type: ignore[attr-defined]
            "subsampling": sampling if sampling >= 0 else 0,
            "progressive": bool(info.get("progressive")),
        }
    elif name == "WEBP":
        picture.encoding = {"lossless": b"VP8L" in data[:64]}
    elif name == "PNG":
        picture.png_chunks = {
            kind: data[start + 8 : end - 4]
            for kind, start, end in _png_chunks(data)
            if kind in _PNG_COLOUR_CHUNKS
        }
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":
        picture.notes.append(f"only the first of {frames} frames or pages is restored")
    return picture


def _to_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes | bytearray) and value else None


def _decode_8bit(file: ImageFile.ImageFile) -> tuple[np.ndarray, Mode]:
    file.load()
    transparent = "transparency" in file.info
    targets: dict[str, Mode] = {
        "1": "L",
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


def _decode_deep_png(file: ImageFile.ImageFile, data: bytes) -> tuple[np.ndarray, Mode]:
    import cv2

    file.verify()  # Pillow checks every chunk's CRC; libpng would print what it finds
    bare = data[:8] + b"".join(
        data[start:end]
        for kind, start, end in _png_chunks(data)
        if kind in (b"IHDR", b"tRNS", b"IDAT", b"IEND")
    )
    pixels = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise InputError("is damaged: its pixels cannot be decoded")
    if pixels.ndim == 2:
        return pixels[..., None], "L"
    if data[25] in (0, 4):  # grey with alpha comes back as BGRA
        return np.ascontiguousarray(pixels[..., [0, 3]]), "LA"
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), "RGB"
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA, dst=pixels), "RGBA"


def _decode_deep_tiff(data: bytes) -> Picture | None:
    """Decode a TIFF of more than 8 bits a channel; None leaves it to Pillow."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if page.bitspersample <= 8:
            return None
        _check_size(page.imagewidth, page.imagelength)
        if page.dtype is None or page.dtype.kind not in "uf" or page.dtype.name == "uint32":
            raise InputError(f"TIFF pixels of {page.bitspersample} bits are not supported")
        pixels = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
        count = page.samplesperpixel
        pixels = pixels.reshape(page.imagelength, page.imagewidth, count)
        if pixels.dtype.kind == "f":
            pixels = pixels.astype(np.float32, copy=False)
        photometric = page.photometric.name
        modes: dict[tuple[str, int], Mode] = {
            ("MINISBLACK", 1): "L",
            ("MINISWHITE", 1): "L",
            ("MINISBLACK", 2): "LA",
            ("RGB", 3): "RGB",
            ("RGB", 4): "RGBA",
            ("SEPARATED", 4): "CMYK",
        }
        mode = modes.get((photometric, count))
        if mode is None:
            raise InputError(f"TIFF with {count} channels of kind {photometric} is not supported")
        if photometric == "MINISWHITE":
            pixels = np.asarray(white_of(pixels) - pixels, pixels.dtype)
        tags = {tag.code: tag.value for tag in page.tags}
        compression = "raw" if page.compression.name == "NONE" else "tiff_adobe_deflate"
        picture = Picture(
            pixels.astype(pixels.dtype.newbyteorder("="), copy=False),
            mode,
            "TIFF",
            icc=_to_bytes(tags.get(_ICC)),
            exif=_exif_of_tiff(data),
            xmp=_to_bytes(tags.get(_XMP)),
            encoding={"compression": compression},
        )
        unit = {2: 1.0, 3: 2.54}.get(int(tags.get(296, 2)))
        if unit and 282 in tags and 283 in tags and tags[282][1] and tags[283][1]:
            x, y = (
                numerator / denominator * unit for numerator, denominator in (tags[282], tags[283])
            )
            picture.dpi = (x, y)
        if len(file.pages) > 1:
            picture.notes.append(f"only the first of {len(file.pages)} pages is restored")
    _make_upright(picture)
    return picture


def _exif_of_tiff(data: bytes) -> bytes | None:
    """Gather what a TIFF says about the picture into an EXIF block."""
    source, kept = Image.Exif(), Image.Exif()
    source.load_from_fp(io.BytesIO(data))
    for tag in _TIFF_DESCRIPTIVE_TAGS:
        if tag in source:
            kept[tag] = source[tag]
    for tag in (_EXIF_IFD, _GPS_IFD):
        content = source.get_ifd(tag)
        if content:
            kept.get_ifd(tag).update(content)
    return (
        kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) or kept.get_ifd(_EXIF_IFD) else None
    )


def _make_upright(picture: Picture) -> None:
    """Apply the EXIF orientation to the pixels and set it to 1, in EXIF and in XMP."""
    if picture.exif is None:
        return
    orientation, picture.exif = _reset_orientation(picture.exif)
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


def _reset_orientation(exif: bytes) -> tuple[int, bytes]:
    """Set the orientation in IFD0 to 1 in place, so that maker notes keep their offsets.

    Returns:
        The orientation found (1 if there is none), and the EXIF block with 1 in its place.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1, exif
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1, exif
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == _ORIENTATION and kind == 3:
            (orientation,) = struct.unpack_from(order + "H", exif, entry + 8)
            upright = bytearray(exif)
            struct.pack_into(order + "H", upright, entry + 8, 1)
            return orientation, bytes(upright)
    return 1, exif


def encode(picture: Picture, file: IO[bytes], format: Format, quality: int | None) -> None:
    """Encode an adapted picture into an open file that can seek."""
    if format.name == "TIFF":
        _encode_tiff(picture, file)
    elif picture.pixels.dtype != np.uint8:
        _encode_deep_png(picture, file)
    else:
        _encode_8bit(picture, file, format, quality)


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
        if "dpi" in options:
            options["dpi"] = tuple(round(value) for value in options["dpi"])
    elif format.name == "WEBP":
        lossless = same and quality is None and picture.encoding.get("lossless", False)
        options |= {"lossless": lossless, "quality": quality or 90, "exact": True}
    elif format.name == "AVIF":
        options |= {"quality": quality or 90, "subsampling": "4:4:4"}
    elif format.name == "PNG":
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = info = PngInfo()
        if picture.xmp:
            info.add_itxt(_XMP_KEY, picture.xmp.decode("utf-8", "replace"))
        for kind, body in picture.png_chunks.items():
            info.add(kind, body)
    image.save(file, format.name, **options)


def _encode_deep_png(picture: Picture, file: IO[bytes]) -> None:
    """Let OpenCV compress the pixels, then put our chunks before them."""
    import cv2

    order = {"RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}.get(picture.mode)
    pixels = picture.pixels if order is None else picture.pixels[..., order]
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise OutputError("cannot encode the picture as PNG")
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
    encoded = encoded.reshape(-1)
    file.write(encoded[:33].data)  # signature and IHDR
    for kind, body in chunks.items():
        crc = zlib.crc32(kind + body)
        file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc))
    file.write(encoded[33:].data)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over the chunks: kind, and where the chunk starts (at its length) and ends."""
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, start, start + 12 + length
        start += 12 + length


def _encode_tiff(picture: Picture, file: IO[bytes]) -> None:
    """Write through tifffile; EXIF and GPS, which it leaves out, are appended and linked in."""
    import tifffile

    exif = Image.Exif()
    exif.load(picture.exif or b"")
    texts = [(tag, exif[tag]) for tag in _TIFF_DESCRIPTIVE_TAGS if isinstance(exif.get(tag), str)]
    kinds = {"L": "minisblack", "LA": "minisblack", "CMYK": "separated"}
    pixels = picture.pixels[..., 0] if picture.mode == "L" else picture.pixels
    raw = picture.format == "TIFF" and picture.encoding.get("compression") == "raw"
    tifffile.imwrite(
        file,
        np.ascontiguousarray(pixels),
        byteorder="<",
        bigtiff=False,
        photometric=kinds.get(picture.mode, "rgb"),
        planarconfig=None if picture.mode == "L" else "contig",
        extrasamples=["unassalpha"] if picture.mode in ("LA", "RGBA") else None,
        compression=None if raw else "zlib",
        predictor=not raw,
        rowsperstrip=None if raw else 64,
        iccprofile=picture.icc,
        resolution=picture.dpi,
        resolutionunit="INCH" if picture.dpi else None,
        software=False,
        metadata=None,
        extratags=[(tag, "s", 0, text, True) for tag, text in texts]
        + ([(_XMP, "B", len(picture.xmp), picture.xmp, True)] if picture.xmp else []),
    )
    links = []
    for tag in (_EXIF_IFD, _GPS_IFD):
        if exif.get_ifd(tag):
            offset = file.seek(0, os.SEEK_END)
            directory = TiffImagePlugin.ImageFileDirectory_v2(group=tag)
            for key, value in exif.get_ifd(tag).items():
                directory[key] = value
            file.write(directory.tobytes(offset))
            links.append(struct.pack("<HHII", tag, 4, 1, offset))
    if links:
        _add_tiff_entries(file, links)


def _add_tiff_entries(file: IO[bytes], added: list[bytes]) -> None:
    """Append a copy of the first directory of a little-endian TIFF that has `added` entries too."""
    file.seek(4)
    file.seek(struct.unpack("<I", file.read(4))[0])
    (count,) = struct.unpack("<H", file.read(2))
    entries = [file.read(12) for _ in range(count)] + added
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    offset = file.seek(0, os.SEEK_END)
    if offset % 2:
        offset += file.write(b"\0")
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    file.seek(4)
    file.write(struct.pack("<I", offset))
