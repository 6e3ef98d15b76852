"""A picture in memory: pixels, what they are, and everything that has to survive with them."""

import contextlib
import dataclasses
import io
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms

Mode = Literal["L", "LA", "RGB", "RGBA", "CMYK"]


@dataclasses.dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    suffixes: tuple[str, ...]
    depths: tuple[str, ...] = ("uint8",)
    alpha: bool = True
    metadata: tuple[str, ...] = ("icc", "exif", "xmp")
    cmyk: bool = False


FORMATS = (
    Format("PNG", (".png",), ("uint8", "uint16"), metadata=("icc", "exif", "xmp", "dpi")),
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        alpha=False,
        metadata=("icc", "exif", "xmp", "dpi"),
        cmyk=True,
    ),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        ("uint8", "uint16", "float32"),
        metadata=("icc", "exif", "xmp", "dpi"),
        cmyk=True,
    ),
    Format("WEBP", (".webp",)),
    Format("AVIF", (".avif",)),
    Format("BMP", (".bmp",), alpha=False, metadata=("dpi",)),
)


@dataclasses.dataclass
class Picture:
    """Pixels, upright, and everything that has to survive with them."""

    pixels: np.ndarray
    """(H, W, C) uint8, uint16 or float32; float is display-referred with 1.0 as white."""
    mode: Mode
    """What the channels are. In CMYK 0 means no ink."""
    format: str
    """Name of the format it was read from, as in `FORMATS`."""
    icc: bytes | None = None
    exif: bytes | None = None
    """The EXIF block from its TIFF header on, orientation already 1."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    encoding: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How the file was compressed, as options of Pillow's `save`: used again for its own format."""
    png_chunks: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    """Colour chunks of a PNG other than ICC (sRGB, gAMA, cHRM, cICP)."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What could not be taken over from the file, a line each."""


def as_rgb8(picture: Picture) -> np.ndarray:
    """Reduce any picture to (H, W, 3) uint8: ink becomes light, transparency is laid on white."""
    plain = Format("8-bit RGB", (), alpha=False, metadata=())
    pixels = adapt(picture, plain, "keep", strip_metadata=True)[0].pixels
    return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels


def adapt(
    picture: Picture, format: Format, depth: str, strip_metadata: bool
) -> tuple[Picture, list[str]]:
    """Convert pixels and drop metadata as `format` and the options demand.

    Returns:
        The adapted picture, and what was lost, a line each.
    """
    changes: dict[str, Any] = {}
    notes = []
    pixels, mode = picture.pixels, picture.mode
    if mode == "CMYK" and not format.cmyk:
        pixels, mode, changes["icc"] = _cmyk_to_rgb(pixels, picture.icc), "RGB", None
        notes.append(f"{format.name} cannot hold CMYK: converted to sRGB")
    if mode in ("LA", "RGBA") and not format.alpha:
        pixels, mode = _flatten(pixels), "L" if mode == "LA" else "RGB"
        notes.append(f"{format.name} cannot hold transparency: laid on white")
    wanted = {"keep": pixels.dtype.name, "8": "uint8", "16": "uint16"}[depth]
    if wanted not in format.depths:
        wanted = format.depths[-1] if wanted == "float32" else "uint8"
        bits = 16 if wanted == "uint16" else 8
        notes.append(f"{format.name} cannot hold more than {bits} bits per channel: rounded")
    pixels = _to_depth(pixels, wanted)
    if mode == "L" and format.name in ("WEBP", "AVIF"):
        pixels, mode = np.repeat(pixels, 3, 2), "RGB"
    if mode == "LA" and (
        format.name in ("WEBP", "AVIF") or (format.name, wanted) == ("PNG", "uint16")
    ):
        pixels, mode = np.ascontiguousarray(pixels[..., [0, 0, 0, 1]]), "RGBA"
    lost = []
    for name in ("icc", "exif", "xmp", "dpi"):
        if strip_metadata and name != "icc":
            changes[name] = None
        elif getattr(picture, name) and name not in format.metadata:
            changes[name] = None
            lost.append(name.upper())
    if picture.icc and picture.icc[16:20] == b"GRAY" and mode.startswith("RGB"):
        changes["icc"] = None
        lost.append("a grey ICC profile")
    if format.name == "JPEG":
        for name, block in (("exif", picture.exif), ("xmp", picture.xmp)):
            if changes.get(name, block) and len(block or b"") > 65_000:
                changes[name] = None
                lost.append(f"{name.upper()} of more than 64 KB")
    if lost:
        notes.append(f"{format.name} cannot hold {', '.join(dict.fromkeys(lost))}: dropped")
    return dataclasses.replace(picture, pixels=pixels, mode=mode, **changes), notes


def _cmyk_to_rgb(pixels: np.ndarray, icc: bytes | None) -> np.ndarray:
    pixels = _to_depth(pixels, "uint8")
    ink = Image.frombuffer("CMYK", pixels.shape[1::-1], np.ascontiguousarray(pixels))
    if icc:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        with contextlib.suppress(ImageCms.PyCMSError):
            converted = ImageCms.profileToProfile(
                ink, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return np.array(converted)
    return np.array(ink.convert("RGB"))


def _flatten(pixels: np.ndarray) -> np.ndarray:
    """Lay colour with alpha on white."""
    white = white_of(pixels)
    alpha = pixels[..., -1:].astype(np.float32) / white
    flat: np.ndarray = pixels[..., :-1] * alpha + white * (1 - alpha)
    return (np.rint(flat) if pixels.dtype.kind == "u" else flat).astype(pixels.dtype)


def _to_depth(pixels: np.ndarray, dtype: str) -> np.ndarray:
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype == np.uint8 and dtype == "uint16":
        return pixels.astype(np.uint16) * np.uint16(257)
    if pixels.dtype == np.uint16 and dtype == "uint8":
        return np.asarray((pixels.astype(np.uint32) + 128) // 257, np.uint8)
    scaled: np.ndarray = np.clip(pixels / np.float32(white_of(pixels)), 0, 1, dtype=np.float32)
    return scaled if dtype == "float32" else np.rint(scaled * np.iinfo(dtype).max).astype(dtype)


def white_of(pixels: np.ndarray) -> float | int:
    """Value of white: the largest integer, or 1.0."""
    return 1.0 if pixels.dtype.kind == "f" else int(np.iinfo(pixels.dtype).max)
