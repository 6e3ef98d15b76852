import errno
import itertools
import os
import tarfile

import numpy as np
import pytest
import tifffile
import torch
from conftest import CPU, SHIPPED
from PIL import Image

from denoiser import images
from denoiser.errors import InputError
from denoiser.training import dataset
from denoiser.training.dataset import Crops, read_pictures


def load(source, smallest_px, report=lambda line: None, **options):
    return list(read_pictures([source], smallest_px, report, **options))


def test_crops_are_mirrored_pieces_of_the_pictures():
    """Each pixel of the pictures is unique, so its place can be read off a crop."""
    small = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    large = np.arange(20 * 30, 20 * 30 + 40 * 25, dtype=np.uint16).reshape(40, 25)
    pictures = [np.stack([p >> 8, p & 255, 0 * p], 2).astype(np.uint8) for p in (small, large)]
    crops = Crops(pictures, 8, CPU).sample(400, torch.Generator().manual_seed(0))
    assert not pictures  # memory holds them once
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
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere.png"
        shard.addfile(link)
    pictures = load(tmp_path, 32)
    assert [picture.shape for picture in pictures] == [(50, 40, 3), (50, 60, 3), (50, 40, 3)]
    (tmp_path / "bad.png").write_bytes(b"?")
    (tmp_path / "._colour.jpg").write_bytes(b"resource fork")
    lines = []
    assert len(load(tmp_path, 48, lines.append)) == 1
    assert len(lines) == 3 and "bad.png" in lines[1] and "grey.png is smaller" in lines[0]
    (tmp_path / "broken.tar").write_bytes(b"?" * 600)
    lines = []
    assert len(load(tmp_path, 32, lines.append)) == 3 and "broken.tar" in lines[0]
    assert len(load(tmp_path / "more.tar", 32)) == 1
    with pytest.raises(InputError, match="no pictures"):
        load(SHIPPED / "scripts", 32)


def test_what_training_does_not_see_is_told(tmp_path, monkeypatch):
    for module in (images, dataset):
        monkeypatch.setattr(module, "SUFFIXES", frozenset({".tif"}))
    tifffile.imwrite(tmp_path / "dark.tif", np.full((40, 40), 4095, np.uint16))
    tifffile.imwrite(tmp_path / "stack.tif", np.full((5, 40, 40), 60_000, np.uint16))
    (tmp_path / "b.nef").touch()
    lines = []
    assert len(load(tmp_path, 32, lines.append)) == 2
    assert "raw files need more" in lines[0]
    assert lines[1] == "1 pictures of more than 8 bits are nearly black in the 8 that training uses"
    assert lines[2] == "1 files have more pages or frames: only the first is used"


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
    assert len(load(tmp_path, 32, lines.append)) == 1
    assert lines == [
        f"left out: folder {locked}: Permission denied",
        f"left out: {tmp_path}/dangling.png: No such file or directory",
    ]


def test_every_picture_counts_once_behind_links_too_and_pipes_are_none(photo, tmp_path):
    store, images = tmp_path / "store", tmp_path / "images"
    store.mkdir()
    images.mkdir()
    Image.fromarray(photo).save(store / "a.png")
    Image.fromarray(photo).save(images / "b.png")
    for name in ("one", "other"):
        (images / name).symlink_to(store)
    os.mkfifo(images / "pipe.png")
    lines = []
    assert len(list(read_pictures([images, images], 32, lines.append))) == 2
    assert lines == [f"left out: {images}/pipe.png is no ordinary file"] * 2


def test_large_pictures_are_cut_to_fit_the_budget(tmp_path):
    sizes = {"a": (400, 300), "b": (30, 40), "c": (100, 900), "d": (300, 400)}
    rows, columns = np.mgrid[:1000, :1000]
    plane = np.stack([rows % 251, columns % 251, rows // 251 * 4 + columns // 251], 2)
    for name, (height, width) in sizes.items():
        Image.fromarray(plane[:height, :width].astype(np.uint8)).save(tmp_path / f"{name}.png")
    lines = []
    pictures = load(tmp_path, 32, lines.append, budget_mp=0.04)  # 10000 pixels for each
    assert len(pictures) == 3 and "b.png is smaller" in lines[0]
    assert lines[1] == "3 of 3 pictures cut to 0.01 megapixels, to fit memory"
    for picture, (height, width) in zip(pictures, [sizes[name] for name in "acd"], strict=True):
        assert 9_500 < picture.shape[0] * picture.shape[1] <= 10_000
        assert min(picture.shape[:2]) >= 32
        if height != 100:  # the long one keeps 32 rows
            assert picture.shape[1] / picture.shape[0] == pytest.approx(width / height, rel=0.03)
        y, x, far = map(int, picture[0, 0])
        y, x = y + far // 4 * 251, x + far % 4 * 251
        original = plane[y : y + picture.shape[0], x : x + picture.shape[1]]
        assert np.array_equal(picture, original)
    again = load(tmp_path, 32, budget_mp=0.04)
    assert all(map(np.array_equal, pictures, again))
    assert [picture.size for picture in load(tmp_path, 32)] == [360_000, 270_000, 360_000]
    with pytest.raises(InputError, match=r"4 pictures .* need 0\.0655 megapixels, more than 0\.04"):
        load(tmp_path, 128, budget_mp=0.04)


def test_reading_reports_its_progress(photo, tmp_path, monkeypatch):
    for index in range(3):
        Image.fromarray(photo).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(dataset, "REPORT_S", 0)
    lines = []
    load(tmp_path, 32, lines.append)
    assert lines[-1] == "read 2 of 3 files"
