"""Folder to folder: reading, restoring and writing overlap; the journal says what is left to do."""

import contextlib
import dataclasses
import errno
import hashlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from denoiser import images
from denoiser.arrays import Progress
from denoiser.engine import CPU, Model
from denoiser.errors import InputError, OutputError, explain
from denoiser.files import real, sha256_of, stamp_of, taken
from denoiser.job import Job, task_of
from denoiser.journal import DONE, FAILED, WRITING, Entry, Journal
from denoiser.picture import Picture
from denoiser.plan import Item, Options

MOST_AHEAD = 8
LARGEST_AHEAD_BYTES = 600_000_000
"""No more pictures are read ahead while those in memory, decoded, are more or larger."""
LARGEST_STACK_PX = 4_000_000
"""Pixels that go to a GPU at once where pictures of one size follow each other."""
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
class _Found:
    """What there is of a picture that may have to be restored."""

    entry: Entry
    """To fill."""
    known: Entry | None
    """What the journal knows of the output."""
    output_stamp: str | None
    """Of the output if it exists; it may be replaced."""


@dataclasses.dataclass
class _Work:
    """A picture between reading and writing."""

    item: Item
    picture: Picture
    found: _Found
    seconds: dict[str, float]
    report: dict[str, Any] = dataclasses.field(default_factory=dict)


class Batch:
    """Restores pictures one after the other while others are read and written.

    The thread that calls `run` restores, and is the only one that calls back.
    """

    def __init__(
        self,
        model: Model,
        job: Job,
        journal: Journal,
        options: Options,
        *,
        seen: Callable[[Item, np.ndarray, Picture], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: What restores.
            job: What is asked for, the same for all.
            journal: That of the output folder.
            options: How to deal with what exists, and with what fails.
            seen: Told the pixels of each picture before, and it after, for the price of a copy.
        """
        self.model, self.job, self.journal = model, job, journal
        self.options, self.seen = options, seen
        self.stop = threading.Event()
        """Once it is set, pictures that are being restored or written are finished, no more are
        begun."""
        self.workers = 1 if model.provider == CPU else max(2, min(4, os.cpu_count() or 1))

    def run(
        self,
        items: Iterable[Item],
        finished: Callable[[Result], None],
        started: Callable[[Item], None] = lambda item: None,
        progress: Progress | None = None,
    ) -> None:
        """Work through pictures.

        Args:
            items: What to do.
            finished: Told how it went with each.
            started: Told which picture is about to be restored.
            progress: Told after each tile.

        Raises:
            OutputError: The disk is full or the journal cannot be written: no use to go on.
        """
        left = iter(items)
        reads: deque[Future[_Work | Result]] = deque()
        writes: deque[tuple[Future[Result], int]] = deque()  # with the bytes of the picture
        readers, writers = (ThreadPoolExecutor(self.workers) for _ in range(2))

        def conclude(result: Result) -> None:
            if result.state == "failed" and self.options.fail_fast:
                self.stop.set()
            finished(result)

        def conclude_write() -> None:
            result = writes[0][0].result()  # it stays the first if this is interrupted
            writes.popleft()
            conclude(result)

        try:
            while not self.stop.is_set():
                while self._has_room(reads, writes) and (item := next(left, None)):
                    reads.append(readers.submit(self._read, item))
                if not reads and not writes:
                    break
                while writes and (writes[0][0].done() or not reads):
                    conclude_write()
                if not reads:
                    continue
                outcome = reads.popleft().result()
                if isinstance(outcome, Result):
                    conclude(outcome)
                    continue
                if self.stop.is_set():
                    break
                works = [outcome, *self._alike(outcome, reads)]
                started(outcome.item)
                try:
                    self._restore(works, progress)
                except Exception as error:
                    for work in works:
                        conclude(self._failed(work.item, error, work.found.entry))
                    continue
                for work in works:
                    size = work.picture.pixels.nbytes
                    writes.append((writers.submit(self._write, work), size))
            while writes:
                conclude_write()
        finally:
            for pool in (readers, writers):
                pool.shutdown(cancel_futures=True)
            for write, _ in writes:  # of what was finished while that ended
                with contextlib.suppress(Exception):
                    conclude(write.result())

    def _has_room(
        self, reads: deque[Future[_Work | Result]], writes: deque[tuple[Future[Result], int]]
    ) -> bool:
        """Whether another picture may be read; how large those being read are nobody knows."""
        outcomes = [read.result() for read in reads if read.done() and not read.exception()]
        sizes = [work.picture.pixels.nbytes for work in outcomes if isinstance(work, _Work)]
        sizes += [size for write, size in writes if not write.done()]
        undecoded = len(reads) - len(outcomes)
        return (
            undecoded <= self.workers
            and len(sizes) + undecoded < MOST_AHEAD
            and sum(sizes) < LARGEST_AHEAD_BYTES
        )

    def key(self, item: Item) -> tuple[str, str]:
        """What shapes the output of a picture besides its input: model and settings."""
        return self.model.sha256, self.job.key(item.name)

    def check(self, item: Item) -> Result | _Found:
        """See what the journal and the output folder say about a picture, without reading it.

        Returns:
            Why it is left alone or fails; or what there is.
        """
        entry, overwrite = Entry(item.name, item.output), self.options.overwrite
        try:
            entry.input_stamp, entry.source = stamp_of(item.source), place_of(item)
            output_stamp = stamp_of(item.target) if item.target.exists() else None
            if output_stamp and item.target.samefile(item.source):
                raise OutputError(f"{item.target} is a link to the original: it is not replaced")
            if real(item.target).is_relative_to(item.source_folder.resolve()):
                raise OutputError(f"{item.target} leads into {item.source_folder} by a link")
            if output_stamp and not item.target.is_file():
                raise taken(item.target)
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
            found = _Found(entry, known, output_stamp)
            if self._is_done(found) and known and known.input_stamp == entry.input_stamp:
                return self._done_before(item, found)
            self.job.check_beside(item.name)
        except Exception as error:
            return self._failed(item, error, entry)
        return found

    def _made_by(self, item: Item, known: Entry) -> str:
        """Say why an output stays if another command made it of the same picture; else nothing."""
        task = task_of(known.settings) if known.settings else self.job.task
        if task == self.job.task:
            return ""
        return (
            f"{item.target} was made by {task}: take it as IN, choose another OUT, or give"
            " --overwrite to replace it"
        )

    def _read(self, item: Item) -> _Work | Result:
        """Decode a picture if there is something to do."""
        started = time.perf_counter()
        found = self.check(item)
        if isinstance(found, Result):
            return found
        entry = found.entry
        try:
            try:
                data = item.source.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {item.source}: {error.strerror}") from error
            if stamp_of(item.source) != entry.input_stamp:
                raise InputError(f"{item.source} changed while it was read")
            entry.input_sha256 = hashlib.sha256(data).hexdigest()
            if found.known and found.known.input_sha256 == entry.input_sha256:
                if self._is_done(found):  # only its times or its folder have changed
                    return self._done_before(item, found)
            elif found.output_stamp and not self.options.overwrite:
                _refuse_stranger(item, found)
            picture = images.read(data, str(item.source))
            self.job.format_for(picture, item.target)  # before any work is done
        except Exception as error:
            return self._failed(item, error, entry)
        return _Work(item, picture, found, {"read": round(time.perf_counter() - started, 4)})

    def _is_done(self, found: _Found) -> bool:
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

    def _done_before(self, item: Item, found: _Found) -> Result:
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

    def _alike(self, first: _Work, reads: deque[Future[_Work | Result]]) -> list[_Work]:
        """Take small pictures of the same kind that are ready, to go to a GPU as one batch."""
        alike: list[_Work] = []
        kind = _kind(first)
        area = first.picture.pixels.shape[0] * first.picture.pixels.shape[1]
        stacks = self.job.stacks and self.model.contract.stacks
        together = stacks and self.model.provider != CPU
        most = LARGEST_STACK_PX // max(1, area) if together else 1
        while reads and len(alike) + 1 < most and reads[0].done():
            other = reads[0].result()
            if isinstance(other, Result) or _kind(other) != kind:
                break
            alike.append(other)
            reads.popleft()
        return alike

    def _restore(self, works: list[_Work], progress: Progress | None) -> None:
        """Restore pictures of one kind together."""
        started = time.perf_counter()
        pictures = [work.picture for work in works]
        before = [picture.pixels.copy() for picture in pictures] if self.seen else []
        names = [work.item.name for work in works]
        reports = self.job.restore(names, pictures, self.model, progress)
        seconds = round((time.perf_counter() - started) / len(works), 4)
        for work, report in zip(works, reports, strict=True):
            work.report = report
            work.seconds["restore"] = seconds
        if self.seen:
            for work, pixels in zip(works, before, strict=True):
                self.seen(work.item, pixels, work.picture)

    def _write(self, work: _Work) -> Result:
        """Write a picture; the journal knows it before it gets its name, and after."""
        item, entry, started = work.item, work.found.entry, time.perf_counter()
        output_stamp = work.found.output_stamp

        def intend(part: Path, lost: list[str]) -> None:
            with contextlib.suppress(FileNotFoundError):  # nothing to lose
                changed = output_stamp and stamp_of(item.target) != output_stamp
                if changed and not self.options.overwrite:
                    raise OutputError(f"{item.target} has changed meanwhile: it is not replaced")
            entry.warnings = work.picture.notes + lost
            entry.state, entry.output_sha256 = WRITING, sha256_of(part)
            self.journal.put(entry)

        try:
            item.target.parent.mkdir(parents=True, exist_ok=True)
            work.report["warnings"] += self.job.write(
                work.picture,
                item.target,
                overwrite=self.options.overwrite or output_stamp is not None,
                scratch=self.journal.folder,
                before_naming=intend,
            )
            work.seconds["write"] = round(time.perf_counter() - started, 4)
            work.report["seconds"] = work.seconds
            entry.state = DONE
            with contextlib.suppress(FileNotFoundError):  # somebody has taken it away already
                entry.output_stamp = stamp_of(item.target)
            entry.provider, entry.sigma = work.report["provider"], work.report.get("sigma")
            entry.seconds = round(sum(work.seconds.values()), 4)
            self.journal.put(entry)
        except Exception as error:
            return self._failed(item, error, entry)
        return Result(item, "done", work.report, stamp=entry.input_stamp)

    def _failed(self, item: Item, error: Exception, entry: Entry) -> Result:
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


def _kind(work: _Work) -> tuple[Any, ...]:
    """What pictures of a batch must have in common."""
    return work.picture.pixels.shape, work.picture.pixels.dtype, work.picture.mode


def place_of(item: Item) -> str:
    """Absolute path of a picture in its input folder; if it is a link, of the link."""
    return str(item.source.parent.resolve() / item.source.name)


def ours(item: Item, known: Entry, output_stamp: str) -> str | None:
    """Checksum of an existing output if it is one that the journal knows."""
    if known.state == DONE and known.output_stamp == output_stamp:
        return known.output_sha256
    found = sha256_of(item.target)
    return found if found in (known.output_sha256, known.earlier_sha256) else None


def _refuse_stranger(item: Item, found: _Found) -> None:
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


def is_full(error: OutputError) -> bool:
    """Whether the output folder has no room left."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(cause, OSError) and cause.errno in FULL
