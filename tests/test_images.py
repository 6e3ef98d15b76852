import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from denoiser import codecs
from denoiser.errors import InputError, OutputError
from denoiser.images import FORMATS, Picture, format_of, read, write

PNG, JPEG, TIFF, WEBP, AVIF, BMP = FORMATS
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def exif_block(orientation=1):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Acme", orientation
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2026:01:02 03:04:05"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 30.0, 0.0)})
    return exif.tobytes().removeprefix(b"Exif\0\0")


def exif_facts(block):
    exif = Image.Exif()
    exif.load(block)
    details, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    return exif[0x010F], float(details[0x829A]), details[0x9003], place[1], place[2]


def random_pixels(mode, dtype, height=13, width=17, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.random((height, width, len(mode)), np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, len(mode)), dtype)


def full_picture(mode, dtype, srgb, **changes):
    fields = {
        "pixels": random_pixels(mode, dtype),
        "icc": srgb,
        "exif": exif_block(),
        "xmp": XMP.replace(b"6", b"1"),
        "dpi": (300.0, 240.0),
    }
    return Picture(mode=mode, format="PNG", **(fields | changes))


def through_file(picture, format, tmp_path, **options):
    path = tmp_path / f"a{format.suffixes[0]}"
    notes = write(picture, path, format, **options)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    return read(path), notes


@pytest.mark.parametrize(
    ("format", "mode", "dtype"),
    [
        (format, mode, dtype)
        for format in (PNG, TIFF)
        for mode in ("L", "LA", "RGB", "RGBA", "CMYK")
        for dtype in format.depths
        if (mode != "CMYK" or format.cmyk) and (format, mode, dtype) != (PNG, "LA", "uint16")
    ],
)
def test_lossless_formats_keep_everything(format, mode, dtype, srgb, tmp_path):
    picture = full_picture(mode, dtype, srgb)
    found, notes = through_file(picture, format, tmp_path)
    assert notes == [] and found.notes == []
    assert found.mode == mode and found.pixels.dtype == dtype
    np.testing.assert_array_equal(found.pixels, picture.pixels)
    assert found.icc == picture.icc and found.xmp == picture.xmp
    assert found.dpi == pytest.approx(picture.dpi, rel=1e-4)
    assert exif_facts(found.exif) == exif_facts(picture.exif)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["RGB", "RGBA"]), st.integers(0, 99))
def test_16_bit_png_round_trips_at_any_size(tmp_path, height, width, mode, seed):
    picture = Picture(random_pixels(mode, "uint16", height, width, seed), mode, "PNG")
    found, _ = through_file(picture, PNG, tmp_path)
    np.testing.assert_array_equal(found.pixels, picture.pixels)


def test_grey_with_alpha_at_16_bits_becomes_rgba(srgb, tmp_path):
    picture = full_picture("LA", "uint16", None)
    found, _ = through_file(picture, PNG, tmp_path)
    np.testing.assert_array_equal(found.pixels, picture.pixels[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("format", [WEBP, AVIF, JPEG])
def test_lossy_formats_keep_colour_and_metadata(format, srgb, photo, tmp_path):
    picture = full_picture("RGB", "uint8", srgb, pixels=photo[:64, :96], dpi=None)
    found, notes = through_file(picture, format, tmp_path)
    assert notes == []
    assert np.abs(found.pixels.astype(int) - picture.pixels).mean() < 4
    assert found.icc == picture.icc and found.xmp == picture.xmp
    assert exif_facts(found.exif) == exif_facts(picture.exif)


@pytest.mark.parametrize(
    ("format", "mode", "dtype", "words"),
    [
        (JPEG, "RGBA", "uint8", ["transparency"]),
        (JPEG, "RGB", "uint16", ["8 bits"]),
        (PNG, "RGB", "float32", ["16 bits"]),
        (PNG, "CMYK", "uint8", ["CMYK"]),
        (WEBP, "RGB", "uint8", ["DPI"]),
        (BMP, "RGB", "uint8", ["ICC, EXIF, XMP"]),
    ],
)
def test_what_a_format_cannot_hold_is_said_in_one_line(format, mode, dtype, words, srgb, tmp_path):
    _, notes = through_file(full_picture(mode, dtype, srgb), format, tmp_path)
    assert len(notes) == len(words)
    for note, word in zip(notes, words, strict=True):
        assert word in note and note.startswith(format.name) and "\n" not in note


def test_bit_depth_changes_on_request(tmp_path, srgb):
    picture = full_picture("RGB", "uint8", srgb)
    deeper, _ = through_file(picture, PNG, tmp_path, depth="16")
    np.testing.assert_array_equal(deeper.pixels, picture.pixels.astype(int) * 257)
    back, _ = through_file(deeper, PNG, tmp_path, depth="8")
    np.testing.assert_array_equal(back.pixels, picture.pixels)


def test_stripping_metadata_keeps_the_profile(srgb, tmp_path):
    found, notes = through_file(
        full_picture("RGB", "uint8", srgb), PNG, tmp_path, strip_metadata=True
    )
    assert (found.exif, found.xmp, found.dpi, found.icc) == (None, None, None, srgb) and not notes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_exactly_once(orientation, tmp_path):
    pixels = random_pixels("RGB", "uint8")
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0" + exif_block(orientation))
    from PIL import ImageOps

    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    once = read(path)
    np.testing.assert_array_equal(once.pixels, expected)
    twice, _ = through_file(once, PNG, tmp_path)
    np.testing.assert_array_equal(twice.pixels, expected)
    exif = Image.Exif()
    exif.load(twice.exif)
    assert exif[0x0112] == 1 and exif_facts(twice.exif) == exif_facts(exif_block())


def test_orientation_in_xmp_is_reset_too(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=b"Exif\0\0" + exif_block(6), xmp=XMP)
    picture = read(path)
    assert picture.pixels.shape == (8, 4, 3) and b'Orientation="1"' in picture.xmp


@pytest.mark.parametrize("quality", [40, 75, 92])
def test_jpeg_quality_follows_the_input(quality, photo, tmp_path):
    source, kept = tmp_path / "in.jpg", tmp_path / "out.jpg"
    Image.fromarray(photo).save(source, quality=quality, subsampling="4:2:0", progressive=True)
    write(read(source), kept, JPEG)
    with Image.open(source) as before, Image.open(kept) as after:
        assert before.quantization == after.quantization
        assert after.info.get("progressive")
    assert kept.stat().st_size == pytest.approx(source.stat().st_size, rel=0.1)
    write(read(source), kept, JPEG, quality=99)
    assert kept.stat().st_size > 1.2 * source.stat().st_size


def test_palette_one_bit_and_colour_key_are_understood(tmp_path, photo):
    image = Image.fromarray(photo[:32, :32])
    cases = {
        "p.png": (image.quantize(16), {}, "RGB"),
        "key.png": (image.quantize(16), {"transparency": 3}, "RGBA"),
        "bit.png": (image.convert("1"), {}, "L"),
        "bit.tif": (image.convert("1"), {}, "L"),
        "ink.jpg": (image.convert("CMYK"), {}, "CMYK"),
        "ycc.jpg": (image, {}, "RGB"),
        "grey.bmp": (image.convert("L"), {}, "L"),
    }
    for name, (picture, options, mode) in cases.items():
        picture.save(tmp_path / name, **options)
        found = read(tmp_path / name)
        assert (found.mode, found.pixels.shape) == (mode, (32, 32, len(mode))), name


@pytest.mark.parametrize(
    "options", [{"planarconfig": "separate"}, {"compression": "lzw"}, {"byteorder": ">"}]
)
def test_16_bit_tiff_of_other_layouts_is_read(options, tmp_path):
    pixels = random_pixels("RGB", "uint16")
    separate = options.get("planarconfig") == "separate"
    path = tmp_path / "a.tif"
    data = np.moveaxis(pixels, -1, 0) if separate else pixels
    tifffile.imwrite(path, data, photometric="rgb", **options)
    np.testing.assert_array_equal(read(path).pixels, pixels)


def test_png_colour_chunks_are_kept(tmp_path):
    path = tmp_path / "a.png"
    _, data = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint16))
    body = struct.pack(">I", 45455)
    chunk = struct.pack(">I", 4) + b"gAMA" + body + struct.pack(">I", zlib.crc32(b"gAMA" + body))
    path.write_bytes(data.tobytes()[:33] + chunk + data.tobytes()[33:])
    for depth in ("8", "16"):
        found, _ = through_file(read(path), PNG, tmp_path, depth=depth)
        assert found.png_chunks[b"gAMA"] == body


def test_further_pages_are_mentioned(tmp_path):
    path = tmp_path / "a.tif"
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(path, np.zeros((3, 8, 8), dtype), photometric="minisblack")
        assert "first of 3" in read(path).notes[0]


def damaged_files(photo):
    """Name -> bytes of files that must be refused."""
    png, jpeg = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo).save(png, "PNG")
    Image.fromarray(photo).save(jpeg, "JPEG")
    deep = cv2.imencode(".png", photo.astype(np.uint16) * 257)[1].tobytes()
    broken = bytearray(deep)
    broken[len(deep) // 2] ^= 255
    nan = io.BytesIO()
    tifffile.imwrite(nan, np.full((8, 8), np.nan, np.float32))
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    gif = io.BytesIO()
    Image.fromarray(photo[:8, :8]).save(gif, "GIF")
    return {
        "empty.png": b"",
        "text.png": b"Dear reader, this is no picture.\n" * 9,
        "truncated.png": png.getvalue()[: len(png.getvalue()) // 2],
        "truncated.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "truncated16.png": deep[: len(deep) // 2],
        "broken16.png": bytes(broken),
        "header.png": png.getvalue()[:20],
        "nan.tif": nan.getvalue(),
        "bomb.png": bomb,
        "some.gif": gif.getvalue(),
        "header.tif": b"II*\0\x08\0\0\0",
    }


def test_damaged_files_are_refused_by_name_in_one_line(photo, tmp_path, capfd):
    for name, data in damaged_files(photo).items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            read(path)
        assert name in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_bytes(b"before")
    monkeypatch.setattr(codecs, "encode", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError, match=r"a\.png"):
        write(Picture(random_pixels("L", "uint8"), "L", "PNG"), target, PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"before"


def test_unknown_suffix_is_refused():
    assert format_of("A.JPEG") is JPEG
    with pytest.raises(OutputError, match=r"\.gif"):
        format_of("a.gif")
