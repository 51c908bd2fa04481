"""Monitoring: what is measured, that a stuck process is found, and that rules name what exists."""

import io
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.compute_job import Outcome
from node.config import Config, NodeSection
from node.index import Index
from node.index.figures import index_figures
from node.log import (
    IDENTIFIERS,
    IdentifierMask,
    LineFormatter,
    configure_logging,
    recent_lines,
)
from node.monitoring.case_account import CaseAccount
from node.monitoring.collector import NodeCollector, make_registry, metrics_text
from node.monitoring.counts import (
    COMPUTED,
    COUNTS,
    FINDINGS,
    MOST_SERIES,
    OBJECTS,
    REGISTRATIONS,
    STEP_SECONDS,
    TARGETS,
    TIMED,
    Counted,
    Counts,
    Timed,
)
from node.monitoring.vitals import NOTHING_SEEN, Vitals
from node.receiver import StandInReceiver
from node.recent_lines import RecentLines
from tests.owed_results import owing, receiver
from tests.receiving_node import PEERS, Node, associated, ct, cut, encoded, running, status_of

MARKS = ("MARKED", "4711", "Anna", "19510203")


def now() -> datetime:
    return datetime.now(UTC)


def samples(text: str | bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels, as Prometheus' own parser reads them."""
    told = text.decode() if isinstance(text, bytes) else text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
    }


def metrics_of(node: Node, vitals: Vitals = NOTHING_SEEN, counts: Counts = COUNTS) -> str:
    config = Config(node=NodeSection(data=node.root), peer=PEERS)
    collector = NodeCollector(config, node.index, now, vitals, counts)
    return metrics_text(make_registry(collector)).decode()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path) as found:
        yield found


# --- what is measured -------------------------------------------------------------------------


def test_received_objects_when_counted_agree_with_what_was_sent(node: Node) -> None:
    """Issue 8, 4: objects, bytes, associations, refusals by status; nobody is named."""
    before = samples(metrics_of(node))
    with associated(node) as assoc:
        for number in (1, 2, 3):
            assert status_of(assoc, encoded(ct(number)), ct(number)) == 0
        refused = status_of(assoc, cut(ct(9)), ct(9))
    with associated(node, "STRANGER-4711"):
        pass
    node.wait_for_outcomes("released")
    text = metrics_of(node)
    grown = {
        key: value - before.get(key, 0)
        for key, value in samples(text).items()
        if value != before.get(key, 0)
    }

    def of(name: str, **labels: str) -> float:
        return grown[name, frozenset(labels.items())]

    assert of("hilum_objects_received_total", peer="ct") == 3
    assert of("hilum_received_bytes_total", peer="ct") == sum(
        len(encoded(ct(n))) for n in (1, 2, 3)
    )
    assert of("hilum_store_refusals_total", peer="ct", status=f"0x{refused:04X}") == 1
    assert of("hilum_associations_total", peer="ct", outcome="released") == 1
    assert of("hilum_associations_rejected_total", reason="1.3") == 1
    assert not any(mark in text for mark in (*MARKS, "STRANGER"))


def test_index_figures_when_cases_wait_tell_how_many_and_how_long(tmp_path: Path) -> None:
    """Issue 8, 4: queue ages, deliveries by peer, breaker, size."""
    with owing(tmp_path, receiver("tps", 1), breaker_failures=1) as owed:
        owed.owe()
        owed.run_due()
        owed.clock.advance(hours=2)
        found = index_figures(owed.index, owed.clock())
    assert found.cases["delivering"] == 1
    assert (found.deliveries["tps"].waiting, found.deliveries["tps"].oldest_s) == (1, 7200)
    assert found.open_breakers == {"tps": True}
    assert found.size_bytes > 10_000


def test_delivery_when_settled_is_counted_by_status_and_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 8, 4: deliveries by peer and status; one canonical line per delivery."""
    with (
        StandInReceiver(tmp_path / "tps", "TPS") as tps,
        owing(tmp_path / "n", receiver("measured", tps.port)) as owed,
        caplog.at_level("INFO"),
    ):
        count = len(owed.owe())
        owed.run_due()
    (line,) = [vars(r) for r in caplog.records if r.message == "delivery.finished"]
    assert (line["objects"], line["outcomes"], line["attempt"]) == (count, {"sent": count}, 0)
    assert line["bytes"] > 1000
    assert line["seconds"] >= 0


def test_index_when_it_cannot_be_read_takes_only_its_own_figures_away(node: Node) -> None:
    """A supervisor must see the rest, and that this is missing."""
    with node.index.begin() as connection:
        connection.exec_driver_sql("DROP TABLE deliveries")
    found = samples(metrics_of(node))
    assert found["hilum_index_up", frozenset()] == 0
    assert ("hilum_disk_free_bytes", frozenset()) in found
    assert not [name for name, _ in found if name == "hilum_cases"]


def test_counts_when_somebody_invents_labels_stay_bounded() -> None:
    """Issue 8, 4: no metric label is unbounded."""
    counts, what = Counts(), Counted("x", "", ("peer",))
    timed = Timed("y", "", (1.0,), ("step",))
    for number in range(3 * MOST_SERIES):
        counts.add(what, f"label{number}")
        counts.observe(timed, 0.5, f"step{number}")
    assert len(counts.numbers(what)) == len(counts.durations(timed)) == MOST_SERIES + 1
    assert counts.numbers(what)[("other",)] == 2 * MOST_SERIES
    assert sum(counts.numbers(what).values()) == 3 * MOST_SERIES


def test_durations_when_observed_fill_the_bucket_they_belong_to(tmp_path: Path) -> None:
    """A histogram as Prometheus reads it: cumulative, a bound includes itself."""
    counts = Counts()
    timed = next(t for t in TIMED if t.name == "hilum_case_seconds")
    for seconds in (timed.bounds_s[0], timed.bounds_s[0] + 0.01, timed.bounds_s[-1] + 1):
        counts.observe(timed, seconds)
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    config = Config(node=NodeSection(data=tmp_path))
    text = metrics_text(make_registry(NodeCollector(config, index, now, NOTHING_SEEN, counts)))
    index.close()
    found = samples(text)

    def bucket(bound: str) -> float:
        return found["hilum_case_seconds_bucket", frozenset({("le", bound)})]

    assert [bucket(str(float(b))) for b in timed.bounds_s[:2]] == [1, 2]
    assert bucket(str(float(timed.bounds_s[-1]))) == 2
    assert bucket("+Inf") == found["hilum_case_seconds_count", frozenset()] == 3


def test_objects_when_many_threads_count_are_all_counted() -> None:
    """Associations count at the same time."""
    counts = Counts()

    def count() -> None:
        for _ in range(2000):
            counts.add(OBJECTS, "ct")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.numbers(OBJECTS) == {("ct",): 16_000}


def test_case_when_it_ends_is_counted_with_its_verdicts_and_the_time_of_each_step() -> None:
    """Issue 8, 4: durations by step, verdicts, abstentions; in the line of the log, too."""
    counts = Counts()
    seconds = iter([0.0, 1.0, 4.0, 4.5, 10.5, 10.5])
    account = CaseAccount(7.0, lambda: next(seconds), counts)
    for step in ("decode", "registration", "decode"):
        account.begin(step)
    summary = {
        "registrations": [{"kind": "mr", "status": "pass"}, {"kind": "ct", "status": "fail"}],
        "targets": [{"status": "refined"}, {"status": "abstained"}, {"status": "abstained"}],
        "findings": [{"severity": "failure"}],
    }
    told = account.close(Outcome(kind="done", summary=summary), is_counted=True)
    assert told == {
        "seconds": 10.5,
        "steps_s": {"start": 1.0, "decode": 9.0, "registration": 0.5},
        "queue_s": 7.0,
    }
    assert counts.numbers(COMPUTED) == {("done",): 1}
    assert counts.numbers(REGISTRATIONS) == {("mr", "pass"): 1, ("ct", "fail"): 1}
    assert counts.numbers(TARGETS) == {("refined",): 1, ("abstained",): 2}
    assert counts.numbers(FINDINGS) == {("failure",): 1}
    assert counts.durations(STEP_SECONDS)[("decode",)].total_s == 9.0


def test_case_when_another_process_was_faster_is_not_counted_twice() -> None:
    """Each revision counts once, however many computed it."""
    counts = Counts()
    CaseAccount(0.0, counts=counts).close(Outcome(kind="done"), is_counted=False)
    assert counts.numbers(COMPUTED) == {}


# --- the last lines of the log ------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Give a logger whose lines go to a ring of three, and nowhere else."""
    found = logging.getLogger("hilum.test_ring")
    found.setLevel("DEBUG")
    found.propagate = False
    yield found
    found.handlers.clear()
    found.propagate = True


def test_ring_when_full_forgets_the_oldest_and_finds_the_rest(logger: logging.Logger) -> None:
    """Issue 8, 1: the page shows the last lines, by level and text."""
    ring = RecentLines(LineFormatter(as_json=True, mask=IDENTIFIERS).fields, capacity=3)
    logger.addHandler(ring)
    for event, level in (("a", 10), ("store.refused", 30), ("c", 20), ("d", 40)):
        logger.log(level, event, extra={"peer": "TPS"})
    assert [line["event"] for line in ring.lines()] == ["store.refused", "c", "d"]
    assert [line["event"] for line in ring.lines(least_level="WARNING")] == ["store.refused", "d"]
    assert [line["event"] for line in ring.lines(contains="REFUSED")] == ["store.refused"]
    assert [line["event"] for line in ring.lines(contains="tps", limit=1)] == ["d"]
    assert ring.lines(limit=0) == []
    assert [line["line"] for line in ring.lines()] == [2, 3, 4]


def test_ring_when_an_identifier_was_seen_masks_it(logger: logging.Logger) -> None:
    """Invariant 6: what the log hides, the page hides."""
    mask = IdentifierMask()
    mask.remember("MARKEDNAME^Anna")
    ring = RecentLines(LineFormatter(as_json=True, mask=mask).fields)
    logger.addHandler(ring)
    logger.warning("x", extra={"reason": "MARKEDNAME^Anna is here"})
    assert "MARKEDNAME" not in str(ring.lines())


def test_lines_of_the_process_are_kept_once_logging_is_configured() -> None:
    """`hilum serve` needs nothing more."""
    root = logging.getLogger()
    kept, hook = list(root.handlers), threading.excepthook
    try:
        configure_logging(stream=io.StringIO())
        configure_logging(stream=io.StringIO())
        logging.getLogger("node.test_ring").warning("ring.works", extra={"unlikely": "q7"})
        assert len(recent_lines(contains="q7")) == 1
    finally:
        root.handlers[:] = kept
        threading.excepthook = hook
        logging.captureWarnings(False)
