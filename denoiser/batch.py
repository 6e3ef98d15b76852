"""Folder to folder: reading, restoring and writing overlap; the journal says what is left to do."""

import contextlib
import dataclasses
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from denoiser import images
from denoiser.arrays import Progress
from denoiser.books import Books, Found, Result
from denoiser.engine import CPU, Model
from denoiser.errors import InputError, OutputError
from denoiser.files import sha256_of, stamp_of
from denoiser.job import Job
from denoiser.journal import DONE, WRITING, Journal
from denoiser.picture import Picture
from denoiser.plan import Item, Options

MOST_AHEAD = 8
LARGEST_AHEAD_BYTES = 600_000_000
"""No more pictures are read ahead while those in memory, decoded, are more or larger."""
LARGEST_STACK_PX = 4_000_000
"""Pixels that go to a GPU at once where pictures of one size follow each other."""


@dataclasses.dataclass
class _Work:
    """A picture between reading and writing."""

    item: Item
    picture: Picture
    found: Found
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
        self.books = Books(model, job, journal, options)
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
                        conclude(self.books.failed(work.item, error, work.found.entry))
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

    def _read(self, item: Item) -> _Work | Result:
        """Decode a picture if there is something to do."""
        started = time.perf_counter()
        found = self.books.check(item)
        if isinstance(found, Result):
            return found
        try:
            try:
                data = item.source.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {item.source}: {error.strerror}") from error
            if outcome := self.books.check_content(item, found, data):
                return outcome
            picture = images.read(data, str(item.source))
            self.job.format_for(picture, item.target)  # before any work is done
        except Exception as error:
            return self.books.failed(item, error, found.entry)
        return _Work(item, picture, found, {"read": round(time.perf_counter() - started, 4)})

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
            return self.books.failed(item, error, entry)
        return Result(item, "done", work.report, stamp=entry.input_stamp)


def _kind(work: _Work) -> tuple[Any, ...]:
    """What pictures of a batch must have in common."""
    return work.picture.pixels.shape, work.picture.pixels.dtype, work.picture.mode
