"""What is asked for, and how a picture is restored by it and written."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from denoiser import catalog, images, mask_files, restore
from denoiser.arrays import Progress, lights, shares
from denoiser.engine import CPU, Model, Precision
from denoiser.errors import ArgumentError, OutputError
from denoiser.files import sha256_of, taken
from denoiser.picture import LARGEST_FLOAT, Format, Picture, as_rgb8, has_outliers, white_of_light

if TYPE_CHECKING:
    from denoiser.defects import Kind

ROUNDING = 1e-5
"""Of a noise level in [0, 1] units, as float32 and a model's metadata have it."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is asked for, the same for every picture of a folder; subclasses say what."""

    format: Format | None = None
    """None is what the output's name says; where it has none, the input's."""
    quality: int | None = None
    depth: Literal["keep", "8", "16"] = "keep"
    strip_metadata: bool = False
    views: int = 1
    """Of how many views of a picture the result is the mean; the model is loaded with it."""

    task: ClassVar[str]
    """Of the model, see `contract.Contract`."""
    stacks: ClassVar[bool] = False
    """Whether several pictures of one shape, dtype and mode may be restored as a batch."""

    def key(self, name: str) -> str:
        """Everything that shapes the output of picture `name`, as JSON.

        Raises:
            InputError: Something that belongs to this picture is missing.
        """
        return json.dumps(self.settings(name), sort_keys=True, default=str)

    def settings(self, name: str) -> dict[str, Any]:
        """What `key` is made of; raises as it does."""
        settings = dataclasses.asdict(self) | {"format": self.format and self.format.name}
        if self.views == 1:  # as the journals of earlier versions have it
            del settings["views"]
        return settings

    def check(self, names: Iterable[str]) -> None:
        """Refuse pictures of a folder that would be in each other's way.

        Raises:
            ArgumentError: They would.
        """

    def is_whole(self, name: str) -> bool:
        """Whether all that is written beside the output of picture `name` is there."""
        return True

    def check_beside(self, name: str) -> None:
        """Refuse what stands where something is to be written beside the output of a picture.

        Raises:
            OutputError: It is not ours to replace.
        """

    def fit(self, model: Model) -> None:
        """Refuse a model that cannot do what is asked of any picture.

        Raises:
            ArgumentError: It cannot.
        """

    def restore(
        self,
        names: Sequence[str],
        pictures: Sequence[Picture],
        model: Model,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Restore pictures in place.

        Args:
            names: Of the pictures, relative to the input folder.
            pictures: One, or several alike if the job `stacks`.
            model: What restores.
            progress: Told the pixels that are done.

        Returns:
            A report on each: model, provider, size, warnings and more.
        """
        raise NotImplementedError

    def format_for(self, picture: Picture, target: Path | IO[bytes]) -> Format:
        """Choose the format of the output.

        Raises:
            ArgumentError: The name of `target` says none.
            OutputError: The format cannot hold a picture as large.
        """
        format = self.format
        if format is None and isinstance(target, Path):
            format = images.format_of(target)
        format = format or images.format_named(picture.format)
        longest = max(picture.pixels.shape[:2])
        if longest > format.longest_side:
            name = target if isinstance(target, Path) else "standard output"
            raise OutputError(
                f"cannot write {name}: {format.name} holds {format.longest_side} pixels a side,"
                f" not {longest}: choose PNG or TIFF"
            )
        return format

    def write(self, picture: Picture, target: Path | IO[bytes], **options: Any) -> list[str]:
        """Write a picture as `images.write` does with more options; returns what got lost."""
        return images.write(
            picture,
            target,
            self.format_for(picture, target),
            quality=self.quality,
            depth=self.depth,
            strip_metadata=self.strip_metadata,
            **options,
        )


@dataclasses.dataclass(frozen=True)
class Denoising(Job):
    """Noise removed."""

    sigma: float | Literal["auto"] = "auto"
    """In [0, 1] units."""
    strength: float = 1.0
    chroma: float | None = None
    """Of the colour noise, where it is not `strength`."""
    tile_px: int = 0
    max_memory_mb: int | None = None

    task = "denoise"
    stacks = True

    def settings(self, name: str) -> dict[str, Any]:
        """Settings, as if nothing bounded memory: a run that goes on with less keeps the rest."""
        settings = super().settings(name) | {"tile_px": 0, "max_memory_mb": None}
        if self.chroma in (None, self.strength):  # as the journals of earlier versions have it
            del settings["chroma"]
        return settings

    def fit(self, model: Model) -> None:
        """Refuse tiles that are too small for the model's context."""
        if self.tile_px:
            restore.check_tile(self.tile_px, model)

    def restore(
        self,
        names: Sequence[str],
        pictures: Sequence[Picture],
        model: Model,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Denoise as one batch.

        Raises:
            ArgumentError: `max_memory_mb` does not suffice.
            Exception: As `restore.denoise_channels`.
        """
        tile_px, pixels = self.tile_px, [picture.pixels for picture in pictures]
        if self.max_memory_mb is not None:
            limit = self.max_memory_mb * 1_000_000
            tile_px = restore.tile_within(limit, pixels[0], model, tile_px)
        levels = restore.denoise_channels(
            pixels,
            pictures[0].mode,
            model,
            sigma=self.sigma,
            strength=self.strength,
            chroma=self.chroma,
            tile_px=tile_px,
            progress=progress,
        )
        return [
            self._report(picture, model, level)
            for picture, level in zip(pictures, levels, strict=True)
        ]

    def _report(self, picture: Picture, model: Model, level: float) -> dict[str, Any]:
        """Tell what was done to a picture, given the noise level in [0, 1] units."""
        notes, sigma = list(picture.notes), self.sigma
        colours = picture.colours
        if has_outliers(colours, white := white_of_light(colours)):
            notes.append(f"what is beyond {LARGEST_FLOAT:g} times white ({white:g}) stays as it is")
        if sigma != "auto" and "sigma" not in model.contract.inputs:
            notes.append("the model takes no noise level: --sigma is not used")
        elif sigma != "auto" and abs(sigma - level) > ROUNDING:
            notes.append(
                f"the model was not trained for that noise: sigma {level * 255:.0f} is used"
            )
        return facts(picture, model) | {
            "sigma": round(level * 255, 3),
            "sigma_estimated": sigma == "auto",
            "strength": self.strength,
            "chroma": self.chroma,
            "warnings": notes,
        }


@dataclasses.dataclass(frozen=True)
class Inpainting(Job):
    """Holes filled."""

    mask: Path | None = None
    """A picture for all; or a folder with one for each, of the same stem. None takes what `detect`
    finds or, if that is empty, what is transparent."""
    detect: "tuple[Kind, ...]" = ()
    """Defects to find and fill."""
    mask_out: Path | None = None
    """Where to write the masks that were used: a PNG; or, if `is_folder`, a folder."""
    replace_masks: bool = False
    """Whether masks that others made or changed may be replaced."""
    is_folder: bool = False
    invert: bool = False
    soft: bool = False
    dilate_px: int = 0
    feather_px: float = 0.0
    grain_share: float = 1.0

    task = "inpaint"

    def settings(self, name: str) -> dict[str, Any]:
        """Settings, with the checksum of the mask, or of what finds it, in its place."""
        sha256 = sha256_of(mask_files.find(name, self.mask)) if self.mask else None
        settings = super().settings(name) | {"mask": _finder_sha256() if self.detect else sha256}
        del settings["replace_masks"]
        return settings | {"mask_out": None}

    def check(self, names: Iterable[str]) -> None:
        """Refuse pictures whose masks would be written over each other.

        Raises:
            ArgumentError: Two have the same stem.
        """
        taken: dict[Path, str] = {}
        for name in names if self.mask_out else ():
            first = taken.setdefault(path := self._mask_out_of(name), name)
            if first != name:
                raise ArgumentError(f"the masks of {first} and {name} would both become {path}")

    def is_whole(self, name: str) -> bool:
        """Whether the mask that was used is there, if it is to be written."""
        return self.mask_out is None or self._mask_out_of(name).exists()

    def check_beside(self, name: str) -> None:
        """Refuse to replace a mask that others made or changed."""
        path = self.mask_out and self._mask_out_of(name)
        if path and path.exists() and not self._may_replace(path):
            raise taken(path)

    def restore(
        self,
        names: Sequence[str],
        pictures: Sequence[Picture],
        model: Model,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Fill the hole of one picture; alpha stays unless it is the mask.

        Raises:
            InputError: There is no mask, or it does not fit.
            OutputError: The mask that was used cannot be written.
            Exception: As `filling.inpaint`.
        """
        # what needs OpenCV, for which denoising need not wait
        from denoiser import defects, masks

        (name,), (picture,) = names, pictures
        if self.mask:
            path = mask_files.find(name, self.mask)
            mask = masks.from_picture(images.read(path), picture, str(path))
        elif self.detect:
            finding, progress = shares(progress, 2)
            on_gpu = model.provider != CPU
            precision: Precision = "fp32" if model.precision == "fp32" else "auto"
            finder = _finder(model.device if on_gpu else "cpu", precision, model.threads)
            if on_gpu and finder.fallback:
                picture.notes.append(f"defects were found on the CPU: {finder.fallback}")
            found = defects.find_defects(as_rgb8(picture), finder, self.detect, finding)
            mask = found.astype(np.float32)
        else:
            mask = masks.from_alpha(picture)
        hole = self.fill(picture, mask, model, progress)
        if not self.mask and not self.detect:
            masks.make_opaque(picture, hole)
        elif masks.hides(picture, hole):
            picture.notes.append(
                "some of what was filled is fully transparent and stays so: --mask alpha would make"
                " it opaque"
            )
        if self.mask_out:
            path = self._mask_out_of(name)
            mask_files.write(hole, path, overwrite=self._may_replace(path))
        report = facts(picture, model) | {"filled_px": int((hole > 0).sum())}
        if not report["filled_px"]:
            reason = "no defect was found" if self.detect else "the mask is empty"
            report["warnings"].append(f"{reason}: nothing was filled")
        return [report]

    def fill(
        self,
        picture: Picture,
        mask: np.ndarray,
        model: Model,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Fill a picture's colours in place where a mask says; alpha stays.

        Args:
            picture: What has a hole.
            mask: (H, W) float32 in [0, 1], of which the hole is made as the options say.
            model: What fills.
            progress: Told the pixels that are done.

        Returns:
            The hole, (H, W) float32 in [0, 1].

        Raises:
            Exception: As `filling.inpaint`.
        """
        from denoiser import filling, masks

        hole = masks.hole_of(mask, invert=self.invert, soft=self.soft, dilate_px=self.dilate_px)
        before = picture.pixels.copy() if picture.mode == "CMYK" else None
        hidden = picture.pixels[..., -1] <= 0 if picture.mode.endswith("A") else None
        for part, told in lights(picture.pixels, picture.mode, progress):
            filling.inpaint(
                part,
                hole,
                model,
                feather_px=self.feather_px,
                grain_share=self.grain_share,
                hidden=hidden,
                out=part,
                progress=told,
            )
        if before is not None:  # ink that became light and ink again may have been rounded
            np.copyto(picture.pixels, before, where=(hole == 0)[..., None])
        return hole

    def _may_replace(self, path: Path) -> bool:
        """Whether a file may be replaced by a mask: it is one of ours that nobody has changed."""
        return self.replace_masks or mask_files.is_ours(path)

    def _mask_out_of(self, name: str) -> Path:
        assert self.mask_out
        inside = Path(name).with_suffix(".png")
        return self.mask_out / inside if self.is_folder else self.mask_out


def task_of(settings: str) -> str:
    """Tell the task of the job whose `key` it is."""
    return Denoising.task if "sigma" in json.loads(settings) else Inpainting.task


@functools.lru_cache(maxsize=1)
def _finder(device: str, precision: Precision, threads: int) -> Model:
    """What finds defects."""
    return catalog.load(task="detect", device=device, precision=precision, threads=threads)


@functools.cache
def _finder_sha256() -> str:
    return sha256_of(catalog.find(task="detect"))


def facts(picture: Picture, model: Model) -> dict[str, Any]:
    """What every report tells."""
    return {
        "model": model.contract.name,
        "provider": model.provider,
        "precision": model.precision,
        "views": model.views,
        "gpu_not_used": model.fallback,
        "width": picture.pixels.shape[1],
        "height": picture.pixels.shape[0],
        "warnings": list(picture.notes),
    }
