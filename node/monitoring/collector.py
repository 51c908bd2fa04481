"""Everything that is measured, as Prometheus reads it.

Three sources: what this process counted, what it shows of itself, and a few statements on the
index. An index that cannot be read takes only its own figures away.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from node.case_job import software_version
from node.config import Config
from node.disk import DiskCalls
from node.index import Index
from node.index.figures import IndexFigures, QueueFigures, index_figures
from node.monitoring.counts import COUNTED, COUNTS, TIMED, Counts, Timed
from node.monitoring.vitals import Vitals
from node.monitoring.zeros import zeros_of

LOGGER = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `metrics_text` returns: the text format of Prometheus."""


class NodeCollector(Collector):
    """Gathers all metrics anew whenever it is asked.

    Args:
        config: Names of peers, the data folder.
        index: What all processes share.
        clock: The time, aware.
        vitals: What this process shows of itself.
        counts: What it counted.
    """

    def __init__(
        self,
        config: Config,
        index: Index,
        clock: Callable[[], datetime],
        vitals: Vitals,
        counts: Counts = COUNTS,
    ) -> None:
        self._config = config
        self._index = index
        self._clock = clock
        self._vitals = vitals
        self._counts = counts
        self._zeros = zeros_of(config)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, those without a value included."""
        yield InfoMetricFamily(
            "hilum",
            "What runs here.",
            value={"version": software_version(), "ae_title": self._config.node.ae_title},
        )
        yield from self._counted()
        yield from self._own()
        yield from _disk(self._config.node.data)
        yield from self._indexed()

    def _counted(self) -> Iterator[Metric]:
        for what in COUNTED:
            family = CounterMetricFamily(what.name, what.text, labels=what.labels)
            zeros = self._zeros.get(what, () if what.labels else ((),))
            numbers = {**dict.fromkeys(zeros, 0.0), **self._counts.numbers(what)}
            for labels, number in numbers.items():
                family.add_metric(labels, number)
            yield family
        for timed in TIMED:
            yield self._histogram(timed)

    def _histogram(self, timed: Timed) -> HistogramMetricFamily:
        family = HistogramMetricFamily(timed.name, timed.text, labels=timed.labels)
        for labels, found in self._counts.durations(timed).items():
            buckets, so_far = [], 0
            bounds = (*(str(float(bound)) for bound in timed.bounds_s), "+Inf")
            for bound, count in zip(bounds, found.counts, strict=True):
                so_far += count
                buckets.append((bound, float(so_far)))
            family.add_metric(labels, buckets, found.total_s)
        return family

    def _own(self) -> Iterator[Metric]:
        for measured in self._vitals.measures:
            try:
                values = measured.read()
            except Exception:
                LOGGER.exception("metrics.unreadable", extra={"metric": measured.name})
                continue
            yield _gauge(measured.name, measured.text, values, measured.labels)
        healthy, ready = not self._vitals.troubles_of_life(), not self._vitals.troubles()
        yield _single("hilum_healthy", "Whether /health says that this process lives.", healthy)
        yield _single("hilum_ready", "Whether /ready says that it takes work.", ready)

    def _indexed(self) -> Iterator[Metric]:
        try:
            figures = index_figures(self._index, self._clock())
        except Exception:
            # whatever the database has: a supervisor must see the rest, and that this is missing
            LOGGER.exception("metrics.index_unreadable")
            yield _single("hilum_index_up", "Whether the index could be read.", False)
            return
        yield _single("hilum_index_up", "Whether the index could be read.", True)
        yield from _figures(figures, [peer.name for peer in self._config.peer])


def make_registry(collector: NodeCollector) -> CollectorRegistry:
    """Return a registry of our own: ours, and memory, CPU and file handles of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def metrics_text(registry: CollectorRegistry) -> bytes:
    """Return all metrics in the text format of Prometheus; see `CONTENT_TYPE`."""
    return generate_latest(registry)


def _figures(figures: IndexFigures, peers: list[str]) -> Iterator[Metric]:
    yield _gauge("hilum_cases", "Cases in each state.", _keyed(figures.cases), ("state",))
    yield _single(
        "hilum_compute_waiting", "Cases that are due and not begun.", figures.computing.waiting
    )
    yield _single(
        "hilum_compute_oldest_seconds", "How long the oldest is due.", figures.computing.oldest_s
    )
    yield from _queues(
        "hilum_deliveries", "result sets that wait to be sent", figures.deliveries, peers
    )
    yield from _queues(
        "hilum_commitments",
        "result sets of which the peer is to say whether it keeps them",
        figures.commitments,
        peers,
    )
    is_open = {peer: figures.open_breakers.get(peer, False) for peer in peers}
    yield _gauge(
        "hilum_breaker_open",
        "Whether a peer is left alone because it fails.",
        _keyed(is_open),
        ("peer",),
    )
    yield _gauge(
        "hilum_heartbeat_age_seconds",
        "How long ago each process said that it lives.",
        _keyed(figures.heartbeats_s),
        ("process",),
    )
    yield _gauge(
        "hilum_notices_owed",
        "Notices that people have not been told yet.",
        _keyed(figures.notices_owed),
        ("channel",),
    )
    yield _single("hilum_index_bytes", "Size of the index.", figures.size_bytes)


def _queues(
    name: str, what: str, found: Mapping[str, QueueFigures], peers: list[str]
) -> Iterator[Metric]:
    """Yield number and age of what waits; a peer that is configured no longer may still be owed."""
    queues = {peer: found.get(peer, QueueFigures()) for peer in {*peers, *found}}
    waiting = {peer: queue.waiting for peer, queue in queues.items()}
    oldest_s = {peer: queue.oldest_s for peer, queue in queues.items()}
    yield _gauge(f"{name}_waiting", f"Number of {what}.", _keyed(waiting), ("peer",))
    yield _gauge(f"{name}_oldest_seconds", f"Age of the oldest of the {what}.", _keyed(oldest_s),
                 ("peer",))  # fmt: skip


def _disk(data: Path) -> Iterator[Metric]:
    try:
        room = DiskCalls().room(data)
    except OSError:
        return
    yield _single("hilum_disk_free_bytes", "Free room of the data folder's disk.", room.free_bytes)
    yield _single("hilum_disk_total_bytes", "Size of the data folder's disk.", room.total_bytes)


def _gauge(
    name: str,
    text: str,
    values: Mapping[tuple[str, ...], float],
    labels: tuple[str, ...],
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def _single(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _keyed(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(key,): float(value) for key, value in values.items()}
