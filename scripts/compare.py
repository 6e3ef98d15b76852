"""Train every member of the family on one budget; write docs/autoencoders.md's table and pictures.

`compare.py --images FOLDER --measure OTHER-FOLDER --out RUNS`. Members that are trained already, as
their checkpoints in RUNS tell, are only measured.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import page
import torch
import vector_field
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from denoiser.console import run, say
from denoiser.errors import ArgumentError
from denoiser.training import penalties
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.dataset import Crops, read_pictures
from denoiser.training.noises import Gaussian
from denoiser.training.recipe import Penalties, Recipe, load_recipe
from denoiser.training.trainer import Trainer
from denoiser.training.validation import (
    VALIDATION_SIGMAS,
    centre,
    restore,
    to_batch,
    to_uint8,
    validate,
)

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "autoencoders.md"
PICTURES = ROOT / "docs" / "autoencoders"
SAMPLE = ROOT / "docs" / "sample" / "clean.png"  # CC0, not among the training pictures
BEGIN = "<!-- written by scripts/compare.py -->\n"
CPU = torch.device("cpu")
ACTIVE = 0.1
"""A unit is active where it reaches this share of its largest activation."""
PROBES = 8
SHOWN_PX = 120  # side of a crop on the sheet
SHOWN_SIGMA = 25


@dataclasses.dataclass(frozen=True)
class Findings:
    """What is measured of a trained member."""

    psnr_db: list[float]
    """At each of `VALIDATION_SIGMAS`; at 0, of the reconstruction."""
    code_per_value: float
    """Numbers in the code per number in the picture."""
    active: float
    """Share of the units that are active, on average over positions."""
    mean_activations: np.ndarray
    """(C,) rho_hat; of codes that are not sigmoid, of |a| over the unit's largest |a|."""
    jacobian: float
    """Frobenius norm of d code / d input, root mean square per position."""
    noise_sensitivity: float
    """By how much noise of sigma 1 moves the code, as a share of its spread (first order)."""
    shift_sensitivity: float
    """By how much a shift of the picture by one pixel moves it, as a share of the spread."""


def members() -> dict[str, Recipe]:
    """The five recipes, and the controls that tell what each option did."""
    found = {
        name: load_recipe(Path(__file__).parent / "recipes" / f"{name}.toml")
        for name in ("undercomplete", "sparse-l1", "sparse-kl", "contractive", "denoising")
    }
    contractive, sparse, denoising = (
        found[name] for name in ("contractive", "sparse-l1", "denoising")
    )
    plain = dataclasses.replace(contractive, penalties=Penalties())
    noise = (Gaussian(sigma=(0, 55)),)
    controls = {
        "overcomplete": plain,
        "overcomplete, relu": dataclasses.replace(sparse, penalties=Penalties()),
        "overcomplete, sigmoid": dataclasses.replace(found["sparse-kl"], penalties=Penalties()),
        "denoising, Gaussian only": dataclasses.replace(denoising, corruption=noise),
        "denoising, no skips": dataclasses.replace(plain, corruption=noise),
        "denoising + sparse-l1, no skips": dataclasses.replace(sparse, corruption=noise),
        "denoising + contractive, no skips": dataclasses.replace(contractive, corruption=noise),
    }
    return {
        name: dataclasses.replace(recipe, name=name) for name, recipe in (found | controls).items()
    }


def measure(network: ConvAutoencoder, pictures: Sequence[np.ndarray], folder: Path) -> Findings:
    """Measure a member on the centres of pictures; the sheet goes to `folder`."""
    psnr_db = list(validate(network, pictures, CPU, folder).values())
    network.eval()
    side = min(min(picture.shape[:2]) for picture in pictures) - 1  # one pixel to shift by
    side = min(side, 256) // network.stride * network.stride
    clean = torch.cat([to_batch(centre(picture, side + 1, side + 1)) for picture in pictures])
    image, shifted = clean[..., :side, :side].contiguous(), clean[..., :side, 1:].contiguous()

    def encode(batch: Tensor) -> Tensor:  # to (N, C, h, w)
        return network.encode(batch, torch.zeros_like(batch[:, :1]))[0]

    with torch.no_grad():
        code, code_shifted = encode(image), encode(shifted)
    spread = (code - code.mean((0, 2, 3), keepdim=True)).square().sum(1).mean().sqrt().item()
    moved = (code - code_shifted).square().sum(1).mean().sqrt().item()
    generator, norms = torch.Generator().manual_seed(0), []
    for part in torch.split(image, 4):
        part.requires_grad_()
        norm = penalties.contraction(encode(part), part, generator, PROBES)
        norms.append(norm.item() * len(part))
    jacobian = math.sqrt(sum(norms) / len(image))
    size = code.abs()
    largest = size.amax((0, 2, 3), keepdim=True).clamp(min=1e-12)
    bounded = isinstance(network.activation, torch.nn.Sigmoid)
    return Findings(
        psnr_db,
        code_per_value=code[0].numel() / image[0].numel(),
        active=(size > ACTIVE * largest).float().mean().item(),
        mean_activations=(size if bounded else size / largest).mean((0, 2, 3)).numpy(),
        jacobian=jacobian,
        noise_sensitivity=jacobian / 255 / spread,
        shift_sensitivity=moved / spread,
    )


def table(findings: dict[str, Findings]) -> str:
    """Write what was found as Markdown."""
    heads = ["", "code size", "reconstruction"]
    heads += [f"sigma {sigma}" for sigma in VALIDATION_SIGMAS[1:]]
    heads += ["active", "rho_hat", "Jacobian", "moved by noise", "moved by a shift"]
    rows = []
    for name, found in findings.items():
        cells = [name, f"{found.code_per_value:.3g}"]
        cells += [f"{score:.2f}" for score in found.psnr_db]
        cells += [f"{found.active:.0%}", f"{np.median(found.mean_activations):.3f}"]
        cells += [f"{found.jacobian:.3g}", f"{found.noise_sensitivity:.2%}"]
        cells += [f"{found.shift_sensitivity:.0%}"]
        rows.append(cells)
    return page.table(heads, rows)


def draw_histograms(findings: dict[str, Findings], path: Path) -> None:
    """Draw how the units' mean activations are distributed."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots(2, math.ceil(len(findings) / 2), sharex=True).ravel()
    for panel, (name, found) in zip(axes, findings.items(), strict=False):
        panel.hist(found.mean_activations, np.linspace(0, 0.6, 61))
        panel.set_title(name.replace(", no", ",\nno"), fontsize=9)
        panel.grid(alpha=0.3)
    figure.supxlabel("mean activation of a unit, rho_hat")
    figure.supylabel("units")
    for panel in axes[len(findings) :]:
        panel.axis("off")
    figure.savefig(path, dpi=90)


def draw_sheet(networks: dict[str, ConvAutoencoder], path: Path) -> None:
    """Draw what each member makes of a clean and of a noisy crop of the sample, at 200 %."""
    picture = np.array(Image.open(SAMPLE))
    clean = to_batch(centre(picture, 8, 256))
    generator = torch.Generator().manual_seed(SHOWN_SIGMA)
    noisy = clean + SHOWN_SIGMA / 255 * torch.randn(clean.shape, generator=generator)
    panels = [("in", clean, noisy)]
    level = torch.full_like(clean[:, :1], SHOWN_SIGMA / 255)
    for name, network in networks.items():
        reconstructed = restore(network, clean, 0 * level, CPU)
        panels.append((name, reconstructed, restore(network, noisy, level, CPU)))
    across = math.ceil(len(panels) / 2)
    side, line = 2 * SHOWN_PX + 4, 2 * SHOWN_PX + 20
    sheet = Image.new("RGB", (across * side, 4 * line), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    low = (clean.shape[2] - SHOWN_PX) // 2
    for index, (name, *pair) in enumerate(panels):
        for row, batch in enumerate(pair):
            x, y = index % across * side, (2 * (index // across) + row) * line
            pen.text((x, y + 1), f"{name}: {'noisy' if row else 'clean'}", "black", font)
            crop = to_uint8(batch)[low : low + SHOWN_PX, low : low + SHOWN_PX]
            sheet.paste(Image.fromarray(crop.repeat(2, 0).repeat(2, 1)), (x, y + 18))
    sheet.save(path, quality=92, subsampling=0)


def train(recipe: Recipe, crops: Crops, folder: Path, report: Callable[[str], None]) -> Trainer:
    """Train a member, or take up what is there of it."""
    trainer = Trainer(recipe, CPU)
    if (folder / "checkpoint.pt").exists():
        trainer.resume(folder / "checkpoint.pt")
    if trainer.step < recipe.training.steps:
        trainer.run(crops, [], folder, log_every=500, report=report)
    return trainer


@click.command("compare.py", context_settings={"show_default": True})
@click.option("--images", type=click.Path(path_type=Path), required=True, multiple=True)
@click.option("--measure", "measured", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--steps", type=click.IntRange(1), help="Instead of the recipes'.")
@click.option("--only", multiple=True, help="Only these members; writes no docs.")
def main(
    images: tuple[Path, ...], measured: Path, out: Path, steps: int | None, only: tuple[str, ...]
) -> None:
    """Train the family, measure it, and write the page's table and pictures."""
    page.around(PAGE, BEGIN)  # fails now rather than after the training
    recipes = members()
    if unknown := set(only) - set(recipes):
        raise ArgumentError(f"unknown member {unknown.pop()!r}; known: {', '.join(recipes)}")
    chosen = {name: recipe for name, recipe in recipes.items() if not only or name in only}
    budget = next(iter(recipes.values())).training
    if steps:
        budget = dataclasses.replace(budget, steps=steps)
    shared = {name: getattr(budget, name) for name in ("steps", "batch", "crop_px")}
    crops = Crops(list(read_pictures(images, budget.crop_px, say)), budget.crop_px, CPU)
    others = list(read_pictures([measured], 257, say))
    networks, findings = {}, {}
    for name, recipe in chosen.items():
        training = dataclasses.replace(recipe.training, **shared)
        folder = out / name.replace(", ", "-").replace(" ", "-")
        say(name)
        trainer = train(dataclasses.replace(recipe, training=training), crops, folder, say)
        networks[name] = trainer.averaged
        findings[name] = measure(trainer.averaged, others, folder)
        click.echo(table({name: findings[name]}), err=True)
    text = table(findings)
    click.echo(text)
    if only:
        return
    PICTURES.mkdir(exist_ok=True)
    draw_histograms(findings, PICTURES / "rho-hat.png")
    draw_sheet(networks, PICTURES / "sheet.jpg")
    vector_field.draw(vector_field.train(), PICTURES / "vector-field.png")
    page.fill(PAGE, BEGIN, text)
    say(f"wrote {PAGE}")


if __name__ == "__main__":
    run(main)
