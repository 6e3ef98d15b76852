"""AVIF and HEIF of 10 and 12 bits per channel, of which Pillow gives 8."""

import io
from typing import IO, Any

import numpy as np

from denoiser.picture import Mode, Picture, with_mode

_HEIF_BITS = 10
"""Of what comes from another format; readers of 12 are few."""


def avif_bits(data: bytes) -> int:
    """Look up the bits per channel in the AV1 configuration (AV1-ISOBMFF, section 2.3.3)."""
    place = data.find(b"av1C")
    flags = data[place + 6] if 0 < place < len(data) - 7 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def decode_avif(data: bytes, bits: int) -> tuple[np.ndarray, Mode]:
    """Decode a file of one frame to (H, W, C) uint16, not turned by its orientation.

    Of several frames imagecodecs 2026.3.6 ends the process when it is asked for one.
    """
    import imagecodecs

    return _widen(imagecodecs.avif_decode(data), bits)


def decode_heif(data: bytes, bits: int) -> tuple[np.ndarray, Mode]:
    """Decode the primary picture to (H, W, C) uint16, upright."""
    import pillow_heif

    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    pixels, mode = _widen(np.asarray(file), bits)
    if file.premultiplied_alpha:
        alpha = np.maximum(pixels[..., -1:], 1).astype(np.float32)
        colour = np.minimum(pixels[..., :-1] * (np.float32(65535) / alpha), 65535)
        pixels[..., :-1] = np.rint(colour)
    return pixels, mode


def encode_heif(picture: Picture, file: IO[bytes], options: dict[str, Any]) -> None:
    """Encode RGB or RGBA with the bits that a HEIF had, or 10."""
    import pillow_heif

    bits = picture.encoding.get("bits", _HEIF_BITS) if picture.format == "HEIF" else _HEIF_BITS
    narrow = _steps(65535, 2**bits - 1)[picture.pixels]
    size = picture.pixels.shape[1::-1]
    heif = pillow_heif.from_bytes(f"{picture.mode};{bits}", size, narrow.tobytes())
    heif.save(file, bit_depth=bits, **options)


def _widen(pixels: np.ndarray, bits: int) -> tuple[np.ndarray, Mode]:
    """Spread values over 16 bits, so that white stays white."""
    return with_mode(_steps(2**bits - 1, 65535)[pixels])


def _steps(largest: int, new_largest: int) -> np.ndarray:
    """What each value becomes when the range is scaled."""
    steps: np.ndarray = np.rint(np.arange(largest + 1) * (new_largest / largest))
    return steps.astype(np.uint16)
