"""Raw files of cameras, developed plainly by LibRaw, with the extra `raw`."""

import contextlib
import importlib.util
import io
from typing import TYPE_CHECKING

from PIL import Image

from denoiser import exif
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
_SRGB_CURVE = (2.4, 12.92)
"""Exponent, and slope near black (IEC 61966-2-1)."""


def decode(data: bytes) -> Picture:
    """Develop a raw file: upright, sRGB of 16 bits, white balance of the camera.

    Nothing is brightened, so nothing is clipped that the sensor has not clipped.

    Raises:
        ModelError: The extra is not installed.
        InputError: Too large, or not of a camera that LibRaw knows.
        Exception: Whatever LibRaw raises on damaged files.
    """
    try:
        import rawpy
    except ImportError:
        raise ModelError(MISSING) from None
    try:
        opened = rawpy.imread(io.BytesIO(data))
    except rawpy.LibRawFileUnsupportedError:
        raise InputError("LibRaw does not know such raw files") from None
    with opened as raw:
        check_size(raw.sizes.raw_width, raw.sizes.raw_height)
        pixels = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=_SRGB_CURVE
        )
        picture = Picture(pixels, "L" if pixels.shape[2] == 1 else "RGB", "TIFF")
        picture.notes.append("developed plainly: the raw data and settings for it are not kept")
        try:
            if block := _exif(data, raw):
                picture.exif = exif.without_thumbnail(exif.reset_orientation(block)[1])
        except Exception:  # of previews as of files
            picture.notes.append("its EXIF cannot be read: dropped")
    return picture


def _exif(data: bytes, raw: "rawpy.RawPy") -> bytes | None:
    """Gather what a raw file says about its picture as a TIFF, or else with its preview."""
    import rawpy

    with contextlib.suppress(ValueError):  # of what is no TIFF
        return exif.from_tiff(data)
    preview = raw.extract_thumb()
    if preview.format is not rawpy.ThumbFormat.JPEG:
        return None
    with Image.open(io.BytesIO(preview.data)) as file:
        block: bytes | None = file.info.get("exif")
    return block and block.removeprefix(b"Exif\0\0")
