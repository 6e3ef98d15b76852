"""The command `denoiser`: what works here, and which models there are."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import click

from denoiser import __version__
from denoiser.console import no_gpu, put
from denoiser.errors import DeviceError, InputError, ModelError, OutputError, explain
from denoiser.options import Number, device_options, with_options

if TYPE_CHECKING:
    from denoiser.gimp import Profile


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def denoiser() -> None:
    """Look after denoiser: what works here, and which models there are."""


@denoiser.command()
@click.argument("names", nargs=-1)
def models(names: tuple[str, ...]) -> None:
    """List the released models; show the cards of NAMES, of files, or "all": data, scores."""
    from denoiser import catalog

    known = catalog.cards()

    def card_of(name: str) -> catalog.Card:
        if name.lower().endswith(".onnx"):
            return catalog.read_card(catalog.find(name).with_suffix(".toml"))
        return catalog.choose(name, known)

    defaults = {
        catalog.default(known, gpu=True).name: " (default on a GPU)",
        catalog.default(known).name: " (default)",
        catalog.default(known, task="inpaint").name: " (default of inpaint)",
        catalog.default(known, task="detect").name: " (default of inpaint --detect)",
    }
    wanted = known if "all" in names else [card_of(name) for name in names]
    for card in wanted or known:
        put(f"{card.name}{defaults.get(card.name, '')}: {card.summary}")
        for key, value in card.details.items() if wanted else ():
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
    """Run one inference on each device; say which really ran, and what is missing or damaged."""
    import platform

    import numpy as np

    from denoiser import catalog, engine, raw
    from denoiser import gimp as plug_in
    from denoiser.images import missing_extras
    from denoiser.picture import HEIF

    put(f"denoiser {__version__}, Python {platform.python_version()}, {platform.platform()}")
    put(f"onnxruntime {engine.runtime_version()}")
    if problem := engine.distribution_problem():
        put(f"problem: {problem}")
    put(
        "; ".join(missing_extras((*HEIF.suffixes, *raw.SUFFIXES)))
        or "HEIC and raw files: can be read"
    )
    for path in sorted(catalog.folder().glob("*.toml")):
        try:
            catalog.find(catalog.read_card(path).name)
        except ModelError as error:
            put(f"problem: {error}")
    try:
        for profile in plug_in.profiles():
            put(f"GIMP plug-in: {profile.plug_in}: {profile.state}")
    except (InputError, OSError) as error:
        put(f"GIMP plug-in: {explain(error)[0]}")
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
@with_options(device_options)
@click.option(
    "-m",
    "--model",
    "names",
    multiple=True,
    help="Model to time, as in denoise; may be given several times.  [default: fast, balanced,"
    " best]",
)
@click.option(
    "--megapixels",
    type=Number(0.01, 100),
    default=4,
    show_default=True,
    help="Size of the picture.",
)
def bench(
    device: str,
    require_gpu: bool,
    precision: Literal["auto", "fp32", "fp16"],
    threads: int,
    names: tuple[str, ...],
    megapixels: float,
) -> None:
    """Time denoising on this machine, without reading or writing files."""
    import numpy as np

    from denoiser import catalog, restore

    side = round((megapixels * 1e6) ** 0.5)
    image = np.random.default_rng(0).integers(96, 160, (side, side, 3), np.uint8)
    for name in names or reversed(catalog.SIZES):
        model = catalog.load(
            name, device=device, require_gpu=require_gpu, precision=precision, threads=threads
        )
        restore.denoise(image[:512, :512], model)  # opens what is opened late
        started = time.perf_counter()
        restore.denoise(image, model)
        speed = side**2 / 1e6 / (time.perf_counter() - started)
        put(
            f"{model.contract.name}: {speed:.2f} megapixels/s, 24 megapixels in {24 / speed:.0f} s,"
            f" {model.provider} {model.precision}{no_gpu(model.fallback)}"
        )


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

    def add(profile: "Profile") -> str:
        gimp.install(profile)
        return "installed"

    _in_every_profile(add, "not installed")
    put("Restart GIMP, then see Filters > Enhance > Denoise and Inpaint Selection.")


@gimp.command()
def uninstall() -> None:
    """Remove the plug-in from every GIMP 3."""
    from denoiser import gimp

    def remove(profile: "Profile") -> str:
        return "removed: restart GIMP" if gimp.uninstall(profile) else "it was not installed"

    _in_every_profile(remove, "not removed")


def _in_every_profile(do: Callable[["Profile"], str], refused: str) -> None:
    """Do something in every profile of GIMP and say what was done, or that one `refused`.

    Raises:
        OutputError: One did, the last of them; the others are done.
    """
    from denoiser import gimp

    problem = None
    for profile in gimp.profiles():
        try:
            done = do(profile)
        except OutputError as error:
            problem, done = error, refused
        put(f"{profile.plug_in}: {done}")
    if problem:
        raise problem


@gimp.command()
def status() -> None:
    """Say where the plug-in is installed."""
    from denoiser import gimp

    for profile in gimp.profiles():
        put(f"{profile.plug_in}: {profile.state}")
