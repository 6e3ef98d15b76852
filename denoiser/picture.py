"""A picture in memory: pixels, what they are, and everything that has to survive with them."""

import contextlib
import dataclasses
import importlib.util
import io
import struct
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms

from denoiser import ifd
from denoiser.errors import IN_FOLDER, InputError

Mode = Literal["L", "LA", "RGB", "RGBA", "CMYK"]

METADATA = {
    "icc": "ICC",
    "exif": "EXIF",
    "xmp": "XMP",
    "dpi": "DPI",
    "iptc": "IPTC",
    "comment": "a comment",
    "texts": "texts of a PNG",
}
"""What a picture may carry, as `Format.metadata` and `Picture` name it, and what people call it."""
SRGB = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"cICP": b"\1\x0d\0\1",
}
"""Chunks of a PNG that say no more than that its colours are those of sRGB (PNG 3, 11.3.2)."""
OBLONG = "its pixels are not square: that is dropped"
LARGEST_MP = 300
"""Larger pictures are taken for decompression bombs."""
LARGEST_FLOAT = 4.0
"""Floating point beyond this has its white elsewhere than at 1.0, unless only few pixels are:
those, beyond so many times white, are hot pixels or no data, or glare."""
FEW = 0.001
"""Share of the pixels that are few."""
SAMPLES = 1_000_000
"""About so many pixels are looked at to tell."""


@dataclasses.dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    suffixes: tuple[str, ...]
    depths: tuple[str, ...] = ("uint8",)
    alpha: bool = True
    most_bits: int = 16
    """What is left of 16 bits from another format."""
    exact_alpha: bool = True
    grey: bool = True
    metadata: tuple[str, ...] = ("icc", "exif", "xmp")
    cmyk: bool = False
    lossy: bool = False
    longest_side: int = 2**31 - 1
    """Pixels."""
    dpi: tuple[float, float] = (0, 1e6)
    """Lowest and highest resolution."""
    longest: dict[str, int] = dataclasses.field(default_factory=dict, hash=False)
    """Bytes of the largest `metadata`, where there is a limit."""

    def holds(self, dpi: tuple[float, float]) -> bool:
        """Whether a resolution can be written."""
        return all(self.dpi[0] <= value <= self.dpi[1] for value in dpi)


HEIF = Format(
    "HEIF",
    (".heic", ".heif", ".hif"),
    ("uint8", "uint16"),
    most_bits=10,
    exact_alpha=False,
    grey=False,
    lossy=True,
    longest_side=16_384,
)
"""With the extra `heif` only."""
HEIF_MISSING = f"HEIC needs more: {IN_FOLDER} pip install '.[heif]'"
FORMATS: tuple[Format, ...] = (
    Format("PNG", (".png",), ("uint8", "uint16"), metadata=("icc", "exif", "xmp", "dpi", "texts")),
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        alpha=False,
        metadata=("icc", "exif", "xmp", "dpi", "iptc", "comment"),
        cmyk=True,
        lossy=True,
        longest_side=65_500,
        dpi=(0.5, 65_535),
        longest={"exif": 65_527, "xmp": 65_502, "iptc": 65_506, "comment": 65_533},
    ),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        ("uint8", "uint16", "float32"),
        metadata=("icc", "exif", "xmp", "dpi", "iptc"),
        cmyk=True,
    ),
    Format("WEBP", (".webp",), grey=False, lossy=True, longest_side=16_383),
    Format("AVIF", (".avif",), exact_alpha=False, grey=False, lossy=True, longest_side=32_768),
    Format("BMP", (".bmp",), alpha=False, metadata=("dpi",)),
)
if importlib.util.find_spec("pillow_heif"):
    FORMATS += (HEIF,)


@dataclasses.dataclass
class Picture:
    """Pixels, upright, and everything that has to survive with them."""

    pixels: np.ndarray
    """(H, W, C) uint8, uint16 or float32."""
    mode: Mode
    """What the channels are. In CMYK 0 means no ink."""
    format: str
    """Name of the format it was read from, as in `FORMATS`."""
    white: float = 1.0
    """Value of white in floating point, but for alpha; integers have it at their maximum."""
    exceeds: bool = False
    """Whether floating point goes below black or beyond white, as integers cannot."""
    icc: bytes | None = None
    exif: bytes | None = None
    """The EXIF block from its TIFF header on, orientation already 1."""
    xmp: bytes | None = None
    has_extended_xmp: bool = False
    """Whether a JPEG had XMP in segments of its own, which are not read."""
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    """Captions and keywords of a JPEG (IPTC-IIM)."""
    comment: bytes | None = None
    """Of a JPEG."""
    texts: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    """Text chunks of a PNG other than XMP: kind and content."""
    encoding: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How the file was compressed, to do it the same way if the format stays."""
    png_chunks: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    """Colour chunks of a PNG other than ICC (sRGB, gAMA, cHRM, cICP)."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What could not be taken over from the file, a line each."""

    @property
    def colours(self) -> np.ndarray:
        """A view of the pixels without their alpha."""
        return self.pixels[..., :-1] if self.mode.endswith("A") else self.pixels

    def as_image(self) -> Image.Image:
        """Give 8 bits as Pillow has them."""
        pixels = np.ascontiguousarray(self.pixels)
        return Image.frombuffer(self.mode, pixels.shape[1::-1], pixels, "raw", self.mode, 0, 1)


def with_mode(pixels: np.ndarray) -> tuple[np.ndarray, Mode]:
    """Give (H, W) or (H, W, C) of grey or colour, with or without alpha, as `Picture` has it."""
    modes: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels, modes[pixels.shape[2] - 1]


def as_rgb8(picture: Picture) -> np.ndarray:
    """Reduce any picture to (H, W, 3) uint8: ink becomes light, transparency is laid on white."""
    plain = Format("8-bit RGB", (), alpha=False, metadata=())
    pixels = adapt(picture, plain, "keep", strip_metadata=True)[0].pixels
    return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels


def adapt(
    picture: Picture, format: Format, depth: str, strip_metadata: bool
) -> tuple[Picture, list[str]]:
    """Convert pixels and drop metadata as `format` and the options demand.

    Args:
        picture: What is to be written; not modified.
        format: What it has to fit into.
        depth: "keep", "8" or "16" bits per channel.
        strip_metadata: Drop all that stands beside the pixels, but for ICC.

    Returns:
        The adapted picture, and what was lost, a line each.
    """
    pixels, mode, notes = _adapt_pixels(picture, format, depth)
    changes: dict[str, Any] = {"pixels": pixels, "mode": mode}
    lost = []
    for name, label in METADATA.items():
        value = getattr(picture, name)
        nothing: list[Any] | None = [] if name == "texts" else None
        if strip_metadata and name != "icc":
            changes[name] = nothing
        elif value and (name not in format.metadata or (name == "dpi" and not format.holds(value))):
            changes[name] = nothing
            kept = changes.get("exif", picture.exif)
            if name != "dpi" or not kept or not ifd.read(kept).resolution:
                lost.append(label)
        elif value and len(value) > format.longest.get(name, len(value)):
            changes[name] = nothing
            lost.append(f"{label} of more than 64 KB")
    if picture.mode == "CMYK" and mode != "CMYK":
        changes["icc"] = None  # it described the ink
    elif changes.get("icc", picture.icc) and mode.startswith("RGB") and _is_grey(picture.icc):
        changes["icc"] = None
        lost.append("a grey ICC profile")
    if format.name != "PNG" and not changes.get("icc", picture.icc):
        lost += _other_colours(picture.png_chunks)
    if picture.has_extended_xmp and not strip_metadata:
        notes.append("its extended XMP is dropped")
    if lost:
        notes.append(f"{format.name} cannot hold {', '.join(lost)}: dropped")
    return dataclasses.replace(picture, **changes), notes


def _other_colours(chunks: dict[bytes, bytes]) -> list[str]:
    """Name the chunks of a PNG by which its colours are not those of sRGB."""
    deciding = [b"cICP"] if b"cICP" in chunks else [] if b"sRGB" in chunks else [b"gAMA", b"cHRM"]
    others = [kind.decode() for kind in deciding if chunks.get(kind, SRGB[kind]) != SRGB[kind]]
    return [f"the colours of a PNG's {' and '.join(others)}"] if others else []


def _adapt_pixels(
    picture: Picture, format: Format, depth: str
) -> tuple[np.ndarray, Mode, list[str]]:
    pixels, mode, notes = picture.pixels, picture.mode, []
    asked = wanted = {"keep": pixels.dtype.name, "8": "uint8", "16": "uint16"}[depth]
    if wanted not in format.depths:
        wanted = format.depths[-1] if wanted == "float32" else "uint8"
    bits = format.most_bits if wanted == "uint16" else 8
    had = picture.encoding.get("bits", 16)
    kept = had <= bits or (had < 16 and picture.format == format.name)
    if wanted != asked or (wanted == "uint16" and not kept):
        white = f" and clipped, white is {picture.white:g}" if pixels.dtype.kind == "f" else ""
        rounded = "" if pixels.dtype == np.uint8 else f": rounded{white}"
        notes.append(f"{format.name} is written with at most {bits} bits{rounded}")
    elif wanted.startswith("uint") and picture.exceeds:
        notes.append(f"clipped to {wanted[4:]} bits, white is {picture.white:g}")
    if mode == "CMYK" and not format.cmyk:
        notes.append(f"{format.name} cannot hold CMYK: converted to 8-bit sRGB")
        pixels, mode = _cmyk_to_rgb(_to_depth(pixels, "uint8", picture.white), picture.icc), "RGB"
    if mode in ("LA", "RGBA") and not format.alpha:
        notes.append(f"{format.name} cannot hold transparency: laid on white")
        pixels, mode = _flatten(pixels, picture.white), "L" if mode == "LA" else "RGB"
    pixels = _to_depth(pixels, wanted, _whites(pixels, mode, picture.white))
    if mode in ("L", "LA") and not format.grey:
        pixels = np.ascontiguousarray(pixels[..., [0, 0, 0, 1][: len(mode) + 2]])
        mode = "RGB" if mode == "L" else "RGBA"
    if "extra" in picture.encoding and format.name != picture.format:
        notes.append("its extra channel, of unknown meaning, is taken for transparency")
    if mode == "RGBA" and not format.exact_alpha:
        notes.append(f"{format.name} holds transparency only approximately")
    return pixels, mode, notes


def _is_grey(icc: bytes | None) -> bool:
    return icc is not None and icc[16:20] == b"GRAY"


def _cmyk_to_rgb(pixels: np.ndarray, icc: bytes | None) -> np.ndarray:
    """Convert (H, W, 4) uint8 ink to (H, W, 3) uint8 sRGB, by its profile if that works."""
    ink = Image.frombuffer("CMYK", pixels.shape[1::-1], np.ascontiguousarray(pixels))
    if icc:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(
                ink, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return np.array(converted)
    return np.array(ink.convert("RGB"))


def _flatten(pixels: np.ndarray, white: float) -> np.ndarray:
    """Lay colour with alpha on white."""
    white = white if pixels.dtype.kind == "f" else white_of(pixels)
    alpha = pixels[..., -1:].astype(np.float32) / np.float32(white_of(pixels[..., -1:]))
    flat: np.ndarray = pixels[..., :-1] * alpha + white * (1 - alpha)
    return (np.rint(flat) if pixels.dtype.kind == "u" else flat).astype(pixels.dtype)


def _whites(pixels: np.ndarray, mode: Mode, white: float) -> np.ndarray:
    """(C,) float32: what stands for white in each channel; alpha has its own."""
    found = np.full(pixels.shape[2], white, np.float32)
    if mode in ("LA", "RGBA"):
        found[-1] = white_of(pixels[..., -1:])
    return found


def _to_depth(pixels: np.ndarray, dtype: str, white: np.ndarray | float) -> np.ndarray:
    """Convert between depths; `white` is that of floating point pixels, or of each channel."""
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype == np.uint8 and dtype == "uint16":
        return pixels.astype(np.uint16) * np.uint16(257)
    if pixels.dtype == np.uint16 and dtype == "uint8":
        narrow = np.empty(pixels.shape, np.uint8)
        for row, target in zip(pixels, narrow, strict=True):  # or it would take four times as much
            target[...] = (row.astype(np.uint32) + 128) // 257
        return narrow
    scaled = np.clip(pixels / np.asarray(white, np.float32), 0, 1)
    return np.rint(scaled * np.float32(np.iinfo(dtype).max)).astype(dtype)


def white_of(pixels: np.ndarray) -> float:
    """Value that stands for white, 1.0 in [0, 1] units.

    That is the largest integer, or 1.0 in floating point; beyond `LARGEST_FLOAT` its maximum.
    """
    if pixels.dtype.kind == "u":
        return float(np.iinfo(pixels.dtype).max)
    largest = float(pixels.max(initial=0))
    return largest if largest > LARGEST_FLOAT else 1.0


def white_of_light(pixels: np.ndarray) -> float:
    """Value that stands for white in the colours of a photograph, (..., C), whatever shines.

    As `white_of`, but in floating point, which a hot pixel or glare may exceed, what all pixels
    but a few are below: 1 if that is not beyond `LARGEST_FLOAT`; the largest value if that is not
    `LARGEST_FLOAT` times as much; else it.
    """
    white = white_of(pixels)
    if pixels.dtype.kind == "u" or white == 1:
        return white
    step = int(np.sqrt(pixels[..., 0].size / SAMPLES)) or 1
    some = pixels[(slice(None, None, step),) * min(2, pixels.ndim - 1)]
    usual = float(np.quantile(some.max(-1), 1 - FEW, method="lower").astype(np.float32))
    if usual <= LARGEST_FLOAT:
        return 1.0
    return usual if white >= LARGEST_FLOAT * usual else white


def has_outliers(pixels: np.ndarray, white: float) -> bool:
    """Whether floating point goes far beyond black or white: that is no light to be restored."""
    if pixels.dtype.kind == "u":
        return False
    extremes = float(pixels.max(initial=0)), -float(pixels.min(initial=0))
    return max(extremes) > LARGEST_FLOAT * white


def check_size(width: int, height: int) -> None:
    """Refuse decompression bombs, and what has no pixels, by what the header says.

    Raises:
        InputError: More than `LARGEST_MP`, or nothing.
    """
    if width < 1 or height < 1:
        raise InputError(f"it has no pixels: {width} x {height}")
    if width * height > LARGEST_MP * 1e6:
        raise InputError(
            f"{width} x {height} pixels are more than {LARGEST_MP} megapixels:"
            " a decompression bomb, or a picture to cut into parts first"
        )
