"""A folder that never ends: pictures are restored once they have stood still."""

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from denoiser.arrays import Progress
from denoiser.batch import Batch
from denoiser.books import Result, is_full, ours, place_of
from denoiser.errors import OutputError
from denoiser.files import move_new, stamp_of, sync_folder, write_text
from denoiser.journal import DONE, QUARANTINED, WRITING, Entry
from denoiser.plan import Item, Plan

ATTEMPTS = 3
RESCAN_S = 30.0
"""At the latest the folder is looked through again, whatever the system tells."""
RETRY_S = 30.0
"""Until work goes on after the output folder was full."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """When a picture is taken, and what becomes of it."""

    settle_s: float = 2.0
    """Size and times have to stand still for so long."""
    poll_s: float = 0.0
    """Look every so often instead of waiting for the system to tell; for network shares."""
    delete: bool = False
    """Delete an original once its result is safely on the disk, unless that lacks something."""
    archive: Path | None = None
    """Move an original here instead; the tree is mirrored."""


@dataclasses.dataclass
class _Sighting:
    """A picture that waits for its turn."""

    stamp: str
    due: float
    """By the monotonic clock, which does not go backwards."""
    attempts: int = 0
    failure: Result | None = None
    """Of the last attempt, which nobody was told of."""


class Watcher:
    """Feeds a batch with what a folder has got that is new."""

    def __init__(
        self,
        batch: Batch,
        source: Path,
        find: Callable[[], Plan],
        rules: Rules,
        tell: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            batch: What restores; its `stop` ends the watch.
            source: The folder.
            find: Makes a plan of all that is there now.
            rules: When a picture is taken, and what becomes of it.
            tell: Told a line for the person.
        """
        self.batch, self.source, self.find, self.rules = batch, source, find, rules
        self.tell, self.journal = tell, batch.journal
        self.wake = threading.Event()
        """Set to make it look at once, and after `stop` was set."""
        self._waiting: dict[str, _Sighting] = {}
        self._settled: dict[str, str] = {}  # names with the stamp for which nothing is left to do
        self._obstructed: set[str] = set()  # names of those that failed while their output existed
        self._told: set[str] = set()  # what was wrong with the folder when it was looked through
        self._counts = {"done": 0, "failed": 0}
        self._status = self.journal.folder / "status.json"

    def run(
        self,
        finished: Callable[[Result], None],
        started: Callable[[Item], None] = lambda item: None,
        progress: Progress | None = None,
    ) -> None:
        """Watch until the batch's `stop` is set; callbacks as of `Batch.run`."""

        def begin(item: Item) -> None:
            self._write_status("working", current=item.name)
            started(item)

        def conclude(result: Result) -> None:
            if self._judge(result):
                finished(result)

        if not self.rules.poll_s:
            threading.Thread(target=self._listen, daemon=True).start()
        try:
            full = False
            while not self.batch.stop.is_set():
                try:
                    ready, wait_s = self._look()
                    if ready:
                        self.batch.run(ready, conclude, begin, progress)
                        full = False
                        continue
                except OutputError as error:
                    if not is_full(error):
                        raise
                    if not full:
                        self.tell(f"waiting: {error}")  # there may be room again
                    full, wait_s = True, RETRY_S
                self._write_status("waiting")
                self.wake.wait(wait_s)
                self.wake.clear()
            for seen in self._waiting.values():
                if seen.failure:
                    finished(seen.failure)
        finally:
            self._write_status("stopped")

    def look_soon(self) -> None:
        """Wake the watch from a signal handler, which must not wait for a lock."""
        threading.Thread(target=self.wake.set, daemon=True).start()

    def _listen(self) -> None:
        """Wake the watch whenever the system tells of a change, and once when it has begun to.

        What came between the first look and the beginning would wait for the next look else.
        """
        import watchfiles

        try:
            changes = watchfiles.watch(
                self.source,
                watch_filter=None,
                stop_event=self.batch.stop,
                rust_timeout=1000,
                yield_on_timeout=True,
                raise_interrupt=False,
            )
            for number, changed in enumerate(changes):
                if changed or number == 0:
                    self.wake.set()
        except Exception as error:  # too many folders for the system, or the folder vanished
            self.tell(f"changes are looked for every {RESCAN_S:.0f} s: {error}")

    def _look(self) -> tuple[list[Item], float]:
        """Look through the folder.

        Returns:
            The pictures to be restored now, and the seconds until there may be others.
        """
        if not self.journal.folder.is_dir():
            raise OutputError(f"{self.journal.folder} is gone: OUT was moved or deleted")
        plan, now = self.find(), time.monotonic()
        problems = [f"cannot look into {name}: {why}" for name, why in plan.unreadable]
        problems += [why for _, why in plan.clashes]
        present = {}
        for item in plan.items:
            try:
                present[item.name] = (item, stamp_of(item.source))
            except OSError as error:
                if not isinstance(error, FileNotFoundError) or item.source.is_symlink():
                    problems.append(f"cannot read {item.name}: {error.strerror}")
        for line in problems:
            if line not in self._told:
                self.tell(line)
        self._told = set(problems)
        if not plan.unreadable:  # else nobody knows what is there
            for memory in (self._waiting, self._settled):
                for name in memory.keys() - present.keys():
                    del memory[name]
            self._obstructed &= present.keys()
            self.journal.release(self.source)
        for item, stamp in present.values():
            self._sight(item, stamp, now)
        waiting = {name: seen for name, seen in self._waiting.items() if name in present}
        ready = [present[name][0] for name, seen in waiting.items() if seen.due <= now]
        dues = [seen.due - now for seen in waiting.values()]
        return ready, max(0.01, min([self.rules.poll_s or RESCAN_S, *dues]))

    def _sight(self, item: Item, stamp: str, now: float) -> None:
        """Note a picture that is new or has changed."""
        seen = self._waiting.get(item.name)
        if item.name in self._obstructed and not _exists(item.target):
            self._obstructed.remove(item.name)
            self._settled.pop(item.name, None)
        if self._settled.get(item.name) == stamp or (seen and seen.stamp == stamp):
            return
        known, attempts = self.journal.find(item), 0
        if known and known.input_stamp == stamp and seen is None:
            same = (known.model_sha256, known.settings) == self.batch.books.key(item)
            disposable = self._disposes and _exists(item.target)
            again = disposable or self.batch.options.overwrite
            if known.state == DONE and same and not again:
                self._settled[item.name] = stamp
                return
            if known.state == QUARANTINED:  # by an earlier watch, and what was wrong may be mended
                attempts = ATTEMPTS - 1
        self._waiting[item.name] = _Sighting(stamp, now + self.rules.settle_s, attempts)

    def _judge(self, result: Result) -> bool:
        """Decide what becomes of a picture; returns whether anybody needs to know."""
        item, stamp = result.item, result.stamp
        seen = self._waiting[item.name]
        if result.state == "failed":
            if not _exists(item.source):  # taken away before its turn came
                del self._waiting[item.name]
                return False
            if stamp != seen.stamp:  # changed meanwhile: the next look starts it afresh
                return False
            seen.attempts += 1
            seen.failure = dataclasses.replace(result, error=None)  # whose traceback holds pixels
            seen.due = time.monotonic() + max(1, self.rules.settle_s) * 2**seen.attempts
            if seen.attempts < ATTEMPTS:
                return False
            self._quarantine(item, seen.stamp, result.why)
            self._counts["failed"] += 1
        else:
            self._counts["done"] += result.state == "done"
            if result.why != "exists" and stamp:
                stamp = self._dispose(item, stamp)
        del self._waiting[item.name]
        if stamp:
            self._settled[item.name] = stamp
        return True

    def _quarantine(self, item: Item, stamp: str, why: str) -> None:
        """List a picture that nothing can be done about until it changes."""
        if _exists(item.target):
            self._obstructed.add(item.name)
        entry = self.journal.find(item) or Entry(item.name, item.output)
        told = entry.state in (WRITING, DONE)  # of an output that another command made of it
        if not told and entry.source in (None, place_of(item)):  # else another picture's
            entry.state, entry.input_stamp, entry.error = QUARANTINED, stamp, why
            self.journal.put(entry)

    @property
    def _disposes(self) -> bool:
        return self.rules.delete or self.rules.archive is not None

    def _dispose(self, item: Item, stamp: str) -> str:
        """Do with an original what is wished, if it is still the one that was restored.

        The journal knows it before: the next picture of that name is another one.

        Returns:
            The stamp for which nothing is left to do.
        """
        entry = self.journal.find(item) if self._disposes else None
        if entry is None:
            return stamp
        if self.rules.delete and entry.warnings:  # other pages, more bits: they are nowhere else
            self.tell(f"{item.source} is not deleted: {entry.warnings[0]}")
            return stamp
        if trouble := _trouble(item, entry):
            self.tell(f"{item.source} stays where it is: {trouble}")
            return stamp
        entry.put_away = True
        self.journal.put(entry)
        try:
            if item.target.exists():
                sync_folder(item.target.parent)
            if stamp_of(item.source) == stamp:
                if self.rules.archive is None:
                    item.source.unlink()
                else:
                    move_new(item.source, self.rules.archive / item.name)
                return stamp
        except OSError as error:
            if not _exists(item.source):  # somebody took it away
                return stamp
            self.tell(f"{item.source} stays where it is: {error.strerror or error}")
            stamp = _after_linking(item.source, stamp)
        entry.put_away = False
        self.journal.put(entry)
        return stamp

    def _write_status(self, state: str, current: str | None = None) -> None:
        """Say in a file how things stand, for others to look at."""
        status = {
            "state": state,
            "current": current,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "pid": os.getpid(),
            "source": str(self.source),
            "waiting": len(self._waiting),
            "quarantined": self.journal.count(QUARANTINED),
            **self._counts,
        }
        with contextlib.suppress(OutputError):  # the disk may be full
            write_text(self._status, json.dumps(status, indent=1) + "\n")


def _exists(path: Path) -> bool:
    """Whether there is a file; where that cannot be seen, no."""
    with contextlib.suppress(OSError):
        return path.exists()
    return False


def _trouble(item: Item, entry: Entry) -> str | None:
    """Say what is wrong with a result that is to replace its original; taken away, it was whole."""
    try:
        whole = ours(item, entry, stamp_of(item.target))
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot look at {item.target}: {error.strerror}"
    return None if whole else f"{item.target} was changed"


def _after_linking(path: Path, stamp: str) -> str:
    """Stamp of a file now, if no more than the time of the last change to anything is other."""
    with contextlib.suppress(OSError):
        now = stamp_of(path)
        if now.split()[:2] == stamp.split()[:2]:
            return now
    return stamp
