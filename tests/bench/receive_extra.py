"""What the judge of tests/bench/receive.py leaves out: work put off, memory, C-ECHO under load.

Each function starts the node, sends, and returns lines of a table. Seen from outside: /proc, and
the number of rows in the index.
"""

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.bench.receive_target import serve_command, serve_environment
from tests.nodes import free_port, wait_for
from tests.raw_sender import SUCCESS, ObjectMaker, RawAssociation
from tests.serve_process import index_count

CALLED_AE = "ANY-SCP"
MIB = 1 << 20
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
DEFERRED = (("ct", 1), ("ct", 4), ("mr", 4), ("small", 4))
DEFERRED_ROUNDS = 3
LARGE_COLUMNS = 3200
"""20 MB."""
MEMORY_ASSOCIATIONS = (1, 8, 32)
MEMORY_BAR_MIB, MEMORY_AIM_MIB = 2.0, 1.0
ECHO_SENDERS = 8
ECHO_SECONDS = 20.0
ECHO_PAUSE_S = 0.005
ECHO_BAR_MS, ECHO_AIM_MS = 100.0, 20.0


@dataclass(slots=True)
class Served:
    """A node that runs."""

    port: int
    data: Path
    pid: int

    def cpu_s(self) -> float:
        """Return the CPU seconds that the node used up to now, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) * TICK_S

    def memory_mib(self) -> dict[str, float]:
        """Return resident memory: of its own, and mapped files; and the peak of both together."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines())
        return {
            k: int(lines[k].split()[0]) / 1024 for k in ("RssAnon", "RssFile", "VmHWM", "VmRSS")
        }

    def forget_peak(self) -> None:
        """Let the peak begin anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def threads(self) -> int:
        """Return the number of its threads."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def descriptors(self) -> int:
        """Return the number of its open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@contextmanager
def served(folder: Path, transport: str = "fast") -> Iterator[Served]:
    """Give a node that listens, with an empty data folder."""
    folder.mkdir(parents=True)
    port, data, log = free_port(), folder / "data", folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            serve_command(port, data, transport),
            cwd=folder,
            env=serve_environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: _can_echo(port, process, log), timeout_s=60, what="the node to listen")
        yield Served(port, data, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _can_echo(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-2000:]
    try:
        with RawAssociation(port, called_ae=CALLED_AE) as assoc:
            return assoc.echo() == SUCCESS
    except OSError:
        return False


@contextmanager
def judge_sender(
    judge: Path, port: int, corpus: Path, associations: int, repeat: int = 1
) -> Iterator["subprocess.Popen[str]"]:
    """Give the judge's sender, loaded and ready: a line on its input lets it send."""
    command = [sys.executable, str(judge / "rawscu.py"), "--port", str(port)]
    command += ["--files", str(corpus), "--assoc", str(associations), "--repeat", str(repeat)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        assert "READY" in sender.stdout.readline()
        yield sender


def let_send(sender: "subprocess.Popen[str]") -> None:
    """Let a ready sender begin."""
    pipe: IO[str] | None = sender.stdin
    assert pipe is not None
    pipe.write("\n")
    pipe.flush()


def deferred_lines(judge: Path, corpora: Path, work: Path, transport: str) -> list[str]:
    """Return how long, and with how much CPU, the index is filled behind the last answer."""
    lines = [
        "",
        f"put off behind the answers, {DEFERRED_ROUNDS} rounds, medians:",
        "| work | objects | to the last answer, s | objects/s | until indexed, s more | objects/s "
        "indexed | CPU to the last answer, s | CPU until indexed, s more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, associations in DEFERRED:
        rounds = [
            _deferred(
                judge, corpora / name, associations, work / f"{name}-{associations}-{n}", transport
            )
            for n in range(DEFERRED_ROUNDS)
        ]
        count = rounds[0][0]
        sent_s, more_s, cpu_s, more_cpu_s = (
            statistics.median(one[at] for one in rounds) for at in range(1, 5)
        )
        lines.append(
            f"| {name}, {associations} associations | {count} | {sent_s:.2f} | "
            f"{count / sent_s:.0f} | {more_s:.2f} | {count / (sent_s + more_s):.0f} | "
            f"{cpu_s:.2f} | {more_cpu_s:.2f} |"
        )
    return lines


def _deferred(
    judge: Path, corpus: Path, associations: int, folder: Path, transport: str
) -> tuple[int, float, float, float, float]:
    count = len(list(corpus.iterdir()))
    with served(folder, transport) as node:
        with judge_sender(judge, node.port, corpus, associations) as sender:
            cpu_before, began = node.cpu_s(), time.perf_counter()
            let_send(sender)
            assert sender.stdout is not None
            answer = sender.stdout.readline()
            sent, cpu_sent = time.perf_counter(), node.cpu_s()
        assert f'"ok": {count}' in answer, answer
        deadline = time.perf_counter() + 300
        while index_count(node.data) < count:
            assert time.perf_counter() < deadline, "the index is never complete"
            time.sleep(0.005)
        indexed, cpu_indexed = time.perf_counter(), node.cpu_s()
    return count, sent - began, indexed - sent, cpu_sent - cpu_before, cpu_indexed - cpu_sent


@dataclass(slots=True)
class _Peak:
    """The highest values seen, sampled."""

    node: Served
    seen_mib: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self._stop.wait(0.01):
            for name, value in self.node.memory_mib().items():
                self.seen_mib[name] = max(self.seen_mib.get(name, 0.0), value)

    @contextmanager
    def watched(self) -> Iterator[None]:
        self.node.forget_peak()
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def memory_lines(_judge: Path, _corpora: Path, work: Path, transport: str) -> list[str]:
    """Return memory for each open association, while all of them send 20 MB objects."""
    lines = [
        "",
        "memory while 20 MB objects are sent (MiB): above that of a node that has received one",
        "| associations | before | all open | peak of its own | peak with mapped files | for each "
        f"association, own | with mapped files | bar {MEMORY_BAR_MIB:g}, aim {MEMORY_AIM_MIB:g} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peaks_mib = {}
    for count in MEMORY_ASSOCIATIONS:
        with served(work / f"memory-{count}", transport) as node:
            line, peaks_mib[count] = _memory_line(node, count)
        lines.append(line)
    few, many = MEMORY_ASSOCIATIONS[1:]
    more_mib = (peaks_mib[many] - peaks_mib[few]) / (many - few)
    lines.append(
        "own memory is judged: mapped files are the system's cache, one object at a time. From "
        f"{few} to {many} associations the peak with them grows by {more_mib:.2f} MiB for each"
    )
    return lines


def _memory_line(node: Served, count: int) -> tuple[str, float]:
    """Return a row, and by how much the peak with mapped files is above the start, MiB."""
    maker = ObjectMaker(columns=LARGE_COLUMNS)
    with RawAssociation(node.port, called_ae=CALLED_AE) as first:
        assert first.store(maker.object(0)) == SUCCESS
    wait_for(lambda: index_count(node.data) == 1, timeout_s=60, what="the first object's row")
    time.sleep(1.0)
    before = node.memory_mib()
    opened = [RawAssociation(node.port, called_ae=CALLED_AE) for _ in range(count)]
    all_open = node.memory_mib()
    objects = [maker.object(1 + number) for number in range(count)]
    statuses: list[int] = []
    failures: list[str] = []

    def send(at: int) -> None:
        try:
            statuses.append(opened[at].store(objects[at]))
        except OSError as error:
            failures.append(str(error))

    peak = _Peak(node)
    with peak.watched():
        threads = [threading.Thread(target=send, args=(at,)) for at in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if statuses != [SUCCESS] * count:
        said = f"FAILED: {len(statuses)} answered, {sorted(set(failures))}"
        return f"| {count} | {said} | | | | | | NO |", 0.0
    for assoc in opened:
        assoc.release()
    own = (peak.seen_mib["RssAnon"] - before["RssAnon"]) / count
    whole = (peak.seen_mib["VmHWM"] - before["VmRSS"]) / count
    verdict = "aim" if own <= MEMORY_AIM_MIB else "bar" if own <= MEMORY_BAR_MIB else "NO"
    row = (
        f"| {count} | {before['VmRSS']:.1f} | {all_open['VmRSS']:.1f} | "
        f"{peak.seen_mib['RssAnon']:.1f} | {peak.seen_mib['VmHWM']:.1f} | {own:.2f} | "
        f"{whole:.2f} | {verdict} |"
    )
    return row, whole * count


def echo_latency_line(judge: Path, corpora: Path, work: Path, transport: str) -> list[str]:
    """Return how long a C-ECHO takes on an open association, while 8 others send CT."""
    with (
        served(work / "echo", transport) as node,
        judge_sender(judge, node.port, corpora / "ct", ECHO_SENDERS, repeat=8) as sender,
        RawAssociation(node.port, called_ae=CALLED_AE) as assoc,
    ):
        quiet_ms = _echoes_ms(assoc, 2.0, lambda: True)
        let_send(sender)
        busy_ms = _echoes_ms(assoc, ECHO_SECONDS, lambda: sender.poll() is None)
        answer: Any = None
        with suppress(subprocess.TimeoutExpired):
            answer, _ = sender.communicate(timeout=300)
    p99_ms = _percentile(busy_ms, 99)
    verdict = "aim" if p99_ms <= ECHO_AIM_MS else "bar" if p99_ms <= ECHO_BAR_MS else "NO"
    return [
        "",
        f"C-ECHO while {ECHO_SENDERS} associations send CT: {len(busy_ms)} echoes, median "
        f"{_percentile(busy_ms, 50):.1f} ms, 99th percentile {p99_ms:.1f} ms, longest "
        f"{max(busy_ms):.1f} ms (alone: median {_percentile(quiet_ms, 50):.1f}, 99th percentile "
        f"{_percentile(quiet_ms, 99):.1f}); bar {ECHO_BAR_MS:g}, aim {ECHO_AIM_MS:g}: {verdict}",
        f"the senders: {str(answer).strip()}",
    ]


def _echoes_ms(assoc: RawAssociation, seconds: float, goes_on: Any) -> list[float]:
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end and goes_on():
        began = time.perf_counter()
        assert assoc.echo() == SUCCESS
        found.append(1000 * (time.perf_counter() - began))
        time.sleep(ECHO_PAUSE_S)
    return found


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
