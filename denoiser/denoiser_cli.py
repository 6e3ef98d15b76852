"""The command `denoiser`: what works here, and which models there are."""

import time
from typing import Literal

import click

from denoiser import __version__
from denoiser.console import put
from denoiser.errors import DeviceError, InputError, OutputError
from denoiser.options import device_options, with_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def denoiser() -> None:
    """Look after denoiser: what works here, and which models there are."""


@denoiser.command()
def models() -> None:
    """List the released models with their cards."""
    from denoiser import catalog

    known = catalog.cards()
    defaults = {
        catalog.default(known, gpu=True).name: " (default on a GPU)",
        catalog.default(known).name: " (default)",
        catalog.default(known, task="inpaint").name: " (default of inpaint)",
        catalog.default(known, task="detect").name: " (default of inpaint --detect)",
    }
    for card in known:
        put(f"{card.name}{defaults.get(card.name, '')}: {card.summary}")
        for key, value in card.details.items():
            if key not in ("name", "summary"):
                put(f"  {key}: {_flat(value)}")


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " / ".join(_flat(item) for item in value)
    return str(value)


@denoiser.command()
@with_options(device_options)
@click.option("-m", "--model", help="Model to try, as in denoise.")
def doctor(
    device: str,
    require_gpu: bool,
    precision: Literal["auto", "fp32", "fp16"],
    threads: int,
    model: str | None,
) -> None:
    """Run one inference on each device, say which really ran and what is missing, in GIMP too."""
    import platform

    import numpy as np

    from denoiser import catalog, engine
    from denoiser import gimp as plug_in

    put(f"denoiser {__version__}, Python {platform.python_version()}, {platform.platform()}")
    put(f"onnxruntime {engine.runtime_version()}")
    if problem := engine.distribution_problem():
        put(f"problem: {problem}")
    try:
        for profile in plug_in.profiles():
            put(f"GIMP plug-in: {profile.plug_in}: {profile.state}")
    except InputError as error:
        put(f"GIMP plug-in: {error}")
    if require_gpu and device == "cpu":
        raise DeviceError("--require-gpu contradicts --device cpu")
    side = 512
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    for name in dict.fromkeys(["cpu", "cuda" if device == "auto" else device]):
        try:
            loaded = catalog.load(
                model,
                device=name,
                precision="auto" if name == "cpu" else precision,
                threads=threads,
            )
            loaded.run_with_noise(image, image[:, :1])  # all of it
            started = time.perf_counter()
            loaded.run_with_noise(image, image[:, :1])
            speed = side**2 / 1e6 / (time.perf_counter() - started)
            put(
                f"{name}: works, {loaded.provider} {loaded.precision}, {speed:.2f} megapixels/s"
                f" with {loaded.contract.name}"
            )
        except DeviceError as error:
            put(f"{name}: does not work: {error}")
            if require_gpu:
                raise


@denoiser.command()
def pipe() -> None:
    """Restore pixels for an editor, see docs/pipe.md: requests on stdin, answers on stdout."""
    from denoiser.pipe import serve_standard_streams

    serve_standard_streams()


@denoiser.group()
def gimp() -> None:
    """Put the plug-in into GIMP 3, or take it out."""


@gimp.command()
def install() -> None:
    """Install the plug-in in every GIMP 3 that was ever started, or renew it."""
    from denoiser import gimp

    refused = None
    for profile in gimp.profiles():
        try:
            gimp.install(profile)
        except OutputError as error:
            refused = error
            put(f"{profile.plug_in}: not installed")
        else:
            put(f"{profile.plug_in}: installed")
    if refused:
        raise refused
    put("Restart GIMP, then see Filters > Enhance > Denoise and Inpaint Selection.")


@gimp.command()
def uninstall() -> None:
    """Remove the plug-in from every GIMP 3."""
    from denoiser import gimp

    for profile in gimp.profiles():
        done = "removed: restart GIMP" if gimp.uninstall(profile) else "it was not installed"
        put(f"{profile.plug_in}: {done}")


@gimp.command()
def status() -> None:
    """Say where the plug-in is installed."""
    from denoiser import gimp

    for profile in gimp.profiles():
        put(f"{profile.plug_in}: {profile.state}")
