"""Measure quality against speed, ours and peers, and write docs/benchmark.md.

`benchmark.py --images CBSD68 --pairs CC15 --model balanced --peer nlm`. Every denoiser restores a
picture before the next picture is taken, in an order that turns, so that whatever else the machine
does slows all of them alike.
"""

import dataclasses
import functools
import itertools
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import evaluate
import numpy as np
import onnx
import peers
from matplotlib.figure import Figure
from page import around, fill, table
from PIL import Image

from denoiser import catalog, restore
from denoiser.batch import Batch
from denoiser.console import run, say
from denoiser.engine import CPU, Model
from denoiser.images import read
from denoiser.job import Denoising
from denoiser.journal import open_journal
from denoiser.plan import Options, make_plan

Denoisers = dict[str, peers.Denoiser]
Contestants = dict[str, tuple[peers.Denoiser, float | None]]
"""A denoiser and the level that it is told, in [0, 1] units, or None to let it find out."""

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmark.md"
BEGIN = "<!-- written by scripts/benchmark.py -->\n"
LEVELS = (15, 25, 50)
GUESSES = (5, 10, 15, 20)  # levels of which a peer is told the best, for a set of pairs
GROWTH_MP = (0.25, 1, 4, 16, 100)
FILE_MP = 12
FOLDER_FILES = 4
ENGINE_PX = 1024
ROUNDS = 5
REST_S = 0.1
"""Before everything that is timed: threads of what ran before spin for a while."""


@dataclasses.dataclass
class Score:
    """What a denoiser did on a set of pictures."""

    psnrs_db: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    pixels: int = 0

    def add(self, case: evaluate.Case, denoiser: peers.Denoiser, sigma: float | None) -> None:
        """Restore a picture and take the time."""
        time.sleep(REST_S)
        started = time.perf_counter()
        restored = denoiser(case.noisy, sigma)
        self.seconds += time.perf_counter() - started
        self.pixels += case.clean.shape[0] * case.clean.shape[1]
        self.psnrs_db.append(evaluate.psnr_db(peers.to_8bit(restored), case.clean))

    @property
    def psnr_db(self) -> float:
        """Mean over the pictures."""
        return float(np.mean(self.psnrs_db))


def megapixels_per_s(scores: Sequence[Score]) -> float:
    """All pixels over all seconds."""
    return sum(score.pixels for score in scores) / 1e6 / sum(score.seconds for score in scores)


def compete(cases: Iterable[evaluate.Case], contestants: Contestants) -> dict[str, Score]:
    """Let every denoiser, each with the level that it is told, restore every picture in turn."""
    scores = {name: Score() for name in contestants}
    for index, case in enumerate(cases):
        names = list(contestants)
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            scores[name].add(case, *contestants[name])
        say(f"{case.name}  " + "  ".join(f"{n} {s.psnrs_db[-1]:.2f}" for n, s in scores.items()))
    return scores


def gaussian(
    folder: Path,
    models: Denoisers,
    others: Denoisers,
    limit: int | None,
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Gaussian noise: ours without and with the level, peers with it.

    Returns:
        The table; of peers and of ours untold megapixels per second and PSNR at the middle level.
    """
    columns: list[dict[str, Score]] = []
    for level in LEVELS:
        contestants: Contestants = {}
        for name, denoiser in others.items():
            contestants[name] = (denoiser, level / 255)
        for name, denoiser in models.items():
            contestants |= {name: (denoiser, None), f"{name}, told": (denoiser, level / 255)}
        columns.append(compete(evaluate.gaussian_cases(folder, level, limit), contestants))
    rows, points = [], {}
    for name in columns[0]:
        scores = [column[name] for column in columns]
        speed = megapixels_per_s(scores)
        rows.append([name, *(f"{score.psnr_db:.2f}" for score in scores), f"{speed:.2f}"])
        if not name.endswith(", told"):
            points[name] = (speed, scores[1].psnr_db)
    count = len(columns[0][name].psnrs_db)
    heads = [f"{folder.name} ({count})", *(f"sigma {level}" for level in LEVELS), "MP/s"]
    return table(heads, rows), points


def pairs(
    folder: Path,
    models: Denoisers,
    others: Denoisers,
    limit: int | None,
) -> str:
    """Real noise: ours blind, peers told whichever single level suits the set best."""
    contestants: Contestants = {"noisy": (lambda noisy, sigma: noisy, None)}
    contestants |= {name: (denoiser, None) for name, denoiser in models.items()}
    for (name, denoiser), level in itertools.product(others.items(), GUESSES):
        contestants[f"{name}, told {level}"] = (denoiser, level / 255)
    scores = compete(evaluate.pair_cases(folder, None, limit), contestants)
    best = {
        max((f"{name}, told {level}" for level in GUESSES), key=lambda key: scores[key].psnr_db)
        for name in others
    }
    noisy, rows = np.array(scores["noisy"].psnrs_db), []
    for name in ["noisy", *models, *sorted(best)]:
        gains = np.array(scores[name].psnrs_db) - noisy
        cells = [f"{scores[name].psnr_db:.2f}"]
        if name != "noisy":
            cells += [f"{np.mean(gains > 0):.0%}", f"{gains.min():+.2f}"]
            cells += [f"{megapixels_per_s([scores[name]]):.2f}"]
        rows.append([name, *cells, *[""] * (4 - len(cells))])
    heads = [f"{folder.name} ({len(noisy)} pairs)", "PSNR", "better than noisy", "worst", "MP/s"]
    return table(heads, rows)


def engine(models: dict[str, Model], paths: list[Path]) -> str:
    """Computing: multiply-adds, speed, share of the peak."""
    image = np.random.default_rng(0).random((1, 3, ENGINE_PX, ENGINE_PX), np.float32)
    level = np.full_like(image[:, :1], 25 / 255)
    matrix = np.random.default_rng(0).random((2048, 2048), np.float32)
    peaks, seconds = [], {name: math.inf for name in models}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        matrix @ matrix
        peaks.append(2 * 2048**3 / (time.perf_counter() - started))
        for name, model in models.items():
            time.sleep(REST_S)
            started = time.perf_counter()
            model.run_with_noise(image, level)  # all of it: `run` leaves out what is not needed
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    peak, rows = max(peaks), []
    for (name, model), path in zip(models.items(), paths, strict=True):
        macs = macs_per_px(path.read_bytes(), model.contract.stride)
        speed = ENGINE_PX**2 / seconds[name]
        rows.append(
            [
                name,
                f"{macs / 1e3:.1f}",
                f"{speed / 1e6:.2f}",
                f"{2 * macs * speed / 1e9:.0f}",
                f"{2 * macs * speed / peak:.0%}" if model.provider == CPU else "",
                f"{model.provider} {model.precision}",
            ]
        )
    heads = [
        "network alone, 1 MP",
        "thousand MAC/px",
        "MP/s",
        "GFLOP/s",
        "of peak",
        "provider",
    ]
    return table(heads, rows) + f"\nPeak: {peak / 1e9:.0f} GFLOP/s, 2048 x 2048 fp32 by numpy.\n"


def macs_per_px(data: bytes, stride: int) -> float:
    """Multiply-adds of a model's convolutions per pixel of the image."""
    model = onnx.load_from_string(data)
    side = 8 * stride
    for value in model.graph.input:
        for axis, length in zip((0, 2, 3), (1, side, side), strict=True):
            value.type.tensor_type.shape.dim[axis].dim_value = length
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    shapes |= {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    macs = 0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            steps = node.output[0] if node.op_type == "Conv" else node.input[0]
            _, _, height, width = shapes[steps]
            macs += height * width * math.prod(shapes[node.input[1]])
    return macs / side**2


def growth(models: dict[str, Model], largest_mp: float) -> tuple[str, dict[str, list[float]]]:
    """Time of whole pictures, 8 bits, from small to large; also the seconds by themselves."""
    sizes = [size for size in GROWTH_MP if size <= largest_mp]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for megapixels in sizes:
        side = round(math.sqrt(megapixels * 1e6))
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        for name, model in models.items():
            time.sleep(REST_S)
            started = time.perf_counter()
            restore.denoise(image, model, out=image)
            seconds[name].append(time.perf_counter() - started)
            say(f"{name}: {megapixels} MP in {seconds[name][-1]:.1f} s")
    rows = [
        [name, *(f"{s:.2f} ({mp / s:.2f})" for mp, s in zip(sizes, found, strict=True))]
        for name, found in seconds.items()
    ]
    heads = ["seconds (MP/s)", *(f"{size} MP" for size in sizes)]
    return table(heads, rows), seconds


def folder_speed(models: dict[str, Model], megapixels: float) -> str:
    """A folder of JPEGs, journal and all, against the engine alone on the same pixels, in turn."""
    side = round(math.sqrt(megapixels * 1e6))
    noise = np.random.default_rng(0).normal(0, 10, (side, side, 3))
    picture = np.linspace(0, 255, side)[:, None, None] + noise
    rows = []
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "in")
        source.mkdir()
        for index in range(FOLDER_FILES):
            Image.fromarray(peers.to_8bit(picture / 255)).save(source / f"{index}.jpg", quality=92)
        for model_name, model in models.items():
            alone, out = 0.0, Path(name, model_name)
            for path in sorted(source.iterdir()):
                pixels = read(path.read_bytes(), path.name).pixels
                time.sleep(REST_S)
                started = time.perf_counter()
                restore.denoise(pixels, model, out=pixels)
                alone += time.perf_counter() - started
            time.sleep(REST_S)
            started = time.perf_counter()
            items = make_plan(source, out, recursive=False, format=None, suffix="").items
            with open_journal(out) as journal:
                Batch(model, Denoising(), journal, Options()).run(items, lambda result: None)
            whole = time.perf_counter() - started
            total = side**2 * FOLDER_FILES / 1e6
            rows.append(
                [model_name, f"{total / alone:.2f}", f"{total / whole:.2f}", f"{alone / whole:.1%}"]
            )
            say(f"{model_name}: folder at {rows[-1][-1]} of the engine's speed")
    heads = [f"{FOLDER_FILES} JPEGs of {megapixels:g} MP", "engine alone, MP/s", "folder, MP/s", ""]
    return table(heads, rows)


def peak_memory_mb(model: Path, device: str) -> float:
    """Most memory that `denoise` takes for a picture of `FILE_MP`, 8 bits, PNG to PNG."""
    side = round(math.sqrt(FILE_MP * 1e6))
    # by way of a small process: Linux counts what the starting process held
    watch = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    denoise = "from denoiser.cli import denoise_main; denoise_main()"
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.png"), Path(name, "out.png")
        Image.new("RGB", (side, side), "grey").save(source)
        command = [sys.executable, "-c", watch, sys.executable, "-c", denoise]
        options: list[str | Path] = ["-q", "-m", model, "--device", device, source, target]
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def draw(
    points: dict[str, tuple[float, float]], seconds: dict[str, list[float]], path: Path
) -> None:
    """Draw quality over speed, and time over size."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    quality, time_axes = figure.subplots(1, 2)
    for name, (speed, psnr_db) in points.items():
        quality.plot(speed, psnr_db, "o", label=name)
    for name, found in seconds.items():
        time_axes.plot(GROWTH_MP[: len(found)], found, ".-", label=name)
    quality.set(
        xscale="log", xlabel="megapixels per second", ylabel=f"PSNR, sigma {LEVELS[1]} (dB)"
    )
    time_axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="seconds")
    for axes in (quality, time_axes):
        axes.legend()
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=100)


@click.command("benchmark.py", context_settings={"show_default": True})
@click.option("--images", type=click.Path(path_type=Path), help="Clean pictures; noise is added.")
@click.option(
    "--pairs",
    "paired",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder with noisy/ and clean/, files of one name. May be given several times.",
)
@click.option("--model", "names", multiple=True, help="Default: every released one.")
@click.option("--peer", "chosen", multiple=True, type=click.Choice(peers.NAMES))
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of FFDNet's weights.")
@click.option("--limit", type=click.IntRange(1), help="Only so many pictures of each set.")
@click.option("--largest-mp", default=100.0, help="Largest picture to time.")
@click.option("--device", default="auto")
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, help="What to write into.")
def main(
    images: Path | None,
    paired: tuple[Path, ...],
    names: tuple[str, ...],
    chosen: tuple[str, ...],
    weights: Path | None,
    limit: int | None,
    largest_mp: float,
    device: str,
    page: Path,
) -> None:
    """Measure, print the tables and write them into the page, with the plot beside it."""
    around(page, BEGIN)  # fails now rather than after half an hour
    released = [card.path for card in catalog.cards() if card.name.startswith("denoise-")]
    named = evaluate.by_stem([catalog.find(name) for name in names] or released)
    paths = list(named.values())
    loaded = {stem: Model(path, device=device) for stem, path in named.items()}
    ours: Denoisers = {
        name: functools.partial(peers.ours, model=model) for name, model in loaded.items()
    }
    others: Denoisers = {name: peers.peer(name, weights, device) for name in chosen}
    machine = f"{processor()}, {platform.system()}, {time.strftime('%Y-%m-%d')}"
    parts = [f"Measured on {machine}."]
    points: dict[str, tuple[float, float]] = {}
    if images:
        unclipped = {name: peer for name, peer in others.items() if name != "ffdnet-clip"}
        text, points = gaussian(images, ours, unclipped, limit)
        parts.append(text)
    clipped = {name: peer for name, peer in others.items() if name != "ffdnet"}
    parts += [pairs(folder, ours, clipped, limit) for folder in paired]
    parts.append(engine(loaded, paths))
    text, seconds = growth(loaded, largest_mp)
    memory = [[path.stem, f"{peak_memory_mb(path, device):.0f}"] for path in paths]
    parts += [
        text,
        folder_speed(loaded, min(FILE_MP, largest_mp)),
        table([f"denoise, PNG of {FILE_MP} MP", "peak memory (MiB)"], memory),
    ]
    plot = page.with_suffix("") / "speed.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    draw(points, seconds, plot)
    parts.append(f"![quality over speed, time over size]({plot.parent.name}/{plot.name})")
    text = "\n".join(part.rstrip() + "\n" for part in parts)
    click.echo(text)
    fill(page, BEGIN, text)


def processor() -> str:
    """Name the processor and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {models[0] if models else platform.processor()}"


if __name__ == "__main__":
    run(main)
