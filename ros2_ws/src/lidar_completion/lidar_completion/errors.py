"""Errors that a caller can act on. Both are ValueErrors, so code that does not know them can still catch them."""


class SweepError(ValueError):
    """The sweep contains no point to complete: it is empty, not finite, or has no point inside the range limits."""


class ModelError(ValueError):
    """A model folder or checkpoint is missing, damaged, or inconsistent with its card."""
