"""TIFF of any depth, through tifffile; EXIF and XMP, which it does not write, through `exif`."""

import contextlib
import io
import logging
import re
from typing import IO

import numpy as np
import tifffile

from denoiser import exif, ifd, photoshop
from denoiser.errors import InputError, OutputError
from denoiser.picture import OBLONG, Mode, Picture, check_size, white_of

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # one line on stderr is ours

_ICC, _DESCRIPTION, _TRANSFER = 34675, 270, 301
_STACK = re.compile(r'ImageJ=|\{"shape"|<\?xml.{,2000}<OME|<OME', re.DOTALL)
"""How a description begins by which programs take the pages of a stack apart."""
_CHROMATICITIES = {
    318: ("WhitePoint", [0.3127, 0.3290]),
    319: ("PrimaryChromaticities", [0.64, 0.33, 0.30, 0.60, 0.15, 0.06]),
}
_NEEDED = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338}
_NEEDED |= {339, 347}
"""Tags without which pixels are read as something else."""
_LARGEST_BYTES = 3_900_000_000  # of a classic TIFF
_JPEG = 7
_UNSPECIFIED = 0
"""Of ExtraSamples: a channel of which the file does not say that it is alpha."""


def decode(data: bytes) -> Picture:
    """Decode the first page of a TIFF that is no thumbnail, as it lies in the file.

    Raises:
        InputError: Too large, or pixels of a kind that is not supported.
        Exception: Whatever tifffile raises on damaged files.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tops = _pages(file)
        inside = [page for top in tops for page in (top, *(top.pages if top.subifds else ()))]
        pages = [page for page in inside if not page.is_reduced] or tops[:1]
        page = pages[0]
        teller = page if page in tops else tops[0]  # of a SubIFD the first page tells
        check_size(page.imagewidth, page.imagelength)
        kind = _kind(page)
        said = ifd.read(data, page.offset)
        told = said if teller is page else ifd.read(data, teller.offset)
        if _NEEDED & set(said.cut_off):
            raise InputError("the file is cut short: it does not say what its pixels are")
        if not page.is_contiguous:  # what is empty would shift the rest
            parts = zip(page.dataoffsets, page.databytecounts, strict=False)
            page.dataoffsets = tuple(offset if size else 0 for offset, size in parts)
        pixels, mode = _pixels(page, kind)
        picture = Picture(
            pixels,
            mode,
            "TIFF",
            icc=_tag_bytes(page, _ICC) or _tag_bytes(teller, _ICC),
            xmp=_tag_bytes(teller, ifd.XMP),
            dpi=said.resolution,
            encoding={"compressed": page.compression.name != "NONE"},
        )
        if lost := sorted({*said.cut_off, *told.cut_off}):
            tags = ", ".join(map(str, lost))
            picture.notes.append(f"its tags {tags} lie behind the end of the file: dropped")
        if said.is_oblong:
            picture.notes.append(OBLONG)
        picture.notes += _changes(page, kind)
        is_float = picture.pixels.dtype.kind == "f"
        if is_float and mode == "CMYK" and (full := white_of(picture.pixels)) != 1:
            picture.pixels /= full
            picture.notes.append(f"its ink of 0 to {full:g} becomes 0 to 1")
        if page.extrasamples and int(page.extrasamples[0]) == _UNSPECIFIED:
            picture.encoding["extra"] = _UNSPECIFIED
        count = max(len(pages), _slices(file, page))
        if count > 1:
            picture.notes.append(f"only the first of {count} pages is restored")
        if not picture.icc and (colours := _other_colours(page)):
            picture.notes.append(f"the colours of its {' and '.join(colours)} are dropped")
        tells_of_stack = count > 1 and _STACK.match(teller.description)
    block = exif.parse(data, told)
    picture.exif = exif.gather(block, [_DESCRIPTION] if tells_of_stack else [])
    if block.broken:
        picture.notes.append("a part of its EXIF is damaged")
    resources = told.value(ifd.PHOTOSHOP_RESOURCES) or b""
    picture.iptc = told.value(ifd.IPTC) or photoshop.iptc(resources)
    picture.notes += photoshop.lost(resources)
    return picture


def encode(picture: Picture, file: IO[bytes]) -> None:
    """Write a TIFF: deflate, unless the picture came from a TIFF without compression.

    Raises:
        OutputError: Too large for TIFF.
    """
    if picture.pixels.nbytes > _LARGEST_BYTES:
        raise OutputError("the picture is too large for TIFF")
    block = exif.parse(picture.exif) if picture.exif else exif.Block("<", [], {})
    photometric = {"L": "minisblack", "LA": "minisblack", "CMYK": "separated"}
    compressed = picture.encoding.get("compressed", True) if picture.format == "TIFF" else True
    extra = ["unspecified" if "extra" in picture.encoding else "unassalpha"]
    pixels = picture.pixels[..., 0] if picture.mode == "L" else picture.pixels
    tifffile.imwrite(
        file,
        np.ascontiguousarray(pixels),
        byteorder=block.order,
        bigtiff=False,
        photometric=photometric.get(picture.mode, "rgb"),
        planarconfig=None if picture.mode == "L" else "contig",
        extrasamples=extra if picture.mode in ("LA", "RGBA") else None,
        compression="zlib" if compressed else None,
        predictor=compressed,
        rowsperstrip=64 if compressed else None,
        iccprofile=picture.icc,
        resolution=picture.dpi,
        resolutionunit="INCH" if picture.dpi else None,
        software=False,
        metadata=None,
    )
    exif.add_to_tiff(file, block, {ifd.XMP: picture.xmp, ifd.IPTC: picture.iptc})


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """List the pages; a damaged file's may follow each other in a circle."""
    found: dict[int, tifffile.TiffPage] = {}
    for page in file.pages:
        if page.offset in found:
            break
        found[page.offset] = page
    return list(found.values())


def _slices(file: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Count what ImageJ and tifffile put into one page behind each other."""
    with contextlib.suppress(Exception):  # of a description that is none
        if file.is_imagej or file.is_shaped:
            count = int(file.series[0].size // max(1, page.size))
            end = page.dataoffsets[0] + count * page.nbytes
            return count if end <= file.filehandle.size else 1  # else it tells of another file
    return 1


def _changes(page: tifffile.TiffPage, kind: Mode | str) -> list[str]:
    """Say how the picture differs from what lies in the file, a line each."""
    notes = []
    if not all(page.dataoffsets):
        notes.append("parts of it are not in the file: they are left empty")
    if page.dtype is not None and page.dtype.kind == "f" and page.bitspersample != 32:
        notes.append(f"its floating point of {page.bitspersample} bits becomes 32")
    if kind == "palette" and _is_deep(page.colormap):
        notes.append("its palette of 16 bits becomes 8")
    if _is_premultiplied(page, kind):
        notes.append("its premultiplied alpha becomes straight alpha")
    if ifd.PHOTOSHOP_LAYERS in page.tags:
        notes.append("its Photoshop layers, which show it as it was, are dropped")
    return notes


def _other_colours(page: tifffile.TiffPage) -> list[str]:
    """Name the tags by which colours are not those of sRGB."""
    found = []
    with contextlib.suppress(KeyError, TypeError, ValueError):
        curves = np.array(page.tags[_TRANSFER].value, float).reshape(-1, 2**page.bitspersample)
        levels = np.linspace(0, 1, curves.shape[1])
        if not np.allclose(curves / 65535, levels**2.2, atol=0.02):  # sRGB is as near
            found.append("TransferFunction")
    for code, (name, srgb) in _CHROMATICITIES.items():
        with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            values = np.array(page.tags[code].value, float).reshape(-1, 2)
            if not np.allclose(values[:, 0] / values[:, 1], srgb, atol=2e-3):
                found.append(name)
    return found


def _kind(page: tifffile.TiffPage) -> Mode | str:
    """What the samples of a page are: a mode, or "palette".

    Raises:
        InputError: Something else.
    """
    photometric, count = page.photometric.name, page.samplesperpixel
    if photometric == "YCBCR" and page.compression == _JPEG:
        photometric = "RGB"  # the decoder converts
    kinds: dict[tuple[str, int], Mode | str] = {
        ("MINISBLACK", 1): "L",
        ("MINISWHITE", 1): "L",
        ("MINISBLACK", 2): "LA",
        ("PALETTE", 1): "palette",
        ("RGB", 3): "RGB",
        ("RGB", 4): "RGBA",
        ("SEPARATED", 4): "CMYK",
    }
    kind = kinds.get((photometric, count))
    if kind is None:
        raise InputError(
            f"TIFF with {count} channels of {photometric} is not supported: convert it to RGB or"
            " grey first"
        )
    bits, sort = page.bitspersample, None if page.dtype is None else page.dtype.kind
    if not (sort == "f" or (sort in ("u", "b") and bits <= 16)):
        numbers = {"u": "whole", "i": "signed", "c": "complex"}.get(sort or "", "unknown")
        raise InputError(
            f"TIFF with {numbers} numbers of {bits} bits is not supported: convert it to 16 bits"
            " or floating point first"
        )
    return kind


def _pixels(page: tifffile.TiffPage, kind: Mode | str) -> tuple[np.ndarray, Mode]:
    """Decode to (H, W, C) uint8, uint16 or float32 over the full range."""
    pixels = page.asarray()
    count, bits = page.samplesperpixel, page.bitspersample
    if page.planarconfig == 2 and count > 1:
        pixels = np.moveaxis(pixels.reshape(count, page.imagelength, page.imagewidth), 0, -1)
    pixels = pixels.reshape(page.imagelength, page.imagewidth, count)
    if kind == "palette":
        if page.colormap is None or page.colormap.ndim != 2:
            raise InputError("its palette is damaged")
        return (page.colormap.T[pixels[..., 0].astype(np.uint16)] >> 8).astype(np.uint8), "RGB"
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
    elif bits not in (8, 16):
        dtype = np.uint8 if bits < 8 else np.uint16
        scaled = np.rint(np.arange(2**bits) * (np.iinfo(dtype).max / (2**bits - 1)))
        pixels = scaled.astype(dtype)[pixels.astype(np.uint16)]
    pixels = np.array(pixels, pixels.dtype.newbyteorder("="), order="C")
    if page.photometric.name == "MINISWHITE":
        np.subtract(pixels.dtype.type(white_of(pixels)), pixels, out=pixels)
    if _is_premultiplied(page, kind):
        _divide_by_alpha(pixels)
    return pixels, kind  # type: ignore[return-value]


def _is_deep(palette: np.ndarray) -> bool:
    """Whether a palette says more than 8 bits can."""
    low = palette & 255
    return bool(((low != 0) & (low != palette >> 8)).any())


def _is_premultiplied(page: tifffile.TiffPage, kind: Mode | str) -> bool:
    return kind in ("LA", "RGBA") and page.extrasamples and int(page.extrasamples[0]) == 1


def _divide_by_alpha(pixels: np.ndarray) -> None:
    """Undo premultiplication in place."""
    alpha = pixels[..., -1:] / np.float32(white_of(pixels[..., -1:]))
    if pixels.dtype.kind == "u":
        colour = pixels[..., :-1] / np.maximum(alpha, 1e-6)
        pixels[..., :-1] = np.rint(np.clip(colour, 0, white_of(pixels)))
    else:  # where nothing is seen, what is left of rounding would become the brightest of all
        np.divide(pixels[..., :-1], alpha, out=pixels[..., :-1], where=alpha > 1e-3)


def _tag_bytes(page: tifffile.TiffPage, code: int) -> bytes | None:
    value = page.tags[code].value if code in page.tags else None
    if isinstance(value, str):
        return value.encode() or None
    return bytes(value) if isinstance(value, bytes | bytearray | tuple) and value else None
