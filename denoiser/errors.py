"""Exceptions, one per exit code: raised where the problem is understood, caught once in cli.py."""


class DenoiserError(Exception):
    """Base of every error a person can cause or mend. Its text is one line that says what to do."""

    exit_code = 1


class ArgumentError(DenoiserError):
    """Arguments contradict each other or are out of range."""

    exit_code = 1


class ShapeError(ArgumentError):
    """An array has the wrong shape or dtype."""


class RecipeError(ArgumentError):
    """A training recipe holds an unknown key or an impossible value."""


class TrainingError(DenoiserError):
    """Training diverged."""

    exit_code = 1


class InputError(DenoiserError):
    """The input is missing, damaged, too large or of an unsupported kind."""

    exit_code = 2


class ModelError(DenoiserError):
    """A model or a dependency is missing, damaged or breaks its contract."""

    exit_code = 3


class OutOfMemoryError(DenoiserError):
    """The device has no memory for a batch of this size; a smaller one may fit."""

    exit_code = 2


class PartialError(DenoiserError):
    """Some pictures of a folder failed, the rest are done."""

    exit_code = 4


class OutputError(DenoiserError):
    """The output cannot be written."""

    exit_code = 5


class DeviceError(DenoiserError):
    """A GPU was required and is not usable."""

    exit_code = 6
