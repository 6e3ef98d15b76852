import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train
from conftest import SAMPLE, SHIPPED
from PIL import Image

from denoiser import catalog, cli
from denoiser.training.trainer import load_checkpoint

DENOISE = [sys.executable, "-c", "from denoiser.cli import denoise_main; denoise_main()"]


def script(name, *arguments):
    path = SHIPPED / "scripts" / name
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_train_export_denoise_and_evaluate_from_the_command_line(tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "[network]\nchannels = [8, 16]\nblocks = 1\n"
        "[training]\nsteps = 4\nbatch = 2\ncrop_px = 32\n"
    )
    images, run = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    with Image.open(SAMPLE / "clean.png") as clean:
        clean.crop((0, 0, 300, 260)).save(images / "a.jpg")
    common = ["--recipe", recipe, "--images", images, "--validation", images, "--out", run]
    script("train.py", *common)
    script("train.py", *common, "--resume")
    model = tmp_path / "exported.onnx"
    script("export.py", run / "checkpoint.pt", model, "--images", images)
    assert catalog.read_card(model.with_suffix(".toml")).sha256 == catalog.sha256_of(model)
    script("train.py", *common[:-1], tmp_path / "run2", "--init", model)
    subprocess.run([*DENOISE, images / "a.jpg", tmp_path / "o.jpg", "-m", model], check=True)
    done = script(
        "evaluate.py", "--images", images, "--model", model, "--peer", "nlm", "--sigma", "25",
        "--out", tmp_path / "result",
    )  # fmt: skip
    assert "| sigma 25 (1 pictures) |" in done.stdout
    assert (tmp_path / "result" / "results.md").read_text().count("|") > 8
    with Image.open(tmp_path / "result" / "sheet.png") as sheet:
        assert sheet.size == (4 * 320, 320)


RECIPE = (
    "corruption = [{ kind = 'gaussian', sigma = [0, 50] }]\n"
    "[network]\nchannels = [8, 16]\nblocks = 1\n"
    "[training]\nsteps = 6\nbatch = 4\ncrop_px = 32\n"
)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path):
    """DistributedDataParallel over gloo: the same recipe gives the same weights."""
    recipe, images = tmp_path / "mine.toml", tmp_path / "images"
    recipe.write_text(RECIPE)
    images.mkdir()
    shutil.copy(SAMPLE / "clean.png", images)
    common = ["--recipe", recipe, "--images", images, "--validation", images, "--device", "cpu"]
    common += ["--precision", "fp32", "--threads", "1"]
    script("train.py", *common, "--out", tmp_path / "one")
    train = [SHIPPED / "scripts" / "train.py", *common, "--out", tmp_path / "two"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, *train], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training on 2 x cpu") == 1  # only the first process reports
    subprocess.run([*torchrun, *train, "--resume"], check=True, capture_output=True)
    one, two = (load_checkpoint(tmp_path / run / "checkpoint.pt") for run in ("one", "two"))
    assert one["step"] == two["step"] == 6
    for name, weight in one["model"].items():
        torch.testing.assert_close(two["model"][name], weight, rtol=0, atol=2e-5)
    logs = [(tmp_path / run / "log.csv").read_text().splitlines()[-1] for run in ("one", "two")]
    assert logs[0].split(",")[2][:6] == logs[1].split(",")[2][:6]  # the loss


@pytest.mark.slow
def test_noisy_pictures_alone_make_a_model(tmp_path: Path):
    images, run, model = tmp_path / "images", tmp_path / "run", tmp_path / "alone.onnx"
    images.mkdir()
    shutil.copy(SAMPLE / "noisy.png", images)
    recipe = tmp_path / "alone.toml"
    recipe.write_text(
        "[network]\nchannels = [8, 16]\nblocks = 1\nnoise_map = false\n"
        "[training]\nsteps = 4\nbatch = 2\ncrop_px = 64\nsupervision = 'neighbor2neighbor'\n"
    )
    script("train.py", "--noisy", images, "--recipe", recipe, "--out", run)
    assert (run / "validation.png").exists()
    script("export.py", run / "checkpoint.pt", model, "--images", images)
    subprocess.run([*DENOISE, images / "noisy.png", tmp_path / "o.png", "-m", model], check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either --images"),
        (["--images", "a", "--noisy", "b"], "either --images"),
        (["--images", "a", "--recipe", "noisy"], "recipe noisy learns from --noisy"),
        (["--noisy", "a", "--recipe", "gaussian"], "recipe gaussian learns from --images"),
        (["--images", "nowhere"], "no such folder: nowhere"),
        (["--images", "a", "--recipe", "unheard"], "cannot read recipe"),
    ],
)
def test_bad_arguments_of_train_get_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(tmp_path / "run"), *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as exit:
        cli.run(train.main)
    error = capsys.readouterr().err
    assert exit.value.code in (1, 2) and words in error and error.count("\n") == 1
