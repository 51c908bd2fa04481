"""Computes one revision at a time and has the index adopt what came out, whole or not at all.

The same revision may be under way twice, where a process that was thought dead is alive: each has a
folder of its own to compute in, and of both only the start that the index counts is believed.
Decides nothing about when; that is `node.schedule`.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from node.case_job import as_computed_by, software_version
from node.compute_job import (
    OUTCOME_FILE,
    OUTPUT_FOLDER,
    RESULTS_FOLDER,
    Job,
    Outcome,
    summary_lines,
)
from node.config import Config, NodeSection
from node.disk import sync_folder
from node.errors import ComputeError, StorageFullError
from node.index.runs import RevisionKey, RunBook
from node.monitoring.case_account import CaseAccount, count_interruption
from node.outputs import output_of
from node.pauses import pause
from node.supervise import ChildProcesses

LOGGER = logging.getLogger(__name__)

MOST_STARTS = 50
"""A revision begun this often without an end is suspected of bringing the node down."""

MOST_UNREAD = 10
"""A case that no process could read this often is prepared anew, whoever may still know it."""

WORK_FOLDER = "work"

_IS_THERE = frozenset({errno.ENOTEMPTY, errno.EEXIST})
"""What renaming a folder to one that holds something says."""


def work_folder(node: NodeSection, process: str) -> Path:
    """Return where a process computes: in a folder of its own, where there are several."""
    folder = node.data / WORK_FOLDER
    return folder / process if node.is_shared else folder


class Computing:
    """The computing of one process.

    Args:
        config: Limits and waiting times.
        runs: The revisions of the index.
        clock: The time, aware.
        folder: Where to compute; of this process alone.
        works_elsewhere: Tells whether another process runs a version of the program.
    """

    def __init__(
        self,
        config: Config,
        runs: RunBook,
        clock: Callable[[], datetime],
        folder: Path,
        works_elsewhere: Callable[[str], bool] = lambda _version: False,
    ) -> None:
        self._config = config
        self._runs = runs
        self._clock = clock
        self._work = folder
        self._works_elsewhere = works_elsewhere
        self._children = ChildProcesses()

    def clear(self) -> None:
        """Remove what an earlier process of this name was computing."""
        shutil.rmtree(self._work, ignore_errors=True)

    def stop(self) -> None:
        """Kill what is being computed; it comes again."""
        self._children.stop()

    def attempt(self, key: RevisionKey) -> None:
        """Compute a revision once; whatever goes wrong, it is settled or comes again."""
        begun = self._runs.begin(key, self._clock())
        if begun is None:
            self._discard_if_void(key)
            return
        key = begun.key
        if key.begun > MOST_STARTS:
            self._runs.fail(key, f"begun {key.begun} times without an end", self._clock())
            return
        most_failures, prepare_anew = None, False
        account = CaseAccount(begun.queue_s)
        try:
            job = as_computed_by(Job.model_validate_json(begun.job), software_version())
            # written before a restore elsewhere, or by a machine that mounts the folder otherwise
            root = str(self._config.node.data.resolve())
            self._conclude(key, job.model_copy(update={"root": root}), account)
        except ValidationError:  # while machines are updated one by one, another one knows it
            reason = f"another version of Hilum than {software_version()} has prepared it"
            known = self._works_elsewhere(_prepared_by(begun.job))
            prepare_anew = not known or key.attempt >= MOST_UNREAD
        except ComputeError as error:
            if not self._children.is_stopped:  # a stop is not the case's fault
                most_failures = self._config.node.compute_attempts
            reason = error.with_hint
        except (OSError, StorageFullError) as error:
            reason = f"the machine is in trouble: {error}"
        except Exception as error:
            LOGGER.exception("case.interrupted", extra={"case_id": key.case_id})
            most_failures = self._config.node.compute_attempts
            reason = f"internal error {type(error).__name__}"
        else:
            return
        count_interruption()
        LOGGER.warning("case.put_off", extra={"case_id": key.case_id, "reason": reason})
        now = self._clock()
        self._runs.put_off(
            key,
            reason,
            now + pause(self._config.node, key.attempt),
            now,
            most_failures=most_failures,
            prepare_anew=prepare_anew,
        )

    def _conclude(self, key: RevisionKey, job: Job, account: CaseAccount) -> None:
        """Compute a revision and record how it ended.

        Raises:
            ComputeError: The child left no outcome.
        """
        outcome = self._outcome(key, job, account)
        if outcome.kind == "done":
            out = self._result_folder(key) / OUTPUT_FOLDER
            counts = self._runs.adopt(
                key,
                {
                    uid: (str((out / name).relative_to(self._config.node.data)), output_of(name))
                    for uid, name in outcome.results.items()
                },
                outcome.summary,
                job.destinations,
                self._patience(job),
                self._clock(),
            )
        elif outcome.kind == "rejected":
            counts = self._runs.reject(key, outcome.reasons, self._clock())
        else:
            counts = self._runs.fail(key, "; ".join(outcome.reasons), self._clock())
        LOGGER.info(
            "case.finished" if counts else "case.overtaken",
            extra={
                "case_id": key.case_id,
                "revision": key.revision,
                "outcome": outcome.kind,
                "objects": len(outcome.results),
                "verdicts": summary_lines(outcome.summary) or list(outcome.reasons),
                "attempt": key.attempt,
                **account.close(outcome, is_counted=bool(counts)),
            },
        )
        if not counts:
            self._discard_if_void(key)

    def _discard_if_void(self, key: RevisionKey) -> None:
        """Remove a result set that nobody adopts: no row would tell retention of its names."""
        if self._runs.is_void(key):
            shutil.rmtree(self._result_folder(key), ignore_errors=True)

    def _note_step(self, key: RevisionKey, step: str, account: CaseAccount) -> None:
        account.begin(step)
        LOGGER.info("case.step", extra={"case_id": key.case_id, "step": step})
        try:
            self._runs.note_step(key, step, self._clock())
        except Exception:
            # progress is for people: a case does not fail because nobody can watch it
            LOGGER.exception("case.step_not_noted", extra={"case_id": key.case_id})

    def _patience(self, job: Job) -> timedelta:
        """Return how long the delivery of a result may take."""
        hours = job.delivery_give_up_h
        return timedelta(hours=self._config.node.delivery_give_up_h if hours is None else hours)

    def _outcome(self, key: RevisionKey, job: Job, account: CaseAccount) -> Outcome:
        """Return how the revision ended, computing it unless its whole result set is there."""
        final = self._result_folder(key)
        if not (final / OUTCOME_FILE).exists():
            folder = self._work / f"{key.case_id}.{key.revision}"
            outcome = self._children.run(
                job,
                folder,
                timeout_s=self._config.node.compute_timeout_s,
                on_step=lambda step: self._note_step(key, step, account),
            )
            if outcome.kind != "done":
                shutil.rmtree(folder, ignore_errors=True)
                return outcome
            final.parent.mkdir(parents=True, exist_ok=True)
            _clear_remains(final)
            try:
                folder.rename(final)
            except OSError as error:
                if error.errno not in _IS_THERE:
                    raise
                shutil.rmtree(folder, ignore_errors=True)  # another process was faster
        for changed in (final.parent, final.parent.parent):
            sync_folder(changed)  # whoever named it may have been killed before that
        return Outcome.model_validate_json((final / OUTCOME_FILE).read_text(encoding="utf-8"))

    def _result_folder(self, key: RevisionKey) -> Path:
        return self._config.node.data / RESULTS_FOLDER / key.case_id / str(key.revision)


def _clear_remains(final: Path) -> None:
    """Remove what lies where a result set belongs and is none: left of a case that was forgotten.

    Nothing is touched of a result set that another process puts there meanwhile.
    """
    try:
        folder = os.open(final, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if OUTCOME_FILE in {entry.name for entry in os.scandir(folder)}:
            return
        shutil.rmtree(OUTPUT_FOLDER, ignore_errors=True, dir_fd=folder)
    finally:
        os.close(folder)
    with suppress(OSError):
        final.rmdir()


def _prepared_by(job: str) -> str:
    """Return the version that prepared a job which this one cannot read; empty: not told."""
    told = json.loads(job)
    return str(told.get("software_version", "")) if isinstance(told, dict) else ""
