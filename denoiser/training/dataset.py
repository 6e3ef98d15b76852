"""Images held as uint8 on the training device; random crops are cut there."""

import dataclasses
import math
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoiser.errors import InputError, ModelError
from denoiser.files import walk
from denoiser.images import SUFFIXES, as_rgb8, missing_extras, read

REPORT_S = 10  # between lines that tell how far reading is
DARK = 32
"""Largest value, of 255, of pictures of which 8 bits leave little."""


class Crops:
    """Every pixel of a set of pictures in one flat tensor, from which crops are gathered.

    Pictures may differ in size. Crops are drawn uniformly over the area of all pictures.
    """

    def __init__(self, pictures: list[np.ndarray], crop_px: int, device: torch.device) -> None:
        """Move pictures to the device.

        Args:
            pictures: (H, W, 3) uint8 each, H and W at least `crop_px`. The list is emptied, so
                that memory holds them once.
            crop_px: Side of the square crops.
            device: Where the pixels live and crops are cut.
        """
        heights, widths = np.array([picture.shape[:2] for picture in pictures]).T
        sizes = heights * widths
        self.crop_px = crop_px
        starts = np.cumsum(sizes) - sizes
        pixels, self.checksum = np.empty((sizes.sum(), 3), np.uint8), 0
        for start, size in zip(starts[::-1], sizes[::-1], strict=True):
            pixels[start : start + size] = pictures.pop().reshape(-1, 3)
            self.checksum = zlib.crc32(pixels[start : start + size].data, self.checksum)
        self.pixels = torch.from_numpy(pixels).to(device)  # (sum of H * W, 3)
        self.starts = torch.from_numpy(starts).to(device)
        self.heights = torch.from_numpy(heights).to(device)
        self.widths = torch.from_numpy(widths).to(device)
        self.weights = torch.from_numpy(sizes / sizes.sum()).to(device)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Cut `count` random crops, mirrored and transposed at random.

        Returns:
            (count, 3, crop_px, crop_px) float32 in [0, 1].
        """
        device = self.pixels.device
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)

        def corner(extent: Tensor) -> Tensor:  # uniform integers in [0, extent - crop_px]
            place = torch.rand(count, device=device, generator=generator, dtype=torch.float64)
            return (place * (extent[which] - self.crop_px + 1)).long()

        y, x = corner(self.heights), corner(self.widths)
        steps = torch.arange(self.crop_px, device=device)
        # mirror or transpose by changing the order in which pixels are gathered
        mirror_y, mirror_x, transpose = (
            torch.rand(3, count, device=device, generator=generator) < 0.5
        )
        rows = torch.where(mirror_y[:, None], steps.flip(0), steps) + y[:, None]  # (N, P)
        columns = torch.where(mirror_x[:, None], steps.flip(0), steps) + x[:, None]
        width, start = self.widths[which, None, None], self.starts[which, None, None]
        index = start + rows[:, :, None] * width + columns[:, None, :]  # (N, P, P)
        index = torch.where(transpose[:, None, None], index.transpose(1, 2), index)
        return self.pixels[index].permute(0, 3, 1, 2).float() / 255


def read_pictures(
    sources: Sequence[Path],
    smallest_px: int,
    report: Callable[[str], None] = lambda line: None,
    *,
    budget_mp: float = math.inf,
) -> Iterator[np.ndarray]:
    """Read every picture below some folders, tar shards included.

    Args:
        sources: Folders, walked recursively, or tar files.
        smallest_px: Pictures with a shorter side are left out.
        report: Told a line for each file or folder that is left out, and now and then the progress.
        budget_mp: Megapixels that all of them may have. Each may have an equal share; a larger one
            is cut to a window at a random place.

    Yields:
        (H, W, 3) uint8 arrays in the order of their names.

    Raises:
        InputError: There is no such folder, nothing is left, or the budget is too small for
            windows of `smallest_px`.
    """
    found_files = (file for source in sources for file in _find(source, report))
    files = list(dict.fromkeys(found_files))  # folders may be given twice
    share_px = budget_mp * 1e6 / max(1, len(files))
    if share_px < smallest_px**2:
        raise InputError(
            f"{len(files)} pictures of {smallest_px} x {smallest_px} need"
            f" {len(files) * smallest_px**2 / 1e6:.3g} megapixels, more than {budget_mp:g}"
        )
    random = np.random.default_rng(0)
    count, cut, dark, paged, reported = 0, 0, 0, 0, time.monotonic()
    for index, file in enumerate(files):
        if time.monotonic() - reported > REPORT_S:
            report(f"read {index} of {len(files)} files")
            reported = time.monotonic()
        try:
            found = read(file.read(), file.name)
            picture = as_rgb8(found)
        except OSError as error:
            report(f"left out: {file.name}: {error.strerror}")
            continue
        except (InputError, ModelError) as error:
            report(f"left out: {error}")
            continue
        if min(picture.shape[:2]) < smallest_px:
            report(f"left out: {file.name} is smaller than {smallest_px} x {smallest_px}")
            continue
        window = _window(picture, share_px, smallest_px, random)
        count, cut = count + 1, cut + (window is not picture)
        dark += found.pixels.dtype != np.uint8 and int(picture.max()) < DARK
        paged += any(note.startswith("only the first") for note in found.notes)
        yield window
    if not count:
        where = ", ".join(map(str, sources))
        raise InputError(f"no pictures of {smallest_px} x {smallest_px} or more in {where}")
    if dark:
        report(f"{dark} pictures of more than 8 bits are nearly black in the 8 that training uses")
    if paged:
        report(f"{paged} files have more pages or frames: only the first is used")
    if cut:
        report(f"{cut} of {count} pictures cut to {share_px / 1e6:.2g} megapixels, to fit memory")


def _window(
    picture: np.ndarray, share_px: float, smallest_px: int, random: np.random.Generator
) -> np.ndarray:
    """Cut a window of the picture's proportions and at most `share_px` pixels."""
    height, width = picture.shape[:2]
    if height * width <= share_px:
        return picture
    scale = math.sqrt(share_px / (height * width))
    rows = max(smallest_px, int(height * scale))
    columns = min(width, max(smallest_px, int(share_px / rows)))
    rows = min(rows, int(share_px / columns))
    y, x = random.integers(height - rows + 1), random.integers(width - columns + 1)
    return picture[y : y + rows, x : x + columns].copy()


@dataclasses.dataclass(frozen=True)
class _File:
    """A picture's bytes: a file's, or a stretch of a tar's."""

    name: str
    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def _find(source: Path, report: Callable[[str], None]) -> list[_File]:
    if not source.exists():
        raise InputError(f"no such folder: {source}")
    files: list[_File] = []
    paths = _walk(source, report)
    for line in missing_extras(path.suffix for path in paths):
        report(f"left out: {line}")
    for path in paths:
        if path.suffix.lower() == ".tar":
            try:
                files += _members(path)
            except (OSError, tarfile.TarError) as error:
                report(f"left out: {path}: {getattr(error, 'strerror', None) or error}")
        elif path.suffix.lower() in SUFFIXES:
            if path.exists() and not path.is_file():  # a pipe would never end
                report(f"left out: {path} is no ordinary file")
                continue
            files.append(_File(str(path), path))
    return files


def _walk(source: Path, report: Callable[[str], None]) -> list[Path]:
    """Files below a folder by name, hidden ones left out; the file itself if it is one.

    Links to folders are followed, each real folder once.
    """
    if not source.is_dir():
        return [source]

    def unreadable(error: OSError) -> None:
        report(f"left out: folder {error.filename}: {error.strerror}")

    paths = []
    for folder, folders, names in walk(source, unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(paths)


def _members(path: Path) -> list[_File]:
    with tarfile.open(path, "r:") as shard:
        return [
            _File(f"{path}:{member.name}", path, member.offset_data, member.size)
            for member in sorted(shard.getmembers(), key=lambda member: member.name)
            if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES
        ]
