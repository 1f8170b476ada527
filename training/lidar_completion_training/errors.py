"""Errors of the training package whose message tells a user what to do."""


class RecipeError(ValueError):
    """A recipe has an entry that does not exist or does not fit; the message names the file and the entry."""


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why and which saved state it can be resumed from."""


class DivergedError(ArithmeticError):
    """A network predicted points, a loss or a gradient that is not finite or lies outside the voxel grid."""


class DataWorkerError(RuntimeError):
    """A data worker process died before it delivered its sweep."""


class CurvesError(ValueError):
    """A run has no log that can be drawn."""
