"""Folders, with faults for real: docs/batch.md says which promise each test holds."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import blur_onnx, filling_onnx
from PIL import Image

from denoiser import batch, images, job, plan
from denoiser.engine import Model
from denoiser.journal import Journal, open_journal
from denoiser.plan import Item, Options, make_plan

DENOISE = [sys.executable, "-c", "from denoiser.cli import denoise_main; denoise_main()"]


@pytest.fixture(scope="session")
def blur_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "blur.onnx"
    path.write_bytes(blur_onnx(2))
    return path


@pytest.fixture
def folder(tmp_path, rng):
    """Three pictures, one of them damaged, one in a folder."""
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(source / name)
    (source / "bad.png").write_bytes(b"no picture")
    return source


@pytest.fixture
def denoise_folder(run_denoise, folder, tmp_path, blur_path):
    def call(*options, out=tmp_path / "out"):
        return run_denoise(folder, out, "-m", blur_path, "-r", *options)

    return call


def outputs(out):
    """Every file below, but for the journal's folder, with its bytes."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".denoise" not in path.parts
    }


def states(result):
    return {line["input"]: line["state"] for line in map(json.loads, result.out.splitlines())}


def journal_rows(out):
    database = sqlite3.connect(out / ".denoise" / "journal.sqlite")
    database.row_factory = sqlite3.Row
    rows = {row["input"]: dict(row) for row in database.execute("SELECT * FROM pictures")}
    database.close()
    return rows


def test_one_bad_file_is_named_and_the_rest_are_done(denoise_folder, folder, tmp_path):
    before = outputs(folder)
    result = denoise_folder()
    assert result.code == 4
    lines = result.err.splitlines()
    assert any(line.startswith("failed: bad.png: ") and "not a picture" in line for line in lines)
    assert "2 done, 1 failed" in lines[-2] and "ExecutionProvider" in lines[-2]
    assert lines[-1] == "error: 1 of 3 pictures failed"
    assert list(outputs(tmp_path / "out")) == ["a.jpg", "sub/b.png"]
    assert outputs(folder) == before


def test_why_no_gpu_is_used_is_said_once_and_in_the_summary(denoise_folder, monkeypatch):
    monkeypatch.setattr("denoiser.engine.gpu_problem", lambda: "no NVIDIA driver")
    lines = denoise_folder().err.splitlines()
    told = [line for line in lines if "GPU not used: no NVIDIA driver" in line]
    assert len(told) == 2 and "a.jpg" in told[0] and "2 done" in told[1]


def test_a_second_run_does_only_what_is_left(denoise_folder, folder, tmp_path, rng):
    assert states(denoise_folder("--json")) == {"a.jpg": "done", "sub/b.png": "done",
                                                "bad.png": "failed"}  # fmt: skip
    before = outputs(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*g")}
    Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(folder / "bad.png")
    os.utime(folder / "a.jpg")  # other times, same content
    assert states(denoise_folder("--json")) == {"a.jpg": "skipped", "sub/b.png": "skipped",
                                                "bad.png": "done"}  # fmt: skip
    after = outputs(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())


def test_other_settings_or_content_replace_our_own_outputs_only(denoise_folder, folder, tmp_path):
    out = tmp_path / "out"
    (folder / "bad.png").unlink()
    denoise_folder()
    first = outputs(out)
    bounded = denoise_folder("--tile", 512, "--max-memory", 4000, "--json")
    assert set(states(bounded).values()) == {"skipped"}
    assert denoise_folder("--strength", 0.5).code == 0
    second = outputs(out)
    assert all(first[name] != second[name] for name in first)
    shutil.copy(folder / "sub" / "b.png", folder / "c.png")
    (folder / "a.jpg").write_bytes(first["a.jpg"])
    found = states(denoise_folder("--strength", 0.5, "--json"))
    assert found == {"a.jpg": "done", "c.png": "done", "sub/b.png": "skipped"}
    assert outputs(out)["a.jpg"] != second["a.jpg"]
    for option in (("--views", 2), ("--chroma", 0.2)):
        assert set(states(denoise_folder(*option, "--json")).values()) == {"done"}
    (out / "a.jpg").write_bytes(b"edited")  # by a person: it is not ours any more
    result = denoise_folder("--json")
    assert result.code == 4 and "changed since it was written" in result.err
    assert (out / "a.jpg").read_bytes() == b"edited"
    assert denoise_folder("--overwrite").code == 0
    assert (out / "a.jpg").read_bytes() != b"edited"


def test_results_of_another_folder_are_not_replaced(run_denoise, tmp_path, blur_path, rng):
    for card in "ab":
        (tmp_path / card).mkdir()
        pixels = rng.integers(0, 255, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / card / "1.png")
    command = ("--json", "-m", blur_path)
    assert run_denoise(tmp_path / "a", tmp_path / "out", *command).code == 0
    before = outputs(tmp_path / "out")
    for _ in range(2):  # that it failed makes it no more ours
        result = run_denoise(tmp_path / "b", tmp_path / "out", *command)
        assert result.code == 4 and f"was made of {tmp_path / 'a' / '1.png'}" in result.err
    assert outputs(tmp_path / "out") == before
    (tmp_path / "a").rename(tmp_path / "moved")  # the same picture elsewhere
    for options, state in (((), "skipped"), (("--strength", 0.5), "done")):
        result = run_denoise(tmp_path / "moved", tmp_path / "out", *command, *options)
        assert states(result) == {"1.png": state}
    assert run_denoise(tmp_path / "b", tmp_path / "out", *command, "--overwrite").code == 0
    (tmp_path / "b" / "1.png").rename(tmp_path / "2.png")
    (tmp_path / "b" / "1.png").symlink_to(tmp_path / "moved" / "1.png")  # a link led elsewhere
    assert states(run_denoise(tmp_path / "b", tmp_path / "out", *command)) == {"1.png": "done"}


def test_one_picture_may_have_several_outputs(denoise_folder, folder, tmp_path):
    (folder / "bad.png").unlink()
    for state in ("done", "skipped"):
        for suffix in ("_1", "_2"):
            found = states(denoise_folder("--json", "--suffix", suffix))
            assert set(found.values()) == {state}
    assert len(outputs(tmp_path / "out")) == 4


def test_an_output_edited_meanwhile_is_not_replaced(denoise_folder, tmp_path, monkeypatch):
    denoise_folder()
    restore = job.Denoising.restore

    def edit_first(self, names, *rest):
        if names == ["a.jpg"]:
            (tmp_path / "out" / "a.jpg").write_bytes(b"edited")
        return restore(self, names, *rest)

    monkeypatch.setattr(job.Denoising, "restore", edit_first)
    result = denoise_folder("--strength", 0.5, "--json")
    assert states(result) == {"a.jpg": "failed", "bad.png": "failed", "sub/b.png": "done"}
    assert "has changed meanwhile" in result.err
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"edited"


def test_outputs_of_others_are_left_alone(denoise_folder, folder, tmp_path):
    (folder / "bad.png").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").write_bytes(b"mine")
    result = denoise_folder("--json")
    assert states(result) == {"a.jpg": "failed", "sub/b.png": "done"} and result.code == 4
    assert states(denoise_folder("--json", "--skip-existing"))["a.jpg"] == "skipped"
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"mine"
    (tmp_path / "out" / "sub" / "b.png").unlink()
    assert states(denoise_folder("--json", "--skip-existing"))["sub/b.png"] == "done"


def test_a_journal_of_a_newer_version_is_left_alone(denoise_folder, tmp_path):
    denoise_folder()
    before = journal_rows(tmp_path / "out")
    with contextlib.closing(sqlite3.connect(tmp_path / "out/.denoise/journal.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    result = denoise_folder()
    assert result.code == 5 and "of a newer denoiser" in result.err
    assert journal_rows(tmp_path / "out") == before


def test_the_journal_tells_what_was_done(denoise_folder, tmp_path, blur_path):
    denoise_folder("--sigma", 12)
    rows = journal_rows(tmp_path / "out")
    row, model = rows["a.jpg"], Model(blur_path, device="cpu")
    assert row["state"] == "done" and row["provider"].endswith("ExecutionProvider")
    assert row["model_sha256"] == model.sha256 and row["sigma"] == pytest.approx(12, abs=0.01)
    assert json.loads(row["settings"])["sigma"] == pytest.approx(12 / 255)
    assert rows["bad.png"]["state"] == "failed" and "not a picture" in rows["bad.png"]["error"]


def test_dry_run_says_what_would_happen_and_touches_nothing(denoise_folder, folder, tmp_path):
    def contents():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    before = contents()
    result = denoise_folder("--dry-run", "--json")
    assert states(result) == {"a.jpg": "to do", "bad.png": "to do", "sub/b.png": "to do"}
    assert contents() == before
    denoise_folder()
    (tmp_path / "out" / "sub" / "b.png").write_bytes(b"edited")
    before = contents()
    assert states(denoise_folder("--dry-run", "--json"))["a.jpg"] == "skipped"
    result = denoise_folder("--dry-run")
    assert result.code == 4 and "1 of 3 pictures fail" in result.err and "bad.png" in result.err
    assert "failed: sub/b.png" in denoise_folder("--dry-run", "--quiet").err
    assert denoise_folder("--dry-run", "--watch").code == 0  # as the watch would end
    assert denoise_folder("--dry-run", out=tmp_path / "no" / "out").code == 5
    assert denoise_folder("--dry-run", "--require-gpu", "--device", "cpu").code == 6
    assert contents() == before


def test_fail_fast_stops_at_the_first(denoise_folder, folder, tmp_path):
    (folder / "0.png").write_bytes(b"")
    result = denoise_folder("--fail-fast", "--json")
    assert result.code == 4 and states(result) == {"0.png": "failed"}
    assert "1 failed, 3 left" in result.err and "1 of 4 pictures failed" in result.err


def refuse_to_list(monkeypatch, name):
    scan = os.scandir

    def refuse(path):  # the right to read means nothing to root
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)


def test_fail_fast_stops_at_a_folder_that_cannot_be_listed(denoise_folder, tmp_path, monkeypatch):
    refuse_to_list(monkeypatch, "sub")
    result = denoise_folder("--fail-fast")
    assert result.code == 4 and "failed: sub: Permission denied" in result.err
    assert not outputs(tmp_path / "out")


@pytest.mark.parametrize("options", [[], ["--watch"]])
def test_an_input_that_cannot_be_listed_gets_code_2(denoise_folder, monkeypatch, options):
    refuse_to_list(monkeypatch, "in")
    result = denoise_folder(*options)
    assert result.code == 2 and result.err.count("\n") == 1
    assert result.err.startswith("error: cannot look into ") and "denied" in result.err


def test_what_is_written_while_an_interrupt_waits_is_told(denoise_folder, monkeypatch, tmp_path):
    write, begun = batch.Job.write, threading.Event()

    def write_slowly(self, *arguments, **options):
        begun.set()
        time.sleep(0.5)
        return write(self, *arguments, **options)

    def interrupt(self, item):
        if item.name != "a.jpg":
            begun.wait(10)
            raise KeyboardInterrupt

    monkeypatch.setattr("denoiser.job.Job.write", write_slowly)
    monkeypatch.setattr("denoiser.console.FolderView.started", interrupt)
    result = denoise_folder("--json")
    assert result.code == 130 and states(result)["a.jpg"] == "done"
    assert "1 done" in result.err and journal_rows(tmp_path / "out")["a.jpg"]["state"] == "done"


def test_a_damaged_journal_says_what_to_do(denoise_folder, tmp_path):
    denoise_folder()
    (tmp_path / "out" / ".denoise" / "journal.sqlite").write_bytes(b"no journal" * 99)
    result = denoise_folder()
    assert result.code == 5 and "move it away, and give --overwrite" in result.err
    (tmp_path / "out" / ".denoise" / "journal.sqlite").unlink()
    assert "2 done, 1 failed" in denoise_folder("--overwrite").err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--watch", "--settle", "0"]])
def test_full_streams(folder, tmp_path, blur_path, options):
    (folder / "bad.png").unlink()
    command = [*DENOISE, folder, tmp_path / "out", "-m", blur_path, "--device", "cpu"]
    with Path("/dev/full").open("wb") as full:
        if not options:
            assert subprocess.run(command, stderr=full).returncode == 0
            assert list(outputs(tmp_path / "out")) == ["a.jpg"]
        command += ["--overwrite", "--json", *options]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 5
    assert "error: cannot write to standard output: No space left" in done.stderr


def test_names_that_differ_in_case_clash_in_the_first_run_already(
    denoise_folder, folder, tmp_path, monkeypatch
):
    (folder / "A.jpg").write_bytes((folder / "a.jpg").read_bytes())
    assert denoise_folder("--dry-run").code == 0

    def folds(out):  # where that is so it can be seen once there is a journal
        return (out / plan.JOURNAL_FOLDER).exists()

    monkeypatch.setattr(plan, "_folds_case", folds)
    result = denoise_folder()
    assert result.code == 1 and "would both become" in result.err
    assert not outputs(tmp_path / "out")


def test_files_of_other_kinds_are_told_and_named_if_asked(denoise_folder, folder):
    for name in ("b.PSD", "c.psd", "d.mp4", "README"):
        (folder / name).write_bytes(b"")
    line = "files of kinds that are not read: 4 (.mp4, .psd, without suffix)"
    for options in ([], ["--dry-run"]):
        result = denoise_folder(*options)
        assert line in result.err and "d.mp4" not in result.err
    assert "d.mp4: of a kind that is not read" in denoise_folder("--verbose").err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_pipes_are_told_and_named_if_asked(denoise_folder, folder):
    os.mkfifo(folder / "pipe.png")
    result = denoise_folder()
    assert "which are not read: 1" in result.err and "pipe.png" not in result.err
    assert "pipe.png: a pipe, device or socket" in denoise_folder("-v").err


def test_what_an_extra_would_read_is_told(denoise_folder, folder, monkeypatch):
    for module in (plan, images):
        monkeypatch.setattr(module, "SUFFIXES", frozenset({".jpg", ".png"}))
    for name in ("b.heic", "c.nef"):
        (folder / name).touch()
    (line,) = [line for line in denoise_folder().err.splitlines() if ".heic, .nef" in line]
    assert "pip install '.[heif]'" in line and "pip install '.[raw]'" in line
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "b.heic").touch()
    result = denoise_folder("--overwrite")
    assert result.code == 2 and "no pictures in" in result.err and ".[heif]'" in result.err


def test_impossible_plans_end_before_anything_starts(
    denoise_folder, run_denoise, folder, tmp_path, monkeypatch
):
    shutil.copy(folder / "sub" / "b.png", folder / "a.png")
    result = denoise_folder("--format", "webp")
    assert result.code == 1 and "a.jpg and a.png would both become" in result.err
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    result = run_denoise(tmp_path / "empty", tmp_path / "out")
    assert result.code == 2 and "--recursive" in result.err
    (tmp_path / "file").write_bytes(b"")
    assert denoise_folder(out=tmp_path / "file").code == 1
    result = denoise_folder("--watch", "--on-success", f"archive:{folder / 'done'}")
    assert result.code == 1 and "choose another place for the archive" in result.err
    result = denoise_folder("--watch", "--on-success", f"archive:{tmp_path / 'out' / 'done'}")
    assert result.code == 1 and "lie within each other" in result.err
    monkeypatch.setenv("HOME", str(tmp_path / "out"))
    result = denoise_folder("--watch", "--on-success", "archive:~/done")
    assert result.code == 1 and "lie within each other" in result.err
    assert denoise_folder("--watch", "--fail-fast").code == 1
    result = denoise_folder("--tile", 16)
    assert result.code == 1 and "use at least" in result.err
    assert not (tmp_path / "out").exists()


def test_a_link_to_the_original_is_no_output(denoise_folder, folder, tmp_path):
    original = (folder / "a.jpg").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(folder / "a.jpg")
    result = denoise_folder("--overwrite")
    assert result.code == 4 and "a link to the original" in result.err
    assert (folder / "a.jpg").read_bytes() == original


def test_what_another_command_made_is_not_replaced(denoise_folder, run_denoise, folder, tmp_path):
    (folder / "bad.png").unlink()
    denoise_folder()
    before = outputs(tmp_path / "out")
    model, mask = tmp_path / "quarter.onnx", tmp_path / "mask.png"
    model.write_bytes(filling_onnx())
    Image.new("L", (50, 40), 0).save(mask)
    arguments = (folder, mask, tmp_path / "out", "-m", model, "-r")
    for _ in range(2):  # the first must not make the journal forget
        result = run_denoise(*arguments, command="inpaint")
        assert result.code == 4 and "a.jpg was made by denoise" in result.err
        assert outputs(tmp_path / "out") == before
    assert "2 skipped" in denoise_folder().err
    assert run_denoise(*arguments, "--overwrite", command="inpaint").code == 0
    assert "made by inpaint" in denoise_folder().err


def test_a_folder_with_the_name_of_a_result_is_no_result(denoise_folder, folder, tmp_path):
    (tmp_path / "out" / "a.jpg").mkdir(parents=True)
    for option in ("--skip-existing", "--overwrite"):
        result = denoise_folder(option)
        assert result.code == 4 and "a.jpg is not an ordinary file" in result.err


def test_every_locale_has_the_same_journal(folder, tmp_path, blur_path):
    (folder / "a.jpg").rename(folder / "\u00dcbung.jpg")
    command = [*DENOISE, folder, tmp_path / "out", "-m", blur_path]
    other = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    for environment in (other, {"PYTHONUTF8": "1"}):
        run = subprocess.run(command, env=os.environ | environment, stderr=subprocess.PIPE)
    assert b"1 skipped" in run.stderr


def test_a_report_that_cannot_be_written_does_not_hide_why_it_ended(
    denoise_folder, tmp_path, monkeypatch
):
    def interrupt(self, items, *_):
        (tmp_path / "pages").rmdir()
        raise KeyboardInterrupt

    (tmp_path / "pages").mkdir()
    monkeypatch.setattr(batch.Batch, "run", interrupt)
    result = denoise_folder("--report", tmp_path / "pages" / "a.html")
    assert result.code == 130 and "a.html" in result.err


def test_no_result_lands_among_the_originals_by_a_link(denoise_folder, folder, tmp_path):
    before = outputs(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(folder / "sub")
    (tmp_path / "out" / "a.jpg").symlink_to(folder / "new.jpg")
    for options in ((), ("--suffix", "-x"), ("--overwrite",)):
        result = denoise_folder(*options)
        assert result.code == 4 and f"leads into {folder} by a link" in result.err
        assert outputs(folder) == before


def test_a_second_instance_is_refused(denoise_folder, tmp_path):
    with open_journal(tmp_path / "out"):
        result = denoise_folder()
    assert result.code == 5 and "another denoise is working" in result.err


def test_unusual_names(run_denoise, tmp_path, blur_path, rng):
    names = ["ü ñ 写\u3000真.png", "new\nline.png", " spaces .png", "x" * 251 + ".png", "-dash.png"]
    if sys.platform == "linux":
        names += [os.fsdecode(b"caf\xe9.png"), "red \x1b[31m.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / "in" / name)
    command = (tmp_path / "in", tmp_path / "out", "-m", blur_path, "--json")
    assert run_denoise(*command, "--report", tmp_path / "sheet.html").code == 0
    assert sorted(outputs(tmp_path / "out")) == sorted(names)
    for options in ([], ["--dry-run"], ["--verbose"]):
        result = run_denoise(*command, *options)
        assert states(result) == dict.fromkeys(names, "skipped") and "\x1b" not in result.err
    assert "new\\nline.png: skipped" in result.err  # a line each
    assert "ü ñ 写\u3000真.png: skipped" in result.err  # to be copied


def test_pictures_of_one_kind_go_together_where_that_helps(folder, tmp_path, rng, monkeypatch):
    """As on a GPU: the model sees a batch, and every picture is as if it had come alone."""
    for name in "cdef":
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / f"{name}.png")
    results, sizes = {}, []
    for out in ("alone", "together"):
        model = Model(blur_onnx(2), device="cpu")
        if out == "together":
            monkeypatch.setattr(batch, "CPU", "another provider")
            run = model.run
            monkeypatch.setattr(
                model, "run", lambda *a, run=run: sizes.append(len(a[0])) or run(*a)
            )
        found = make_plan(folder, tmp_path / out, recursive=True, format=None, suffix="")
        with open_journal(tmp_path / out) as journal:
            work = batch.Batch(model, job.Denoising(), journal, Options())
            slowly = iter(found.items)
            work.run(slowly, lambda result: None, lambda item: time.sleep(0.3))
        results[out] = outputs(tmp_path / out)
    assert max(sizes) > 1 and sum(sizes) == 6
    assert results["alone"] == results["together"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_ends_the_run_and_the_next_goes_on(
    error, denoise_folder, folder, tmp_path, monkeypatch
):
    (folder / "bad.png").unlink()
    with monkeypatch.context() as patch:

        def fail(descriptor):
            raise OSError(error, os.strerror(error))

        patch.setattr("os.fsync", fail)
        result = denoise_folder()
    assert result.code == 5 and os.strerror(error) in result.err
    assert outputs(tmp_path / "out") == {}
    assert denoise_folder().code == 0
    assert len(outputs(tmp_path / "out")) == 2


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="needs the right to mount"
)
def test_a_really_full_disk(run_denoise, tmp_path, blur_path, rng):
    out, source = tmp_path / "out", tmp_path / "in"
    out.mkdir()
    source.mkdir()
    for index in range(12):
        pixels = rng.integers(0, 255, (150, 150, 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{index:02}.png")
    size = ["-o", "size=400k"]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", out], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        result = run_denoise(source, out, "-m", blur_path)
        assert result.code == 5 and result.err.count("No space left") + result.err.count("full")
        done = outputs(out)
        assert 0 < len(done) < 12
        for name in done:
            Image.open(out / name).load()  # whole
        assert not list((out / ".denoise").glob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=9m", out], check=True)
        assert run_denoise(source, out, "-m", blur_path).code == 0
        after = outputs(out)
        assert len(after) == 12 and {name: after[name] for name in done} == done
    finally:
        subprocess.run(["umount", out], check=True)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs a folder that nobody may write")
def test_an_output_folder_or_archive_that_takes_no_files_is_said_at_once(denoise_folder):
    result = denoise_folder(out=Path("/proc/out"))
    assert result.code == 5 and "cannot write into /proc/out" in result.err
    result = denoise_folder("--watch", "--on-success", "archive:/proc/old")
    assert result.code == 5 and "cannot write into /proc/old" in result.err


@pytest.mark.slow
def test_killed_at_twenty_moments_the_result_is_that_of_an_undisturbed_run(
    tmp_path, blur_path, rng
):
    source = tmp_path / "in"
    for index in range(100):
        path = source / f"{index % 7}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), np.uint8)).save(path)
    options = ["-m", blur_path, "-r", "-q", "--device", "cpu", "--threads", "1"]
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    started = time.monotonic()
    subprocess.run([*DENOISE, source, undisturbed, *options], check=True)
    whole_s = time.monotonic() - started
    moments = random.Random(0)
    progress = []
    for _ in range(20):
        process = subprocess.Popen([*DENOISE, source, out, *options])
        time.sleep(moments.uniform(0.3, 0.3 + 0.25 * whole_s))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = outputs(out) if out.exists() else {}
        progress.append(len(found))
        expected = outputs(undisturbed)
        assert all(expected[name] == data for name, data in found.items())  # never half a file
    assert progress == sorted(progress) and progress[-1] > 0
    again = subprocess.run([*DENOISE, source, out, *options, "--json"], capture_output=True)
    assert again.returncode == 0, again.stderr
    reports = [json.loads(line) for line in again.stdout.splitlines()]
    assert sum(report["state"] == "skipped" for report in reports) == progress[-1]
    assert outputs(out) == outputs(undisturbed)
    kept = {path.name for path in (out / ".denoise").iterdir()}
    assert kept == {path.name for path in (undisturbed / ".denoise").iterdir()}


@pytest.mark.slow
def test_ten_thousand_files_take_no_more_memory_than_a_thousand(tmp_path, identity_path):
    peaks = {}
    code = (
        "import sys; from denoiser.cli import denoise; sys.argv[0] = 'denoise';"
        "denoise.main(sys.argv[1:], standalone_mode=False);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    Image.new("RGB", (16, 16), "grey").save(tmp_path / "one.png")
    data = (tmp_path / "one.png").read_bytes()
    for count in (1000, 10_000):
        source, out = tmp_path / f"in{count}", tmp_path / f"out{count}"
        source.mkdir()
        for index in range(count):
            (source / f"{index}.png").write_bytes(data)
        command = [sys.executable, "-c", code, source, out, "-m", identity_path, "-q"]
        command += ["--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[count] = int(done.stdout) / 1024
        assert len(list(out.glob("*.png"))) == count
    assert peaks[10_000] < peaks[1000] + 40 < 200  # MB: the plan itself is some


def test_a_clock_that_goes_backwards_does_no_harm(denoise_folder, folder, tmp_path, monkeypatch):
    (folder / "bad.png").unlink()
    denoise_folder()
    os.utime(folder / "a.jpg", (1, 1))
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert set(states(denoise_folder("--json")).values()) == {"skipped"}


def test_what_got_lost_is_known_if_the_journal_is_cut_short(
    run_denoise, tmp_path, blur_path, monkeypatch
):
    """An original of which something is nowhere else must not be deleted after a kill."""
    (tmp_path / "in").mkdir()
    pages = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "in" / "scan.tif", save_all=True, append_images=pages[1:])
    put = Journal.put

    def die_when_done(self, entry):
        if entry.state == "done":
            raise KeyboardInterrupt
        put(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "put", die_when_done)
        assert run_denoise(tmp_path / "in", tmp_path / "out", "-m", blur_path).code == 130
    assert (tmp_path / "out" / "scan.tif").exists()
    for state in ("writing", "done"):
        row = journal_rows(tmp_path / "out")["scan.tif"]
        assert row["state"] == state and "first of 2 pages" in row["warnings"]
        run_denoise(tmp_path / "in", tmp_path / "out", "-m", blur_path)


def test_a_sheet_that_fails_is_the_failure_of_its_picture(denoise_folder, tmp_path, monkeypatch):
    def fail(self, *arguments):
        raise MemoryError

    monkeypatch.setattr("denoiser.sheet.Sheet.add", fail)
    result = denoise_folder("--report", tmp_path / "sheet.html")
    assert result.code == 4 and "3 failed" in result.err


def test_a_result_that_is_taken_away_at_once_is_done(denoise_folder, tmp_path, monkeypatch):
    write = batch.Job.write

    def write_and_take(self, picture, target, **options):
        lost = write(self, picture, target, **options)
        target.unlink()
        return lost

    monkeypatch.setattr("denoiser.job.Job.write", write_and_take)
    assert "2 done, 1 failed" in denoise_folder().err


def test_a_share_whose_files_belong_to_another_can_be_written_to(denoise_folder, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert "2 done, 1 failed" in denoise_folder().err


def test_a_rehearsal_never_writes(tmp_path):
    journal = Journal(tmp_path, rehearse=True)
    assert journal.find(Item("a", "a", tmp_path / "a", tmp_path / "b")) is None
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_after_a_kill_reads_what_was_left_half_done(denoise_folder, tmp_path):
    code = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE pictures SET state = 'x'")
database.execute("CREATE TABLE big AS WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
                 " WHERE i < 9999) SELECT i FROM n")
os._exit(0)
"""
    denoise_folder()
    path = tmp_path / "out" / ".denoise" / "journal.sqlite"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert path.with_name("journal.sqlite-journal").exists()
    assert states(denoise_folder("--dry-run", "--json"))["a.jpg"] == "skipped"
    assert path.with_name("journal.sqlite-journal").exists()  # left to the next run


def test_the_contact_sheet_shows_before_and_after(denoise_folder, tmp_path):
    page = tmp_path / "out" / "sheet.html"  # a folder that is to be made
    for no_file in ("-", "", tmp_path, tmp_path / "out"):
        result = denoise_folder("--report", no_file, "--overwrite")
        assert result.code == 1 and "--report is a file" in result.err
    for elsewhere, words in (("out/b.png", "give "), ("in/b.html", "lies in IN")):
        result = denoise_folder("--report", tmp_path / elsewhere)
        assert result.code == 1 and words in result.err
    denoise_folder("--report", page)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 4 and "sub/b.png" in text
    result = denoise_folder("--report", page)
    assert result.code == 5 and "exists: give another name, or delete it" in result.err
    result = denoise_folder("--report", tmp_path / "none" / "sheet.html")
    assert result.code == 5 and "there is no folder" in result.err


def test_a_bar_with_files_speed_and_time_on_a_terminal(folder, tmp_path, blur_path):
    import pty

    (folder / "bad.png").unlink()
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*DENOISE, folder, tmp_path / "out", "-r", "-m", blur_path],
        stderr=child,
        env=os.environ | {"COLUMNS": "100", "TERM": "xterm"},
    )
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:
            break
    os.close(parent)
    assert process.wait() == 0
    assert b"2/2" in shown and b"MP/s" in shown and b"b.png" in shown and b"2 done" in shown
