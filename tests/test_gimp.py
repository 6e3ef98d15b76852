"""The plug-in in real GIMP: `make test-gimp`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from denoiser import denoise, images
from denoiser import gimp as installer

pytestmark = [pytest.mark.gimp, pytest.mark.slow]
ROOT = os.environ.get("DENOISER_GIMP_ROOT", "")
HERE = Path(__file__).parent
BOX = (slice(100, 130), slice(150, 190))
PICTURES = ("rgb8.png", "rgb16.png", "rgba8.png", "grey8.png", "grey16.png", "icc8.png")


def enter(work: Path, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in the system that has GIMP."""
    folders = dict.fromkeys([str(HERE.parent), sys.base_prefix, sys.prefix, str(work)])
    return subprocess.Popen(
        [HERE / "gimp" / "enter.sh", ROOT, *folders, "--", *command],
        env=os.environ | {"GIMP3_DIRECTORY": str(work / "profile")} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def start_script(work: Path, script: str, **variables: str) -> subprocess.Popen[str]:
    """Start a script of tests/gimp in GIMP without a window."""
    settings = [f"{name}={value}" for name, value in ({"WORK": str(work)} | variables).items()]
    return enter(
        work,
        "env",
        *settings,
        "gimp-console",
        "-idf",
        "--batch-interpreter",
        "python-fu-eval",
        "-b",
        f"exec(open({str(HERE / 'gimp' / script)!r}).read())",
        "--quit",
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """A folder with pictures, and a profile of GIMP with the plug-in in it."""
    if not ROOT:
        pytest.skip("run by make test-gimp")
    work = tmp_path_factory.mktemp("gimp")
    bgr = photo[:256, :320, ::-1]
    ramp = np.broadcast_to(np.linspace(0, 255, 320, dtype=np.uint8), (256, 320))
    noise = np.random.default_rng(0).integers(-120, 120, bgr.shape)
    deep = np.clip(bgr.astype(int) * 257 + noise, 0, 65535).astype(np.uint16)
    for name, pixels in {
        "rgb8": bgr,
        "rgb16": deep,
        "rgba8": np.dstack([bgr, ramp]),
        "grey8": bgr[..., 1],
        "grey16": deep[..., 1],
    }.items():
        assert cv2.imwrite(str(work / f"{name}.png"), pixels)
    own = ImageCms.createProfile("sRGB")
    profile = ImageCms.ImageCmsProfile(own).tobytes()
    Image.fromarray(photo[:256, :320]).save(work / "icc8.png", icc_profile=profile)
    mask = np.zeros((256, 320), np.uint8)
    mask[BOX] = 255
    cv2.imwrite(str(work / "mask.png"), mask)
    installer.install(installer.Profile(work / "profile"))
    (work / "profile" / "gimprc").write_text(
        "(show-welcome-dialog no)\n(check-updates no)\n(color-profile-policy keep)\n"
    )
    return work


@pytest.fixture(scope="module")
def results(work: Path) -> dict[str, Any]:
    """What `cases.py` found, inside GIMP."""
    process = start_script(work, "cases.py", PICTURES=json.dumps(PICTURES))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return json.loads((work / "results.json").read_text())


def pixels_of(path: Path) -> np.ndarray:
    """Read a picture; black where nothing is seen, as GIMP exports it."""
    picture = images.read(path)
    if picture.mode.endswith("A"):
        picture.pixels[picture.pixels[..., -1] == 0] = 0
    return picture.pixels


def run_command(name: str, *arguments: object) -> None:
    command = [Path(sys.executable).parent / name, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("name", PICTURES)
def test_whole_pictures_are_those_of_the_command_line(work, results, name):
    assert results["whole_pictures"][name] == ""
    run_command("denoise", work / name, work / f"wanted-{name}", "-m", "fast")
    wanted, found = pixels_of(work / f"wanted-{name}"), pixels_of(work / f"denoised-{name}")
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_colour_noise_has_a_share_of_its_own(work, results):
    assert results["colour_separately"] == ""
    wanted = work / "wanted-separately.png"
    options = ("-m", "fast", "--strength", 0.4, "--chroma", 1)
    run_command("denoise", work / "rgb8.png", wanted, *options)
    np.testing.assert_array_equal(pixels_of(work / "separately.png"), pixels_of(wanted))


@pytest.mark.parametrize("name", PICTURES)
def test_holes_are_those_of_the_command_line(work, results, name):
    assert results["holes"][name] == ""
    wanted = work / f"wanted-filled-{name}"
    run_command("inpaint", work / name, work / "mask.png", wanted, "--dilate", 2)
    np.testing.assert_array_equal(pixels_of(work / f"filled-{name}"), pixels_of(wanted))


@pytest.mark.parametrize("name", PICTURES)
def test_a_new_layer_shows_what_in_place_makes(work, results, name):
    assert results["new_layers"][name] == ""
    in_place, layered = pixels_of(work / f"filled-{name}"), pixels_of(work / f"layered-{name}")
    if name == "rgba8.png":  # what is filled is opaque there
        in_place = in_place[..., :3]
    error = np.abs(in_place.astype(int) - layered[..., : in_place.shape[2]])
    assert error.max() <= np.iinfo(in_place.dtype).max / 255  # GIMP mixes the layers
    assert np.count_nonzero(error) <= 0.05 * error.size


def test_of_a_layer_beyond_the_picture_what_is_selected_is_filled(results):
    for error, share in results["layers_beyond_the_picture"].values():
        assert error == "" and 0.9 < share < 1.03


def test_strength_zero_changes_nothing_in_any_precision(results):
    worst = results["strength_zero_changes_nothing"]
    assert len(worst) == 24 and all(isinstance(value, float) for value in worst.values()), worst
    assert max(worst.values()) < 2e-6, worst


def test_another_colour_space_is_kept_bit_for_bit(results):
    assert results["strength_zero_in_another_space"] == {"rgb8.png": False, "rgb16.png": False}


def test_a_soft_selection_mixes(work, results):
    assert results["a_soft_selection"] == ""
    before, after = pixels_of(work / "rgb8.png"), pixels_of(work / "soft.png")
    share = np.fromfile(work / "share.bin", np.uint8).reshape(*before.shape[:2], 1) / 255
    assert np.count_nonzero((share > 0.1) & (share < 0.9)) > 500
    whole = denoise(before, model="fast", sigma=25 / 255).astype(float)
    np.testing.assert_allclose(after, before + share * (whole - before), atol=2)


def test_of_a_layer_with_a_mode_of_its_own_one_copy_is_seen(results):
    found = results["layers_with_a_mode_of_their_own"]
    assert (found["in place"], found["new layer"]) == ("", "")
    assert found["seen"] == [True, False, 50]
    assert "fill it in place" in found["filled"] and found["layers"] == 2


def test_only_the_selection_changes(work, results):
    assert results["only_the_selection_changes"] == ""
    before, after = pixels_of(work / "rgb8.png"), pixels_of(work / "selected.png")
    box = (slice(90, 120), slice(130, 170))  # the layer was moved by 20, 10
    assert (before[box] != after[box]).any()
    whole = denoise(before, model="fast", sigma=25 / 255)
    np.testing.assert_allclose(after[box], whole[box], atol=1, rtol=0)
    after[box] = before[box]
    np.testing.assert_array_equal(before, after)


def test_what_changes_while_the_engine_works_is_noticed(results):
    found = results["changes_meanwhile"]
    assert {what for what, words in found.items() if "changed meanwhile" in words} == {
        "the selection",
        "a pixel",
    }, found


def test_both_are_in_the_menu(results):
    assert results["menus"] == [["<Image>/Filters/Enhance"]] * 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty selection", "select what is to be filled"),
        ("two layers", "choose one layer"),
        ("locked", "locked"),
        ("above a locked one", "^$"),
        ("group", "layer group"),
        ("mask", "mask or channel"),
        ("with a mask", "^$"),
        ("everything", "nothing is left to fill it from"),
        ("outside", "outside the layer"),
        ("indexed", "Image > Mode > RGB"),
    ],
)
def test_what_cannot_be_done_is_said(results, what, words):
    assert re.search(words, results["messages"][what]), results["messages"]
    assert not results["messages"]["changed"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("dies", "the denoiser stopped: boom"),
        ("is old", "another version"),
        ("is gone", "denoiser gimp install"),
        ("babbles", "denoiser said what is no answer: hello"),
        ("damaged settings", "denoiser is not set up: run `denoiser gimp install`"),
        ("dies late", "the denoiser stopped: boom"),
        ("dies late, new layer", "the denoiser stopped: boom"),
    ],
)
def test_an_engine_that_fails_leaves_the_picture(results, what, words):
    text = results["a_dying_engine"][what]
    assert words in text and "has changed" not in text


@pytest.fixture(scope="module")
def screens(work: Path) -> dict[str, np.ndarray]:
    """Screenshots of a person's use of the plug-in, (H, W, 3) uint8 by name."""
    if ROOT.endswith("forky"):
        pytest.skip("the shortcuts of window.py do not reach GIMP 3.2 yet")
    shutil.copy(HERE.parent / "docs" / "sample" / "noisy.png", work)
    process = enter(work, "env", f"WORK={work}", "python3", str(HERE / "gimp" / "window.py"))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return {path.stem: pixels_of(path) for path in work.glob("screen-*.png")}


CANVAS = (slice(200, 700), slice(400, 800))
"""Where the picture is seen on the screen, whatever else is."""
PREVIEW = (slice(165, 350), slice(470, 650))
"""Where the dialog shows it."""
HOLE_PREVIEW = (slice(287, 332), slice(463, 559))
"""Where the other dialog shows what is selected, and a margin."""
SELECTED_PREVIEW = (slice(245, 290), slice(463, 559))
"""The same in the dialog of denoising."""


def test_the_canvas_shows_the_result_and_one_undo_takes_it_back(screens):
    before, after, undone = (
        screens[f"screen-{name}"][CANVAS] for name in ("before", "after", "undone")
    )
    assert (before != after).any(2).mean() > 0.9
    assert roughness(after) < roughness(before) / 3
    np.testing.assert_array_equal(undone, before)


def roughness(pixels: np.ndarray) -> float:
    return float(np.abs(np.diff(pixels.astype(int), axis=1)).mean())


def test_dialogs_show_a_preview(work, screens):
    """The preview of denoising is smooth; that of a hole differs from the picture, inside it."""
    canvas = screens["screen-before"][CANVAS]
    clean, as_it_was = (screens[f"screen-{name}"][PREVIEW] for name in ("denoise", "strength"))
    assert roughness(clean) < roughness(canvas) / 3
    assert roughness(as_it_was) > 0.7 * roughness(canvas)  # at strength 0
    frame = screens["screen-selected"] != screens["screen-undone"]
    assert frame[CANVAS].any(2).sum() > 200  # the selection is seen
    hole = screens["screen-inpaint"][HOLE_PREVIEW]
    before = pixels_of(work / "noisy.png")
    found = cv2.matchTemplate(before, np.ascontiguousarray(hole[:5]), cv2.TM_SQDIFF)
    _, _, (left, top), _ = cv2.minMaxLoc(found)  # where the margin above the hole is
    changed = (hole != before[top:, left:][: hole.shape[0], : hole.shape[1]]).any(2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[0] > 4 and np.ptp(rows) < 40 and np.ptp(columns) < 90  # not the margin
    assert changed.sum() > 1500 and changed[rows[0] : rows[-1] + 1].any(0).sum() > 60
    denoised = screens["screen-denoise-selected"][SELECTED_PREVIEW]
    noisy = before[top : top + 45, left : left + 96]
    soft, expected = (
        cv2.blur(image.astype(float), (9, 9))[8:-8, 9:-9] for image in (denoised, noisy)
    )
    assert np.abs(soft - expected).mean() < 4  # 10 if rows were shifted
    assert roughness(denoised[8:-8, 9:-9]) < roughness(noisy) / 3
    if folder := os.environ.get("DENOISER_SCREENSHOTS"):
        for name in ("denoise", "inpaint"):
            path = Path(folder) / f"{name}.png"
            Image.fromarray(screens[f"screen-{name}"]).quantize(256).save(path, optimize=True)


def test_cancelling_stops_the_engine_and_leaves_the_picture(work, photo):
    """GIMP cancels a plug-in by killing it."""
    large = np.tile(photo[:, :, ::-1], (8, 8, 1))
    cv2.imwrite(str(work / "large.png"), large)
    process = start_script(work, "cancel.py")
    plug_in = str(work / "profile" / "plug-ins" / "denoise" / "denoise.py")
    engine = wait_for(lambda: running("denoiser pipe"))
    time.sleep(3)  # by now it computes
    (number,) = running(f"{plug_in} -gimp|{plug_in} -run|{plug_in}.*-run")
    os.kill(number, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: not set(engine) & set(running("denoiser pipe")))
    assert time.monotonic() - killed < 5
    output, _ = process.communicate(timeout=200)
    assert (work / "cancelled.txt").read_text().split()[1] == "unchanged", output


def running(pattern: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


def wait_for(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result
