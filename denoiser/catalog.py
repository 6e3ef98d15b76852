"""Released models: cards, checksums, lookup by size, name or path, loading."""

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiser.errors import ArgumentError, ModelError
from denoiser.files import sha256_of

if TYPE_CHECKING:
    from denoiser.engine import Model

SIZES = ("best", "balanced", "fast")
"""From slow to fast; the best is the default on a GPU only."""
INPAINT, DEFECTS = "inpaint", "defects"


@dataclasses.dataclass(frozen=True)
class Card:
    """What NAME.toml beside a released model says about it."""

    path: Path
    """The ONNX file."""
    name: str
    summary: str
    license: str
    sha256: str
    details: dict[str, Any]
    """The whole card: training data, recipe, scores."""


def folder() -> Path:
    """Folder of the released models."""
    return shipped("models")


def shipped(name: str) -> Path:
    """Folder that comes with the program: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parent.parent / name


def cards() -> list[Card]:
    """Read the cards of all released models, sorted by name.

    Raises:
        ModelError: A card is damaged.
    """
    return [read_card(path) for path in sorted(folder().glob("*.toml"))]


def read_card(path: Path) -> Card:
    """Read one card.

    Raises:
        ModelError: It is missing or damaged.
    """
    try:
        details = tomllib.loads(path.read_text(encoding="utf-8"))
        return Card(
            path=path.with_suffix(".onnx"),
            name=details["name"],
            summary=details["summary"],
            license=details["license"],
            sha256=details["sha256"],
            details=details,
        )
    except FileNotFoundError as error:
        raise ModelError(f"there is no model card {path}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model card {path} is damaged: {error}") from error


def find(name: str | None = None, *, gpu: bool = False, task: str = "denoise") -> Path:
    """Find a model's file.

    Args:
        name: "fast", "balanced" or any other kind that is released, for its newest version; a
            released model's full name; a path to an ONNX file; or None for the default.
        gpu: Whether it will run on a GPU, where the default is the best model rather than the
            balanced one.
        task: "denoise", "inpaint" or "detect": what the default has to do.

    Raises:
        ModelError: There is no such model, or a released one is not what its card says.
    """
    if name is not None and name.lower().endswith(".onnx"):
        path = Path(name)
        try:
            if not path.is_file():
                raise ModelError(f"no such model file: {path}")
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from error
        return path
    known = cards()
    card = choose(name, known) if name is not None else default(known, gpu=gpu, task=task)
    try:
        whole = sha256_of(card.path) == card.sha256
    except OSError:
        whole = False
    if not whole:
        raise ModelError(f"{card.path} is missing or damaged: reinstall denoiser")
    return card.path


def load(
    name: str | None = None, *, task: str = "denoise", device: str = "auto", **options: Any
) -> "Model":
    """Load a model: that of a name or path, or else what suits task and device.

    Args:
        name: As `find` takes it.
        task: "denoise", "inpaint" or "detect".
        device: As `engine.Model` takes it.
        **options: More for `engine.Model`.

    Raises:
        ModelError: There is no such model, it is damaged, or made for another task.
        ArgumentError: There is no such task.
    """
    if task not in ("denoise", "inpaint", "detect"):
        raise ArgumentError(f"unknown task {task!r}: use denoise, inpaint or detect")
    from denoiser.engine import Model, gpu_problem

    gpu = name is None and device != "cpu" and gpu_problem() is None
    model = Model(find(name, gpu=gpu, task=task), device=device, **options)
    if gpu and model.fallback:  # too slow for a CPU
        model = Model(find(task=task), device=device, **options)
    check_task(model, task)
    return model


def check_task(model: "Model", task: str) -> None:
    """Refuse a model that is made for something else.

    Raises:
        ModelError: It is.
    """
    if model.contract.task != task:
        raise ModelError(f"{model.contract.name} is a model to {model.contract.task}, not {task}")


def default(known: Sequence[Card], *, gpu: bool = False, task: str = "denoise") -> Card:
    """Choose from the released models what runs if nobody says which.

    Raises:
        ModelError: There are none.
    """
    only = {"inpaint": INPAINT, "detect": DEFECTS}.get(task)
    for size in [only] if only else SIZES[0 if gpu else 1 :]:
        if newest := _newest(size, known):
            return newest
    raise ModelError("no released models: reinstall denoiser")


def choose(name: str, known: Sequence[Card]) -> Card:
    """Choose a released model by its name or kind.

    Raises:
        ModelError: There is none of that name.
    """
    card = next((card for card in known if card.name == name), None)
    if (card := card or _newest(name, known)) is None:
        names = ", ".join(card.name for card in known) or "none"
        raise ModelError(f"no model {name!r}; released: {names}; or give a path to an .onnx file")
    return card


def _newest(kind: str, known: Sequence[Card]) -> Card | None:
    """Find the latest of the models denoise-KIND-vN or KIND-vN."""
    pattern = rf"(?:denoise-)?{re.escape(kind)}-v(\d+)"
    matches = ((re.fullmatch(pattern, card.name), card) for card in known)
    versions = {int(match[1]): card for match, card in matches if match}
    return versions[max(versions)] if versions else None
