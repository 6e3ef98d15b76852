import io
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from denoiser import cli, images
from denoiser.errors import ArgumentError, InputError, ModelError
from denoiser.plan import make_plan

BLACK, WHITE = 64, 4095
LINEAR, ENCODED = (0.2, 0.4, 0.1), (0.4845, 0.6652, 0.3492)  # in sRGB


def dng(orientation=1):
    """A mosaic of one colour, 64x48, by a camera whose primaries are those of sRGB."""
    mosaic = np.empty((48, 64), np.uint16)
    red, green, blue = (round(BLACK + value * (WHITE - BLACK)) for value in LINEAR)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = red, blue
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = green
    from_xyz = (32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570)
    tags = [
        (271, "s", 0, "Acme", True),
        (274, "H", 1, orientation, True),
        (700, "B", 5, b"<xmp>", True),
        (33421, "H", 2, (2, 2), True),  # CFARepeatPatternDim, CFAPattern
        (33422, "B", 4, b"\0\1\1\2", True),
        (50706, "B", 4, b"\1\4\0\0", True),  # DNGVersion, UniqueCameraModel
        (50708, "s", 0, "Acme One", True),
        (50714, "H", 1, BLACK, True),
        (50717, "H", 1, WHITE, True),
        (50721, "2i", 9, [part for value in from_xyz for part in (value, 10_000)], True),
        (50728, "2I", 3, (1,) * 6, True),  # AsShotNeutral, CalibrationIlluminant1
        (50778, "H", 1, 21, True),
    ]
    file = io.BytesIO()
    tifffile.imwrite(file, mosaic, photometric="cfa", metadata=None, software=False, extratags=tags)
    return file.getvalue()


def test_a_raw_file_is_developed_upright_and_says_what_is_not_kept(tmp_path):
    (tmp_path / "a.DNG").write_bytes(dng(orientation=6))
    found = images.read(tmp_path / "a.DNG")
    assert (found.pixels.shape, found.pixels.dtype, found.mode) == ((64, 48, 3), np.uint16, "RGB")
    assert np.abs(found.pixels[8:-8, 8:-8] / 65535 - ENCODED).max() < 1e-3
    assert found.notes == ["developed plainly: the raw data and settings for it are not kept"]


def test_the_result_is_a_tiff_with_exif_that_does_not_pass_for_a_raw_file(tmp_path, identity_path):
    (tmp_path / "a.dng").write_bytes(dng(orientation=8))
    command = [tmp_path / "a.dng", tmp_path, "-m", identity_path, "--device", "cpu"]
    cli.denoise.main([str(word) for word in command], standalone_mode=False)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages.first.tags
        assert (tags[271].value, tags[274].value) == ("Acme", 1)
        assert not [tag.code for tag in tags if tag.code >= 50706 or tag.code in (33421, 33422)]
        assert file.pages.first.dtype == np.uint16
    with Image.open(tmp_path / "a.tif") as file:
        assert file.size == (48, 64)


def test_raw_files_of_a_folder_become_tiff(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.NEF", "b.jpg"):
        (tmp_path / "in" / name).touch()

    def outputs(format):
        found = make_plan(
            tmp_path / "in", tmp_path / "out", recursive=False, format=format, suffix="_x"
        )
        return [item.output for item in found.items]

    assert outputs(None) == ["a_x.tif", "b_x.jpg"]
    assert outputs(images.format_named("PNG")) == ["a_x.png", "b_x.png"]
    with pytest.raises(ArgumentError, match=r"cannot write a\.NEF: .* use \.tif"):
        images.format_of("a.NEF")


def test_what_is_no_raw_file_of_a_known_camera_is_refused(tmp_path):
    for name, data in (("a.cr2", b"II*\0" + bytes(2000)), ("b.dng", dng()[:100])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}\b"):
            images.read(tmp_path / name)


def test_without_its_extra_a_raw_file_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ModelError, match=r"a\.nef: raw files need more: .* '\.\[raw\]'"):
        images.read(dng(), "a.nef")
