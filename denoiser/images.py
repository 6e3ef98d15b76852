"""Files to pictures and back."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import UnidentifiedImageError

from denoiser import codecs, jpeg, png, raw
from denoiser.errors import ArgumentError, DenoiserError, InputError, ModelError, OutputError
from denoiser.files import whole_file
from denoiser.picture import (
    FORMATS,
    HEIF,
    HEIF_MISSING,
    Format,
    Picture,
    adapt,
    as_rgb8,
    white_of_light,
)

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Format",
    "Picture",
    "as_rgb8",
    "format_by_suffix",
    "format_named",
    "format_of",
    "missing_extras",
    "read",
    "suffix_of",
    "write",
]

_AVIF_HEADERS = (b"ftypavif", b"ftypavis")
_HEADERS = (png.SIGNATURE, jpeg.SIGNATURE)
SUFFIXES = frozenset(suffix for format in FORMATS for suffix in format.suffixes)
if raw.IS_INSTALLED:
    SUFFIXES |= raw.SUFFIXES


def format_of(path: Path | str) -> Format:
    """Find the format by file name suffix.

    Raises:
        ArgumentError: No supported format has that suffix.
        ModelError: It needs an extra that is not installed.
    """
    try:
        return format_by_suffix(Path(path).suffix)
    except (ArgumentError, ModelError) as error:
        raise type(error)(f"cannot write {path}: {error}") from None


def format_by_suffix(suffix: str) -> Format:
    """Find the format by a suffix with its dot.

    Raises:
        ArgumentError: No supported format has it.
        ModelError: It needs an extra that is not installed.
    """
    suffix = suffix.lower()
    for format in FORMATS:
        if suffix in format.suffixes:
            return format
    if suffix in HEIF.suffixes:
        raise ModelError(HEIF_MISSING)
    if suffix in raw.SUFFIXES:
        raise ArgumentError("nobody but cameras writes raw files: use .tif")
    known = ", ".join(format.suffixes[0] for format in FORMATS)
    raise ArgumentError(f"unknown format {suffix or '(none)'}; use {known}")


def suffix_of(source: Path, format: Format | None) -> str:
    """Say what the name of a result ends with: as its input's, unless another format is asked for.

    Raw files become TIFF and keep their suffix, for there may be a developed one beside them.
    """
    if source.suffix.lower() in raw.SUFFIXES:
        return source.suffix + (format or format_named("TIFF")).suffixes[0]
    return format.suffixes[0] if format else source.suffix


def missing_extras(suffixes: Iterable[str]) -> list[str]:
    """Say what would have to be installed to read files with some of these suffixes."""
    extras = ((HEIF.suffixes, HEIF_MISSING), (raw.SUFFIXES, raw.MISSING))
    left_out = {suffix.lower() for suffix in suffixes} - SUFFIXES
    return [fix for own, fix in extras if not left_out.isdisjoint(own)]


def format_named(name: str) -> Format:
    """Find the format of a `Picture.format`."""
    return next(format for format in FORMATS if format.name == name)


def read(source: Path | bytes, name: str = "standard input") -> Picture:
    """Read one picture, upright.

    Args:
        source: A path, or the bytes of a file.
        name: What errors call the bytes.

    Returns:
        The picture; `notes` says what of the file could not be represented.

    Raises:
        InputError: Missing, unreadable, damaged, of an unsupported kind, or too large.
        ModelError: It needs an extra that is not installed.
    """
    if isinstance(source, Path):
        name = str(source)
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except IsADirectoryError as error:
        raise InputError(f"{name} is a folder, not a picture") from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error
    if not data:
        raise InputError(f"{name} is empty")
    try:
        is_raw = Path(name).suffix.lower() in raw.SUFFIXES
        picture = raw.decode(data) if is_raw else codecs.decode(data)
    except (InputError, ModelError) as error:
        raise type(error)(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        if data[4:12] in _AVIF_HEADERS:  # which is looked at whole before it is known
            raise InputError(f"{name} is damaged") from error
        if data.startswith(_HEADERS) or data[8:12] == b"WEBP":
            raise InputError(f"{name} is damaged, or of a rare kind") from error
        known = ", ".join(format.name for format in FORMATS)
        raise InputError(f"{name} is not a picture in a supported format ({known})") from error
    except MemoryError:
        raise InputError(f"{name} does not fit into memory") from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        why = "" if isinstance(error, LookupError) else f": {error}"  # it names what was looked up
        raise InputError(f"{name} is damaged{why}") from error
    if picture.pixels.dtype == np.float32:
        extremes = picture.pixels.min(initial=0), picture.pixels.max(initial=0)
        if not np.isfinite(extremes).all():  # NaN is the least and the most of anything
            raise InputError(f"{name} holds NaN or infinite values")
        colours = picture.colours
        picture.white = white_of_light(colours)
        picture.exceeds = bool(colours.min(initial=0) < 0 or colours.max(initial=0) > picture.white)
    return picture


def write(
    picture: Picture,
    target: Path | IO[bytes],
    format: Format,
    *,
    quality: int | None = None,
    depth: Literal["keep", "8", "16"] = "keep",
    strip_metadata: bool = False,
    overwrite: bool = False,
    scratch: Path | None = None,
    before_naming: Callable[[Path, list[str]], None] = lambda part, lost: None,
) -> list[str]:
    """Write a picture with all that the format can hold.

    Args:
        picture: What to write; it is not modified.
        target: A path, which appears only when the file is whole, or an open binary stream.
        format: One of `FORMATS`.
        quality: 1-100 for the lossy formats; None keeps the input's where it is known.
        depth: Bits per channel; "keep" goes no lower than the format demands.
        strip_metadata: Leave out all that stands beside the pixels but ICC, without which colours
            change.
        overwrite: Replace an existing file. Other things than files are never replaced.
        scratch: Folder for the unfinished file if it is on the same file system; None is the
            target's own.
        before_naming: Told the whole file, which is on the disk, and what got lost, before it gets
            its name.

    Returns:
        What the format could not hold, and what was asked of it in vain, a line each.

    Raises:
        OutputError: The target cannot be written; nothing is left under its name.
    """
    name = target if isinstance(target, Path) else "standard output"
    try:
        adapted, lost = adapt(picture, format, depth, strip_metadata)
        if isinstance(target, Path):
            with whole_file(
                target,
                overwrite=overwrite,
                scratch=scratch,
                before_naming=lambda part: before_naming(part, lost),
            ) as file:
                codecs.encode(adapted, file, format, quality)
        else:
            buffer = io.BytesIO()  # encoders seek, a pipe cannot
            codecs.encode(adapted, buffer, format, quality)
            target.write(buffer.getbuffer())
            target.flush()
    except DenoiserError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error
    except Exception as error:  # encoders, too, raise whatever they like
        raise OutputError(f"cannot write {name} as {format.name}: {error}") from error
    if quality is not None and not format.lossy:
        return [*lost, f"{format.name} loses nothing: quality {quality} is not used"]
    return lost
