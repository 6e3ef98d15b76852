import dataclasses
import io
import os
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from denoiser import codecs, exif, ifd, jpeg
from denoiser.errors import ArgumentError, InputError, ModelError, OutputError
from denoiser.images import FORMATS, Picture, format_of, read, write
from denoiser.job import Job
from denoiser.picture import HEIF, adapt

PNG, JPEG, TIFF, WEBP, AVIF, BMP = FORMATS[:6]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'

IPTC = b"\x1c\x02\x78\x00\x06Sunset" + b"\x1c\x02\x19\x00\x04seas"


def exif_block(orientation=1, order=">"):
    block = Image.Exif()
    block.endian = order
    block[0x010F], block[0x0112] = "Acme", orientation
    block.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2026:01:02 03:04:05"})
    block.get_ifd(0x8825).update({1: "N", 2: (48.0, 30.0, 0.0)})
    return block.tobytes().removeprefix(b"Exif\0\0")


def exif_facts(block):
    found = Image.Exif()
    found.load(block)
    details, place = found.get_ifd(0x8769), found.get_ifd(0x8825)
    return found[0x010F], float(details[0x829A]), details[0x9003], place[1], place[2]


def random_pixels(mode, dtype, height=13, width=17, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.random((height, width, len(mode)), np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, len(mode)), dtype)


def png_chunk(kind, body=b""):
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


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
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"a{format.suffixes[0]}"
    notes = write(picture, path, format, overwrite=True, **options)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    return read(path), notes


@pytest.mark.parametrize(
    ("format", "mode", "dtype"),
    [
        (format, mode, dtype)
        for format in (PNG, TIFF)
        for mode in ("L", "LA", "RGB", "RGBA", "CMYK")
        for dtype in format.depths
        if mode != "CMYK" or format.cmyk
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["RGB", "RGBA"]), st.integers(0, 99))
def test_16_bit_png_round_trips_at_any_size(tmp_path, height, width, mode, seed):
    picture = Picture(random_pixels(mode, "uint16", height, width, seed), mode, "PNG")
    found, _ = through_file(picture, PNG, tmp_path)
    np.testing.assert_array_equal(found.pixels, picture.pixels)


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
        (PNG, "RGB", "float32", ["16 bits: rounded and clipped, white is 1"]),
        (PNG, "CMYK", "uint8", ["CMYK"]),
        (AVIF, "RGBA", "uint8", ["approximately", "DPI"]),
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


@pytest.mark.parametrize("format", [PNG, JPEG, TIFF], ids=lambda format: format.name)
def test_stripping_metadata_keeps_the_profile(format, srgb, tmp_path):
    texts = [(b"tEXt", b"Title\0Sea")]
    picture = full_picture("RGB", "uint8", srgb, iptc=IPTC, comment=b"mine", texts=texts)
    found, notes = through_file(picture, format, tmp_path, strip_metadata=True)
    assert (found.exif, found.xmp, found.dpi, found.icc) == (None, None, None, srgb) and not notes
    assert (found.iptc, found.comment, found.texts) == (None, None, [])


@pytest.mark.parametrize("iptc", [IPTC, IPTC + b"\0"], ids=["even", "odd"])
def test_captions_and_comments_of_a_jpeg_are_kept_or_named(iptc, tmp_path):
    source = Picture(random_pixels("RGB", "uint8"), "RGB", "PNG", iptc=iptc, comment=b"mine")
    found, notes = through_file(source, JPEG, tmp_path / "a")
    assert (found.iptc, found.comment, notes) == (iptc, b"mine", [])
    twice, notes = through_file(found, JPEG, tmp_path / "a")
    assert (twice.iptc, twice.comment, notes) == (iptc, b"mine", [])
    _, notes = through_file(found, TIFF, tmp_path / "b")
    with tifffile.TiffFile(tmp_path / "b" / "a.tif") as file:
        assert bytes(file.pages.first.tags[ifd.IPTC].value) == iptc
    assert notes == ["TIFF cannot hold a comment: dropped"]
    _, notes = through_file(found, PNG, tmp_path / "c")
    assert notes == ["PNG cannot hold IPTC, a comment: dropped"]


def test_captions_and_comments_in_several_parts_are_joined(tmp_path):
    resource = jpeg.segment_of(IPTC)[18:]  # behind marker, length and head
    name = b"MeSa" + struct.pack(">HB", 0x0FA0, 3) + b"abc" + struct.pack(">I", 5) + b"12345\0"
    halves = name + resource[:10], resource[10:] + resource
    extra = b""
    for half in halves:
        body = b"Photoshop 3.0\0" + half
        extra += b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    for comment in (b"first", b"second"):
        extra += b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", extra=extra)
    picture = read(tmp_path / "a.jpg")
    assert (picture.iptc, picture.comment) == (IPTC + IPTC, b"first\nsecond")
    long = Picture(picture.pixels, "RGB", "PNG", comment=b"long" * 20_000)
    found, notes = through_file(long, JPEG, tmp_path / "b")
    assert found.comment is None and "a comment of more than 64 KB" in notes[0]


def test_captions_go_from_jpeg_to_tiff_and_back(tmp_path):
    source = Picture(random_pixels("RGB", "uint8"), "RGB", "PNG", iptc=IPTC, exif=exif_block())
    tiff, _ = through_file(through_file(source, JPEG, tmp_path / "a")[0], TIFF, tmp_path / "b")
    back, notes = through_file(tiff, JPEG, tmp_path / "c")
    assert (tiff.iptc, back.iptc, notes) == (IPTC, IPTC, [])
    assert ifd.read(back.exif).value(ifd.IPTC) is None  # it stands where readers look


def test_layers_of_photoshop_are_dropped_with_a_line(tmp_path):
    layers = (37724, 7, 6, b"secret", True)
    pixels = random_pixels("RGB", "uint8")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[layers])
    picture = read(tmp_path / "a.tif")
    assert "Photoshop layers" in picture.notes[0]
    through_file(picture, TIFF, tmp_path / "b")
    assert b"secret" not in (tmp_path / "b" / "a.tif").read_bytes()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        (b"zTXt", b"Title\0\7junk"),
        (b"tEXt", b"no end"),
        (b"iTXt", b"Title\0\0\0only a language"),
        (b"iTXt", b"Title\0\1\0\0\0junk"),
        (b"tEXt", b"k" * 80 + b"\0too long a keyword"),
    ],
)
def test_damaged_texts_are_dropped_with_a_line(kind, body, tmp_path):
    data = bytes(imagecodecs.png_encode(random_pixels("RGB", "uint16")))
    chunk = png_chunk(kind, body)
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])  # behind the pixels
    picture = read(tmp_path / "a.png")
    assert picture.notes == ["a damaged text in it is dropped"] and not picture.texts
    good = [
        (b"zTXt", b"T\0\0" + zlib.compress(b"x")),
        (b"iTXt", b"T\0\1\0\0\0" + zlib.compress(b"x")),
    ]
    found, _ = through_file(Picture(picture.pixels, "RGB", "PNG", texts=good), PNG, tmp_path / "b")
    assert found.texts == good
    with Image.open(tmp_path / "b" / "a.png") as file:
        assert file.info["T"] == "x"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_texts_of_a_png_are_kept_or_named(dtype, tmp_path):
    texts = [
        (b"tEXt", b"Title\0Sea"),
        (b"tEXt", b"Author\0Anna"),
        (b"iTXt", b"T\0\0\0\0\0s\xc3\xa9"),
    ]
    source = Picture(random_pixels("RGB", dtype), "RGB", "PNG", xmp=XMP, texts=texts)
    found, notes = through_file(source, PNG, tmp_path)
    assert (found.texts, found.xmp, notes) == (texts, XMP, [])
    _, notes = through_file(found, BMP, tmp_path / "b")
    assert "texts of a PNG" in notes[-1]
    raw = [(b"zTXt", b"Raw profile type exif\0\0")]
    found, _ = through_file(Picture(source.pixels, "RGB", "PNG", texts=raw), PNG, tmp_path / "c")
    assert not found.texts and "raw profile" in found.notes[0]


def with_thumbnail(block, thumbnail, *, by_strips=False):
    """An EXIF block with a second directory, and behind it a thumbnail."""
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (first,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, first)
    block = bytearray(block + bytes(len(block) % 2))
    struct.pack_into(order + "I", block, first + 2 + 12 * count, len(block))
    tags = (0x0111, 0x0117) if by_strips else (0x0201, 0x0202)
    values = (len(block) + 2 + 24 + 4, len(thumbnail))
    entries = [
        struct.pack(order + "HHII", tag, 4, 1, n) for tag, n in zip(tags, values, strict=True)
    ]
    return bytes(block) + struct.pack(order + "H", 2) + b"".join(entries) + bytes(4) + thumbnail


@pytest.mark.parametrize("format", [PNG, JPEG, TIFF, WEBP, AVIF], ids=lambda format: format.name)
@pytest.mark.parametrize("by_strips", [False, True])
def test_thumbnails_of_the_picture_as_it_was_are_erased(format, by_strips, tmp_path):
    secret = b"what was painted out" * 50
    block = with_thumbnail(exif_block(), secret, by_strips=by_strips)
    xmp = XMP.replace(b"<rdf", b"<xmp:Thumbnails><x>secret</x>\n</xmp:Thumbnails><rdf")
    source = Picture(random_pixels("RGB", "uint8"), "RGB", "PNG", exif=block, xmp=xmp)
    found, _ = through_file(source, format, tmp_path / "a")  # as another program wrote it
    again, _ = through_file(found, format, tmp_path / "a")
    assert again.xmp == XMP and exif_facts(again.exif) == exif_facts(exif_block())
    data = (tmp_path / "a" / f"a{format.suffixes[0]}").read_bytes()
    assert b"painted" not in data and b"Thumbnails" not in data


@given(
    st.sampled_from("<>"),
    st.binary(max_size=60),
    st.integers(0, 400) | st.integers(0, 2**32 - 1),
    st.integers(0, 400) | st.integers(0, 2**32 - 1),
)
def test_damaged_thumbnails_do_no_harm(order, tail, offset, length):
    whole = exif_block(order=order)
    block = bytearray(with_thumbnail(whole, tail))
    values = len(block) - len(tail) - 4 - 24  # of the two entries
    struct.pack_into(order + "I", block, values + 8, offset)
    struct.pack_into(order + "I", block, values + 20, length)
    erased = exif.without_thumbnail(bytes(block))
    assert len(erased) <= len(block)
    assert exif_facts(erased) == exif_facts(whole)
    assert exif.without_thumbnail(erased) == erased


@pytest.mark.parametrize("order", "<>")
def test_only_thumbnails_are_erased(order):
    secret = b"what was painted out" * 20
    whole = exif_block(order=order)
    block = bytearray(with_thumbnail(whole, secret))
    lengths = len(block) - len(secret) - 4 - 12  # the second entry
    struct.pack_into(order + "H", block, lengths, 0x0103)  # is another: no length is known
    erased = exif.without_thumbnail(bytes(block))
    assert b"painted" not in erased and exif_facts(erased) == exif_facts(whole)
    (first,) = struct.unpack_from(order + "I", whole, 4)
    (count,) = struct.unpack_from(order + "H", whole, first)
    cycle = bytearray(whole)
    struct.pack_into(order + "I", cycle, first + 2 + 12 * count, first)  # the second is the first
    assert exif_facts(exif.without_thumbnail(bytes(cycle))) == exif_facts(whole)


def test_a_pointer_of_unknown_kind_is_not_followed(tmp_path):
    entries = [(0x0112, 3, 1, 6 << 16), (0x8769, 99, 1, 0xFFFFFF00)]
    block = b"MM\0*" + struct.pack(">IH", 8, 2)
    block += b"".join(struct.pack(">HHII", *entry) for entry in entries) + bytes(4)
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png", exif=b"Exif\0\0" + block)
    picture = read(tmp_path / "a.png")
    assert picture.pixels.shape == (8, 4, 3) and not picture.notes


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_stated_sides_are_exchanged_when_a_picture_is_turned(orientation, tmp_path):
    block = Image.Exif()
    block[0x0112] = orientation
    block.get_ifd(0x8769).update({0xA002: 8, 0xA003: 70_000})  # of different kinds
    block[0x0100], block[0x0101] = 8, 70_000
    stated = b'<rdf tiff:ImageWidth="8" tiff:ImageLength="4" exif:PixelXDimension="8"/>'
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=block, xmp=stated)
    picture, sides = read(path), Image.Exif()
    sides.load(picture.exif)
    found = [sides.get_ifd(0x8769)[tag] for tag in (0xA002, 0xA003)]
    turned = orientation >= 5
    assert found == [sides[0x0100], sides[0x0101]] == ([70_000, 8] if turned else [8, 70_000])
    assert (b'tiff:ImageLength="8" tiff:ImageWidth="4" exif:PixelY' in picture.xmp) is turned


def test_the_second_picture_of_a_telephone_is_mentioned(tmp_path):
    one, other = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    one.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[other])
    assert read(tmp_path / "a.jpg").notes == ["only the first of 2 pictures in it is restored"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "kind", ["a.png", "a.jpg", "a.tif", "16.tif", "16.png", "a.webp", "a.avif"]
)
def test_orientation_is_applied_exactly_once(orientation, kind, tmp_path):
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24], corners[:16, 24:], corners[16:, :24] = 250, 170, 90
    pixels = corners.astype(np.uint16) * 257 if kind.startswith("16") else corners
    path = tmp_path / kind
    picture = Picture(pixels, "RGB", "PNG", exif=exif_block(orientation))
    write(picture, path, format_of(path))
    if kind == "a.avif":  # ours are written upright
        block = b"Exif\0\0" + exif_block(orientation)
        Image.fromarray(corners).save(path, exif=block, quality=90, subsampling="4:4:4")
    expected = np.asarray(ImageOps.exif_transpose(turned(corners, orientation)))
    once = read(path)
    assert once.pixels.shape == expected.shape
    tolerance = 12 * (257 if kind.startswith("16") else 1)
    difference = once.pixels.astype(int) - expected.astype(int) * (1 if pixels is corners else 257)
    assert np.abs(difference).max() <= tolerance
    twice, _ = through_file(once, format_of(path), tmp_path / "again")
    assert np.abs(twice.pixels.astype(int) - once.pixels).max() <= tolerance
    assert exif.reset_orientation(twice.exif)[0] == 1
    assert exif_facts(twice.exif) == exif_facts(exif_block())


def turned(pixels, orientation):
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return image


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
    write(read(source), kept, JPEG, quality=99, overwrite=True)
    assert kept.stat().st_size > 1.2 * source.stat().st_size


def test_palette_one_bit_and_colour_key_are_understood(tmp_path, photo):
    image = Image.fromarray(photo[:32, :32])
    cases = {
        "p.png": (image.quantize(16), {}, "RGB"),
        "key.png": (image.quantize(16), {"transparency": 3}, "RGBA"),
        "bit.png": (image.convert("1"), {}, "L"),
        "bit.tif": (image.convert("1"), {}, "L"),
        "p.tif": (image.quantize(16), {}, "RGB"),
        "ink.jpg": (image.convert("CMYK"), {}, "CMYK"),
        "ycc.jpg": (image, {}, "RGB"),
        "grey.bmp": (image.convert("L"), {}, "L"),
    }
    for name, (picture, options, mode) in cases.items():
        picture.save(tmp_path / name, **options)
        found = read(tmp_path / name)
        assert (found.mode, found.pixels.shape) == (mode, (32, 32, len(mode))), name


def test_a_tiff_may_have_a_palette_of_two(tmp_path):
    bits = np.arange(64).reshape(8, 8) % 3 == 0
    colours = np.array([[0, 255], [0, 128], [0, 0]], "<u2") * 257  # rgb, of 0 and of 1
    short, long, end = 3, 4, 8 + 2 + 10 * 12 + 4
    entries = [
        (256, short, 1, 8), (257, short, 1, 8), (258, short, 1, 1), (259, short, 1, 1),
        (262, short, 1, 3), (273, long, 1, end + 12), (277, short, 1, 1), (278, short, 1, 8),
        (279, long, 1, 8), (320, short, 6, end),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    path = tmp_path / "two.tif"
    path.write_bytes(
        header + directory + bytes(4) + colours.tobytes() + np.packbits(bits).tobytes()
    )
    expected = np.where(bits[..., None], np.array([255, 128, 0], np.uint8), np.uint8(0))
    np.testing.assert_array_equal(read(path).pixels, expected)


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
    data = imagecodecs.png_encode(np.zeros((4, 4, 3), np.uint16))
    body = struct.pack(">I", 45455)
    path.write_bytes(data[:33] + png_chunk(b"gAMA", body) + data[33:])
    for depth in ("8", "16"):
        found, _ = through_file(read(path), PNG, tmp_path, depth=depth)
        assert found.png_chunks[b"gAMA"] == body


@pytest.mark.parametrize(
    ("chunks", "lost"),
    [
        ({b"gAMA": struct.pack(">I", 45455)}, None),
        ({b"gAMA": struct.pack(">I", 100000)}, "gAMA"),
        ({b"gAMA": struct.pack(">I", 100000), b"sRGB": b"\0"}, None),
        ({b"cICP": b"\x09\x10\0\1", b"sRGB": b"\0"}, "cICP"),
    ],
)
def test_colours_that_only_a_png_can_describe_are_missed(chunks, lost):
    picture = full_picture("RGB", "uint8", None, png_chunks=chunks)
    for format in (JPEG, PNG):
        _, notes = adapt(picture, format, "keep", strip_metadata=False)
        told = f"the colours of a PNG's {lost}"
        assert any(told in note for note in notes) == (lost is not None and format is JPEG)


@pytest.mark.parametrize(("most", "told"), [(1, False), (2.5, True)])
def test_what_lies_beyond_white_is_missed_where_integers_are_asked_for(tmp_path, most, told):
    tifffile.imwrite(
        tmp_path / "a.tif", np.linspace(0, most, 300, dtype=np.float32).reshape(10, 30)
    )
    picture = read(tmp_path / "a.tif")
    for depth in ("8", "16"):
        _, notes = adapt(picture, TIFF, depth, strip_metadata=False)
        assert notes == ([f"clipped to {depth} bits, white is 1"] if told else [])
    assert not adapt(picture, TIFF, "keep", strip_metadata=False)[1]


def test_pillows_settings_are_as_they_were():
    before = (ImageFile.MAXBLOCK, Image.MAX_IMAGE_PIXELS)
    for format in (JPEG, PNG, WEBP):
        read(_encoded(format))
    assert before == (ImageFile.MAXBLOCK, Image.MAX_IMAGE_PIXELS)


def _encoded(format):
    data = io.BytesIO()
    write(
        full_picture("RGB", "uint8", None, pixels=random_pixels("RGB", "uint8", 400)), data, format
    )
    return data.getvalue()


@pytest.mark.parametrize("thumbnail", ["first", "with a SubIFD", "none"])
def test_of_a_tiff_the_first_page_that_is_no_thumbnail_is_read(tmp_path, thumbnail):
    whole, small = random_pixels("RGB", "uint8", 48, 64), random_pixels("RGB", "uint8", 12, 16)
    kind = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        if thumbnail != "none":
            below = int(thumbnail == "with a SubIFD")
            file.write(small, subfiletype=1, subifds=below, description="small", **kind)
            file.write(whole, description=None if below else "Grandmother", **kind)
        else:  # and another picture in a SubIFD
            file.write(whole, subifds=1, **kind)
            file.write(whole[::-1], **kind)
    picture = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, whole)
    assert thumbnail != "first" or ifd.read(picture.exif).value(270) == b"Grandmother\0"
    assert picture.notes == (
        ["only the first of 2 pages is restored"] if thumbnail == "none" else []
    )


def test_slices_that_imagej_puts_into_one_page_are_missed(tmp_path):
    stack = random_pixels("L", "uint8", 40, 30).reshape(4, 10, 30)
    tifffile.imwrite(tmp_path / "a.tif", stack, contiguous=True, imagej=True)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(stack, contiguous=True, truncate=True, photometric="minisblack")
    for name in ("a.tif", "b.tif"):
        picture = read(tmp_path / name)
        assert "only the first of 4 pages is restored" in picture.notes
        assert not picture.exif or not exif.has_tag(picture.exif, 270)
        found, _ = through_file(picture, TIFF, tmp_path / "tif")  # whose description tells of four
        assert not found.notes


def test_what_no_other_note_tells_of_is_missed(tmp_path):
    """Each with what is told; a plain file of the kind says nothing."""
    plain = {format.name: _encoded(format) for format in (PNG, JPEG, AVIF)}
    film = plain["JPEG"] + bytes(2) + b"\0\0\0\x18ftypmp42" + bytes(range(1, 99))
    map = plain["JPEG"] + _encoded(JPEG) + bytes(range(256)) * 20
    manifest = plain["JPEG"][:2] + b"\xff\xeb\0\x06JUMB" + plain["JPEG"][2:]
    private = png_chunk(b"prVt", b"123")
    paths = b"8BIM" + struct.pack(">HHI", 2000, 0, 4) + b"path"
    segment = b"Photoshop 3.0\0" + paths
    clipped = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    place = plain["AVIF"].index(b"colrnclx") + 8
    wide = plain["AVIF"][:place] + b"\0\x09\0\x10" + plain["AVIF"][place + 4 :]
    for data, words in {
        film: "the film behind it is dropped",
        map: "bytes behind it, as of a gain map, are dropped",
        manifest: "its segment APP11 is dropped",
        plain["JPEG"][:2] + clipped + plain["JPEG"][2:]: "dropped of Photoshop's: paths",
        plain["PNG"][:33] + private + plain["PNG"][33:]: "its chunk prVt is dropped",
        wide: "its colours (primaries 9, transfer 16 of H.273) are taken for those of sRGB",
    }.items():
        (note,) = read(data).notes
        assert words in note
    assert [read(data).notes for data in plain.values()] == [[], [], []]


def test_what_cameras_and_programs_note_for_themselves_is_not_missed():
    jpeg, png = _encoded(JPEG), _encoded(PNG)
    flag = b"8BIM" + struct.pack(">HHI", 0x040A, 0, 1) + b"\0\0"
    segment = b"Photoshop 3.0\0" + flag
    hint = png_chunk(b"iDOT", b"1234")
    for data in (
        jpeg + b"\n",
        jpeg + b"SEFH" + bytes(40) + b"SEFT",
        jpeg[:2] + b"\xff\xec\0\x07Ducky" + jpeg[2:],
        jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:],
        png[:33] + hint + png[33:],
        png + bytes(100_000),
    ):
        assert read(data).notes == []


def test_heic_of_phones_keeps_what_it_holds(tmp_path, srgb):
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 48, 3))
    picture = full_picture("RGB", "uint8", srgb, pixels=smooth)
    found, notes = through_file(picture, HEIF, tmp_path)
    assert notes == ["HEIF cannot hold DPI: dropped"] and not found.notes
    assert np.abs(found.pixels.astype(int) - smooth).max() < 8
    assert (found.icc, found.xmp) == (srgb, picture.xmp)
    assert exif_facts(found.exif) == exif_facts(picture.exif)
    turned = Image.Exif()
    turned[0x0112] = 6
    pillow_heif.register_heif_opener()
    Image.fromarray(smooth).save(tmp_path / "turned.heic", exif=turned.tobytes())
    upright = read(tmp_path / "turned.heic")
    assert upright.pixels.shape == (48, 64, 3)
    assert np.abs(upright.pixels.astype(int) - np.rot90(smooth, 3)).max() < 12
    assert read(through(upright, PNG)).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "L"])
def test_heic_of_more_than_8_bits_is_read_and_written_so(tmp_path, srgb, bits, mode):
    pillow_heif = pytest.importorskip("pillow_heif")
    ramp = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16)[:, None, None]
    pixels = np.tile(ramp, (1, 48, len(mode)))
    if mode[-1] in "Aa":
        pixels[..., 3] = 2 ** (bits - 1)
    if mode[-1] == "a":
        pixels[..., :3] //= 2
    file = pillow_heif.from_bytes(f"{mode};{bits}", (48, 64), pixels.tobytes())
    file.save(tmp_path / "deep.heic", bit_depth=bits, quality=100, icc_profile=srgb)
    picture = read(tmp_path / "deep.heic")
    assert picture.pixels.dtype == np.uint16 and picture.mode == mode.upper() and not picture.notes
    wide = ramp * (65535 / (2**bits - 1))
    assert np.abs(picture.pixels[..., :3] - wide).max() < 257 and (picture.pixels % 257).any()
    again, notes = through_file(picture, HEIF, tmp_path / "out", quality=100)
    assert again.encoding == {"bits": bits} and again.icc == srgb
    assert notes == (["HEIF holds transparency only approximately"] if "A" in picture.mode else [])
    assert np.abs(again.pixels[..., :1] - wide).max() < 514
    found, _ = through_file(picture, PNG, tmp_path / "png")
    np.testing.assert_array_equal(found.pixels, picture.pixels)
    narrow, _ = through_file(picture, HEIF, tmp_path / "out", depth="8")
    assert narrow.pixels.dtype == np.uint8 and not narrow.encoding


def test_16_bits_become_10_in_heic(tmp_path, srgb):
    pytest.importorskip("pillow_heif")
    smooth = np.tile(np.arange(64, dtype=np.uint16)[:, None, None] * 1000, (1, 48, 3))
    picture = full_picture("RGB", "uint16", srgb, pixels=smooth)
    found, notes = through_file(picture, HEIF, tmp_path, quality=95)
    assert notes[0] == "HEIF is written with at most 10 bits: rounded"
    assert found.encoding == {"bits": 10} and np.abs(found.pixels - smooth.astype(int)).max() < 600
    assert (found.icc, found.xmp) == (srgb, picture.xmp)
    assert exif_facts(found.exif) == exif_facts(picture.exif)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_avif_of_more_than_8_bits_is_read_so(tmp_path, bits, channels):
    ramp = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16)[:, None, None]
    pixels = np.tile(ramp, (1, 48, channels))
    data = imagecodecs.avif_encode(pixels.squeeze(), level=100, bitspersample=bits)
    picture = read(data)
    assert picture.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels] and not picture.notes
    wide = np.rint(pixels * (65535 / (2**bits - 1)))
    np.testing.assert_array_equal(picture.pixels, wide)
    _, notes = through_file(picture, AVIF, tmp_path)
    assert notes[0] == "AVIF is written with at most 8 bits: rounded"


def test_of_a_film_of_more_than_8_bits_8_are_read(tmp_path):
    """Or imagecodecs would end the process."""
    frames = np.linspace(0, 1023, 3 * 32 * 32 * 3).astype(np.uint16).reshape(3, 32, 32, 3)
    picture = read(imagecodecs.avif_encode(frames, level=90, bitspersample=10))
    assert picture.pixels.dtype == np.uint8 and picture.pixels.shape == (32, 32, 3)
    assert [note.split()[0] for note in picture.notes] == ["frames", "only"]


def test_no_loss_is_told_where_there_is_none(tmp_path):
    pytest.importorskip("pillow_heif")
    data = imagecodecs.avif_encode(np.zeros((32, 32, 3), np.uint16), bitspersample=10)
    assert not through_file(read(data), HEIF, tmp_path / "heic")[1]
    light = np.linspace(0, 255, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    tifffile.imwrite(tmp_path / "a.tif", light, photometric="rgb")
    picture = read(tmp_path / "a.tif")
    assert not picture.notes and not through_file(picture, PNG, tmp_path / "png", depth="16")[1]


def test_without_its_extra_heic_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ModelError, match=r"HEIC needs more: .* pip install '\.\[heif\]'"):
        read(b"\0\0\0\x18ftypheic" + bytes(99))
    monkeypatch.setattr("denoiser.images.FORMATS", FORMATS[:1])
    with pytest.raises(ModelError, match=r"cannot write a.HEIC: HEIC needs more: .* pip"):
        format_of("a.HEIC")


def through(picture, format):
    data = io.BytesIO()
    write(picture, data, format)
    return data.getvalue()


def test_what_tells_the_brightness_of_hdr_stays_with_it(tmp_path):
    chunks = {b"cICP": b"\x09\x10\0\1", b"cLLI": bytes(8), b"mDCV": bytes(24)}
    for dtype in PNG.depths:
        picture = full_picture("RGB", dtype, None, png_chunks=chunks)
        found, _ = through_file(picture, PNG, tmp_path)
        assert found.png_chunks == chunks and not found.notes


def test_iptc_and_colours_of_a_tiff_are_kept_or_missed(tmp_path):
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC
    tags = [
        (34377, 1, len(resource), resource, True),
        (318, 5, 2, (3457, 10000, 3585, 10000), True),  # of D50
        (319, 5, 6, (64, 100, 33, 100, 30, 100, 60, 100, 15, 100, 6, 100), True),  # of sRGB
    ]
    tifffile.imwrite(tmp_path / "a.tif", random_pixels("RGB", "uint8"), extratags=tags)
    picture = read(tmp_path / "a.tif")
    assert picture.iptc == IPTC
    assert picture.notes == ["the colours of its WhitePoint are dropped"]
    found, _ = through_file(picture, TIFF, tmp_path / "tif")
    assert found.iptc == IPTC and not found.notes


def test_extended_xmp_is_missed(tmp_path):
    packet = XMP.replace(b"tiff:Orientation", b'xmpNote:HasExtendedXMP="AB12" tiff:Orientation')
    namespace = b"http://ns.adobe.com/xmp/extension/\0"
    segment = b"\xff\xe1" + struct.pack(">H", len(namespace) + 42) + namespace + 40 * b"x"
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, xmp=packet, extra=segment)
    picture = read(path)
    for strip in (False, True):
        _, notes = adapt(picture, JPEG, "keep", strip_metadata=strip)
        assert notes == ([] if strip else ["its extended XMP is dropped"])
    assert picture.xmp == packet.replace(b' xmpNote:HasExtendedXMP="AB12"', b"")


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_a_format_is_known_to_hold_so_many_pixels_a_side_and_no_more(format):
    for side in (format.longest_side, 16384, 32769, 65501):
        if side == 2**31 - 1:
            continue
        picture = Picture(np.zeros((32, side, 3), np.uint8), "RGB", "PNG")
        if side > format.longest_side:
            with pytest.raises(OutputError, match=f"{format.longest_side} pixels a side"):
                Job(format=format).format_for(picture, io.BytesIO())
        else:
            data = io.BytesIO()
            write(picture, data, format)
            assert read(data.getvalue()).pixels.shape[:2] == (32, side)


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
    deep = bytes(imagecodecs.png_encode(photo.astype(np.uint16) * 257))
    broken = bytearray(deep)
    broken[len(deep) // 2] ^= 255
    nan = io.BytesIO()
    tifffile.imwrite(nan, np.full((8, 8), np.nan, np.float32))
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT")
    gif, avif = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo[:8, :8]).save(gif, "GIF")
    Image.fromarray(photo).save(avif, "AVIF")
    return {
        "empty.png": b"",
        "text.png": b"Dear reader, this is no picture.\n" * 9,
        "truncated.png": png.getvalue()[: len(png.getvalue()) // 2],
        "truncated.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "truncated.avif": avif.getvalue()[: len(avif.getvalue()) // 2],
        "truncated16.png": deep[: len(deep) // 2],
        "broken16.png": bytes(broken),
        "header.png": png.getvalue()[:20],
        "nan.tif": nan.getvalue(),
        "bomb.png": bomb,
        "some.gif": gif.getvalue(),
        "header.tif": b"II*\0\x08\0\0\0",
    }


def test_an_error_that_only_names_a_key_is_no_explanation(monkeypatch):
    for error, line in (
        (KeyError(0), "a.png is damaged"),
        (ValueError("no end"), "damaged: no end"),
    ):

        def fail(data, error=error):
            raise error

        monkeypatch.setattr(codecs, "decode", fail)
        with pytest.raises(InputError, match=f"{line}$"):
            read(b"damaged", "a.png")


def test_damaged_files_are_refused_by_name_in_one_line(photo, tmp_path, capfd):
    for name, data in damaged_files(photo).items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            read(path)
        assert name in str(error.value) and "\n" not in str(error.value)
        assert "damaged" in str(error.value) or not name.startswith("truncated")
    assert capfd.readouterr() == ("", "")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_bytes(b"before")
    for error in (OSError(28, "full"), ValueError("odd")):
        monkeypatch.setattr(codecs, "encode", lambda *_, e=error: (_ for _ in ()).throw(e))
        with pytest.raises(OutputError, match=r"a\.png"):
            write(Picture(random_pixels("L", "uint8"), "L", "PNG"), target, PNG, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"before"


def test_unknown_suffix_is_refused():
    assert format_of("A.JPEG") is JPEG
    with pytest.raises(ArgumentError, match=r"\.gif"):
        format_of("a.gif")


def test_only_files_are_replaced_and_only_when_asked(tmp_path):
    picture = Picture(random_pixels("L", "uint8"), "L", "PNG")
    target, link, pipe = tmp_path / "a.png", tmp_path / "link.png", tmp_path / "pipe.png"
    write(picture, target, PNG)
    with pytest.raises(OutputError, match="exists"):
        write(picture, target, PNG)
    link.symlink_to(target)
    target.write_bytes(b"")
    write(picture, link, PNG, overwrite=True)
    assert link.is_symlink() and target.stat().st_size > 0
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="not an ordinary file"):
        write(picture, pipe, PNG, overwrite=True)
    assert pipe.is_fifo()


@pytest.mark.parametrize("quality", [90, 100])
def test_pure_noise_fits_into_a_jpeg(quality, tmp_path, rng, capfd):
    pixels = rng.integers(0, 256, (512, 512, 3), np.uint8)
    picture = Picture(
        pixels, "RGB", "PNG", exif=exif_block() + bytes(40_000), xmp=XMP + b" " * 60_000
    )
    through_file(picture, JPEG, tmp_path, quality=quality)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "longest"), JPEG.longest.items())
def test_too_much_metadata_for_a_format_is_dropped_with_a_line(name, longest, tmp_path):
    plain = {"exif": exif_block(), "xmp": XMP.replace(b"6", b"1"), "iptc": IPTC, "comment": b"so"}
    fits = plain[name].ljust(longest, b" ")
    picture = Picture(random_pixels("RGB", "uint8"), "RGB", "PNG", **{name: fits})
    found, notes = through_file(picture, JPEG, tmp_path)
    assert notes == [] and getattr(found, name).startswith(plain[name])
    found, notes = through_file(dataclasses.replace(picture, **{name: fits + b" "}), JPEG, tmp_path)
    assert getattr(found, name) is None and "of more than 64 KB: dropped" in notes[0]


def test_too_wide_a_picture_for_a_format_is_refused(tmp_path):
    wide = Picture(np.zeros((1, 20_000, 3), np.uint8), "RGB", "PNG")
    with pytest.raises(OutputError, match="WEBP"):
        write(wide, tmp_path / "wide.webp", WEBP)
    assert not (tmp_path / "wide.webp").exists()


def test_text_of_any_encoding_survives_in_exif(tmp_path):
    block = Image.Exif()
    block[0x010F] = "Acme"
    plain = block.tobytes().removeprefix(b"Exif\0\0")
    odd = plain.replace(b"Acme", "Müe".encode())
    for name in ("a.tif", "b.jpg", "c.tif", "d.png", "e.webp", "f.tif"):
        path = tmp_path / name
        write(Picture(random_pixels("RGB", "uint8"), "RGB", "PNG", exif=odd), path, format_of(path))
        odd = read(path).exif
        assert "Müe".encode() in odd


def test_gps_alone_and_unknown_tags_survive_a_tiff(tmp_path):
    block = Image.Exif()
    block[0x9C9B] = b"t\0i\0"  # XPTitle
    block.get_ifd(0x8825)[1] = "S"
    picture = Picture(random_pixels("L", "uint16"), "L", "PNG", exif=block.tobytes()[6:])
    found, _ = through_file(picture, TIFF, tmp_path)
    back = Image.Exif()
    back.load(found.exif)
    assert back.get_ifd(0x8825)[1] == "S" and 0x9C9B in back


def test_damaged_exif_is_dropped_with_a_line(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path, exif=b"Exif\0\0not a header at all")
    picture = read(path)
    assert picture.exif is None and "EXIF" in picture.notes[0]


def test_prefixed_exif_block_is_understood(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (8, 4)).save(path, exif=b"Exif\0\0" * 3 + exif_block(6))
    assert read(path).pixels.shape == (8, 4, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bigtiff_and_odd_tags_are_read(dtype, tmp_path):
    path = tmp_path / "a.tif"
    pixels = random_pixels("RGB", dtype)
    for order in "<>":
        tifffile.imwrite(path, pixels, bigtiff=True, byteorder=order, photometric="rgb")
        np.testing.assert_array_equal(read(path).pixels, pixels)
    odd = [(282, "d", 1, 72.5, True), (283, "H", 1, 72, True), (296, "H", 2, (2, 2), True)]
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=None, extratags=odd)
    np.testing.assert_array_equal(read(path).pixels, pixels)
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=None)
    assert read(path).dpi is None


def test_tiff_of_12_bits_uses_the_full_range(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.array([[0, 4095, 819]], np.uint16), bitspersample=12)
    assert read(path).pixels[..., 0].tolist() == [[0, 65535, 13107]]


def test_premultiplied_alpha_is_divided_out(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.full((4, 4, 4), (100, 50, 25, 128), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["assocalpha"])
    picture = read(path)
    assert picture.pixels[0, 0].tolist() == [199, 100, 50, 128]
    assert picture.notes == ["its premultiplied alpha becomes straight alpha"]
    light = np.full((4, 4, 4), (0.25, 0.25, 0.25, 0.5), np.float32)
    light[0, 0] = (1e-4, 0, 0.3, 0)  # glows, and what rounding leaves
    tifffile.imwrite(path, light, photometric="rgb", extrasamples=["assocalpha"])
    picture = read(path)
    assert picture.white == 1 and picture.pixels[1, 1].tolist() == [0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("bits", [16, 64])
def test_floating_point_of_other_sizes_becomes_32_bits_and_that_is_said(tmp_path, bits):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), 0.5, f"f{bits // 8}"))
    picture = read(tmp_path / "a.tif")
    assert picture.pixels.dtype == np.float32 and (picture.pixels == 0.5).all()
    assert picture.notes == [f"its floating point of {bits} bits becomes 32"]


def test_float_beyond_one_keeps_its_brightness(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.linspace(0, 1000, 64, dtype=np.float32).reshape(8, 8, 1)
    write(Picture(pixels, "L", "TIFF"), path, TIFF)
    found, notes = through_file(read(path), PNG, tmp_path / "png")
    np.testing.assert_allclose(found.pixels / 65.535, pixels, atol=0.1)
    assert "white is 1000" in notes[0]


def test_white_of_colours_and_of_alpha_are_apart(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.linspace(0, 1000, 256, dtype=np.float32).reshape(8, 8, 4)
    pixels[..., 3], pixels[7, 7, :3], opaque = 0.5, 1000, 1
    pixels[0, 0, 3] = opaque
    write(Picture(pixels, "RGBA", "TIFF"), path, TIFF)
    found, _ = through_file(read(path), PNG, tmp_path / "png")
    np.testing.assert_allclose(found.pixels[..., :3] / 65.535, pixels[..., :3], atol=0.1)
    np.testing.assert_allclose(found.pixels[..., 3] / 65535, pixels[..., 3], atol=1e-4)
    flat, _ = through_file(read(path), JPEG, tmp_path / "jpg")
    assert flat.pixels[0, 0].max() < 5 and 120 < flat.pixels[0, 2].mean() < 135  # half white


def test_ink_of_any_range_in_floating_point_is_restored_alike(tmp_path):
    path = tmp_path / "a.tif"
    ink = np.linspace(0, 1, 256, dtype=np.float32).reshape(8, 8, 4)
    tifffile.imwrite(path, ink * 255, photometric="separated")
    picture = read(path)
    np.testing.assert_allclose(picture.pixels, ink, atol=1e-6)
    assert picture.notes == ["its ink of 0 to 255 becomes 0 to 1"]


def test_metadata_behind_the_pixels_of_a_png_is_found(tmp_path):
    for dtype in ("uint8", "uint16"):
        path = tmp_path / "a.png"
        write(Picture(random_pixels("RGB", dtype), "RGB", "PNG"), path, PNG, overwrite=True)
        data, end = path.read_bytes(), b"\0\0\0\0IEND\xaeB`\x82"
        text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)
        chunks = png_chunk(b"eXIf", exif_block()) + png_chunk(b"iTXt", text)
        path.write_bytes(data.removesuffix(end) + chunks + end)
        picture = read(path)
        assert picture.xmp == XMP and exif_facts(picture.exif) == exif_facts(exif_block())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_colour_keys_of_few_bits_become_alpha(bits):
    shades = np.arange(2**bits, dtype=np.uint8).repeat(8)
    row = np.packbits(np.unpackbits(shades[:, None], 1)[:, 8 - bits :])
    data = b"\x89PNG\r\n\x1a\n"
    data += png_chunk(b"IHDR", struct.pack(">IIBBBBB", len(shades), 1, bits, 0, 0, 0, 0))
    data += png_chunk(b"tRNS", struct.pack(">H", 1))
    data += png_chunk(b"IDAT", zlib.compress(b"\0" + row.tobytes())) + png_chunk(b"IEND")
    picture = read(data)
    assert picture.mode == "LA"
    np.testing.assert_array_equal(picture.pixels[0, :, 0], shades * (255 // (2**bits - 1)))
    np.testing.assert_array_equal(picture.pixels[0, :, 1] == 0, shades == 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_of_few_bits_uses_the_full_range(bits, tmp_path):
    shades = np.arange(2**bits, dtype=np.uint8)[None].repeat(8, 0)
    pixels = shades.astype(bool) if bits == 1 else shades
    tifffile.imwrite(tmp_path / "a.tif", pixels, bitspersample=bits, photometric="minisblack")
    found = read(tmp_path / "a.tif").pixels[..., 0]
    np.testing.assert_array_equal(found, shades * (255 // (2**bits - 1)))


def test_a_channel_that_may_be_alpha_stays_what_it_is(tmp_path):
    pixels = random_pixels("RGBA", "uint8")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    picture = read(tmp_path / "a.tif")
    _, notes = through_file(picture, TIFF, tmp_path / "b")
    assert notes == []
    with tifffile.TiffFile(tmp_path / "b" / "a.tif") as file:
        assert file.pages.first.extrasamples == (0,)
        np.testing.assert_array_equal(file.asarray(), pixels)
    for format in (PNG, JPEG):
        _, notes = through_file(picture, format, tmp_path / format.name)
        assert "its extra channel, of unknown meaning, is taken for transparency" in notes


def test_alpha_of_a_bmp_that_hides_everything_is_none():
    pixels = random_pixels("RGBA", "uint8")
    height, width = pixels.shape[:2]
    masks = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    header = struct.pack("<IiiHH6I4I52x", 108, width, -height, 1, 32, 3, 0, 0, 0, 0, 0, *masks)
    for alpha in (0, 9):
        pixels[..., 3] = 0
        pixels[3, 4, 3] = alpha
        found = read(b"BM" + struct.pack("<IHHI", 0, 0, 0, 122) + header + pixels.tobytes())
        assert found.mode == ("RGBA" if alpha else "RGB")
        np.testing.assert_array_equal(found.pixels[..., :3], pixels[..., :3])


@pytest.mark.parametrize("format", [PNG, WEBP, AVIF])
def test_resolution_in_exif_alone_is_kept(format, tmp_path):
    block = Image.Exif()
    block[0x011A], block[0x011B], block[0x0128] = 100.0, 50.0, 3  # per centimetre
    picture = Picture(
        random_pixels("RGB", "uint8"), "RGB", "PNG", exif=block.tobytes().removeprefix(b"Exif\0\0")
    )
    found, _ = through_file(picture, format, tmp_path)
    assert found.dpi == pytest.approx((254, 127), rel=1e-3)
    found, _ = through_file(found, TIFF, tmp_path / "b")
    assert found.dpi == pytest.approx((254, 127), rel=1e-3)
    _, notes = through_file(found, format, tmp_path / "c")
    assert bool(notes) == (format is not PNG)  # TIFF has it in tags of its own


@pytest.mark.parametrize(
    ("dpi", "fits"), [(70000, False), (0.3, False), (65535, True), (0.6, True)]
)
def test_resolution_that_a_jpeg_cannot_hold_is_named(dpi, fits, tmp_path):
    picture = Picture(random_pixels("RGB", "uint8"), "RGB", "TIFF", dpi=(dpi, dpi))
    found, notes = through_file(picture, JPEG, tmp_path)
    assert notes == ([] if fits else ["JPEG cannot hold DPI: dropped"])
    assert found.dpi == ((round(dpi), round(dpi)) if fits else None)


def test_exif_comes_out_of_avif_as_it_went_in(tmp_path):
    """Text that is not ASCII, and rationals that could be reduced."""
    entries = [
        ifd.Entry(0x010F, 2, 5, b"Acme\0"),
        ifd.Entry(ifd.ORIENTATION, 3, 1, b"\1\0"),
        ifd.Entry(0x013B, 2, 6, "Jürg".encode() + b"\0"),
    ]
    details = [
        ifd.Entry(0x829A, 5, 1, struct.pack("<II", 10, 3000)),
        ifd.Entry(0x927C, 7, 8, b"\0maker\0\0"),
    ]
    written = exif.Block("<", entries, {ifd.EXIF_DIRECTORY: details})
    block = b"II*\0" + struct.pack("<I", 8) + exif.append(written, entries, 8)
    picture = Picture(random_pixels("RGB", "uint8"), "RGB", "JPEG", exif=block)
    found, _ = through_file(picture, AVIF, tmp_path)
    kept = [entry for entry in entries if entry.tag != ifd.ORIENTATION]
    assert exif.parse(found.exif) == exif.Block("<", kept, written.directories)
    assert exif.without(block, 0x9999) == block


def test_colour_keys_become_alpha_at_16_bits_and_at_one(tmp_path):
    data = io.BytesIO()
    Image.new("1", (4, 4)).save(data, "PNG", transparency=0)
    assert read(data.getvalue()).mode == "LA"
    deep = bytearray(imagecodecs.png_encode(np.arange(16, dtype=np.uint16).reshape(4, 4)))
    deep[33:33] = png_chunk(b"tRNS", struct.pack(">H", 3))
    picture = read(bytes(deep))
    assert picture.mode == "LA" and (picture.pixels[..., 1] == 0).sum() == 1


def test_lossless_webp_stays_lossless(tmp_path, srgb):
    picture = full_picture("RGB", "uint8", srgb, dpi=None)
    path = tmp_path / "in.webp"
    image = Image.fromarray(picture.pixels)
    image.save(path, lossless=True, icc_profile=srgb)
    found, _ = through_file(read(path), WEBP, tmp_path / "out")
    np.testing.assert_array_equal(found.pixels, picture.pixels)


@pytest.mark.skipif(os.name == "nt", reason="needs limits of a process")
@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_a_disk_that_takes_a_part_only_gets_nothing(format, tmp_path):
    import resource

    path = tmp_path / f"a{format.suffixes[0]}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OutputError):
            write(Picture(random_pixels("RGB", "uint8", 128, 128), "RGB", "PNG"), path, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def tiff_of(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def test_pages_in_a_circle_end():
    data = bytearray(tiff_of(random_pixels("RGB", "uint8")))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    np.testing.assert_array_equal(read(bytes(data)).pixels, random_pixels("RGB", "uint8"))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_a_tiff_without_its_end_says_what_is_lost_or_is_damaged(compression, srgb):
    pixels = random_pixels("RGB", "uint8")
    whole = tiff_of(pixels, compression=compression, icc_profile=srgb)
    picture = read(whole[:-9])
    assert not picture.icc and "34675" in picture.notes[0]
    np.testing.assert_array_equal(picture.pixels, pixels)
    with pytest.raises(InputError, match="cut short"):  # bits per channel stand last
        read(tiff_of(pixels, compression=compression)[:-3])


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tag", ["StripOffsets", "StripByteCounts"])
def test_a_tiff_with_a_hole_says_so(tag, compression):
    buffer = io.BytesIO()
    pixels = random_pixels("RGB", "uint8", height=64)
    tifffile.imwrite(buffer, pixels, rowsperstrip=16, compression=compression)
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        found = file.pages[0].tags[tag]
    form = {3: "<H", 4: "<I"}[int(found.dtype)]
    data = bytearray(buffer.getvalue())
    struct.pack_into(form, data, found.valueoffset + struct.calcsize(form), 0)
    picture = read(bytes(data))
    assert picture.notes == ["parts of it are not in the file: they are left empty"]
    np.testing.assert_array_equal(picture.pixels[32:], pixels[32:])


def test_a_palette_of_a_wrong_length_is_damage():
    image = Image.fromarray(random_pixels("L", "uint8")[..., 0]).convert("P")
    image.save(buffer := io.BytesIO(), "TIFF")
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset = file.pages[0].tags["ColorMap"].offset
    struct.pack_into("<I", data, offset + 4, 767)
    with pytest.raises(InputError, match="palette"):
        read(bytes(data))


def test_a_picture_without_pixels_is_refused():
    data = bytearray(tiff_of(random_pixels("RGB", "uint8")))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags["ImageLength"]
    struct.pack_into("<I" if int(tag.dtype) == 4 else "<H", data, tag.valueoffset, 0)
    with pytest.raises(InputError, match="no pixels"):
        read(bytes(data))


def test_a_profile_of_any_size_is_read_back(srgb, tmp_path):
    large = struct.pack(">I", 1_500_000) + srgb[4:] + bytes(1_500_000 - len(srgb))
    picture = Picture(random_pixels("RGB", "uint8"), "RGB", "PNG", icc=large)
    found, notes = through_file(picture, PNG, tmp_path)
    assert found.icc == large and notes == found.notes == []


def damaged_profiles(srgb):
    image = Image.fromarray(random_pixels("RGB", "uint8"))
    image.save(buffer := io.BytesIO(), "PNG", icc_profile=srgb)
    place = (png := bytearray(buffer.getvalue())).index(b"iCCP")
    png[place + 20] ^= 255
    image.save(buffer := io.BytesIO(), "JPEG", icc_profile=srgb + bytes(70_000))
    place = (jpg := buffer.getvalue()).index(b"ICC_PROFILE")  # of two segments
    (length,) = struct.unpack_from(">H", jpg, place - 2)
    image.save(buffer := io.BytesIO(), "WEBP", icc_profile=srgb[:300])
    return bytes(png), jpg[: place - 4] + jpg[place - 2 + length :], buffer.getvalue()


@pytest.mark.parametrize("index", range(3))
def test_a_damaged_profile_is_dropped_with_a_line(index, srgb):
    picture = read(damaged_profiles(srgb)[index])
    assert not picture.icc and picture.notes == ["its ICC profile is damaged: dropped"]


@pytest.mark.parametrize("kind", [b"DEBM", b"KNIL"])
def test_the_profile_of_a_bmp_is_read(kind, srgb):
    Image.fromarray(random_pixels("RGB", "uint8")).save(buffer := io.BytesIO(), "BMP")
    plain = buffer.getvalue()
    header = struct.pack("<I", 124) + plain[18:54] + bytes(16) + kind + bytes(48)
    header += struct.pack("<IIII", 4, 124 + len(plain) - 54, len(srgb), 0)
    data = plain[:10] + struct.pack("<I", 138) + header + plain[54:] + srgb
    picture = read(data)
    np.testing.assert_array_equal(picture.pixels, random_pixels("RGB", "uint8"))
    assert (picture.icc == srgb) if kind == b"DEBM" else "another file" in picture.notes[0]


@pytest.mark.parametrize("share", [0.8, 0.99])
def test_a_png_whose_end_is_zeros_is_damaged(share, tmp_path):
    Image.fromarray(random_pixels("RGB", "uint8", 90, 90)).save(buffer := io.BytesIO(), "PNG")
    data = buffer.getvalue()
    kept = int(share * len(data))
    with pytest.raises(InputError, match="damaged"):
        read(data[:kept] + bytes(len(data) - kept))


def odd_exif(entries, pointed=b""):
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return block + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4) + pointed


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("block", "keeps"),
    [
        (odd_exif([(0x0112, 3, 1, 6), (0x8825, 4, 1, 0)]), True),
        (odd_exif([(0x0112, 3, 1, 6), (0x8769, 4, 1, 999)]), True),
        (odd_exif([(0x0112, 3, 1, 6), (0x011A, 2, 1, 0), (0x0128, 3, 1, 2)]), True),
        (odd_exif([(0x0112, 3, 1, 6), (0x0131, 3, 1, 7)]).replace(b"\2\0", b"\x09\0", 1), False),
    ],
)
def test_a_picture_is_turned_whatever_else_its_exif_says(block, keeps):
    image = Image.fromarray(random_pixels("RGB", "uint8"))
    image.save(buffer := io.BytesIO(), "JPEG")
    plain = buffer.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    picture = read(plain[:2] + segment + plain[plain.index(b"\xff\xdb") :])  # without JFIF
    assert picture.pixels.shape == (17, 13, 3)
    assert (len(picture.exif) == len(block)) == keeps
    assert keeps or picture.notes == ["its EXIF is damaged: dropped"]


@pytest.mark.parametrize(
    "stated", [b"tiff:Orientation='6'", b'tiff:Orientation = "6"', b"<tiff:Orientation>\n 6\n<"]
)
def test_any_writing_of_the_orientation_in_xmp_is_reset(stated, tmp_path):
    block, path = b"Exif\0\0" + exif_block(6), tmp_path / "a.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=block, xmp=b"<x " + stated)
    assert read(path).xmp == b"<x " + stated.replace(b"6", b"1")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_the_shape_of_oblong_pixels_is_dropped_with_a_line(format):
    image = Image.fromarray(random_pixels("RGB", "uint8"))
    options = {"resolution_unit": 1, "x_resolution": 72, "y_resolution": 36}
    image.save(buffer := io.BytesIO(), format, **(options if format == "TIFF" else {}))
    data = buffer.getvalue()
    if format == "PNG":
        data = data[:33] + png_chunk(b"pHYs", struct.pack(">IIB", 2, 1, 0)) + data[33:]
    elif format == "JPEG":
        place = data.index(b"JFIF\0") + 7
        data = data[:place] + struct.pack(">BHH", 0, 2, 1) + data[place + 5 :]
    assert read(data).notes == ["its pixels are not square: that is dropped"]


def test_a_header_that_is_known_is_not_called_unknown():
    for header in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF....WEBP"):
        with pytest.raises(InputError, match="damaged, or of a rare kind"):
            read(header + bytes(40))


def test_a_lossless_animation_stays_lossless():
    frames = [Image.fromarray(random_pixels("RGB", "uint8", seed=seed)) for seed in (0, 1)]
    options = {"save_all": True, "append_images": frames[1:]}
    frames[0].save(buffer := io.BytesIO(), "WEBP", lossless=True, **options)
    assert read(buffer.getvalue()).encoding == {"lossless": True}


def test_a_strip_whose_length_is_not_told_is_read():
    data = bytearray(tiff_of(random_pixels("RGB", "uint8")))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags["StripByteCounts"]
    struct.pack_into({3: "<H", 4: "<I"}[int(tag.dtype)], data, tag.valueoffset, 0)
    picture = read(bytes(data))
    np.testing.assert_array_equal(picture.pixels, random_pixels("RGB", "uint8"))
    assert picture.notes == []


def test_a_profile_that_is_nearly_as_it_should_be_is_kept(srgb):
    Image.new("RGB", (8, 4)).save(buffer := io.BytesIO(), "PNG")
    png, longer = buffer.getvalue(), struct.pack(">I", len(srgb) + 2) + srgb[4:]
    packed = b"ICC\0\0" + zlib.compress(longer)[:-4]  # without its checksum
    picture = read(png[:33] + png_chunk(b"iCCP", packed) + png[33:])
    assert picture.icc == longer and picture.notes == []


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"gAMA", b"ab"),
        png_chunk(b"gAMA", struct.pack(">I", 45455))[:-1] + b"!",
        png_chunk(b"eXIf", exif_block())[:-1] + b"!",
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x>")[:-1] + b"!",
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
    ],
)
def test_damaged_chunks_of_a_png_are_dropped_with_a_line(chunk, tmp_path):
    Image.new("RGB", (8, 4)).save(buffer := io.BytesIO(), "PNG")
    data = buffer.getvalue()
    picture = read(data[:33] + chunk + data[33:])
    assert not (picture.png_chunks or picture.exif or picture.xmp)
    assert len(picture.notes) == 1 and picture.notes[0].endswith("damaged: dropped")


def test_a_tiff_with_a_broken_part_of_exif_says_so(srgb, tmp_path):
    path = tmp_path / "a.tif"
    write(full_picture("RGB", "uint8", srgb), path, TIFF)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[0x8769]
    struct.pack_into(">I", data, tag.offset + 8, len(data) + 9)
    picture = read(bytes(data))
    assert picture.notes == ["a part of its EXIF is damaged"] and b"Acme" in picture.exif
