import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SAMPLE, tiny_onnx
from PIL import Image
from test_images import damaged_files, full_picture

from denoiser import catalog, images
from denoiser.picture import adapt
from denoiser.restore import LUMA

DENOISE = [sys.executable, "-c", "from denoiser.cli import denoise_main; denoise_main()"]


@pytest.fixture
def noisy(tmp_path):
    path = tmp_path / "in.png"
    with Image.open(SAMPLE / "noisy.png") as image:
        image.crop((200, 200, 296, 280)).save(path)
    return path


def test_denoises_a_picture_and_says_where_it_ran(run_denoise, noisy, tmp_path):
    before = noisy.read_bytes()
    result = run_denoise(noisy, tmp_path / "out.png", "--device", "cpu")
    assert result.code == 0 and result.out == ""
    assert result.err.count("\n") == 1 and "CPUExecutionProvider" in result.err
    assert noisy.read_bytes() == before
    assert images.read(tmp_path / "out.png").pixels.shape == (80, 96, 3)


def test_16_bit_rgba_with_profile_keeps_depth_alpha_and_profile(run_denoise, tmp_path, srgb):
    picture = full_picture("RGBA", "uint16", srgb)
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    images.write(picture, source, images.FORMATS[0])
    assert run_denoise(source, target, "--sigma", 20).code == 0
    restored = images.read(target)
    assert restored.pixels.dtype == np.uint16 and restored.mode == "RGBA"
    np.testing.assert_array_equal(restored.pixels[..., 3], picture.pixels[..., 3])
    assert not np.array_equal(restored.pixels[..., :3], picture.pixels[..., :3])
    assert (restored.icc, restored.xmp) == (picture.icc, picture.xmp)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".avif", ".bmp"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
def test_every_kind_of_picture_goes_through(
    run_denoise, tmp_path, identity_path, suffix, dtype, mode
):
    """The identity model changes nothing that the format can hold."""
    picture = full_picture(mode, dtype, None)
    source, target = tmp_path / "in.tif", tmp_path / f"out{suffix}"
    images.write(picture, source, images.format_of(source))
    assert run_denoise(source, target, "--model", identity_path, "--sigma", 9).code == 0
    format = images.format_of(target)
    expected, _ = adapt(images.read(source), format, "keep", strip_metadata=False)
    found = images.read(target)
    assert found.mode == expected.mode and found.pixels.dtype == expected.pixels.dtype
    if suffix in (".png", ".tif", ".bmp"):
        rounded = dtype == "float32" and suffix != ".tif"  # halves may fall to either side
        np.testing.assert_allclose(found.pixels, expected.pixels, atol=1 if rounded else 1e-6)
    else:
        assert found.pixels.shape == expected.pixels.shape


def test_json_reports_what_was_found_and_done(run_denoise, noisy, tmp_path):
    result = run_denoise(noisy, tmp_path / "out.png", "--json", "-q", "--device", "cpu")
    report = json.loads(result.out)
    assert result.err == ""
    assert report["provider"] == "CPUExecutionProvider" and report["sigma_estimated"]
    assert 15 < report["sigma"] < 35 and (report["width"], report["height"]) == (96, 80)


def test_colour_noise_goes_and_grain_stays(run_denoise, noisy, tmp_path):
    out = tmp_path / "out.png"
    result = run_denoise(noisy, out, "--strength", 0, "--chroma", 1, "--device", "cpu", "--json")
    assert json.loads(result.out)["chroma"] == 1
    before, after = (np.asarray(Image.open(path)).astype(float) for path in (noisy, out))
    assert np.abs(before @ LUMA - after @ LUMA).max() < 1.5  # of 255: rounded, or clipped
    colourful = [np.diff(image, axis=2).std() for image in (before, after)]
    assert colourful[1] < 0.8 * colourful[0]


def test_more_views_restore_better(run_denoise, tmp_path, photo):
    clean, psnrs = photo.astype(float), []
    for views in (1, 8):
        out = tmp_path / f"{views}.png"
        options = ("--views", views, "--model", "fast", "--device", "cpu", "--json")
        result = run_denoise(SAMPLE / "noisy.png", out, *options)
        assert json.loads(result.out)["views"] == views
        error = np.mean((np.asarray(Image.open(out)) - clean) ** 2)
        psnrs.append(10 * np.log10(255**2 / error))
    assert psnrs[1] > psnrs[0] + 0.05


def test_verbose_prints_the_estimated_noise(run_denoise, noisy, tmp_path):
    assert "(estimated)" in run_denoise(noisy, tmp_path / "out.png", "-v").err
    assert (
        "sigma 12.0 of 255 (given)"
        in run_denoise(noisy, tmp_path / "out2.png", "-v", "--sigma", "12").err
    )


@pytest.mark.slow
def test_a_hundred_megapixels_stay_under_two_gigabytes(tmp_path, identity_path):
    """What the program holds; a real model adds its tile, see `restore.TILE_BYTES_PER_PX`."""
    source = tmp_path / "in.png"
    pixels = np.zeros((10_000, 10_000, 3), np.uint8)
    pixels[::7, ::5] = 200
    Image.fromarray(pixels).save(source, compress_level=1)
    code = (
        "import sys; from denoiser.cli import denoise; sys.argv[0] = 'denoise';"
        "denoise.main(sys.argv[1:], standalone_mode=False);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    arguments = [source, tmp_path / "out.png", "--model", identity_path, "-q", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.5e6  # kilobytes


def test_options_that_concern_the_file(run_denoise, noisy, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    result = run_denoise(noisy, folder, "--format", "tif", "--suffix", "-clean", "--bit-depth", 16)
    assert result.code == 0
    assert images.read(folder / "in-clean.tif").pixels.dtype == np.uint16
    for name, quality in (("a.jpg", 30), ("b.jpg", 90)):
        assert run_denoise(noisy, tmp_path / name, "--quality", quality).code == 0
    assert (tmp_path / "a.jpg").stat().st_size < (tmp_path / "b.jpg").stat().st_size
    assert run_denoise(noisy, tmp_path / "weak.png", "--strength", 0.25).code == 0
    assert run_denoise(noisy, tmp_path / "full.png", "--tile", 320).code == 0
    before = images.read(noisy).pixels.astype(int)
    weak, full = (images.read(tmp_path / f"{name}.png").pixels for name in ("weak", "full"))
    np.testing.assert_allclose(weak - before, (full - before) * 0.25, atol=1)
    assert run_denoise(noisy, tmp_path / "c.png", "--max-memory", 3000, "--threads", 1).code == 0
    assert "to do" in run_denoise(noisy, tmp_path / "d.png", "--dry-run").err
    assert not (tmp_path / "d.png").exists()


def test_json_has_the_state_of_a_picture_as_of_those_of_a_folder(run_denoise, noisy, tmp_path):
    out = tmp_path / "a.png"
    known, seen = {"input": str(noisy), "output": str(out)}, []
    for options in (["--dry-run"], [], ["--skip-existing"], ["--skip-existing", "--dry-run"]):
        seen.append(json.loads(run_denoise(noisy, out, "--json", "--quiet", *options).out))
    assert all(known.items() <= line.items() for line in seen)
    assert [line["state"] for line in seen] == ["to do", "done", "skipped", "skipped"]
    assert [line.get("dry_run", False) for line in seen] == [True, False, False, True]


def test_quality_that_is_not_used_is_said(run_denoise, noisy, tmp_path):
    assert "quality 50 is not used" in run_denoise(noisy, tmp_path / "a.png", "--quality", 50).err
    assert "50 is not used" not in run_denoise(noisy, tmp_path / "a.jpg", "--quality", 50).err


def test_folders_that_are_none_are_refused(run_denoise, noisy, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = run_denoise(tmp_path / "inbox", tmp_path / "out", "--watch")
    assert_fails(result, 2, "no such folder", tmp_path, before)
    assert_fails(run_denoise(noisy, tmp_path, "--watch"), 1, "--watch", tmp_path, before)
    assert_fails(run_denoise(tmp_path, "-"), 1, "OUT must be a folder", tmp_path, before)


def test_nothing_is_overwritten_unasked(run_denoise, noisy, tmp_path):
    target = tmp_path / "out.png"
    target.write_bytes(b"mine")
    result = run_denoise(noisy, target)
    assert result.code == 5 and "--overwrite" in result.err
    assert run_denoise(noisy, target, "--skip-existing").code == 0
    assert target.read_bytes() == b"mine"
    assert run_denoise(noisy, target, "--overwrite").code == 0
    assert target.read_bytes() != b"mine"
    assert run_denoise(noisy, noisy, "--overwrite").code == 1


def test_pipes(noisy):
    data = noisy.read_bytes()
    done = subprocess.run([*DENOISE, "-", "-", "--format", "webp"], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert images.read(done.stdout).format == "WEBP"


def assert_fails(result, code, words, folder, before):
    assert result.code == code, result.err
    assert words in result.err and result.err.startswith("error: ")
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert sorted(folder.rglob("*")) == before


def test_bad_input_gets_one_line_and_code_2(run_denoise, photo, tmp_path):
    for name, data in damaged_files(photo).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "no pictures").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in [*damaged_files(photo), "missing.png", "no pictures"]:
        assert_fails(run_denoise(tmp_path / name, tmp_path / "o.png"), 2, name, tmp_path, before)
    (tmp_path / "film.gif").write_bytes(b"GIF89a")
    before = sorted(tmp_path.rglob("*"))
    result = run_denoise(tmp_path / "film.gif", tmp_path / "no pictures")
    assert_fails(result, 2, "film.gif names no format for OUT: ", tmp_path, before)


def test_a_standard_input_that_cannot_be_read_gets_code_2(tmp_path):
    command = [*DENOISE, "-", tmp_path / "o.png"]
    with (tmp_path / "written").open("wb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot read standard input")


def test_pictures_that_no_encoder_takes_get_code_5(run_denoise, tmp_path, identity_path):
    source = tmp_path / "in.png"
    Image.new("RGB", (20_000, 1)).save(source)
    before = sorted(tmp_path.rglob("*"))
    result = run_denoise(source, tmp_path / "o.webp", "--model", "none")  # before any work is done
    assert_fails(result, 5, "o.webp", tmp_path, before)
    result = run_denoise(source, tmp_path / ("x" * 300 + ".png"), "--model", identity_path)
    assert_fails(result, 5, "xxx", tmp_path, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_behind_a_pipe_gets_code_5(noisy):
    with Path("/dev/full").open("wb") as full:
        command = [*DENOISE, noisy, "-", "--quiet"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 5 and done.stderr.startswith("error: cannot write standard output")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_gets_one_whole_line():
    """As in `denoiser models | head -1`."""
    denoiser = [sys.executable, "-c", "from denoiser.cli import denoiser_main; denoiser_main()"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*denoiser, "models"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 5
    assert done.stderr == "error: cannot write to standard output: Broken pipe\n"


def test_noise_beyond_the_models_range_is_said(run_denoise, noisy, tmp_path):
    result = run_denoise(noisy, tmp_path / "o.png", "--sigma", 200, "--json")
    assert result.code == 0 and "sigma 60 is used" in result.err
    assert json.loads(result.out)["sigma"] == pytest.approx(60, abs=0.01)


def test_bad_models_get_code_3(run_denoise, noisy, tmp_path):
    models = {
        "text.onnx": b"no model",
        "inputs.onnx": tiny_onnx(inputs=("image", "depth")),
    }
    for name, data in models.items():
        (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    for name in [*models, "missing.onnx", f"{'x' * 300}.onnx", "unheard-of", ""]:
        model = tmp_path / name if name.endswith(".onnx") else name
        result = run_denoise(noisy, tmp_path / "o.png", "--model", model)
        assert_fails(result, 3, name, tmp_path, before)


def test_unwritable_targets_get_code_5(run_denoise, noisy, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    target = tmp_path / "no folder" / "o.png"
    assert_fails(run_denoise(noisy, target), 5, target.name, tmp_path, before)
    assert_fails(run_denoise(noisy, f"{tmp_path}/o.png/"), 5, "no folder", tmp_path, before)
    (tmp_path / "loop.png").symlink_to("loop.png")
    before = sorted(tmp_path.rglob("*"))
    result = run_denoise(noisy, tmp_path / "loop.png")
    assert_fails(result, 5, "symbolic links", tmp_path, before)
    assert_fails(run_denoise(noisy, Path("/proc/o.png")), 5, "/proc/o.png", tmp_path, before)


def test_bad_arguments_get_code_1(run_denoise, noisy, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for target in (tmp_path / "o.gif", tmp_path / "noname", ""):
        words = "unknown format" if target else "OUT is an empty name"
        assert_fails(run_denoise(noisy, target), 1, words, tmp_path, before)
    for arguments, words in (
        (["--sigma", "much"], "neither auto nor a number"),
        (["--sigma", "300"], "0-255"),
        (["--strength", "2"], "--strength"),
        (["--device", "abacus"], "abacus"),
        (["--tile", "16"], "use at least"),
        (["--tile", "16", "--dry-run"], "use at least"),
        (["--format", "gif"], "--format gif: unknown format .gif; use .png, .jpg"),
        (["--format", ""], "unknown format"),
        (["--settle", "3"], "--settle only works with --watch"),
        (["--max-memory", "9"], "--max-memory"),
        (["--colour"], "--colour"),
    ):
        result = run_denoise(noisy, tmp_path / "o.png", *arguments)
        assert_fails(result, 1, words, tmp_path, before)
    assert_fails(run_denoise(noisy), 1, "OUT", tmp_path, before)
    assert_fails(
        run_denoise(tmp_path, tmp_path / "o"), 1, "lie within each other", tmp_path, before
    )
    assert_fails(run_denoise(noisy, "-", "--json"), 1, "--json", tmp_path, before)


def test_a_required_gpu_gets_code_6(run_denoise, noisy, tmp_path, monkeypatch):
    monkeypatch.setattr("denoiser.engine.gpu_problem", lambda: "no NVIDIA driver")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["--require-gpu"], ["--device", "cuda"]):
        result = run_denoise(noisy, tmp_path / "o.png", *arguments)
        assert_fails(result, 6, "no NVIDIA driver", tmp_path, before)


def test_what_libraries_warn_of_is_told_in_our_words_only(tmp_path):
    odd, out = tmp_path / "odd.jpg", tmp_path / "out.jpg"
    Image.new("RGB", (64, 48)).save(odd, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x0f")
    result = subprocess.run([*DENOISE, odd, out, "--device", "cpu"], capture_output=True, text=True)
    warning, line = result.stderr.splitlines()
    assert warning == "warning: its EXIF is damaged: dropped" and line.startswith(f"{odd} -> {out}")


def test_verbose_adds_the_traceback(run_denoise, tmp_path):
    assert "Traceback" in run_denoise(tmp_path / "no.png", tmp_path / "o.png", "-v").err


def start_on_terminal(source, target, *arguments):
    """Start `denoise` with a terminal as stderr; returns the process and a reader of the screen."""
    parent, child = pty.openpty()

    def heed() -> None:  # what a test run in the background ignores, which children inherit
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        [*DENOISE, source, target, "--device", "cpu", *arguments], stderr=child, preexec_fn=heed
    )
    os.close(child)

    def read_until(words):
        shown = b""
        while words not in shown:
            try:
                shown += os.read(parent, 4096)
            except OSError:  # the other end was closed
                os.close(parent)
                break
        return shown

    return process, read_until


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_no_picture_is_written_to_a_terminal(noisy):
    parent, child = pty.openpty()
    result = subprocess.run([*DENOISE, noisy, "-"], stdout=child, stderr=subprocess.PIPE, text=True)
    os.close(child)
    os.close(parent)
    assert result.returncode == 1 and "standard output a terminal" in result.stderr


@pytest.fixture
def large(tmp_path, photo):
    path = tmp_path / "in.png"
    Image.fromarray(np.tile(photo, (4, 4, 1))).save(path)
    return path


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
def test_closed_streams(noisy, tmp_path):
    command = shlex.join([*DENOISE, str(noisy)])
    assert subprocess.run(f"{command} {tmp_path}/a.png 2>&-", shell=True).returncode == 0
    assert (tmp_path / "a.png").exists()
    result = subprocess.run(f"{command} - >&-", shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (5, "error: standard output is closed\n")
    command = f"{command} {tmp_path}/b.png --json --quiet >&-"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (5, "error: standard output is closed\n")


def test_a_suffix_is_no_path(run_denoise, noisy, tmp_path):
    for target in (tmp_path / "o.png", "-"):
        result = run_denoise(noisy, target, "--suffix", "x")
        assert result.code == 1 and "OUT is not a folder" in result.err
    result = run_denoise(noisy, tmp_path, "--suffix", "/x")
    assert result.code == 1 and "cannot be part of a file name" in result.err


def test_a_progress_bar_appears_on_a_terminal(large, tmp_path):
    process, read_until = start_on_terminal(large, tmp_path / "out.png", "--tile", "480")
    shown = read_until(b"never")
    assert process.wait() == 0
    assert b"%" in shown and b"in.png" in shown


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("of_folder", [False, True])
def test_a_terminal_that_goes_away_ends_no_work(large, tmp_path, of_folder):
    source, target, shown = large, tmp_path / "out.png", b""
    if of_folder:
        source, target = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        large.rename(source / "out.png")
    parent, child = pty.openpty()
    command = [*DENOISE, source, target, "--device", "cpu", "--tile", "480", "--verbose"]
    process = subprocess.Popen(command, stderr=child)
    os.close(child)
    while (b"0/1" if of_folder else b"%") not in shown:  # in the bar
        shown += os.read(parent, 4096)
    os.close(parent)
    assert process.wait(60) == 0
    assert (target / "out.png" if of_folder else target).exists()


def test_no_progress_bar_without_a_terminal(large, tmp_path):
    command = [*DENOISE, large, tmp_path / "out.png", "--tile", "480"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "%" not in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_no_partial_file(large, tmp_path, number):
    process, read_until = start_on_terminal(large, tmp_path / "out.png", "--tile", "480")
    assert b"%" in read_until(b"%")
    process.send_signal(number)
    shown = read_until(b"never")
    assert process.wait() == 130
    assert b"error: interrupted" in shown and b"Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_an_error_of_ours_is_one_line_too(run_denoise, noisy, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("this\n\n  is  wrong:\r\n all\n")

    monkeypatch.setattr("denoiser.job.Denoising.restore", fail)
    result = run_denoise(noisy, tmp_path / "out.png", "--device", "cpu")
    assert result.code == 70
    expected = "internal error, please report it with -v: RuntimeError: this is  wrong: all"
    assert result.err == f"error: {expected}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the cache lies elsewhere")
def test_onnxruntime_tells_nobody_and_leaves_nothing(noisy, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: os.environ[key] for key in os.environ if key[:4] not in ("XDG_", "ORT_")}
    command = [*DENOISE, noisy, tmp_path / "out.png", "-m", "fast"]
    subprocess.run(command, env=environment | {"HOME": str(home)}, check=True)
    assert not list(home.rglob("*"))


def test_help_needs_neither_onnxruntime_nor_opencv():
    code = (
        "import sys, denoiser.cli;"
        "print(sorted({'onnxruntime', 'cv2', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_values_that_are_no_light_are_told_of(run_denoise, tmp_path):
    light = np.random.default_rng(0).random((48, 48, 3), np.float32)
    light[:, :5] = -9999
    tifffile.imwrite(tmp_path / "in.tif", light, photometric="rgb")
    result = run_denoise("-m", "fast", tmp_path / "in.tif", tmp_path / "out.tif")
    assert result.code == 0 and "what is beyond 4 times white (1) stays as it is" in result.err
    assert (tifffile.imread(tmp_path / "out.tif")[:, :5] == -9999).all()


def test_doctor_says_what_ran_and_what_is_missing(run_denoise, monkeypatch):
    monkeypatch.setattr("denoiser.engine.gpu_problem", lambda: "no NVIDIA driver")
    result = run_denoise("doctor", command="denoiser")
    assert result.code == 0
    assert "cpu: works, CPUExecutionProvider" in result.out
    assert "cuda: does not work: no usable GPU: no NVIDIA driver" in result.out
    assert run_denoise("doctor", "--require-gpu", command="denoiser").code == 6

    def refuse():
        raise PermissionError(13, "Permission denied", "GIMP")

    monkeypatch.setattr("denoiser.gimp.profiles", refuse)
    result = run_denoise("doctor", "--device", "cpu", command="denoiser")
    assert result.code == 0 and "GIMP plug-in: Permission denied: GIMP\n" in result.out
    assert "HEIC and raw files: can be read\n" in result.out and "problem" not in result.out


def test_doctor_sees_damaged_models_and_missing_extras(run_denoise, monkeypatch, tmp_path):
    shutil.copytree(catalog.folder(), tmp_path / "models")
    with next((tmp_path / "models").glob("inpaint-*.onnx")).open("ab") as file:
        file.write(b" ")
    monkeypatch.setattr(catalog, "folder", lambda: tmp_path / "models")
    monkeypatch.setattr("denoiser.images.SUFFIXES", frozenset({".png"}))
    out = run_denoise("doctor", "--device", "cpu", "-m", "fast", command="denoiser").out
    assert "problem: " in out and "is missing or damaged: reinstall denoiser" in out
    assert "HEIC needs more" in out and "raw files need more" in out


def test_denoiser_alone_shows_its_commands(run_denoise):
    result = run_denoise(command="denoiser")
    assert result.code == 1 and "doctor" in result.err and result.err.count("\n") > 3
    assert run_denoise("doctor", "--device", "abacus", command="denoiser").code == 1


def test_models_are_listed_and_their_cards_shown(run_denoise):
    result = run_denoise("models", command="denoiser")
    assert result.code == 0 and "license:" not in result.out
    assert "denoise-balanced-v8 (default)" in result.out
    assert "denoise-best-v5 (default on a GPU)" in result.out
    one = run_denoise("models", "balanced", command="denoiser").out
    assert one.startswith("denoise-balanced-v8 (default)") and one.count("license:") == 1
    path = catalog.find("balanced")
    assert run_denoise("models", path, command="denoiser").out == one
    every = run_denoise("models", "all", command="denoiser").out
    assert every.count("license:") == result.out.count("\n")
    assert run_denoise("models", "abacus", command="denoiser").code == 3


def test_bench_times_models_on_this_machine(run_denoise):
    options = ("--device", "cpu", "--megapixels", "0.02")
    result = run_denoise("bench", "-m", "fast", *options, command="denoiser")
    assert result.code == 0
    pattern = r"denoise-fast-v\d+: [\d.]+ megapixels/s, 24 megapixels in \d+ s, CPUE\w+ fp32\n"
    assert re.fullmatch(pattern, result.out)
    assert run_denoise("bench", "-m", "inpaint", *options, command="denoiser").code == 3
    assert run_denoise("bench", *options, "--require-gpu", command="denoiser").code == 6


def test_groups_show_tracebacks_too(run_denoise):
    for command in (("gimp", "status"), ("pipe",)):
        assert "--verbose" in run_denoise(*command, "--help", command="denoiser").out


def test_doctor_does_not_find_a_gpu_on_the_cpu(run_denoise):
    result = run_denoise("doctor", "--device", "cpu", "--require-gpu", command="denoiser")
    assert result.code == 6 and "contradicts" in result.err


def test_a_name_that_cannot_be_looked_up_is_an_unreadable_input(run_denoise, tmp_path):
    result = run_denoise(tmp_path / ("n" * 300), tmp_path / "o.png")
    assert result.code == 2 and "cannot read" in result.err


@pytest.mark.parametrize("option", ["--strength", "--sigma", "--settle", "--poll"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
def test_numbers_that_make_no_sense_are_refused(run_denoise, tmp_path, option, value):
    result = run_denoise(SAMPLE, tmp_path / "o", "--watch", option, value)
    assert result.code == 1 and not (tmp_path / "o").exists()


def test_contradicting_options_are_refused(run_denoise, tmp_path):
    result = run_denoise(SAMPLE, tmp_path / "o", "--overwrite", "--skip-existing")
    assert result.code == 1 and "--overwrite or --skip-existing" in result.err


def test_a_noise_level_draws_a_warning_where_the_model_does_not_know_it_and_only_there(
    run_denoise, noisy, tmp_path
):
    low = tmp_path / "low.onnx"
    low.write_bytes(tiny_onnx(sigma_range="0.000000 0.235294"))  # 0 to 60, as cards round it
    for level in (*range(61), 12.3, 61, 200):
        done = run_denoise(noisy, tmp_path / "o.png", "--overwrite", "-m", low, "--sigma", level)
        warned = "the model was not trained for that noise: sigma 60 is used" in done.err
        assert done.code == 0 and warned == (level > 60), done.err


def test_a_model_without_noise_level_says_that_sigma_is_not_used(run_denoise, tmp_path):
    blind = tmp_path / "blind.onnx"
    blind.write_bytes(tiny_onnx(inputs=("image",)))
    for sigma, warned in (("20", True), ("auto", False)):
        done = run_denoise(SAMPLE / "noisy.png", tmp_path / f"{sigma}.png", "-m", blind,
                           "--sigma", sigma)  # fmt: skip
        assert done.code == 0 and ("--sigma is not used" in done.err) == warned


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_replaced_and_nothing_is_computed(run_denoise, noisy, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for option in ([], ["--overwrite"], ["--skip-existing"]):
        result = run_denoise(noisy, tmp_path / "pipe.png", "-m", "no such model", *option)
        assert result.code == 5 and "pipe.png is not an ordinary file" in result.err


def test_standard_input_is_not_overwritten_either(noisy):
    before = noisy.read_bytes()
    command = [*DENOISE, "-", noisy, "--overwrite"]
    with noisy.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 1 and "IN and OUT are the same file" in done.stderr
    assert noisy.read_bytes() == before


def test_a_working_folder_that_is_gone_is_named(noisy, tmp_path):
    gone = tmp_path / "gone"
    code = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); {DENOISE[2]}"
    gone.mkdir()
    command = [sys.executable, "-c", code, ".", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (2, 5) and "working folder" in done.stderr


def test_spaces_of_a_name_are_told_as_they_are(run_denoise, tmp_path):
    result = run_denoise(tmp_path / "scan  01.png", tmp_path / "out.png")
    assert result.code == 2 and "scan  01.png" in result.err
