"""What is left to do with a picture: what the journal and the output folder say about it."""

import dataclasses
import errno
import hashlib
import sqlite3
from typing import Any, Literal

from denoiser.engine import Model
from denoiser.errors import InputError, OutputError, explain
from denoiser.files import real, sha256_of, stamp_of, taken
from denoiser.job import Job, task_of
from denoiser.journal import DONE, FAILED, WRITING, Entry, Journal
from denoiser.plan import Item, Options

FULL = {errno.ENOSPC, errno.EDQUOT}
FATAL = FULL | {errno.EROFS}
"""Errors of the output folder after which the next picture would fail as well."""
_OF_OUTPUT = (
    "output_sha256",
    "earlier_sha256",
    "source",
    "put_away",
    "input_sha256",
    "model_sha256",
    "settings",
)
"""What an entry tells of an output; it stays when another attempt fails."""


@dataclasses.dataclass
class Result:
    """How it went with a picture."""

    item: Item
    state: Literal["done", "skipped", "failed"]
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of a picture that is done: that of `Job.restore`, and the seconds of each stage."""
    why: str = ""
    """Why it was skipped or failed."""
    error: Exception | None = None
    stamp: str | None = None
    """Of the input, see `files.stamp_of`."""


@dataclasses.dataclass
class Found:
    """What there is of a picture that may have to be restored."""

    entry: Entry
    """To fill."""
    known: Entry | None
    """What the journal knows of the output."""
    output_stamp: str | None
    """Of the output if it exists; it may be replaced."""


class Books:
    """Decides whether a picture is to be restored, and keeps why it was not. Threads may share it.

    An output that exists stays unless the journal knows that it is ours and what it was made of.
    """

    def __init__(self, model: Model, job: Job, journal: Journal, options: Options) -> None:
        """Take what `batch.Batch` was given."""
        self.model, self.job, self.journal, self.options = model, job, journal, options

    def key(self, item: Item) -> tuple[str, str]:
        """What shapes the output of a picture besides its input: model and settings."""
        return self.model.sha256, self.job.key(item.name)

    def check(self, item: Item) -> Result | Found:
        """See what the journal and the output folder say about a picture, without reading it.

        Returns:
            Why it is left alone or fails; or what there is.
        """
        entry, overwrite = Entry(item.name, item.output), self.options.overwrite
        try:
            entry.input_stamp, entry.source = stamp_of(item.source), place_of(item)
            output_stamp = stamp_of(item.target) if item.target.exists() else None
            _check_target(item, output_stamp)
            if output_stamp and self.options.skip_existing:
                return Result(item, "skipped", why="exists", stamp=entry.input_stamp)
            entry.model_sha256, entry.settings = self.key(item)
            known = self.journal.find(item)
            if known and output_stamp:
                entry.earlier_sha256 = ours(item, known, output_stamp)
                kept = not overwrite and entry.earlier_sha256
                if kept and kept == known.output_sha256 and (why := self._made_by(item, known)):
                    error = OutputError(why)  # the journal keeps what it knows
                    return Result(item, "failed", why=why, error=error, stamp=entry.input_stamp)
            if output_stamp and not entry.earlier_sha256 and not overwrite:
                written = known and known.output_sha256
                changed = " and was changed since it was written" if written else ""
                raise OutputError(f"{item.target} exists{changed}: give --overwrite to replace it")
            found = Found(entry, known, output_stamp)
            if self._is_done(found) and known and known.input_stamp == entry.input_stamp:
                return self._done_before(item, found)
            self.job.check_beside(item.name)
        except Exception as error:
            return self.failed(item, error, entry)
        return found

    def check_content(self, item: Item, found: Found, data: bytes) -> Result | None:
        """See whether the bytes of a picture, which `check` left to be restored, change that.

        Returns:
            Why it is left alone, if it is.

        Raises:
            InputError: It changed after `check`.
            OutputError: Its output was made of another picture.
        """
        entry, known = found.entry, found.known
        if stamp_of(item.source) != entry.input_stamp:
            raise InputError(f"{item.source} changed while it was read")
        entry.input_sha256 = hashlib.sha256(data).hexdigest()
        if known and known.input_sha256 == entry.input_sha256:
            if self._is_done(found):  # only its times or its folder have changed
                return self._done_before(item, found)
        elif found.output_stamp and not self.options.overwrite:
            _refuse_stranger(item, found)
        return None

    def failed(self, item: Item, error: Exception, entry: Entry) -> Result:
        """Keep in the journal why a picture failed.

        Raises:
            OutputError: The others would fail as well.
        """
        if _is_fatal(error):
            raise error
        why, _ = explain(error, str(item.source))
        known, source = self.journal.find(item), entry.source
        if known and known.output_sha256 and not entry.output_sha256:  # what is there stays ours
            for name in _OF_OUTPUT:
                setattr(entry, name, getattr(known, name))
        entry.state, entry.error = FAILED, why
        if source in (None, entry.source):  # else that of another picture's output stays
            self.journal.put(entry)
        return Result(item, "failed", why=why, error=error, stamp=entry.input_stamp)

    def _made_by(self, item: Item, known: Entry) -> str:
        """Say why an output stays if another command made it of the same picture; else nothing."""
        task = task_of(known.settings) if known.settings else self.job.task
        if task == self.job.task:
            return ""
        return (
            f"{item.target} was made by {task}: take it as IN, choose another OUT, or give"
            " --overwrite to replace it"
        )

    def _is_done(self, found: Found) -> bool:
        """Whether the output that exists is what this model and these settings make."""
        entry, known = found.entry, found.known
        return (
            known is not None
            and not self.options.overwrite
            and known.state in (WRITING, DONE)
            and known.output_sha256 == entry.earlier_sha256
            and (known.model_sha256, known.settings) == (entry.model_sha256, entry.settings)
            and self.job.is_whole(entry.input)
        )

    def _done_before(self, item: Item, found: Found) -> Result:
        """Bring the journal up to date on an output that is as it should be."""
        entry, known = found.entry, found.known
        assert known
        now = dataclasses.replace(
            known,
            state=DONE,
            input_stamp=entry.input_stamp,
            source=entry.source,
            put_away=False,
            output_stamp=found.output_stamp,
        )
        if now != known:
            self.journal.put(now)
        return Result(item, "skipped", why="done before", stamp=entry.input_stamp)


def place_of(item: Item) -> str:
    """Absolute path of a picture in its input folder; if it is a link, of the link."""
    return str(item.source.parent.resolve() / item.source.name)


def ours(item: Item, known: Entry, output_stamp: str) -> str | None:
    """Checksum of an existing output if it is one that the journal knows."""
    if known.state == DONE and known.output_stamp == output_stamp:
        return known.output_sha256
    found = sha256_of(item.target)
    return found if found in (known.output_sha256, known.earlier_sha256) else None


def is_full(error: OutputError) -> bool:
    """Whether the output folder has no room left."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(cause, OSError) and cause.errno in FULL


def _check_target(item: Item, output_stamp: str | None) -> None:
    """Refuse an output that is, or leads to, an original, or is no file.

    Raises:
        OutputError: It is.
    """
    if output_stamp and item.target.samefile(item.source):
        raise OutputError(f"{item.target} is a link to the original: it is not replaced")
    if real(item.target).is_relative_to(item.source_folder.resolve()):
        raise OutputError(f"{item.target} leads into {item.source_folder} by a link")
    if output_stamp and not item.target.is_file():
        raise taken(item.target)


def _refuse_stranger(item: Item, found: Found) -> None:
    """Refuse to replace what was made of another picture than the one before us.

    Raises:
        OutputError: It was, and that picture lies elsewhere or was put away.
    """
    known = found.known
    if known and known.put_away:
        raise OutputError(
            f"{item.target} shows an earlier {item.name}, which was put away: rename one of them,"
            " or give --overwrite to replace it"
        )
    if known and known.source != found.entry.source:
        raise OutputError(
            f"{item.target} was made of {known.source}: choose another OUT, or give --overwrite to"
            " replace it"
        )


def _is_fatal(error: BaseException | None) -> bool:
    """Whether an error concerns the output folder as a whole."""
    if not isinstance(error, OutputError):
        return False
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) or (isinstance(cause, OSError) and cause.errno in FATAL)
