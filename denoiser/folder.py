"""A folder for a person: plan, journal, batch or watch, and what is told about it."""

import contextlib
import dataclasses
import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from denoiser import watch
from denoiser.batch import Batch
from denoiser.books import Result
from denoiser.console import FolderView, Show, say
from denoiser.engine import Model
from denoiser.errors import ArgumentError, InputError, OutputError, PartialError
from denoiser.files import check_file, check_writable, lie_within_each_other, write_text
from denoiser.images import missing_extras
from denoiser.job import Job
from denoiser.journal import Journal, open_journal
from denoiser.plan import Item, Options, Plan, check_apart, make_plan, part_clashes
from denoiser.sheet import Sheet, is_page
from denoiser.signals import log_of_signals

MOST_KINDS = 8
"""So many kinds of files that are not read are named."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where pictures come from and go to."""

    source: Path
    out: Path
    recursive: bool = False
    suffix: str = ""

    @property
    def title(self) -> str:
        """Of the contact sheet."""
        return f"{self.source.absolute()} -> {self.out.absolute()}"


def process(
    places: Places,
    job: Job,
    load: Callable[[], Model],
    options: Options,
    show: Show,
    *,
    sheet_path: Path | None = None,
    rules: watch.Rules | None = None,
) -> None:
    """Restore every picture of a folder, and with `rules` whatever comes into it.

    Args:
        places: Where from and where to.
        job: What is asked for.
        load: Loads the model.
        options: How to deal with what exists, and with what fails.
        show: What is told.
        sheet_path: Where to write a contact sheet.
        rules: How to watch; None ends when all is done.

    Raises:
        PartialError: Some pictures failed.
        ArgumentError: The folders or two results are in each other's way.
        InputError: There are no pictures.
        OutputError: The output folder is in use, full or not writable.
    """
    if places.out == Path("-"):
        raise ArgumentError("OUT must be a folder when IN is one, not standard output")
    if places.out.exists() and not places.out.is_dir():
        raise ArgumentError(f"{places.out} is a file: OUT must be a folder when IN is one")
    if not places.out.exists() and not places.out.parent.is_dir():
        raise OutputError(f"cannot write into {places.out}: there is no folder {places.out.parent}")
    check_writable(places.out)
    if rules and rules.archive:
        check_apart(places.source, rules.archive, "the archive")
        if lie_within_each_other(places.out, rules.archive):
            raise ArgumentError(f"OUT and the archive {rules.archive} lie within each other")
        check_writable(rules.archive)
    earlier = False
    if sheet_path:
        earlier = rules is not None and is_page(sheet_path, places.title)  # a watch starts again
        check_sheet(sheet_path, places, overwrite=options.overwrite or earlier)
    find = functools.partial(
        make_plan,
        places.source,
        places.out,
        recursive=places.recursive,
        format=job.format,
        suffix=places.suffix,
    )
    plan = find()
    for path, why in plan.unreadable:
        if Path(path) == places.source:
            raise InputError(f"cannot look into {path}: {why}")
    if rules is None:  # else it tells of them, and they may be renamed
        _refuse_clashes(plan)
    job.check(item.name for item in plan.items)
    if rules is None and not plan.items and not plan.unreadable:
        hints = [f"--recursive looks into its {plan.folders} folders"] if plan.folders else []
        hints += missing_extras(Path(name).suffix for name in plan.others)
        raise InputError("; ".join([f"no pictures in {places.source}", *hints]))
    total = len(plan.items) + len(plan.unreadable)
    model = load()
    job.fit(model)
    if show.dry_run:
        with contextlib.closing(Journal(places.out, rehearse=True)) as journal:
            failed = rehearse(plan, places, Batch(model, job, journal, options), show)
        if failed and not rules:
            raise PartialError(f"{failed} of {total} pictures fail")
        return
    sheet = Sheet() if sheet_path else None
    with open_journal(places.out) as journal:
        part_clashes(plan, places.out)  # by case, which could not be seen before
        if rules is None:
            _refuse_clashes(plan)
        batch = Batch(model, job, journal, options, seen=sheet.add if sheet else None)
        view = FolderView(None if rules else total, show)
        try:
            if rules:
                for line in left_out(plan, show):
                    show.note(line)
                watch_folder(batch, places, find, rules, view)
            else:
                for result in unlisted(plan, places):
                    view.finished(result)
                    if options.fail_fast:
                        batch.stop.set()
                        break
                batch.run(plan.items, view.finished, view.started, view.progress)
        finally:
            view.close()
            for line in view.failures:
                say(line)
            for line in [*([] if rules else left_out(plan, show)), view.summary()]:
                show.note(line)
            if sheet and sheet_path and not (earlier and sheet.is_empty):
                ending = sys.exc_info()[1]
                try:
                    write_text(sheet_path, sheet.to_html(places.title))
                except OutputError as error:
                    if ending is None:
                        raise
                    say(str(error))  # what ended the run is told as well
    if (failed := view.counts["failed"]) and not rules:
        raise PartialError(f"{failed} of {total} pictures failed")


def _refuse_clashes(plan: Plan) -> None:
    for _, why in plan.clashes:
        raise ArgumentError(why)


def rehearse(plan: Plan, places: Places, batch: Batch, show: Show) -> int:
    """Say what would be done, as far as that can be told without reading the pictures.

    Returns:
        How many would fail.
    """
    failures = []
    failed = unlisted(plan, places)
    failed += [Result(item, "failed", why=why) for item, why in plan.clashes]
    hopeless = ((result.item, result) for result in failed)
    checked = ((item, batch.books.check(item)) for item in plan.items)
    for item, found in itertools.chain(hopeless, checked):
        state, why = (found.state, found.why) if isinstance(found, Result) else ("to do", "")
        show.outcome(item.name, str(item.target), state, why)
        if state == "failed":
            failures.append(f"failed: {item.name}: {why}")
    for line in left_out(plan, show):
        show.note(line)
    for line in failures if show.quiet else []:
        say(line)
    return len(failures)


def check_sheet(path: Path, places: Places, *, overwrite: bool) -> None:
    """Refuse a contact sheet that cannot be written, or would be in the way.

    Raises:
        ArgumentError: It is standard output or a folder, has the name of a picture, or lies in IN.
        OutputError: It exists, or its folder neither exists nor is OUT, or is read-only.
    """
    out = places.out
    if path == Path("-") or path.is_dir() or path.resolve() == out.resolve():
        raise ArgumentError(f"--report is a file, not {path}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"--report writes HTML: give {path.with_suffix('.html')}")
    if path.resolve().is_relative_to(places.source.resolve()):
        raise ArgumentError(f"--report {path} lies in IN: choose another place")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: give another name, or delete it")
    if path.parent.resolve() != out.resolve():
        check_file(path)


def unlisted(plan: Plan, places: Places) -> list[Result]:
    """Count folders that cannot be listed as failed."""
    inside = [(os.path.relpath(path, places.source), path, why) for path, why in plan.unreadable]
    return [
        Result(Item(name, name, Path(path), places.out / name), "failed", why=why)
        for name, path, why in inside
    ]


def left_out(plan: Plan, show: Show) -> list[str]:
    """Say what of a folder is no part of the plan; if verbose by name."""
    lines = []
    if plan.others:
        kinds = sorted({Path(name).suffix.lower() or "without suffix" for name in plan.others})
        missing = [f"; {fix}" for fix in missing_extras(kinds)]
        more = ", ..." if len(kinds) > MOST_KINDS else ""
        lines = [f"{name}: of a kind that is not read" for name in plan.others if show.verbose]
        lines.append(
            f"files of kinds that are not read: {len(plan.others)}"
            f" ({', '.join(kinds[:MOST_KINDS])}{more})" + "".join(missing)
        )
    if plan.special:
        lines += [f"{name}: a pipe, device or socket" for name in plan.special if show.verbose]
        lines.append(f"pipes, devices and sockets, which are not read: {len(plan.special)}")
    if plan.folders:
        lines.append(f"folders that were not looked into: {plan.folders} (give --recursive)")
    return lines


def watch_folder(
    batch: Batch, places: Places, find: Callable[[], Plan], rules: watch.Rules, view: FolderView
) -> None:
    """Watch until SIGTERM or Ctrl-C, which let the present picture be finished; SIGHUP: look.

    A second Ctrl-C waits for the present tile only.
    """
    watcher = watch.Watcher(batch, places.source, find, rules, view.tell)
    heeds_interrupt = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as a shell's & has it
    signals = log_of_signals()

    def end(number: int, frame: FrameType | None) -> None:
        if heeds_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            ending = [came for came in signals() if came in (signal.SIGINT, signal.SIGTERM)]
            if signal.SIGINT in ending[1:]:  # which came during one tile
                signal.default_int_handler(number, frame)
        batch.stop.set()
        watcher.look_soon()

    def look(*_: object) -> None:
        signals()  # or its pipe would fill
        watcher.look_soon()

    signal.signal(signal.SIGTERM, end)
    if heeds_interrupt:
        signal.signal(signal.SIGINT, end)
    if os.name != "nt":
        signal.signal(signal.SIGHUP, look)
    view.show.note(f"watching {places.source}; Ctrl-C ends it")
    watcher.run(view.finished, view.started, view.progress)
