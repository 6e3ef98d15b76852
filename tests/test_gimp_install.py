"""Putting the plug-in into GIMP's profiles."""

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import SHIPPED

from denoiser import __version__, filling, gimp
from denoiser.errors import OutputError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's settings on Linux, in which GIMP 3.0, 3.2 and 2.10 were started."""
    monkeypatch.delenv("GIMP3_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for version in ("2.10", "3.0", "3.2", "3.10"):
        (tmp_path / "config" / "GIMP" / version).mkdir(parents=True)
    return tmp_path


def test_every_gimp_3_is_found(home, monkeypatch):
    assert [profile.folder.name for profile in gimp.profiles()] == ["3.0", "3.2", "3.10"]
    monkeypatch.setenv("GIMP3_DIRECTORY", str(home / "own"))
    assert [profile.folder for profile in gimp.profiles()] == [home / "own"]
    monkeypatch.setenv("GIMP3_DIRECTORY", "own")  # of the home folder, as GIMP has it
    assert [profile.folder for profile in gimp.profiles()] == [Path.home() / "own"]


@pytest.mark.parametrize(
    ("platform", "variable", "inside"),
    [
        ("win32", "APPDATA", "GIMP/3.0"),
        ("darwin", "HOME", "Library/Application Support/GIMP/3.0"),
        ("linux", "HOME", ".config/GIMP/3.0"),
    ],
)
def test_every_platform_has_its_place(tmp_path, monkeypatch, platform, variable, inside):
    for name in ("GIMP3_DIRECTORY", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / inside).mkdir(parents=True)
    assert [profile.folder for profile in gimp.profiles()] == [tmp_path / inside]


def test_it_is_installed_seen_and_removed(run_denoise, home):
    def run(what: str) -> str:
        result = run_denoise("gimp", what, command="denoiser")
        assert result.code == 0, result.err
        return result.out

    assert run("status").count("not installed") == 3
    assert "Restart GIMP" in run("install")
    folder = home / "config" / "GIMP" / "3.2" / "plug-ins" / "denoise"
    script, settings = folder / "denoise.py", folder / "engine.json"
    assert script.stat().st_mode & stat.S_IXUSR and script.read_text().startswith("#!")
    assert not (home / "config" / "GIMP" / "2.10" / "plug-ins").exists()
    known = json.loads(settings.read_text())
    assert known["version"] == __version__ and known["models"][:2] == ["fast", "balanced"]
    assert run("status").count(f"installed, runs {sys.executable}") == 3
    assert "GIMP plug-in: " in run_denoise("doctor", "--device", "cpu", command="denoiser").out

    settings.write_text(json.dumps(known | {"command": ["/nowhere/python"]}))
    assert "broken, /nowhere/python is gone" in run("status")
    bare = home / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    settings.write_text(json.dumps(known | {"command": [str(bare)]}))
    assert f"broken, {bare} has no denoiser" in run("status")
    settings.write_text(json.dumps(known | {"models": ["of yesterday"]}))
    assert "with other models" in run("status")
    settings.write_text(json.dumps(known | {"command": [5]}))
    assert "damaged" in run("status")
    settings.write_text("{")
    assert "damaged" in run("status")
    run("install")
    script.unlink()
    assert "damaged" in run("status")
    script.write_text("of yesterday")
    assert "of another version" in run("status")
    script.unlink()
    assert run("uninstall").count("removed") == 3 and not folder.exists()
    assert run("uninstall").count("it was not installed") == 3


@pytest.mark.parametrize("name", ["denoise.py", "denoise"])
def test_another_plug_in_of_that_name_stays(run_denoise, home, name):
    folder = home / "config" / "GIMP" / "3.2" / "plug-ins" / "denoise"
    folder.mkdir(parents=True)
    (folder / name).write_text("theirs")
    status = run_denoise("gimp", "status", command="denoiser").out
    seen = name == "denoise.py"  # a compiled one has no denoise.py
    assert status.count("another plug-in of that name") == seen
    assert status.count("not installed") == 3 - seen
    result = run_denoise("gimp", "install", command="denoiser")
    assert result.code == 5 and "move it away first" in result.err
    assert result.out.count(": installed") == 2 and result.out.count(": not installed") == 1
    run_denoise("gimp", "uninstall", command="denoiser")
    assert [path.read_text() for path in folder.iterdir()] == ["theirs"]


def test_of_a_plug_in_behind_a_link_the_link_is_removed(home):
    profile = gimp.profiles()[0]
    (home / "elsewhere").mkdir()
    profile.plug_in.parent.mkdir()
    profile.plug_in.symlink_to(home / "elsewhere")
    gimp.install(profile)
    assert gimp.uninstall(profile)
    assert not profile.plug_in.is_symlink() and (home / "elsewhere" / "denoise.py").exists()


def test_what_others_put_beside_the_plug_in_stays(home):
    profile = gimp.profiles()[0]
    gimp.install(profile)
    (profile.plug_in / "notes.txt").write_text("mine")
    assert gimp.uninstall(profile)
    assert [path.name for path in profile.plug_in.iterdir()] == ["notes.txt"]


def test_a_link_to_where_the_plug_in_comes_from_is_told(home):
    profile = gimp.profiles()[0]
    profile.plug_in.parent.mkdir()
    profile.plug_in.symlink_to(gimp.source())
    assert "a link to" in profile.state and "delete it" in profile.state


def test_what_hinders_is_said_once(home):
    profile = gimp.profiles()[0]
    profile.plug_in.parent.mkdir()
    profile.plug_in.write_text("a file")
    with pytest.raises(OutputError, match="another plug-in"):
        gimp.install(profile)
    profile.plug_in.unlink()
    profile.plug_in.symlink_to(gimp.source())
    with pytest.raises(OutputError, match="which it is copied from"):
        gimp.install(profile)
    profile.plug_in.unlink()
    profile.plug_in.symlink_to(home / "nowhere")
    assert gimp.uninstall(profile) and not profile.plug_in.is_symlink()


def test_without_gimp_it_says_what_to_do(run_denoise, tmp_path, monkeypatch):
    monkeypatch.delenv("GIMP3_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    result = run_denoise("gimp", "install", command="denoiser")
    assert result.code == 2 and "start GIMP once" in result.err


def test_the_engine_starts_from_the_settings(home):
    profile = gimp.profiles()[0]
    gimp.install(profile)
    settings = json.loads((profile.plug_in / "engine.json").read_text())
    (home / "denoiser").mkdir()  # a folder of that name where the editor runs does no harm
    result = subprocess.run(
        settings["command"], cwd=home, input=b"", capture_output=True, check=True, env=os.environ
    )
    assert json.loads(result.stdout)["denoiser"] == __version__


def test_the_plug_in_cuts_crops_that_every_released_model_may_have():
    code = (SHIPPED / "plugins" / "gimp" / "denoise" / "denoise.py").read_text()
    grid_px, context_px = (
        int(re.findall(rf"^{name}\b.* = (\d+)", code, re.MULTILINE)[0])
        for name in ("GRID_PX", "CONTEXT_PX")
    )
    cards = [tomllib.loads(path.read_text()) for path in SHIPPED.glob("models/*.toml")]
    strides = [card["stride"] for card in cards]
    assert strides and all(grid_px % stride == 0 for stride in [*strides, filling.CELL_PX])
    halos = [
        max(card["halo"], card.get("noise_halo", 0))
        for card in cards
        if card["name"].startswith("denoise-")
    ]
    assert context_px >= max(halos)
