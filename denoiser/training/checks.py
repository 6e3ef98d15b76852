"""How the sections of a recipe check themselves."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from denoiser.training.draw import Range

_KINDS: dict[Any, str] = {int: "a whole number", bool: "true or false", str: "a text"}
_KINDS |= {float: "a number", Range: "[low, high]"}
_KINDS |= {tuple[int, ...]: "a list of whole numbers", tuple[str, ...]: "a list of texts"}


def check_types(section: Any) -> None:
    """Refuse values of another type than their field's.

    Raises:
        ValueError: There is one.
    """
    for field in dataclasses.fields(section):
        wanted, value = field.type, getattr(section, field.name)
        if typing.get_origin(wanted) is typing.Annotated:
            wanted = typing.get_args(wanted)[0]
        if wanted in _KINDS and not _fits(value, wanted):
            raise ValueError(f"{field.name} must be {_KINDS[wanted]}, not {value!r}")


def _fits(value: object, wanted: Any) -> bool:
    if wanted is float:
        return type(value) in (int, float)
    if isinstance(wanted, type):
        return type(value) is wanted
    if not isinstance(value, tuple):
        return False
    if wanted == Range:
        return len(value) == 2 and all(_fits(number, float) for number in value)
    return bool(value) and all(_fits(item, typing.get_args(wanted)[0]) for item in value)


def refuse_unless(rules: Mapping[str, bool]) -> None:
    """Raise ValueError with the first rule that does not hold."""
    for message, holds in rules.items():
        if not holds:
            raise ValueError(message)
