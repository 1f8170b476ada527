"""Declared bounds of settings, and old names of settings that were renamed."""

import warnings
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from lidar_completion.errors import ModelError


def at_least(minimum: float, default: float) -> Any:
    """A dataclass field with this default whose value check_bounds holds to be finite and at least `minimum`."""
    return field(default=default, metadata={"minimum": minimum})


def between(minimum: float, maximum: float, default: float) -> Any:
    """A dataclass field with this default whose value check_bounds holds to be in minimum ... maximum, both included."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


def check_bounds(settings: Any, where: str = "") -> None:
    """Raise ModelError if a field declared with at_least or between is outside its bounds or not finite; where: the settings' name."""
    for declared in fields(settings):
        minimum, maximum = declared.metadata.get("minimum"), declared.metadata.get("maximum")
        value = getattr(settings, declared.name)
        name = f"{where}.{declared.name}" if where else declared.name
        if minimum is not None and not minimum <= value < float("inf"):
            raise ModelError(f"{name} is {value!r}; expected a finite number, at least {minimum:g}")
        if maximum is not None and value > maximum:
            raise ModelError(f"{name} is {value!r}; expected at most {maximum:g}")


def current_names(values: Mapping[str, Any], renamed: Mapping[str, str], where: str) -> dict[str, Any]:
    """The values under their current names; each old name gives a FutureWarning, which users see.

    renamed: old name -> current name; where: the file or object, for messages. ModelError if both names are given.
    """
    result = dict(values)
    for old in renamed.keys() & values.keys():
        new = renamed[old]
        if new in values:
            raise ModelError(f"{where}: both {new} and its old name {old} are given; remove {old}")
        warnings.warn(f"{where}: {old} is deprecated; write {new}", FutureWarning, stacklevel=3)
        result[new] = result.pop(old)
    return result
