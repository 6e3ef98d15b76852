"""Released models: cards, checksums, lookup by name or path."""

import dataclasses
import hashlib
import tomllib
from pathlib import Path
from typing import Any

from denoiser.errors import ModelError

DEFAULT = "denoise-gaussian-v1"


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
    """Folder of the released models: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / "models"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "models"


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
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model card {path} is damaged: {error}") from error


def find(name: str | None = None) -> Path:
    """Find a model's file.

    Args:
        name: A released model's name, a path to an ONNX file, or None for the default.

    Raises:
        ModelError: There is no such model, or a released one is not what its card says.
    """
    name = name or DEFAULT
    if name.lower().endswith(".onnx"):
        path = Path(name)
        if not path.is_file():
            raise ModelError(f"no such model file: {path}")
        return path
    card = next((card for card in cards() if card.name == name), None)
    if card is None:
        known = ", ".join(card.name for card in cards()) or "none"
        raise ModelError(f"no model {name!r}; released: {known}; or give a path to an .onnx file")
    if not card.path.is_file() or sha256_of(card.path) != card.sha256:
        raise ModelError(f"{card.path} is missing or damaged: reinstall denoiser")
    return card.path


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
