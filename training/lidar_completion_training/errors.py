"""Errors of the training package whose message tells a user what to do."""


class RecipeError(ValueError):
    """A recipe has an unknown or invalid entry; the message names the file and the entry."""


class TrainingError(RuntimeError):
    """Training cannot continue; the message says why and which saved state it can be resumed from."""


class AdaptationRefused(TrainingError):
    """A fine-tuned model is worse than the one it came from; the message names the figures that rose."""


class DivergedError(ArithmeticError):
    """A loss, a gradient or a predicted point is not finite, or a predicted point lies outside the voxel grid."""


class DataWorkerError(RuntimeError):
    """A data worker process died before it delivered its sweep."""


class CurvesError(ValueError):
    """A run has no log that can be drawn."""
