import datetime
import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_images import IPTC, exif_block, exif_facts

from denoiser import cli, exif, ifd, images, raw
from denoiser.errors import ArgumentError, InputError, ModelError
from denoiser.picture import Picture
from denoiser.plan import make_plan

BLACK, WHITE = 64, 4095
LINEAR, ENCODED = (0.2, 0.4, 0.1), (0.4845, 0.6652, 0.3492)  # in sRGB
NEUTRAL = (0.5, 1.0, 0.5)
PLAIN = "developed plainly: the raw data and settings for it are not kept"


def dng(orientation=1, tags=(), says=True):
    """A mosaic of one colour, 64x48, brighter at its left edge; the primaries are those of sRGB."""
    mosaic = np.empty((48, 64), np.uint16)
    red, green, blue = (
        round(BLACK + value * share * (WHITE - BLACK))
        for value, share in zip(LINEAR, NEUTRAL, strict=True)
    )
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = red, blue
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = green
    mosaic[:, :2] = BLACK + 0.8 * (WHITE - BLACK)
    from_xyz = (32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570)
    own = [
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),  # CFARepeatPatternDim, CFAPattern
        (33422, "B", 4, b"\0\1\1\2", True),
        (50706, "B", 4, b"\1\4\0\0", True),  # DNGVersion, UniqueCameraModel
        (50708, "s", 0, "Acme One", True),
        (50714, "H", 1, BLACK, True),
        (50717, "H", 1, WHITE, True),
        (50721, "2i", 9, [part for value in from_xyz for part in (value, 10_000)], True),
        (50728, "2I", 3, (1, 2, 1, 1, 1, 2), True),  # AsShotNeutral, CalibrationIlluminant1
        (50778, "H", 1, 21, True),
    ]
    file = io.BytesIO()
    tifffile.imwrite(
        file, mosaic, photometric="cfa", metadata=None, software=False, extratags=[*own, *tags]
    )
    if says:
        exif.add_to_tiff(file, exif.parse(exif_block(order="<")), {ifd.IPTC: IPTC})
    return file.getvalue()


def test_a_raw_file_is_developed_upright_and_says_what_is_not_kept():
    found = images.read(dng(orientation=6, tags=[(700, "B", 5, b"<xmp>", True)]), "a.DNG")
    assert (found.pixels.shape, found.pixels.dtype, found.mode) == ((64, 48, 3), np.uint16, "RGB")
    assert np.abs(found.pixels[12:-8, 8:-8] / 65535 - ENCODED).max() < 1e-3
    assert exif_facts(found.exif) == exif_facts(exif_block()) and found.iptc == IPTC
    assert found.notes == [PLAIN, "its XMP, which tells how to develop it, is dropped"]


def test_the_result_is_a_tiff_that_does_not_pass_for_a_raw_file(tmp_path, identity_path):
    (tmp_path / "a.dng").write_bytes(dng(orientation=8))
    command = [tmp_path / "a.dng", tmp_path, "-m", identity_path, "--device", "cpu"]
    cli.denoise.main([str(word) for word in command], standalone_mode=False)
    with tifffile.TiffFile(tmp_path / "a.dng.tif") as file:
        page = file.pages.first
        assert (page.dtype, page.shape, page.tags[274].value) == (np.uint16, (64, 48, 3), 1)
        assert not [tag for tag in page.tags if tag.code >= 50706 or tag.code in (33421, 33422)]
    found = images.read(tmp_path / "a.dng.tif")
    assert exif_facts(found.exif) == exif_facts(exif_block()) and found.iptc == IPTC


def test_raw_files_of_a_folder_become_tiff(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.NEF", "a.jpg"):  # as cameras write them
        (tmp_path / "in" / name).touch()

    def outputs(format):
        found = make_plan(
            tmp_path / "in", tmp_path / "out", recursive=False, format=format, suffix="_x"
        )
        return [item.output for item in found.items]

    assert outputs(None) == ["a_x.NEF.tif", "a_x.jpg"]
    assert outputs(images.format_named("JPEG")) == ["a_x.NEF.jpg", "a_x.jpg"]
    with pytest.raises(ArgumentError, match=r"cannot write a\.NEF: .* use \.tif"):
        images.format_of("a.NEF")


def described(block, year=2026):
    """What is taken over from a raw file that is no TIFF, whose preview has an EXIF block."""
    preview = io.BytesIO()
    Image.new("RGB", (8, 8)).save(preview, "JPEG", exif=b"Exif\0\0" + block)
    file = SimpleNamespace(
        extract_thumb=lambda: SimpleNamespace(data=preview.getvalue()),
        other=SimpleNamespace(timestamp=datetime.datetime(year, 1, 1)),
    )
    picture = Picture(np.zeros((1, 1, 3), np.uint16), "RGB", "TIFF")
    raw._describe(picture, b"FUJIFILM", file)
    return picture


def test_exif_of_a_preview_is_kept_if_a_camera_wrote_it():
    found = described(exif_block(orientation=6))
    assert exif_facts(found.exif) == exif_facts(exif_block()) and not found.notes
    assert exif.reset_orientation(found.exif)[0] == 1
    made_up = Image.Exif()
    made_up[ifd.SOFTWARE] = "dcraw v9.26"
    invented = made_up.tobytes().removeprefix(b"Exif\0\0")
    assert described(invented).notes == ["of its EXIF only what LibRaw knows is kept"]
    for block, year in ((invented, 1970), (b"II", 2026)):
        with pytest.raises(ValueError):
            described(block, year)


def test_olympus_and_panasonic_have_exif_behind_marks_of_their_own():
    data = exif_block(order="<")
    for mark in (b"IIRO", b"IIU\0"):
        picture = Picture(np.zeros((1, 1, 3), np.uint16), "RGB", "TIFF")
        raw._describe(picture, mark + data[4:], SimpleNamespace())
        assert exif_facts(picture.exif) == exif_facts(data)


def test_what_is_no_raw_file_of_a_known_camera_is_refused():
    for data, message in (
        (b"II*\0" + bytes(2000), "LibRaw does not know such raw files"),
        (dng(says=False)[:4000], "damaged: Input/output error"),
    ):
        with pytest.raises(InputError, match=f"^a.cr2: {message}$"):
            images.read(data, "a.cr2")


def test_what_libraw_says_in_bytes_or_text_is_told(monkeypatch):
    rawpy = pytest.importorskip("rawpy")
    for words in (b"Data error", "Data error"):
        error = rawpy.LibRawDataError(words)
        monkeypatch.setattr(rawpy, "imread", lambda _, error=error: raise_(error))
        with pytest.raises(InputError, match=r"^a\.nef: damaged: Data error$"):
            images.read(b"?", "a.nef")


def raise_(error):
    raise error


def test_without_its_extra_a_raw_file_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(ModelError, match=r"a\.nef: raw files need more: .* '\.\[raw\]'"):
        images.read(dng(), "a.nef")
