"""Exceptions, one per exit code, raised where the problem is understood, and told in one place."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
INTERNAL = 70
"""Exit code of an error that is ours."""


IN_FOLDER = "in denoiser's folder,"
"""Where pip finds us; on PyPI another program has our name."""


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


def one_line(text: str) -> str:
    """Join lines; spaces within them stay, for names of files have such."""
    return " ".join(filter(None, (line.strip() for line in text.splitlines())))


def explain(error: Exception, file: str = "") -> tuple[str, int]:
    """Say in one line what went wrong, and give the exit code.

    Args:
        error: What was raised.
        file: What was worked on, for an error of the system that names no file.
    """
    text = one_line(str(error))
    if isinstance(error, DenoiserError):
        return text, error.exit_code
    if isinstance(error, MemoryError):
        why = "out of memory: try a smaller picture or, with denoise, --tile 512"
        return why, OutOfMemoryError.exit_code
    if isinstance(error, OSError):
        where = error.filename or file
        if not where and isinstance(error, FileNotFoundError):  # os.getcwd() names nothing
            where = "the working folder"
        return f"{error.strerror or text}{f': {where}' if where else ''}", OutputError.exit_code
    return f"internal error, please report it with -v: {type(error).__name__}: {text}", INTERNAL
