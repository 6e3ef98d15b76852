import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import filling_onnx, tiny_onnx
from PIL import Image

from denoiser import job, masks
from denoiser.engine import Model
from denoiser.images import Picture
from denoiser.inpaint_cli import parse_kinds


@pytest.fixture
def run_inpaint(run_denoise, tmp_path: Path) -> Callable:
    """Run `inpaint` with a model that fills with a quarter of white."""
    path = tmp_path / "quarter.onnx"
    path.write_bytes(filling_onnx(0.25))
    return functools.partial(
        run_denoise, "-m", path, "--device", "cpu", "--grain", "0", command="inpaint"
    )


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A white box of 20 x 10 pixels on black, 64 x 48."""
    path = tmp_path / "mask.png"
    picture = Image.new("L", (64, 48))
    picture.paste(255, (10, 20, 30, 30))
    picture.save(path)
    return path


BOX = (slice(20, 30), slice(10, 30))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_only_the_hole_changes(run_inpaint, mask, tmp_path, rng, dtype, channels):
    pixels = rng.integers(0, np.iinfo(dtype).max, (48, 64, channels), dtype)
    cv2.imwrite(str(tmp_path / "in.png"), pixels)
    result = run_inpaint(tmp_path / "in.png", mask, tmp_path / "out.png")
    assert result.code == 0, result.err
    found = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED).reshape(pixels.shape)
    assert found.dtype == dtype
    wanted = pixels.copy()
    wanted[(*BOX, slice(3))] = np.rint(np.iinfo(dtype).max / 4)
    np.testing.assert_array_equal(found, wanted)  # alpha too


def test_what_is_transparent_is_filled_and_seen(run_inpaint, tmp_path):
    pixels = np.full((48, 64, 4), 255, np.uint8)
    pixels[(*BOX, 3)] = 0
    Image.fromarray(pixels).save(tmp_path / "in.png")
    result = run_inpaint("--mask", "alpha", tmp_path / "in.png", tmp_path / "out.png")
    assert result.code == 0, result.err
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert (found[..., 3] == 255).all() and (found[BOX][..., :3] == 64).all()
    found = found.copy()
    found[BOX] = 255
    assert (found == 255).all()


def test_what_was_filled_and_is_not_seen_is_told(run_inpaint, mask, tmp_path):
    pixels = np.full((48, 64, 4), 255, np.uint8)
    pixels[20:25, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "in.png")
    result = run_inpaint(tmp_path / "in.png", mask, tmp_path / "out.png")
    assert result.code == 0
    assert "some of what was filled is fully transparent and stays so" in result.err


def test_options_shape_the_mask(run_inpaint, mask, tmp_path):
    Image.new("RGB", (64, 48), "white").save(tmp_path / "in.png")

    def filled(*options: object, by: Path = mask) -> np.ndarray:
        run_inpaint(*options, "--overwrite", tmp_path / "in.png", by, tmp_path / "out.png")
        return np.asarray(Image.open(tmp_path / "out.png"))[..., 0]

    assert (filled() == 64).sum() == 200
    assert (filled("--invert-mask") == 64).sum() == 64 * 48 - 200
    assert 200 < (filled("--dilate", 3) == 64).sum() <= 26 * 16
    feathered = filled("--feather", 3)
    assert (feathered < 255).sum() == 200 and feathered[20, 20] > feathered[25, 20] == 64
    grey = tmp_path / "grey.png"
    Image.open(mask).point(lambda value: value // 3).save(grey)
    assert (filled(by=grey) == 255).all()
    soft = filled("--soft", by=grey)
    assert (soft < 255).sum() == 200 and soft[25, 20] == 191


def test_an_empty_mask_copies_with_a_note(run_inpaint, tmp_path, rng):
    pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    Image.new("L", (64, 48)).save(tmp_path / "black.png")
    result = run_inpaint("--json", tmp_path / "in.png", tmp_path / "black.png", tmp_path / "o.png")
    assert result.code == 0 and "the mask is empty" in result.err
    assert json.loads(result.out)["filled_px"] == 0 and "0.00% filled" in result.err
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), pixels)


@pytest.mark.parametrize(
    ("size", "colour", "options", "code", "words"),
    [
        ((60, 48), "black", [], 2, "mask.png is 60x48, the picture 64x48"),
        ((48, 64), "black", [], 2, "turn the mask as well"),
        ((64, 48), "white", [], 1, "covers the whole image"),
        ((64, 48), "black", ["--mask", "alpha"], 1, "give IN OUT"),
        ((64, 48), "black", ["--grain", "2"], 1, "not in 0-1"),
    ],
)
def test_errors_are_one_line(run_inpaint, tmp_path, size, colour, options, code, words):
    Image.new("RGB", (64, 48)).save(tmp_path / "in.png")
    Image.new("L", size, colour).save(tmp_path / "mask.png")
    result = run_inpaint(*options, tmp_path / "in.png", tmp_path / "mask.png", tmp_path / "o.png")
    assert result.code == code and words in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_models_for_another_task_are_refused(run_denoise, tmp_path, mask, identity_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "in.png")
    model = tmp_path / "quarter.onnx"
    model.write_bytes(filling_onnx())
    result = run_denoise("-m", model, tmp_path / "in.png", tmp_path / "out.png")
    assert result.code == 3 and "is a model to inpaint" in result.err
    files = tmp_path / "in.png", mask, tmp_path / "out.png"
    result = run_denoise("-m", identity_path, *files, command="inpaint")
    assert result.code == 3 and "is a model to denoise" in result.err


def test_masks_are_cut_at_half_or_kept_soft():
    grey = np.array([[0, 0.4, 0.5, 1]], np.float32)
    np.testing.assert_array_equal(masks.hole_of(grey), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(masks.hole_of(grey, invert=True), [[1, 1, 1, 0]])
    np.testing.assert_array_equal(masks.hole_of(grey, soft=True), grey)


@pytest.mark.parametrize("grown_px", [3, 10, 45])
def test_a_soft_mask_grows_as_a_disc(grown_px):
    dot = np.zeros((101, 101), np.float32)
    dot[50, 50] = 0.5
    grown = masks.hole_of(dot, soft=True, dilate_px=grown_px)
    away = np.hypot(*(np.indices(dot.shape) - 50))
    assert (grown[away <= 0.97 * grown_px] == 0.5).all()  # of many discs it becomes a polygon
    assert not grown[away > 1.05 * grown_px + 0.5].any()


@pytest.mark.parametrize("masks_are", ["one", "many"])
def test_a_folder_with_masks(run_inpaint, mask, tmp_path, masks_are):
    for name in ("a.png", "sub/b.png", "c.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "white").save(path)
    folder = tmp_path / "masks"
    for name in ("a.tif", "sub/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(mask).save(folder / name, quality=100)
    where = mask if masks_are == "one" else folder
    command = ("-r", "--json", tmp_path / "in", where, tmp_path / "out")

    def states() -> dict[str, str]:
        lines = run_inpaint(*command).out.splitlines()
        return {line["input"]: line["state"] for line in map(json.loads, lines)}

    c_state = "done" if masks_are == "one" else "failed"
    assert states() == {"a.png": "done", "c.png": c_state, "sub/b.png": "done"}
    found = np.asarray(Image.open(tmp_path / "out" / "sub" / "b.png"))
    assert (found[BOX] == 64).all() and (found == 255).sum() == 3 * (64 * 48 - 200)
    if masks_are == "one":
        assert set(states().values()) == {"skipped"}
        return
    result = run_inpaint(*command)
    assert result.code == 4 and "failed: c.png: no mask for c.png in " in result.err
    Image.new("L", (64, 48), 255).save(folder / "c.png")
    Image.new("L", (64, 48)).save(folder / "a.tif")  # another mask, another result
    assert states() == {"a.png": "done", "c.png": "failed", "sub/b.png": "skipped"}
    assert (np.asarray(Image.open(tmp_path / "out" / "a.png")) == 255).all()


def test_a_mask_is_found_however_its_suffix_is_spelt(run_inpaint, mask, tmp_path):
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (64, 48), "white").save(tmp_path / "in" / "a.png")
    (tmp_path / "masks" / "a.Png").write_bytes(mask.read_bytes())
    command = (tmp_path / "in", tmp_path / "masks", tmp_path / "out")
    result = run_inpaint(*command)
    assert result.code == 0, result.err
    (tmp_path / "masks" / "a.tif").write_bytes(mask.read_bytes())
    result = run_inpaint(*command)
    assert result.code == 4 and "several masks for a.png" in result.err


def test_masks_inside_the_pictures_are_refused(run_inpaint, mask, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    out = tmp_path.parent / "out"
    for options in ([], ["-r"]):
        for where in (mask, tmp_path):
            result = run_inpaint(*options, tmp_path, where, out)
            assert result.code == 1 and "MASK and IN lie within each other" in result.err
    result = run_inpaint(tmp_path / "a.png", mask, mask, "--overwrite")
    assert result.code == 1 and "the mask is never overwritten" in result.err
    result = run_inpaint("--save-mask", mask, tmp_path / "a.png", mask, tmp_path / "b.png")
    assert result.code == 1 and "--save-mask and MASK lie within each other" in result.err
    for missing in ("", tmp_path / "none.png"):
        result = run_inpaint(tmp_path, missing, out)
        assert result.code == 2 and "no such mask" in result.err
    result = run_inpaint(tmp_path / "a.png", tmp_path / ("n" * 300), tmp_path / "b.png")
    assert result.code == 2 and "cannot read" in result.err
    result = run_inpaint("--mask", "alpha", "--feather", 2, tmp_path, out)
    assert result.code == 1 and "not with --mask alpha" in result.err
    result = run_inpaint("-r", tmp_path / "a.png", mask, tmp_path / "b.png")
    assert result.code == 1 and "--recursive: IN is not a folder" in result.err


def test_a_single_picture_may_lie_beside_its_mask(run_inpaint, mask, tmp_path, monkeypatch):
    (tmp_path / "scans").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "scans" / "a.png")
    for out in (tmp_path, "."):
        monkeypatch.chdir(tmp_path)
        assert run_inpaint("--overwrite", "scans/a.png", mask, out).code == 0
        assert (tmp_path / "a.png").exists()
    Image.new("RGB", (64, 48)).save(tmp_path / "scans" / "mask.png")
    result = run_inpaint("--overwrite", "scans/mask.png", mask, ".")
    assert result.code == 1 and "the mask is never overwritten" in result.err
    (tmp_path / "masks").mkdir()
    for name in ("masks/a.png", "masks/mask.png"):
        (tmp_path / name).write_bytes(mask.read_bytes())
    for options, out, what in (
        ([], "masks/a.png", "MASK and OUT"),
        ([], "masks", "MASK and OUT"),
        (["--save-mask", "masks/a.png"], "b.png", "--save-mask and MASK"),
    ):
        result = run_inpaint("--overwrite", *options, "scans/a.png", "masks", out)
        assert result.code == 1 and f"{what} lie within each other" in result.err
    assert run_inpaint("scans/a.png", "masks", "b.png").code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_mask_may_come_through_a_pipe(run_inpaint, mask, tmp_path):
    Image.new("RGB", (64, 48), "white").save(tmp_path / "a.png")
    pipe, white = tmp_path / "pipe", mask.read_bytes()
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=[white], daemon=True).start()
    result = run_inpaint(tmp_path / "a.png", pipe, tmp_path / "b.png")
    assert result.code == 0, result.err
    assert (np.asarray(Image.open(tmp_path / "b.png"))[BOX] == 64).all()
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "a.png")
    result = run_inpaint(tmp_path / "in", pipe, tmp_path / "out")
    assert result.code == 1 and "MASK must be a file or a folder" in result.err


@pytest.fixture
def red_is_a_scratch(monkeypatch) -> None:
    """Let the released detector take red for scratches and green for dust."""
    onnx = tiny_onnx(task="detect", inputs=("image",), outputs=("cover",))
    monkeypatch.setattr(job, "_finder", lambda *_: Model(onnx, device="cpu"))


def test_defects_are_found_filled_and_their_mask_is_written(
    run_inpaint, red_is_a_scratch, tmp_path
):
    pixels = np.full((120, 160, 3), 20, np.uint8)
    pixels[50:54, 70:75] = (20, 255, 255)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    options = ("--detect", "scratches,dust", "--save-mask")
    command = (*options, tmp_path / "mask.png", tmp_path / "in" / "a.png", tmp_path / "out.png")
    result = run_inpaint(*command)
    assert result.code == 0, result.err
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    assert mask[50:54, 70:75].all() and mask.sum() < 100
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert (found[mask] == 64).all() and (found[~mask] == 20).all()
    again = (*command[:-1], tmp_path / "again.png")
    assert run_inpaint(*again).code == 0  # the mask is ours
    (tmp_path / "again.png").unlink()
    (tmp_path / "mask.png").write_bytes(b"mine")
    for existing in ([], ["--skip-existing"]):
        result = run_inpaint(*existing, *again)
        assert result.code == 5 and "mask.png exists: give --overwrite" in result.err
        assert not (tmp_path / "again.png").exists()
    assert run_inpaint("--skip-existing", *command).code == 0  # nothing is to be done
    assert run_inpaint("--overwrite", *again).code == 0
    result = run_inpaint(*options, tmp_path / "a.png", tmp_path / "in" / "a.png", tmp_path)
    assert result.code == 1 and "--save-mask and OUT" in result.err
    result = run_inpaint(*options, tmp_path / "masks", tmp_path / "in", tmp_path / "out")
    assert result.code == 0, result.err
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / "a.png")) > 0, mask)
    for mask_of_mine in (b"no picture", (tmp_path / "in" / "a.png").read_bytes()):
        (tmp_path / "masks" / "a.png").write_bytes(mask_of_mine)
        command = (*options, tmp_path / "masks", "--dilate", 1, tmp_path / "in", tmp_path / "out")
        for dry in ("--dry-run", "--recursive"):
            result = run_inpaint(dry, *command)
            assert result.code == 4 and "a.png exists: give --overwrite" in result.err
        assert (tmp_path / "masks" / "a.png").read_bytes() == mask_of_mine
    assert run_inpaint("--overwrite", *command).code == 0
    ours = (tmp_path / "masks" / "a.png").read_bytes()
    command = (*options, tmp_path / "masks", "--dilate", 2, tmp_path / "in", tmp_path / "out")
    assert run_inpaint(*command).code == 0  # what an earlier run made is replaced
    assert (tmp_path / "masks" / "a.png").read_bytes() not in (ours, mask_of_mine)
    assert "skipped" in run_inpaint("--json", *command).out
    (tmp_path / "masks" / "a.png").unlink()
    assert run_inpaint(*command).code == 0 and (tmp_path / "masks" / "a.png").exists()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.bmp")
    result = run_inpaint(*options, tmp_path / "masks", tmp_path / "in", tmp_path / "other")
    assert result.code == 1 and "the masks of a.bmp and a.png would both become" in result.err
    dust = ("--overwrite", "--detect", "scratches", tmp_path / "in" / "a.png", tmp_path / "o.png")
    assert "no defect was found: nothing was filled" in run_inpaint(*dust).err


def test_finding_and_filling_make_one_progress(red_is_a_scratch):
    pixels = np.full((120, 160, 3), 20, np.uint8)
    pixels[50:54, 70:75] = pixels[10:14, 20:25] = (20, 255, 255)
    told = []
    picture, model = Picture(pixels, "RGB", "PNG"), Model(filling_onnx(), device="cpu")
    detecting = job.Inpainting(detect=("scratches", "dust"))
    detecting.restore(["a"], [picture], model, lambda done, total: told.append(done / total))
    assert told == sorted(told) and told[0] == 0.5 and told[-1] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--detect", "hair"], "neither scratches nor dust"),
        (["--detect", "dust", "--mask", "alpha"], "not with --mask alpha"),
        (["--detect", "dust", "--invert-mask"], "not with --mask alpha, --invert-mask or --soft"),
        (["--detect", "dust", "--soft"], "not with --mask alpha, --invert-mask or --soft"),
        (["--detect", "dust", "--save-mask", "in.png"], "--save-mask and IN"),
        (["--detect", "dust", "--save-mask", "out.png"], "--save-mask and OUT"),
        (["--detect", "dust", "--save-mask", "mask.jpg"], "give mask.png"),
        (["--detect", "dust", "--save-mask", ""], "--save-mask is a file"),
        (["--detect", "dust", "--save-mask", "-"], "--save-mask is a file"),
    ],
)
def test_detection_is_asked_for_in_one_way(run_inpaint, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48)).save("in.png")
    result = run_inpaint(*options, "in.png", "out.png")
    assert result.code == 1 and words in result.err


def test_kinds_are_the_same_in_any_order():
    assert parse_kinds("dust,scratches,dust") == parse_kinds("scratches,dust")


def test_a_mask_without_a_folder_is_refused_before_any_work(run_inpaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48)).save("in.png")
    options = ("--detect", "dust", "--save-mask", "none/mask.png")
    result = run_inpaint(*options, "in.png", "out.png")
    assert result.code == 5 and "there is no folder none" in result.err
    assert not (tmp_path / "out.png").exists() and not (tmp_path / "none").exists()
