"""The step of a delivery in which the peer is asked to keep what it was sent.

One call does what can be done now and says when to come again. Everything that it decides by is in
the index: after a crash the same call goes on where the last one stopped.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid

from node.commitment.asking import REPORT_WAIT_S, ask
from node.commitment.reports import ReportDesk
from node.commitment.verdicts import (
    DUPLICATE_TRANSACTION,
    NO_SUCH_OBJECT,
    PATIENT_REASONS,
    UNANSWERABLE_STATUSES,
    failure_text,
    verdict_on,
)
from node.config import Config, Peer, Role
from node.errors import DeliveryError, UnreadableObjectError
from node.index.commitments import CommitmentBook, Transaction
from node.index.deliveries import DeliveryKey
from node.index.states import DeliveryState

LOGGER = logging.getLogger(__name__)

MOST_STEPS = 4
"""Steps of one call: a report that is here already, the next request, and its report."""


class HeldBy(Protocol):
    """Asks a peer which objects it holds (C-FIND at IMAGE level)."""

    def __call__(self, peer: Peer, paths: Mapping[str, Path]) -> frozenset[str]:
        """Return those of the SOP Instance UIDs that the peer says it holds.

        Args:
            peer: Whom to ask.
            paths: Our files of the objects, by SOP Instance UID.

        Raises:
            DeliveryError: It does not answer.
        """


class Next(Protocol):
    """What the delivery does with what came out."""

    def settle(self, key: DeliveryKey, state: DeliveryState, reason: str) -> None:
        """End the delivery."""

    def put_off(self, key: DeliveryKey, reason: str, *, state: DeliveryState) -> None:
        """Come again after a pause."""


class Committing:
    """Storage commitment for the deliveries of one process.

    Args:
        config: Peers and waiting times.
        book: The transactions.
        desk: Where reports arrive.
        clock: The time, aware.
        held_by: Asks what a peer holds, when it does not report in time.
        report_wait_s: How long the association is kept for a report.
    """

    def __init__(
        self,
        config: Config,
        book: CommitmentBook,
        desk: ReportDesk,
        clock: Callable[[], datetime],
        held_by: HeldBy,
        *,
        report_wait_s: float = REPORT_WAIT_S,
    ) -> None:
        self._config = config
        self._book = book
        self._desk = desk
        self._clock = clock
        self._held_by = held_by
        self._report_wait_s = report_wait_s

    def has_uncommitted(self, key: DeliveryKey) -> bool:
        """Tell whether the peer took objects that it has not committed to."""
        return bool(self._book.uncommitted(key))

    def refusals(self, key: DeliveryKey) -> list[str]:
        """Return why the peer will not keep objects, each reason once."""
        return self._book.refusals(key)

    def needs_peer(self, key: DeliveryKey, peer: Peer) -> bool:
        """Tell whether the next step calls the peer: not if a report is here, or waited for."""
        found = self._book.open_transaction(key)
        if found is None:
            return Role.COMMIT in peer.roles and self.has_uncommitted(key)
        if found.report is not None:
            return False
        if self._clock() >= found.answer_by:
            return Role.QUERY in peer.roles
        return not found.is_asked and Role.COMMIT in peer.roles

    def step(self, key: DeliveryKey, peer: Peer, give_up_at: datetime, then: Next) -> None:
        """Bring the commitment of a delivery as far as it goes now.

        Raises:
            DeliveryError: The peer cannot be reached or offers no storage commitment.
            UnreadableObjectError: A result file is gone.
        """
        for _ in range(MOST_STEPS):
            found = self._book.open_transaction(key)
            if found is not None and found.report is not None:
                if not self._act_on_report(key, found, give_up_at, then):
                    return
            elif found is not None and self._clock() >= found.answer_by:
                self._time_out(key, peer, found, give_up_at, then)
                return
            elif found is not None and found.is_asked:
                until = found.answer_by.isoformat(timespec="minutes")
                text = f"everything was sent; its storage commitment is waited for until {until}"
                self._book.wait_for_report(key, found, text, self._clock())
                return
            elif Role.COMMIT not in peer.roles:
                self.conclude_unasked(key, then, "it is not to be asked for storage commitment")
                return
            elif not self._ask(key, peer, found, give_up_at, then):
                return

    def conclude_unasked(self, key: DeliveryKey, then: Next, why: str) -> None:
        """End a commitment whose time is spent while the peer is not to be called."""
        found = self._book.open_transaction(key)
        uids = list(self._book.uncommitted(key))
        self._book.act_on(key, found.uid if found is not None else "", unconfirmed=uids, reason=why)
        self._finish(key, then)

    # --- steps ---------------------------------------------------------------------------------

    def _ask(
        self,
        key: DeliveryKey,
        peer: Peer,
        found: Transaction | None,
        give_up_at: datetime,
        then: Next,
    ) -> bool:
        """Ask for what is not committed to; tell whether the delivery goes on at once."""
        timeout = timedelta(hours=self._config.node.commitment_timeout_h)
        if found is None:
            paths = self._book.uncommitted(key)
            if not paths:
                self._finish(key, then)
                return False
            now, objects = self._clock(), self._sop_classes(paths)
            found = self._book.begin(key, str(generate_uid()), objects, now + timeout, now)
        transaction_uid = found.uid

        def accepted() -> None:
            now = self._clock()
            self._book.mark_asked(transaction_uid, now, now + timeout)

        status = ask(
            peer,
            self._config.node.ae_title,
            found.uid,
            found.objects,
            timeout_s=self._config.node.network_timeout_s,
            tls=self._config.tls,
            desk=self._desk,
            on_accepted=accepted,
            report_wait_s=self._report_wait_s,
        )
        fields = {"case_id": key.case_id, "peer": key.peer, "objects": len(found.objects)}
        LOGGER.info("commitment.asked", extra={**fields, "status": status})
        now_open = self._book.open_transaction(key)
        if now_open is not None and (now_open.is_asked or now_open.report is not None):
            return True
        told = f"peer {peer.name} does not accept the request for storage commitment"
        if status is None:
            raise DeliveryError(
                f"{told}: it gives no answer", hint="look into its log", is_retryable=True
            )
        if status in UNANSWERABLE_STATUSES:
            what = f"status 0x{status:04X}, {UNANSWERABLE_STATUSES[status]}"
            hint = "let its administrator switch it on, or take the role `commit` from the peer"
            raise DeliveryError(f"{told}: {what}", hint=hint, is_retryable=False)
        reason = f"{told}: status {failure_text(status)}"
        if status == DUPLICATE_TRANSACTION:
            self._book.close(found.uid)
            if self._clock() >= give_up_at:  # under new names it would be asked for ever
                self.conclude_unasked(key, then, f"time is spent: {reason}")
                return False
        then.put_off(key, reason, state=DeliveryState.COMMITTING)
        return False

    def _act_on_report(
        self, key: DeliveryKey, found: Transaction, give_up_at: datetime, then: Next
    ) -> bool:
        """Do what a report asks for; tell whether the delivery goes on at once."""
        assert found.report is not None  # noqa: S101 - the caller looked
        # this report is among those that are counted
        failed = self._book.failures(key, without={NO_SUCH_OBJECT, *PATIENT_REASONS})
        before = {uid: times - 1 for uid, times in failed.items()}
        verdict = verdict_on(found.report, found.objects, before)
        self._book.act_on(
            key,
            found.uid,
            committed=verdict.committed,
            not_held=verdict.not_held,
            refused=verdict.refused,
        )
        if not verdict.reason:
            return True
        reason = f"peer {key.peer}: {verdict.reason}"
        if self._clock() >= give_up_at:
            then.settle(key, DeliveryState.UNDELIVERED, f"time is spent: {reason}")
        else:
            state = DeliveryState.PENDING if verdict.not_held else DeliveryState.COMMITTING
            then.put_off(key, reason, state=state)
        return False

    def _time_out(
        self, key: DeliveryKey, peer: Peer, found: Transaction, give_up_at: datetime, then: Next
    ) -> None:
        """Ask what the peer holds where it can be asked; whatever it says, go on without report."""
        hours = self._config.node.commitment_timeout_h
        why = f"no storage commitment within {hours:g} h"
        paths = self._book.uncommitted(key)
        held: frozenset[str] | None = None
        if Role.QUERY in peer.roles:
            root = self._config.node.data
            try:
                held = self._held_by(peer, {uid: root / path for uid, path in paths.items()})
            except DeliveryError as error:
                if error.is_retryable and self._clock() < give_up_at:
                    raise
                why += f", and it cannot be asked what it holds ({error})"
        if held is None:
            self._book.act_on(key, found.uid, unconfirmed=list(paths), reason=why)
            self._finish(key, then)
            return
        missing = {uid: f"{why}, and the peer does not hold it" for uid in paths if uid not in held}
        kept = [uid for uid in paths if uid in held]
        self._book.act_on(key, found.uid, found=kept, not_held=missing, reason=why)
        reason = f"{why}, and peer {peer.name} does not hold {len(missing)} of the objects it took"
        if not missing:
            self._finish(key, then)
        elif self._clock() >= give_up_at:
            then.settle(key, DeliveryState.UNDELIVERED, f"time is spent: {reason}")
        else:
            then.put_off(key, reason, state=DeliveryState.PENDING)

    def _finish(self, key: DeliveryKey, then: Next) -> None:
        refusals = self._book.refusals(key)
        if refusals:
            text = f"peer {key.peer} does not commit: {'; '.join(refusals)}"
            then.settle(key, DeliveryState.UNDELIVERED, text)
        else:
            then.settle(key, DeliveryState.DELIVERED, "")

    def _sop_classes(self, paths: Mapping[str, str]) -> dict[str, str]:
        """Return the SOP class of each object, from its file."""
        found = {}
        for uid, path in paths.items():
            try:
                meta = read_file_meta_info(self._config.node.data / path)
                found[uid] = str(meta.MediaStorageSOPClassUID)
            except Exception as error:
                # whatever pydicom raises means this
                raise UnreadableObjectError("a result file is gone or damaged") from error
        return found
