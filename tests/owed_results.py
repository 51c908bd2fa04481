"""Result sets that are owed to peers, with the real index, files, sender and commitment.

The clock stands still until a test moves it; one call of `run_due` is what the running node does
each second, in this process and at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pydicom
from pydicom import Dataset, FileMetaDataset, uid

from node.assembly import CaseProposal
from node.audit.events import Tell, untold
from node.commitment.committing import Committing
from node.commitment.holding import held_results
from node.commitment.reports import ReportDesk
from node.config import Config, NodeSection, Peer, Role, TlsSection
from node.delivering import Delivering
from node.index import Index
from node.index.case_lists import CaseLists
from node.index.cases import CaseBook, CaseRecord
from node.index.commitments import CommitmentBook
from node.index.deliveries import DeliveryBook, DeliveryKey
from node.index.delivery_orders import DeliveryOrders
from node.index.runs import RunBook
from node.index.standings import StandingBook
from node.outputs import OUTPUTS, Output
from node.peer_line import PeerLines
from tests.receiving_node import ct

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KINDS: tuple[Output, ...] = ("mr", "mr", "registration", "structure-set", "report")
"""Kinds of the objects of each result set; the objects themselves are small images."""

GIVE_UP_H = 10.0
COMMITMENT_H = 2.0


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        """Let time pass; arguments as of `timedelta`."""
        self.now += timedelta(**amount)


def receiver(name: str, port: int, *more: Role) -> Peer:
    """Return a peer on this machine that receives."""
    roles = (Role.RECEIVE, *more)
    return Peer(name=name, ae_title=name.upper(), host="127.0.0.1", port=port, roles=roles)


def write_object(path: Path, number: int) -> str:
    """Write a small result object; return its SOP Instance UID."""
    ds = ct(number)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return str(ds.SOPInstanceUID)


def proposal(case_id: str, fingerprint: str = "f1") -> CaseProposal:
    """Return a case that is ready to be computed."""
    return CaseProposal(
        case_id=case_id,
        protocol_name="liver",
        ct_series_uid="1.2",
        structure_set_uid="1.3",
        mr_series_uids=("1.4",),
        instances=(),
        waiting_for=(),
        rejection="",
        findings=(),
        fingerprint=fingerprint,
        next_look_at=None,
    )


def owe(
    index: Index,
    root: Path,
    case_id: str,
    destinations: Mapping[str, Sequence[Output]],
    now: datetime = START,
) -> dict[str, Output]:
    """Adopt a result set and owe it; return the kind of each object by SOP Instance UID."""
    first = 1 + 100 * sum(1 for _ in (root / "results").glob("*"))
    paths = {
        write_object(root / f"results/{case_id}/1/out/{n}.dcm", first + n): (
            f"results/{case_id}/1/out/{n}.dcm",
            kind,
        )
        for n, kind in enumerate(KINDS)
    }
    CaseBook(index).observe(f"patient {case_id}", [proposal(case_id)], {case_id: "{}"}, now)
    runs = RunBook(index)
    (key,) = [k for k in runs.due(now) if k.case_id == case_id]
    begun = runs.begin(key, now)
    assert begun is not None
    runs.adopt(begun.key, paths, {}, destinations, timedelta(hours=GIVE_UP_H), now)
    return {sop_uid: kind for sop_uid, (_, kind) in paths.items()}


@dataclass
class OwedResults:
    """A node's delivering side, in a folder."""

    root: Path
    peers: tuple[Peer, ...]
    clock: Clock = field(default_factory=Clock)
    report_wait_s: float = 0.5
    breaker_failures: int = 3
    tls: TlsSection | None = None
    audit: Tell = untold

    def __post_init__(self) -> None:
        self.config = Config(
            node=NodeSection(
                port=0,
                data=self.root,
                network_timeout_s=60.0,
                delivery_retry_s=5.0,
                delivery_retry_cap_s=60.0,
                commitment_timeout_h=COMMITMENT_H,
                breaker_failures=self.breaker_failures,
            ),
            peer=self.peers,
            tls=self.tls,
        )
        self.index = Index(f"sqlite:///{self.root / 'index.sqlite'}")
        self.index.create()
        self.deliveries = DeliveryBook(self.index)
        self.orders = DeliveryOrders(self.index)
        self.standings = StandingBook(self.index)
        self.commitments = CommitmentBook(self.index)
        self.desk = ReportDesk(self.config, self.commitments, self.clock)
        self.committing = Committing(
            self.config,
            self.commitments,
            self.desk,
            self.clock,
            partial(held_results, self.config),
            report_wait_s=self.report_wait_s,
        )
        self.lines = PeerLines(self.config.node.ae_title, tls=self.tls)
        self.delivering = Delivering(
            self.config,
            self.deliveries,
            self.standings,
            self.committing,
            self.lines,
            self.clock,
            self.audit,
        )

    def owe(self, case_id: str = "c1", **destinations: Sequence[Output]) -> dict[str, Output]:
        """Owe a result set to peers, all of it to each unless told otherwise."""
        chosen = destinations or {p.name: OUTPUTS for p in self.peers if Role.RECEIVE in p.roles}
        return owe(self.index, self.root, case_id, chosen, self.clock())

    def run_due(self) -> list[DeliveryKey]:
        """Make every attempt that is due; return them."""
        keys = self.deliveries.due(self.clock())
        for key in keys:
            self.delivering.attempt(key)
        return keys

    def run_until_settled(self, *, limit: int = 60, step_s: float = 60.0) -> None:
        """Let time pass and make attempts until nothing is owed to anybody."""
        for _ in range(limit):
            self.run_due()
            if not any(d["state"] in ("pending", "committing") for d in self.all_deliveries()):
                return
            self.clock.advance(seconds=step_s)
        raise AssertionError(f"not settled: {self.all_deliveries()}")

    def all_deliveries(self) -> list[Mapping[str, object]]:
        """Return every delivery of every case."""
        cases = [self.case(record.case_id) for record in CaseBook(self.index).cases()]
        return [delivery for case in cases for delivery in case.deliveries]

    def case(self, case_id: str = "c1") -> CaseRecord:
        """Return all that the index knows of a case."""
        record = CaseBook(self.index).case(case_id)
        assert record is not None
        return record

    def listed_worst(self, case_id: str = "c1") -> str:
        """Return what the list of cases says of a case's worst finding."""
        (line,) = CaseLists(self.index).only(case_id)
        return line.worst

    def delivery(self, peer: str, case_id: str = "c1") -> Mapping[str, object]:
        """Return one delivery."""
        (found,) = (d for d in self.case(case_id).deliveries if d["peer"] == peer)
        return found


@contextmanager
def owing(root: Path, *peers: Peer, **settings: object) -> Iterator[OwedResults]:
    """Give a delivering side for these peers."""
    found = OwedResults(root, peers, **settings)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        found.lines.close()
        found.index.close()


def kinds_of(results: Mapping[str, Output], uids: Sequence[str]) -> list[Output]:
    """Return the kinds of some objects, sorted."""
    return sorted(results[one] for one in uids)


def status_with(code: int, **elements: object) -> Dataset:
    """Return a C-STORE answer with more than a status."""
    ds = Dataset()
    ds.Status = code
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds
