"""Declared lower bounds of settings, and old names of settings that were renamed."""

import warnings
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from lidar_completion.errors import ModelError


def at_least(minimum: float, default: float) -> Any:
    """A dataclass field with this default whose value check_bounds holds to be finite and at least `minimum`."""
    return field(default=default, metadata={"minimum": minimum})


def check_bounds(settings: Any, where: str = "") -> None:
    """Raise ModelError if a field declared with at_least is below its minimum or not finite; where: the settings' name."""
    for declared in fields(settings):
        minimum = declared.metadata.get("minimum")
        value = getattr(settings, declared.name)
        if minimum is not None and not minimum <= value < float("inf"):
            name = f"{where}.{declared.name}" if where else declared.name
            raise ModelError(f"{name} is {value!r}; expected a finite number, at least {minimum:g}")


def current_names(values: Mapping[str, Any], renamed: Mapping[str, str], where: str) -> dict[str, Any]:
    """The values under their current names; each old name gives a DeprecationWarning.

    renamed: old name -> current name; where: the file or object, for messages. ModelError if both names are given.
    """
    result = dict(values)
    for old in renamed.keys() & values.keys():
        new = renamed[old]
        if new in values:
            raise ModelError(f"{where}: both {new} and its old name {old} are given; remove {old}")
        warnings.warn(f"{where}: {old} is deprecated; write {new}", DeprecationWarning, stacklevel=3)
        result[new] = result.pop(old)
    return result
