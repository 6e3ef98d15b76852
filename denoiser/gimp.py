"""The GIMP plug-in: where GIMP keeps its plug-ins, and putting ours there."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from denoiser import __version__, catalog
from denoiser.errors import InputError, OutputError

NAME = "denoise"
SETTINGS = "engine.json"
"""Beside the plug-in: how to start the engine, and which models there are."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """A folder in which a version of GIMP 3 keeps a person's settings."""

    folder: Path

    @property
    def plug_in(self) -> Path:
        """Where the plug-in belongs: GIMP wants folder and file of the same name."""
        return self.folder / "plug-ins" / NAME

    @property
    def script(self) -> Path:
        """The file that GIMP runs."""
        return self.plug_in / f"{NAME}.py"

    @property
    def is_ours(self) -> bool:
        """Whether what is there, if anything is, is a version of this plug-in."""
        if (self.plug_in / SETTINGS).exists():
            return True
        if self.script.exists():
            return SETTINGS.encode() in self.script.read_bytes()
        if self.plug_in.is_dir():
            return not any(self.plug_in.iterdir())
        return not self.plug_in.exists()

    @property
    def state(self) -> str:
        """What is there, in words."""
        if self.plug_in.exists() and self.plug_in.samefile(source()):
            return f"a link to {source()}: delete it, then run `denoiser gimp install`"
        if not self.script.is_file() and not (self.plug_in / SETTINGS).is_file():
            return "not installed"
        try:
            settings = json.loads((self.plug_in / SETTINGS).read_text(encoding="utf-8"))
            python, version = Path(settings["command"][0]), settings["version"]
            models, script = settings["models"], self.script.read_bytes()
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            damaged = "damaged: run `denoiser gimp install`"
            return damaged if self.is_ours else "another plug-in of that name"
        shipped = source() / self.script.name
        if not python.exists():
            return f"broken, {python} is gone: run `denoiser gimp install`"
        if version != __version__ or script != shipped.read_bytes():
            return f"of another version, {version}: run `denoiser gimp install`"
        if python != Path(sys.executable) and not _has_denoiser(python):
            return f"broken, {python} has no denoiser: run `denoiser gimp install`"
        if models != _model_names():
            return "installed, but with other models: run `denoiser gimp install`"
        return f"installed, runs {python}"


def source() -> Path:
    """Folder of the plug-in."""
    return catalog.shipped("plugins") / "gimp" / NAME


def profiles() -> list[Profile]:
    """Find the profiles of every GIMP 3 that was ever started, oldest version first.

    `GIMP3_DIRECTORY` names the only one, as it does for GIMP.

    Raises:
        InputError: There are none.
    """
    if named := os.environ.get("GIMP3_DIRECTORY"):
        return [Profile(Path.home() / named)]  # as GIMP takes it
    if sys.platform == "win32":
        settings = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        settings = Path.home() / "Library" / "Application Support"
    else:  # Flatpak's GIMP looks there too
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folder = settings / "GIMP"
    versions = [path for path in folder.glob("3.*") if re.fullmatch(r"3\.\d+", path.name)]
    if not versions:
        raise InputError(f"no GIMP 3 in {folder}: start GIMP once, or set GIMP3_DIRECTORY")
    return [Profile(path) for path in sorted(versions, key=lambda path: int(path.name[2:]))]


def install(profile: Profile) -> None:
    """Put the plug-in into a profile, or renew it.

    Raises:
        OutputError: It cannot be written, or another plug-in has its name.
    """
    _refuse_others(profile)
    if profile.plug_in.exists() and profile.plug_in.samefile(source()):
        raise OutputError(f"{profile.plug_in} leads to {source()}, which it is copied from")
    settings = {
        "version": __version__,
        "command": [sys.executable, "-P", "-m", "denoiser", "pipe"],
        "models": _model_names(),
    }
    try:
        shutil.copytree(
            source(),
            profile.plug_in,
            dirs_exist_ok=True,
            ignore=_no_bytecode,
            copy_function=shutil.copyfile,
        )
        profile.script.chmod(0o755)
        os.utime(profile.script)  # GIMP asks a plug-in anew when its file is
        (profile.plug_in / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    except shutil.Error as error:  # of many files
        raise OutputError(f"cannot write {profile.plug_in}: {error.args[0][0][2]}") from error
    except OSError as error:
        raise OutputError(f"cannot write {profile.plug_in}: {error.strerror or error}") from error


def uninstall(profile: Profile) -> bool:
    """Take the plug-in out of a profile; whether it was there.

    Raises:
        OutputError: It cannot be removed, or another plug-in has its name.
    """
    traces = (profile.script, profile.plug_in / SETTINGS)
    if not any(path.exists() for path in traces) and not profile.plug_in.is_symlink():
        return False
    _refuse_others(profile)
    try:
        if profile.plug_in.is_symlink():
            profile.plug_in.unlink()
        else:
            for path in traces:
                path.unlink(missing_ok=True)
            shutil.rmtree(profile.plug_in / "__pycache__", ignore_errors=True)
            if not any(profile.plug_in.iterdir()):  # nothing that somebody else put there
                profile.plug_in.rmdir()
    except OSError as error:
        raise OutputError(f"cannot remove {profile.plug_in}: {error.strerror}") from error
    return True


def _refuse_others(profile: Profile) -> None:
    if not profile.is_ours:
        raise OutputError(f"{profile.plug_in} is another plug-in: move it away first")


def _has_denoiser(python: Path) -> bool:
    command = [str(python), "-P", "-c", "import denoiser"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


def _no_bytecode(_: object, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _model_names() -> list[str]:
    """Sizes that are released, then the models that denoise by their full names."""
    names = [card.name for card in catalog.cards() if card.name.startswith("denoise-")]
    sizes = [size for size in catalog.SIZES if any(f"-{size}-" in name for name in names)]
    return [*reversed(sizes), *names]
