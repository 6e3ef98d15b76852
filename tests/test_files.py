import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denoiser import files
from denoiser.errors import OutputError
from denoiser.files import move_new, sweep, whole_file, write_text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(ZeroDivisionError), whole_file(target, overwrite=False) as file:
        file.write(b"half")
        file.write(bytes([1 // 0]))
    assert not list(tmp_path.iterdir())
    write_text(target, "whole")
    with (
        pytest.raises(OutputError, match="exists: give --overwrite"),
        whole_file(target, overwrite=False) as file,
    ):
        file.write(b"other")
    write_text(target, "new \udcff")  # as names of files may be
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_bytes() == b"new \\udcff"
    with pytest.raises(OutputError, match="not an ordinary file"):
        write_text(tmp_path, "x")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "none" / "a.txt", "x")


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_a_file_that_is_replaced_stays_as_private_as_it_was(tmp_path):
    private, new = tmp_path / "private.txt", tmp_path / "new.txt"
    private.touch(0o600)
    write_text(private, "x")
    write_text(new, "x")
    assert private.stat().st_mode & 0o777 == 0o600
    assert new.stat().st_mode & 0o777 == 0o666 & ~files._UMASK


def test_what_a_killed_process_left_is_swept(tmp_path):
    (tmp_path / ".denoise-x.part").touch()
    (tmp_path / "a.part").touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
    for name, age_s in (("old", 3600), ("new", 0)):
        part = tmp_path / f".denoise-{name}.part"
        part.touch()
        os.utime(part, (time.time() - age_s,) * 2)
    with whole_file(tmp_path / "a.txt", overwrite=False) as file:  # which sweeps what is old
        file.write(b"whole")
        assert not (tmp_path / ".denoise-old.part").exists()
        sweep(tmp_path)  # as another process may, meanwhile
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.part", "a.txt"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_original_that_changes_while_it_is_archived_stays(tmp_path, monkeypatch, elsewhere):
    source, newer = tmp_path / "a.png", tmp_path / "b.png"
    source.write_text("old")
    newer.write_text("new")
    rename_new = files.rename_new

    def save_first(part, target):
        rename_new(part, target)
        newer.replace(source)

    if elsewhere:  # as another file system
        monkeypatch.setattr(files, "on_one_file_system", lambda source, folder: False)
    monkeypatch.setattr(files, "rename_new", save_first)
    assert move_new(source, tmp_path / "old" / "a.png").read_text() == "old"
    assert source.read_text() == "new"


def test_of_a_link_the_picture_is_archived(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.png").write_text("picture")
    (tmp_path / "a.png").symlink_to("store/1.png")
    found = move_new(tmp_path / "a.png", tmp_path / "old" / "deep" / "a.png")
    assert found.read_text() == "picture" and not found.is_symlink()
    assert not (tmp_path / "a.png").is_symlink() and (tmp_path / "store" / "1.png").exists()


def test_what_cannot_be_taken_away_is_not_archived(tmp_path, monkeypatch):
    source = tmp_path / "a.png"
    source.write_text("picture")
    unlink = Path.unlink

    def refuse(path, **options):
        if path == source:
            raise PermissionError(13, "Permission denied")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PermissionError):
        move_new(source, tmp_path / "old" / "a.png")
    assert source.exists() and not list((tmp_path / "old").iterdir())


def test_two_mounts_of_one_file_system_are_two_file_systems(tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()

    def refuse(call):
        def within(one, other, **options):
            if Path(one).parent != Path(other).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            call(one, other, **options)

        return within

    (out / ".denoise-left.part").touch()  # by a trial that was killed
    os.utime(out / ".denoise-left.part", (0, 0))
    for name in ("rename", "link", "replace"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    with whole_file(out / "a.txt", overwrite=True, scratch=source) as file:
        file.write(b"result")
    (source / "a.txt").write_text("original")
    move_new(source / "a.txt", out / "a.txt")
    assert not list(source.iterdir())
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "a.txt": "result",
        "a-1.txt": "original",
    }


def test_a_full_archive_name_gets_a_number(tmp_path):
    for index in range(3):
        source = tmp_path / "a.png"
        source.write_text(str(index))
        move_new(source, tmp_path / "old" / "a.png")
        assert not source.exists()
    kept = {path.name: path.read_text() for path in (tmp_path / "old").iterdir()}
    assert kept == {"a.png": "0", "a-1.png": "1", "a-2.png": "2"}


def test_a_kill_after_archiving_costs_no_later_original(tmp_path):
    """The copy of the first, left as another name of it, is not what the second is written to."""
    for text in ("first", "second"):
        (tmp_path / "a.png").write_text(text)
        code = f"""
import os
from pathlib import Path
from denoiser import files
files.on_one_file_system = lambda one, other: False
unlink = Path.unlink
def end(path, **options):
    if path.suffix == ".moving" and path.exists() and path.read_text() == "first":
        if not (Path({str(tmp_path)!r}) / "a.png").exists():
            os._exit(9)
    unlink(path, **options)
Path.unlink = end
files.move_new(Path("a.png"), Path("old/a.png"))
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
        assert done.returncode == (9 if text == "first" else 0)
    kept = [path.read_text() for path in (tmp_path / "old").iterdir()]
    assert sorted(kept) == ["first", "second"]


@pytest.mark.skipif(os.name == "nt", reason="needs rights as POSIX has them")
def test_a_read_only_original_is_archived_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "on_one_file_system", lambda one, other: False)
    source = tmp_path / "a.png"
    source.write_text("picture")
    source.chmod(0o444)
    copy = files.shutil.copystat
    modes = []

    def note(one, part):
        modes.append(part.stat().st_mode & 0o200)
        copy(one, part)

    monkeypatch.setattr(files.shutil, "copystat", note)
    found = move_new(source, tmp_path / "old" / "a.png")
    assert found.read_text() == "picture" and found.stat().st_mode & 0o777 == 0o444
    assert modes == [0o200]  # it was synced while it could be written
