"""The errors that a caller can act on. Both are ValueErrors, so that code without our names still catches them."""


class SweepError(ValueError):
    """A sweep holds nothing that can be completed: empty, not finite, or nothing inside the range limits."""


class ModelError(ValueError):
    """A model folder or checkpoint is missing, damaged, or not what its card says."""


def refuse_below(of: object, where: str, least: dict[str, float]) -> None:
    """ModelError unless each of these numbers of an object is finite and at least as large; where: its name, "" for the whole."""
    for name, limit in least.items():
        if not limit <= (value := getattr(of, name)) < float("inf"):
            raise ModelError(
                f"{where}{'.' * bool(where)}{name} is {value!r}; expected a finite number, at least {limit:g}"
            )
