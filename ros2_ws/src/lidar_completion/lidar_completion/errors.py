"""The errors that a caller can act on. Both are ValueErrors, so that code without our names still catches them."""


class SweepError(ValueError):
    """A sweep holds nothing that can be completed: empty, not finite, or nothing inside the range limits."""


class ModelError(ValueError):
    """A model folder or checkpoint is missing, damaged, or not what its card says."""
