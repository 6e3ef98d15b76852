"""Raw files of cameras, developed plainly by LibRaw, with the extra `raw`."""

import importlib.util
import io
import struct
from typing import TYPE_CHECKING

from PIL import Image

from denoiser import exif, ifd
from denoiser.errors import IN_FOLDER, InputError, ModelError
from denoiser.picture import Picture, check_size

if TYPE_CHECKING:
    import rawpy

_KINDS = (
    "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef"
    " mos mrw nef nrw orf pef raf rw2 sr2 srf srw x3f"
)
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
"""By which they are known: to many programs their contents are those of a TIFF."""
MISSING = f"raw files need more: {IN_FOLDER} pip install '.[raw]'"
IS_INSTALLED = importlib.util.find_spec("rawpy") is not None
_FOR_DEVELOPING = frozenset(
    {33421, 33422, *range(50706, 50742), *range(50778, 50782), *range(50827, 50835)}
    | {*range(50879, 53000), *range(1, 254)}
)
"""Tags of DNG (DNG 1.7, chapters 4 to 6) and Panasonic; with them a TIFF would pass for raw."""
_ODD = (NotImplementedError, OSError, OverflowError, ValueError, struct.error)
"""What previews and dates of an unusual kind end with."""
_SRGB_CURVE = (2.4, 12.92)
"""Exponent, and slope near black (IEC 61966-2-1)."""


def decode(data: bytes) -> Picture:
    """Develop a raw file: upright, sRGB of 16 bits, white balance of the camera.

    Nothing is brightened. LibRaw itself writes to stderr what it misses in damaged files.

    Raises:
        ModelError: The extra is not installed.
        InputError: Too large, damaged, or not of a camera that LibRaw knows.
    """
    try:
        import rawpy
    except ImportError:
        raise ModelError(MISSING) from None
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            check_size(raw.sizes.raw_width, raw.sizes.raw_height)
            pixels = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                adjust_maximum_thr=0.0,  # or the brightest pixel may be taken for white
                output_bps=16,
                gamma=_SRGB_CURVE,
            )
            picture = Picture(pixels, "L" if pixels.shape[2] == 1 else "RGB", "TIFF")
            picture.notes.append("developed plainly: the raw data and settings for it are not kept")
            try:
                _describe(picture, data, raw)
            except (rawpy.LibRawError, *_ODD):
                picture.notes.append("its EXIF is damaged or missing: dropped")
    except rawpy.LibRawFileUnsupportedError:
        raise InputError("LibRaw does not know such raw files") from None
    except rawpy.LibRawUnsufficientMemoryError:
        raise MemoryError from None
    except rawpy.LibRawError as error:
        text = error.args[0]
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise InputError(f"damaged: {text}") from error
    return picture


def _describe(picture: Picture, data: bytes, raw: "rawpy.RawPy") -> None:
    """Take over what a raw file says about its picture, as a TIFF or else with its preview."""
    if data[:2] in (b"II", b"MM"):
        if data[:4] not in ifd.HEADERS.values():  # Olympus and Panasonic have marks of their own
            data = ifd.HEADERS["<" if data[:2] == b"II" else ">"] + data[4:]
        told = ifd.read(data)
        block = exif.gather(exif.parse(data, told), _FOR_DEVELOPING)
        picture.iptc = told.value(ifd.IPTC)
        if told.value(ifd.XMP):
            picture.notes.append("its XMP, which tells how to develop it, is dropped")
    else:
        with Image.open(io.BytesIO(raw.extract_thumb().data)) as preview:
            block = preview.info.get("exif", b"").removeprefix(exif.HEADER)
        if (ifd.read(block).value(ifd.SOFTWARE) or b"").startswith(b"dcraw"):
            if raw.other.timestamp.year < 1971:
                raise ValueError("LibRaw has made it up")
            picture.notes.append("of its EXIF only what LibRaw knows is kept")
    if block:
        picture.exif = exif.without_thumbnail(exif.reset_orientation(block)[1])
