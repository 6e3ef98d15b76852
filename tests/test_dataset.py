import errno
import itertools
import os
import tarfile

import numpy as np
import pytest
import torch
from conftest import CPU, SHIPPED
from PIL import Image

from denoiser.errors import InputError
from denoiser.training.dataset import Crops, load_pictures


def test_crops_are_mirrored_pieces_of_the_pictures():
    """Each pixel of the pictures is unique, so its place can be read off a crop."""
    small = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    large = np.arange(20 * 30, 20 * 30 + 40 * 25, dtype=np.uint16).reshape(40, 25)
    pictures = [np.stack([p >> 8, p & 255, 0 * p], 2).astype(np.uint8) for p in (small, large)]
    crops = Crops(pictures, 8, CPU).sample(400, torch.Generator().manual_seed(0))
    assert crops.shape == (400, 3, 8, 8) and crops.dtype == torch.float32
    values = (crops[:, 0] * 255).round().int() * 256 + (crops[:, 1] * 255).round().int()
    seen = set()
    for value in values.numpy():
        source, offset, width = (small, 0, 30) if value[0, 0] < 600 else (large, 600, 25)
        rows, columns = (value - offset) // width, (value - offset) % width
        y, x = rows.min(), columns.min()
        original = source[y : y + 8, x : x + 8]
        orders = [
            (flip_y, flip_x, transposed)
            for flip_y, flip_x, transposed in itertools.product((1, -1), (1, -1), (False, True))
            if np.array_equal(
                original[::flip_y, ::flip_x].T if transposed else original[::flip_y, ::flip_x],
                value,
            )
        ]
        assert len(orders) == 1
        seen.add((source.shape, orders[0]))
    assert len(seen) == 16  # both pictures in all eight orientations


def test_pictures_come_from_folders_and_tars_and_bad_ones_are_named(tmp_path):
    nested = tmp_path / "a" / "b"
    nested.mkdir(parents=True)
    Image.new("L", (40, 50), 7).save(nested / "grey.png")
    Image.new("RGB", (60, 50)).save(tmp_path / "colour.jpg")
    with tarfile.open(tmp_path / "more.tar", "w") as shard:
        shard.add(nested / "grey.png", "x.png")
    pictures = load_pictures(tmp_path, 32)
    assert [picture.shape for picture in pictures] == [(50, 40, 3), (50, 60, 3), (50, 40, 3)]
    (tmp_path / "bad.png").write_bytes(b"?")
    (tmp_path / "._colour.jpg").write_bytes(b"resource fork")
    lines = []
    assert len(load_pictures(tmp_path, 48, lines.append)) == 1
    assert len(lines) == 3 and "bad.png" in lines[1] and "grey.png is smaller" in lines[0]
    (tmp_path / "broken.tar").write_bytes(b"?" * 600)
    with pytest.raises(InputError, match=r"broken\.tar"):
        load_pictures(tmp_path, 32)
    assert len(load_pictures(tmp_path / "more.tar", 32)) == 1
    with pytest.raises(InputError, match="no pictures"):
        load_pictures(SHIPPED / "scripts", 32)


def test_what_cannot_be_read_is_named(photo, tmp_path, monkeypatch):
    Image.fromarray(photo).save(tmp_path / "good.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / ".thumbnails").mkdir()
    Image.fromarray(photo).save(tmp_path / ".thumbnails" / "good.png")
    locked = tmp_path / "locked"
    locked.mkdir()
    scan = os.scandir

    def refuse(folder):  # root may read any folder, so that permissions cannot be tried
        if folder == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr("os.scandir", refuse)
    lines = []
    assert len(load_pictures(tmp_path, 32, lines.append)) == 1
    assert lines == [
        f"left out: folder {locked}: Permission denied",
        f"left out: {tmp_path}/dangling.png: No such file or directory",
    ]
