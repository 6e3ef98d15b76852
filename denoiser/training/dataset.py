"""Images held as uint8 on the training device; random crops are cut there."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from denoiser.errors import InputError
from denoiser.images import SUFFIXES, as_rgb8, read


class Crops:
    """Every pixel of a set of pictures in one flat tensor, from which crops are gathered.

    Pictures may differ in size. Crops are drawn uniformly over the area of all pictures.
    """

    def __init__(self, pictures: list[np.ndarray], crop_px: int, device: torch.device) -> None:
        """Move pictures to the device.

        Args:
            pictures: (H, W, 3) uint8 each, H and W at least `crop_px`.
            crop_px: Side of the square crops.
            device: Where the pixels live and crops are cut.
        """
        heights, widths = np.array([picture.shape[:2] for picture in pictures]).T
        sizes = heights * widths
        self.crop_px = crop_px
        self.pixels = torch.from_numpy(
            np.concatenate([picture.reshape(-1, 3) for picture in pictures])
        ).to(device)  # (sum of H * W, 3)
        self.starts = torch.from_numpy(np.cumsum(sizes) - sizes).to(device)
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


def load_pictures(
    source: Path, smallest_px: int, report: Callable[[str], None] = lambda line: None
) -> list[np.ndarray]:
    """Read every picture below a folder, tar shards included.

    Args:
        source: A folder, walked recursively, or one tar file.
        smallest_px: Pictures with a shorter side are left out.
        report: Told a line for each file or folder that is left out.

    Returns:
        (H, W, 3) uint8 arrays in the order of their names.

    Raises:
        InputError: Nothing is left, or there is no such folder.
    """
    pictures = []
    for name, data in _files(source, report):
        try:
            picture = as_rgb8(read(data, name))
        except InputError as error:
            report(f"left out: {error}")
            continue
        if min(picture.shape[:2]) < smallest_px:
            report(f"left out: {name} is smaller than {smallest_px} x {smallest_px}")
            continue
        pictures.append(picture)
    if not pictures:
        raise InputError(f"no pictures of {smallest_px} x {smallest_px} or more in {source}")
    return pictures


def _files(source: Path, report: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    if not source.exists():
        raise InputError(f"no such folder: {source}")
    for path in _walk(source, report):
        try:
            if path.suffix == ".tar":
                yield from _members(path)
            elif path.suffix.lower() in SUFFIXES:
                yield str(path), path.read_bytes()
        except OSError as error:
            report(f"left out: {path}: {error.strerror}")


def _walk(source: Path, report: Callable[[str], None]) -> list[Path]:
    """Files below a folder by name, hidden ones left out; the file itself if it is one."""
    if not source.is_dir():
        return [source]

    def unreadable(error: OSError) -> None:
        report(f"left out: folder {error.filename}: {error.strerror}")

    paths = []
    for folder, folders, names in os.walk(source, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(paths)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as shard:
            for member in sorted(shard.getmembers(), key=lambda member: member.name):
                file = shard.extractfile(member)
                if file is not None and Path(member.name).suffix.lower() in SUFFIXES:
                    yield f"{path}:{member.name}", file.read()
    except tarfile.TarError as error:
        raise InputError(f"{path} is damaged: {error}") from error
