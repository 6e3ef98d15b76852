"""A watched folder, with faults for real: docs/batch.md says which promise each test holds."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import watchfiles
from conftest import blur_onnx, filling_onnx
from PIL import Image
from test_batch import journal_rows, outputs
from test_raw import dng

from denoiser import images, job, watch
from denoiser.batch import Batch
from denoiser.engine import Model
from denoiser.errors import OutputError
from denoiser.files import stamp_of
from denoiser.journal import Entry, open_journal
from denoiser.plan import Item, Options, Plan, make_plan

DENOISE = [sys.executable, "-c", "from denoiser.cli import denoise_main; denoise_main()"]


@pytest.fixture
def place(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "blur.onnx").write_bytes(blur_onnx(1))
    return tmp_path


def put(path, seed=0, size=(30, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


@contextlib.contextmanager
def watching(place, *options, settle=0.3, ignored=()):
    """A watch in a process of its own; ends it, unless somebody has, and checks how it ended."""
    command = [*DENOISE, place / "in", place / "out", "--watch", "-r", "--settle", str(settle)]
    command += ["-m", place / "blur.onnx", "--device", "cpu", "--threads", "1", *options]
    (place / "out" / ".denoise" / "status.json").unlink(missing_ok=True)  # of an earlier watch
    with (place / "errors").open("wb") as errors:
        before = [signal.signal(number, signal.SIG_IGN) for number in ignored]  # is inherited
        process = subprocess.Popen(command, stderr=errors)
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    try:
        until(lambda: status(place) or process.poll() is not None)
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert status(place)["state"] == "stopped"
    finally:
        process.kill()
        process.wait()


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def status(place):
    path = place / "out" / ".denoise" / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}


def told(place):
    return (place / "errors").read_text()


def test_it_catches_up_and_then_takes_what_comes(place):
    put(place / "in" / "before.png")
    with watching(place) as process:
        until(lambda: (place / "out" / "before.png").exists())
        put(place / "in" / "deep" / "later.jpg")
        until(lambda: (place / "out" / "deep" / "later.jpg").exists())
        until(lambda: status(place)["state"] == "waiting")
        assert (status(place)["done"], status(place)["pid"]) == (2, process.pid)
        process.send_signal(signal.SIGHUP)
        put(place / "in" / "after hup.png")
        until(lambda: (place / "out" / "after hup.png").exists())
    with watching(place):
        time.sleep(1)
        assert status(place)["done"] == 0  # nothing is done twice


def test_a_watch_that_starts_again_replaces_its_report_and_no_other_file(place):
    page = place / "page.html"
    for name in ("a.png", "b.png"):
        put(place / "in" / name)
        with watching(place, "--report", page):
            until((place / "out" / name).exists)
        assert name in page.read_text()
    with watching(place, "--report", page):
        time.sleep(0.5)
    assert "b.png" in page.read_text()  # there was nothing to do
    page.write_text("mine")
    with watching(place, "--report", page) as process:
        assert process.wait(10) == 5
    assert page.read_text() == "mine"


def test_polling_needs_no_events(place):
    with watching(place, "--poll", "0.2"):
        put(place / "in" / "a.png")
        until(lambda: (place / "out" / "a.png").exists())


def test_a_file_that_grows_is_taken_when_it_is_whole(place):
    data = put(place / "whole.png", size=(200, 200))
    with watching(place, settle=1), (place / "in" / "slow.png").open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 6):
            file.write(data[start : start + len(data) // 6])
            time.sleep(0.5)
            assert not (place / "out" / "slow.png").exists()
        until(lambda: (place / "out" / "slow.png").exists())
        assert status(place)["quarantined"] == 0 and "failed" not in told(place)


def test_bad_files_are_retried_quarantined_and_taken_up_when_they_change(place):
    (place / "in" / "bad.png").write_bytes(b"no picture")
    with watching(place, settle=0.1):
        until(lambda: status(place).get("quarantined") == 1)
        assert "failed: bad.png" in told(place)
        row = journal_rows(place / "out")["bad.png"]
        assert row["state"] == "quarantined" and "not a picture" in row["error"]
        assert (place / "in" / "bad.png").read_bytes() == b"no picture"
    with watching(place, settle=0.1):  # tried once more, for what was wrong may be mended
        until(lambda: status(place)["failed"] == 1)
        assert status(place)["quarantined"] == 1
        put(place / "in" / "bad.png")
        until(lambda: (place / "out" / "bad.png").exists())
        until(lambda: status(place)["quarantined"] == 0)


def test_what_inpaint_made_stays_on_its_list_as_done(place, run_denoise):
    put(place / "in" / "a.png")
    Image.new("L", (40, 30), 0).save(place / "mask.png")
    (place / "fill.onnx").write_bytes(filling_onnx())
    fill = (place / "in", place / "mask.png", place / "out", "-m", place / "fill.onnx", "-r")
    assert run_denoise(*fill, command="inpaint").code == 0
    with watching(place, settle=0.1):
        until(lambda: status(place).get("failed") == 1)
        until(lambda: "made by inpaint" in told(place))
    assert "1 skipped" in run_denoise(*fill, command="inpaint").err


def test_a_quarantined_picture_that_is_taken_away_needs_nobody(place):
    (place / "in" / "bad.png").write_bytes(b"no picture")
    with watching(place, settle=0.1):
        until(lambda: status(place).get("quarantined") == 1)
        (place / "in" / "bad.png").unlink()
        until(lambda: status(place)["quarantined"] == 0)
    assert journal_rows(place / "out")["bad.png"]["state"] == "failed"


def test_quarantined_pictures_of_other_folders_stay_on_the_list(place):
    with open_journal(place / "out") as journal:
        for folder in ("in", "elsewhere"):
            source = str(place / folder / "bad.png")
            journal.put(Entry(f"{folder}.png", "bad.png", source=source, state="quarantined"))
        journal.release(place / "in")
        assert journal.count("quarantined") == 1
        bad = Item("in.png", "bad.png", place / "in" / "in.png", place / "out" / "bad.png")
        assert journal.find(bad).state == "failed"


def test_a_full_disk_while_it_looks_ends_nothing(place, monkeypatch):
    put(place / "in" / "a.png")
    results, lines = [], []
    with watcher(place, lines, looks=40) as looking:
        release, looks = looking.journal.release, itertools.count()

        def fill_first(folder):
            if next(looks) == 0:
                raise OutputError("no room") from OSError(errno.ENOSPC, "full")
            release(folder)

        monkeypatch.setattr(looking.journal, "release", fill_first)
        monkeypatch.setattr(watch, "RETRY_S", 0.01)
        looking.run(results.append)
    assert [result.state for result in results] == ["done"] and lines == ["waiting: no room"]


@pytest.mark.skipif(os.name == "nt", reason="no shell in the background")
def test_a_watch_behind_a_shell_does_not_heed_the_ctrl_c_of_others(place):
    with watching(place, ignored=[signal.SIGINT]) as process:
        process.send_signal(signal.SIGINT)
        put(place / "in" / "a.png")
        until(lambda: (place / "out" / "a.png").exists())


def test_what_failed_once_is_named_at_the_end(place):
    with watching(place, settle=0):
        (place / "in" / "bad.png").write_bytes(b"no picture")
        until(lambda: "bad.png" in journal_rows(place / "out"))
    assert "failed: bad.png" in told(place) and "1 failed" in told(place)


def test_renames_deletes_and_uploads_of_other_content(place):
    with watching(place, settle=0.5):
        put(place / "in" / "gone.png")
        time.sleep(0.2)
        (place / "in" / "gone.png").unlink()  # before its turn
        put(place / "in" / "a.png")
        until(lambda: (place / "out" / "a.png").exists())
        first = (place / "out" / "a.png").read_bytes()
        (place / "in" / "a.png").rename(place / "in" / "b.png")
        until(lambda: (place / "out" / "b.png").exists())
        put(place / "in" / "b.png", seed=1)
        until(lambda: (place / "out" / "b.png").read_bytes() != first)
        (place / "in" / "b.png").unlink()
        time.sleep(1)
    assert sorted(outputs(place / "out")) == ["a.png", "b.png"]
    assert "failed" not in told(place) and status(place)["quarantined"] == 0


def test_outputs_that_somebody_took_away_are_not_made_again(place):
    put(place / "in" / "a.png")
    with watching(place):
        until(lambda: status(place).get("done") == 1)
        (place / "out" / "a.png").unlink()
        os.kill(status(place)["pid"], signal.SIGHUP)
        time.sleep(1)
    assert not (place / "out" / "a.png").exists()


@pytest.mark.parametrize("what", ["archive", "delete"])
def test_originals_are_put_away_when_their_result_is_safe(place, what):
    data = put(place / "in" / "sub" / "a.png")
    (place / "in" / "bad.png").write_bytes(b"no picture")
    choice = f"archive:{place / 'old'}" if what == "archive" else what
    with watching(place, "--on-success", choice, settle=0.1):
        until(lambda: not (place / "in" / "sub" / "a.png").exists())
        assert (place / "out" / "sub" / "a.png").exists()
        if what == "archive":
            until(lambda: (place / "old" / "sub" / "a.png").exists())
            assert (place / "old" / "sub" / "a.png").read_bytes() == data
        until(lambda: status(place)["quarantined"] == 1)
    assert (place / "in" / "bad.png").exists()


def test_an_original_of_which_something_is_lost_is_not_deleted(place):
    pages = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    pages[0].save(place / "in" / "scan.tif", save_all=True, append_images=pages[1:])
    put(place / "in" / "whole.png")  # of which quality takes nothing
    for _ in range(2):  # the second time it is known as done
        with watching(place, "--on-success", "delete", "--quality", "90", settle=0.1):
            until(lambda: "scan.tif is not deleted: only the first of 2 pages" in told(place))
            until(lambda: not (place / "in" / "whole.png").exists())
        assert (place / "in" / "scan.tif").exists() and (place / "out" / "scan.tif").exists()


@pytest.mark.parametrize("what", ["archive", "delete"])
def test_a_new_picture_of_an_old_name_does_not_replace_a_result(place, what):
    put(place / "in" / "scan.png")
    choice = f"archive:{place / 'old'}" if what == "archive" else what
    with watching(place, "--on-success", choice, settle=0.1):
        until(lambda: not (place / "in" / "scan.png").exists())
        first = (place / "out" / "scan.png").read_bytes()
        second = put(place / "in" / "scan.png", seed=1)
        until(lambda: status(place)["quarantined"] == 1)
        assert "shows an earlier scan.png, which was put away" in told(place)
        assert (place / "out" / "scan.png").read_bytes() == first
        assert (place / "in" / "scan.png").read_bytes() == second
        (place / "out" / "scan.png").rename(place / "out" / "first.png")  # as it was told
        os.kill(status(place)["pid"], signal.SIGHUP)
        until(lambda: not (place / "in" / "scan.png").exists())
    assert (place / "out" / "scan.png").read_bytes() != first


def test_an_original_stays_if_its_result_is_not_what_was_written(place):
    data = put(place / "in" / "a.png")
    with watching(place):
        until(lambda: (place / "out" / "a.png").exists())
        until(lambda: status(place)["state"] == "waiting")
    result = (place / "out" / "a.png").read_bytes()
    (place / "out" / "a.png").write_bytes(b"")
    with watching(place, "--on-success", "delete", settle=0.1):
        until(lambda: status(place)["quarantined"] == 1)
    assert (place / "in" / "a.png").read_bytes() == data
    (place / "out" / "a.png").write_bytes(result)
    with watching(place, "--on-success", "delete", settle=0.1):
        until(lambda: not (place / "in" / "a.png").exists())
    assert (place / "out" / "a.png").read_bytes() == result


def test_an_original_stays_if_its_result_was_changed_before_it_is_put_away(place, monkeypatch):
    data, lines, write = put(place / "in" / "a.png"), [], Batch._write

    def write_and_crop(self, work):
        result = write(self, work)
        work.item.target.write_bytes(b"cropped")
        return result

    monkeypatch.setattr(Batch, "_write", write_and_crop)
    with watcher(place, lines, looks=40, delete=True) as looking:
        looking.run(lambda result: None)
    assert (place / "in" / "a.png").read_bytes() == data
    assert "a.png stays where it is" in lines[0] and "a.png was changed" in lines[0]


def test_an_archive_in_the_home_of_nobody_is_refused(run_denoise, place):
    words = ("--watch", "--on-success", "archive:~no-such-person/old")
    result = run_denoise(place / "in", place / "out", *words)
    assert result.code == 1 and "no such home folder" in result.err


def test_what_failed_does_not_keep_its_pixels(place):
    (place / "in" / "bad.png").write_bytes(b"no picture")
    lines = []
    with watcher(place, lines) as looking:
        looking.run(lambda result: None)
        (seen,) = looking._waiting.values()
    assert seen.failure.why and seen.failure.error is None


@pytest.mark.parametrize("idle", [False, True])
def test_a_lost_output_folder_ends_the_watch(place, idle):
    with watching(place, "--poll", "0.1", settle=0.1) as process:
        (place / "out").rename(place / "lost")
        if not idle:
            put(place / "in" / "a.png")
        assert process.wait(20) == 5
    assert ".denoise is gone" in told(place) or "cannot use the journal" in told(place)


class Stop(threading.Event):
    """Set after some looks."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0 or super().is_set()


@contextlib.contextmanager
def watcher(place, lines, looks=12, poll_s=0.01, format=None, **rules):
    """A watch in this process, over after some looks."""
    find = functools.partial(
        make_plan, place / "in", place / "out", recursive=True, format=format, suffix=""
    )
    with open_journal(place / "out") as journal:
        work = Batch(Model(place / "blur.onnx", device="cpu"), job.Denoising(), journal, Options())
        work.stop = Stop(looks)
        rules = watch.Rules(settle_s=0, poll_s=poll_s, **rules)
        yield watch.Watcher(work, place / "in", find, rules, lines.append)


def test_an_original_saved_again_while_it_is_restored_is_done_again(place, monkeypatch):
    put(place / "in" / "a.png")
    restore, results, lines = job.Denoising.restore, [], []

    def save_once(self, *arguments):
        if not results:
            put(place / "in" / "a.png", seed=1)
        return restore(self, *arguments)

    monkeypatch.setattr(job.Denoising, "restore", save_once)
    with watcher(place, lines, looks=40, delete=True) as looking:
        looking.run(results.append)
    assert [result.state for result in results] == ["done", "done"], lines
    assert not (place / "in" / "a.png").exists() and not lines


def test_a_folder_that_cannot_be_read_for_a_moment_ends_nothing(place, monkeypatch):
    put(place / "in" / "deep" / "a.png")
    results, lines = [], []
    with watcher(place, lines, looks=40) as looking:
        find, looks = looking.find, itertools.count()

        def fail_second():
            second = next(looks) == 1
            return Plan(unreadable=[("deep", "Permission denied")]) if second else find()

        monkeypatch.setattr(looking, "find", fail_second)
        looking.rules = dataclasses.replace(looking.rules, settle_s=0.005)  # waits when it fails
        looking.run(results.append)
    assert [result.state for result in results] == ["done"]
    assert lines == ["cannot look into deep: Permission denied"]


def test_a_clash_keeps_no_watch_from_beginning(place):
    for name in ("x.png", "x.bmp", "a.png"):
        put(place / "in" / name)
    with watching(place, "--format", "png", settle=0.1):
        until(lambda: (place / "out" / "a.png").exists())
        until(lambda: "would both become" in told(place))


def test_a_picture_that_cannot_be_looked_at_ends_nothing(place, monkeypatch):
    for name in ("a.png", "b.png"):
        put(place / "in" / name)

    def refuse(path):
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return stamp_of(path)

    monkeypatch.setattr(watch, "stamp_of", refuse)
    results, lines = [], []
    with watcher(place, lines) as looking:
        looking.run(results.append)
    assert [result.item.name for result in results] == ["b.png"]
    assert lines == ["cannot read a.png: Permission denied"]


def test_a_link_that_leads_nowhere_is_told_once_and_followed_when_it_does(place):
    (place / "in" / "a.png").symlink_to(place / "later.png")
    results, lines = [], []
    with watcher(place, lines, looks=20) as looking:
        looking.run(results.append)
        assert not results and lines == ["cannot read a.png: No such file or directory"]
        put(place / "later.png")
        looking.batch.stop = Stop(20)
        looking.run(results.append)
    assert [result.state for result in results] == ["done"] and len(lines) == 1


def test_a_watch_that_overwrites_does_all_again_once(place):
    put(place / "in" / "a.png")
    for options, count in (([], 1), (["--overwrite"], 1), ([], 0)):
        with watching(place, *options, settle=0.1):
            until(lambda count=count: status(place)["done"] == count)
            time.sleep(0.5)
            assert status(place)["done"] == count


def test_a_clash_is_told_once_whatever_else_is_done(place):
    for name in ("x.png", "x.bmp", "a.png"):
        put(place / "in" / name)
    results, lines = [], []
    with watcher(place, lines, looks=40, format=images.format_of("x.png")) as looking:
        looking.run(results.append)
        assert len(results) == 2 and len(lines) == 1 and "would both become" in lines[0]
        put(place / "in" / "b.png")
        looking.batch.stop = Stop(40)
        looking.run(results.append)
    assert len(results) == 3 and len(lines) == 1


def test_what_comes_before_the_system_tells_of_changes_is_seen(place, monkeypatch):
    begin, results, lines = watchfiles.watch, [], []

    def begin_late(*arguments, **options):
        until(lambda: status(place).get("state") == "waiting")
        put(place / "in" / "a.png")
        yield from begin(*arguments, **options)

    monkeypatch.setattr(watchfiles, "watch", begin_late)
    monkeypatch.setattr(watch, "RESCAN_S", 60)
    with watcher(place, lines, poll_s=0) as looking:
        looking.batch.stop = threading.Event()

        def end(result=None):
            looking.batch.stop.set()
            looking.wake.set()
            results.append(result)

        late = threading.Timer(30, end)
        late.start()
        looking.run(end)
        late.cancel()
    assert [result.state for result in results if result] == ["done"] and not lines


def test_an_original_that_cannot_be_archived_is_told_once(place, monkeypatch):
    put(place / "in" / "a.png")
    results, lines, unlink = [], [], Path.unlink

    def refuse(path, **options):
        if path == place / "in" / "a.png":
            raise PermissionError(13, "Permission denied")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    with watcher(place, lines, looks=40, archive=place / "old") as looking:
        looking.run(results.append)
    assert len(results) == len(lines) == 1 and "stays where it is" in lines[0]
    assert not outputs(place / "old")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_finish_the_present_file(place, ending):
    data = put(place / "in" / "0.png", size=(700, 900))
    for index in range(1, 40):
        (place / "in" / f"{index}.png").write_bytes(data)
    with watching(place) as process:
        until(lambda: status(place)["state"] == "working")
        process.send_signal(ending)
        assert process.wait(10) == 0
    done = outputs(place / "out")
    assert 0 < len(done) < 40
    for name in done:
        Image.open(place / "out" / name).load()
    rows = journal_rows(place / "out")
    assert {name for name, row in rows.items() if row["state"] == "done"} == set(done)
    assert "internal" not in told(place)


def test_a_second_ctrl_c_does_not_wait(place):
    put(place / "in" / "a.png", size=(3000, 4000))
    with watching(place, "--model", "balanced") as process:
        until(lambda: status(place)["state"] == "working")
        time.sleep(1.5)  # it computes a tile; Python hears of both signals together
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.wait(60) == 130
    assert not outputs(place / "out") and told(place).endswith("error: interrupted\n")


def test_a_raw_file_is_never_deleted(place):
    (place / "in").mkdir(exist_ok=True)
    (place / "in" / "a.dng").write_bytes(dng())
    results, lines = [], []
    with watcher(place, lines, delete=True) as looking:
        looking.run(results.append)
    assert [result.state for result in results] == ["done"] and "is not deleted" in lines[0]
    assert (place / "in" / "a.dng").exists() and (place / "out" / "a.dng.tif").exists()


def test_a_second_watcher_is_refused_and_a_killed_one_leaves_no_lock(place):
    with watching(place) as first:
        command = [*DENOISE, place / "in", place / "out", "--watch", "-m", place / "blur.onnx"]
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 5 and "another denoise is working" in second.stderr
        first.kill()
        first.wait()
    put(place / "in" / "a.png")
    with watching(place):
        until(lambda: (place / "out" / "a.png").exists())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_thousand_files_through_the_folder_do_not_grow_memory(place):
    def resident_mb(process):
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    data = put(place / "one.png", size=(16, 16))
    sizes = []
    with watching(place, "--on-success", "delete", "--poll", "0.05", settle=0) as process:
        for first in range(0, 1200, 200):
            for index in range(first, first + 200):
                (place / "part").write_bytes(data)
                (place / "part").rename(place / "in" / f"{index}.png")
            until(lambda wanted=first + 200: status(place).get("done") == wanted)
            sizes.append(resident_mb(process))
    assert sizes[-1] - sizes[1] < 4, sizes
    assert list((place / "in").iterdir()) == []
