"""Masks in files: which belongs to a picture, and which of those that are there is ours."""

import functools
import hashlib
import unicodedata
from pathlib import Path

import numpy as np

from denoiser import images
from denoiser.errors import InputError, ModelError, OutputError
from denoiser.picture import Picture


def find(name: str, mask: Path) -> Path:
    """Find the mask of a picture.

    Args:
        name: Of the picture, relative to the input folder.
        mask: One file for all pictures; or a folder with one for each, of the same stem.

    Raises:
        InputError: There is none, or more than one.
    """
    if not mask.is_dir():
        if not mask.exists():
            raise InputError(f"no such mask: {mask}")
        return mask
    folder, stem = (mask / name).parent, Path(name).stem
    try:
        alike = _by_stem(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error
    likely = alike.get(_folded(stem), [])
    found = [path for path in likely if _has_stem(path, stem)]
    if not found:  # a Mac may have spelt one of them
        found = [path for path in likely if _composed(path.stem) == _composed(stem)]
    if len(found) != 1:
        many = "several masks" if found else "no mask"
        raise InputError(f"{many} for {name} in {mask}")
    return found[0]


def write(hole: np.ndarray, path: Path, *, overwrite: bool) -> None:
    """Write a hole, (H, W) float32 in [0, 1], as a grey PNG that is known to be ours.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {path.parent}: {error.strerror}") from error
    grey = np.rint(255 * hole).astype(np.uint8)[..., None]
    mask = Picture(grey, "L", "PNG", texts=[_signature(grey)])
    images.write(mask, path, images.format_named("PNG"), overwrite=overwrite)


def is_ours(path: Path) -> bool:
    """Whether a file is a mask as `write` has written it."""
    try:
        picture = images.read(path)
    except (InputError, ModelError):
        return False
    return _signature(picture.pixels) in picture.texts


def _signature(mask: np.ndarray) -> tuple[bytes, bytes]:
    """Text in a PNG by which we know a mask of ours that nobody has changed."""
    return b"tEXt", b"denoiser mask\0" + hashlib.sha256(mask.tobytes()).hexdigest().encode()


@functools.lru_cache(maxsize=64)
def _by_stem(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Sort the pictures in a folder by folded stem; `changed`, its time, is there to ask again."""
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.suffix.lower() in images.SUFFIXES and path.is_file():
            found.setdefault(_folded(path.stem), []).append(path)
    return found


def _folded(stem: str) -> str:
    return _composed(stem).casefold()


def _composed(stem: str) -> str:
    return unicodedata.normalize("NFC", stem)


def _has_stem(path: Path, stem: str) -> bool:
    """Whether a file is found by a stem: some systems do not mind how names are spelt."""
    same = path.with_name(stem + path.suffix)
    return path.stem == stem or (same.is_file() and same.samefile(path))
