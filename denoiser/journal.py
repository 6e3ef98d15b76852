"""The journal of a folder: what was done to each picture, so that nothing is done twice or lost."""

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from denoiser.errors import OutputError
from denoiser.files import locked, sweep
from denoiser.plan import JOURNAL_FOLDER, Item

VERSION = 1
"""Of what `_SCHEMA` describes."""
WRITING, DONE, FAILED, QUARANTINED = "writing", "done", "failed", "quarantined"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    input TEXT NOT NULL,         -- path relative to the input folder
    output TEXT NOT NULL,        -- path relative to the output folder
    source TEXT,                 -- absolute path of what the output was made of
    put_away INTEGER NOT NULL,   -- whether that was deleted or archived
    state TEXT NOT NULL,         -- writing, done, failed, quarantined
    input_stamp TEXT,            -- size, time of the last change to content and to anything
    input_sha256 TEXT,
    model_sha256 TEXT,
    settings TEXT,               -- JSON
    output_stamp TEXT,
    output_sha256 TEXT,
    earlier_sha256 TEXT,         -- of the output that it replaces
    provider TEXT,               -- that really ran
    seconds REAL,
    sigma REAL,                  -- noise, 0-255
    warnings TEXT,               -- of what the output lacks; JSON list
    error TEXT,
    finished TEXT,               -- UTC
    PRIMARY KEY (input, output)
)
"""


@dataclasses.dataclass
class Entry:
    """What the journal knows about a picture; the columns are explained in its schema."""

    input: str
    output: str
    source: str | None = None
    put_away: bool = False
    state: str = FAILED
    input_stamp: str | None = None
    input_sha256: str | None = None
    model_sha256: str | None = None
    settings: str | None = None
    output_stamp: str | None = None
    output_sha256: str | None = None
    earlier_sha256: str | None = None
    provider: str | None = None
    seconds: float | None = None
    sigma: float | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)
    error: str | None = None
    finished: str | None = None


_COLUMNS = [field.name for field in dataclasses.fields(Entry)]
_PUT = (
    f"INSERT OR REPLACE INTO pictures ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join(':' + name for name in _COLUMNS)})"
)


def _storable(value: Any) -> Any:
    """Give text to SQLite as Unicode in any locale; what is none, as names may be, as bytes."""
    if not isinstance(value, str):
        return value
    try:
        raw = os.fsencode(value)
    except UnicodeEncodeError:  # no name of a file
        return value
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _text(value: Any) -> Any:
    """Turn what `_storable` made back."""
    if isinstance(value, str):
        value = value.encode()
    return os.fsdecode(value) if isinstance(value, bytes) else value


class Journal:
    """An SQLite file in the output folder. Threads may share it; processes may not."""

    def __init__(self, out: Path, *, rehearse: bool = False) -> None:
        """Open it, made if missing; `open_journal` also locks it and tidies up.

        Args:
            out: The output folder.
            rehearse: Work on a copy in memory, to see what would be done.

        Raises:
            OutputError: It cannot be made, is damaged, or of a newer version.
        """
        self.folder = out / JOURNAL_FOLDER
        self._lock = threading.Lock()
        path = self.folder.absolute() / "journal.sqlite"
        with self._guard():
            self._database = sqlite3.connect(
                ":memory:" if rehearse else path, isolation_level=None, check_same_thread=False
            )
            if rehearse and path.exists():
                self._copy_from(path)
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA synchronous = FULL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise OutputError(f"the journal in {self.folder} is of a newer denoiser")
            self._database.execute(_SCHEMA)
            self._database.execute(f"PRAGMA user_version = {VERSION}")

    def _copy_from(self, path: Path) -> None:
        """Take over a journal, also one that a process that was killed left in the midst of it."""
        try:
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as kept:
                kept.backup(self._database)
        except sqlite3.OperationalError:  # which would have to be written to be mended
            with tempfile.TemporaryDirectory() as folder:
                for file in path.parent.glob(f"{path.name}*"):
                    shutil.copy(file, folder)
                with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as kept:
                    kept.backup(self._database)

    def find(self, item: Item) -> Entry | None:
        """Look a picture up by its name and that of its output."""
        query = f"SELECT {', '.join(_COLUMNS)} FROM pictures WHERE input = ? AND output = ?"
        with self._guard():
            names = [_storable(item.name), _storable(item.output)]
            row = self._database.execute(query, names).fetchone()
        if row is None:
            return None
        values = {key: _text(value) for key, value in dict(row).items()}
        return Entry(**values | {"warnings": json.loads(values["warnings"])})

    def put(self, entry: Entry) -> None:
        """Keep an entry; when this returns it is on the disk."""
        entry.finished = datetime.now(UTC).isoformat(timespec="seconds")
        values = dataclasses.asdict(entry) | {"warnings": json.dumps(entry.warnings)}
        with self._guard():
            self._database.execute(_PUT, {key: _storable(value) for key, value in values.items()})

    def count(self, state: str) -> int:
        """Count the entries in a state."""
        with self._guard():
            query = "SELECT count(*) FROM pictures WHERE state = ?"
            return int(self._database.execute(query, [state]).fetchone()[0])

    def release(self, folder: Path) -> None:
        """Call quarantined pictures of a folder that are no longer there merely failed."""
        below = folder.resolve()
        with self._guard():
            query = "SELECT DISTINCT source FROM pictures WHERE state = ?"
            sources = [row[0] for row in self._database.execute(query, [QUARANTINED])]
            paths = {source: Path(_text(source)) for source in sources if source}
            gone = [
                (FAILED, source, QUARANTINED)
                for source, path in paths.items()
                if path.is_relative_to(below) and not os.path.lexists(path)
            ]
            update = "UPDATE pictures SET state = ? WHERE source = ? AND state = ?"
            self._database.executemany(update, gone)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Let one thread in; errors of SQLite become ours."""
        try:
            with self._lock:
                yield
        except (sqlite3.Error, OSError) as error:
            what = f"cannot use the journal in {self.folder}: {error}"
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:  # of several kinds
                what += ": move it away, and give --overwrite to do all again"
            raise OutputError(what) from error


@contextlib.contextmanager
def open_journal(out: Path) -> Iterator[Journal]:
    """Open the journal of an output folder, both made if missing, for this process alone.

    What an earlier run left half-written is removed.

    Raises:
        OutputError: The folder is not writable, or another process works on it.
    """
    folder = out / JOURNAL_FOLDER
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            stack.enter_context(locked(folder / "lock", f"another denoise is working on {out}"))
        except OSError as error:
            raise OutputError(f"cannot write into {out}: {error.strerror or error}") from error
        sweep(folder)
        yield stack.enter_context(contextlib.closing(Journal(out)))
