"""Two weeks of a department in simulated time: does anything grow without bound?

    python -m tests.bench.fortnight [--days 14] [--cases-a-day 60] [--out DIR]

Run by hand, from the project's folder; it takes some minutes. Sixty cases a day, peers that fail
each in their own way (see `troubled_peers`), a node that computes by a stand-in and removes after
three days (see `department`). Every hour it is measured what waits, for how long, what is tried,
and how large disk and memory are. The second week is held against the first: a curve that rises is
told, and the command fails. The plot goes to `--out`, a new temporary folder by default.

Not simulated: the durable engine, whose work is begun and ended at once here, and the network's
receiving side.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import matplotlib as mpl
import numpy as np
import sqlalchemy as sa

from node.config import Config, Protocol
from node.index.case_rows import CASES, DELIVERIES
from node.index.peer_rows import STANDINGS
from node.index.states import UNSETTLED, CaseState
from tests.bench.department import KEEP_DAYS, TICK, Department, department
from tests.bench.grown_index import pattern
from tests.bench.troubled_peers import troubled_peers
from tests.owed_results import Clock

mpl.use("Agg")
from matplotlib import pyplot as plt

TICKS_AN_HOUR = round(timedelta(hours=1) / TICK)
SETTLED_DAYS = KEEP_DAYS + 1.0
"""Before that day nothing is removed yet: it belongs to no week."""

LEAST_DAYS = 6

MOST_KEPT_KIB = 32.0
"""A gigabyte in 32 000 cases."""

STEADY = 1.25
"""Largest of the second half of what follows, as a multiple of the largest of the first."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What is measured every hour.

    Attributes:
        least: Less than this is not worth telling from nothing.
    """

    name: str
    unit: str
    least: float
    measure: Callable[[Department], float]


def oldest_h(table: sa.Table, column: str, states: Sequence[str]) -> Callable[[Department], float]:
    """Return what measures for how long the oldest row in these states has been so."""

    def measure(node: Department) -> float:
        query = sa.select(sa.func.min(table.c[column])).where(table.c.state.in_(states))
        with node.index.read() as connection:
            oldest = connection.scalar(query)
        if oldest is None:
            return 0.0
        return (node.clock.now - datetime.fromisoformat(oldest)) / timedelta(hours=1)

    return measure


def count(condition: sa.ColumnElement[bool]) -> Callable[[Department], float]:
    """Return what measures how many rows fit."""

    def measure(node: Department) -> float:
        with node.index.read() as connection:
            return float(connection.scalar(sa.select(sa.func.count()).where(condition)) or 0)

    return measure


def mib_below(*folders: str) -> Callable[[Department], float]:
    """Return what measures how much room the files below some folders take."""

    def measure(node: Department) -> float:
        files = (p for name in folders for p in (node.root / name).rglob("*") if p.is_file())
        return sum(p.stat().st_size for p in files) / 2**20

    return measure


def index_mib(node: Department) -> float:
    """Return what the index holds, without the pages that are free."""
    with node.index.read() as connection:
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
            for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size / 2**20


def memory_mib(_node: Department) -> float:
    """Return the resident memory of this process, stand-in peers included."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def attempts_an_hour() -> Callable[[Department], float]:
    """Return what measures how many attempts to deliver were made since it was last asked."""
    before = 0

    def measure(node: Department) -> float:
        nonlocal before
        since, before = node.attempts - before, node.attempts
        return float(since)

    return measure


def curves() -> tuple[Curve, ...]:
    """Return everything that is measured."""
    at_work = (CaseState.READY, CaseState.RUNNING)
    collecting = (CaseState.WAITING, CaseState.RECEIVING)
    owed = DELIVERIES.c.state.in_(UNSETTLED)
    return (
        Curve("cases that wait for objects", "cases", 5, count(CASES.c.state.in_(collecting))),
        Curve("oldest case to be computed", "h", 1, oldest_h(CASES, "updated_at", at_work)),
        Curve("deliveries that are owed", "deliveries", 10, count(owed)),
        Curve("oldest delivery that is owed", "h", 2, oldest_case_owed_h),
        Curve("attempts to deliver", "an hour", 20, attempts_an_hour()),
        Curve("peers left alone", "peers", 2, count(STANDINGS.c.open_since.is_not(None))),
        Curve("objects and results on disk", "MiB", 5, mib_below("objects", "results")),
        Curve("index", "MiB", 2, index_mib),
        Curve("memory", "MiB", 50, memory_mib),
    )


def oldest_case_owed_h(node: Department) -> float:
    """Return how long ago the oldest result was owed that still is."""
    limit = timedelta(hours=node.config.node.delivery_give_up_h)
    query = sa.select(sa.func.min(DELIVERIES.c.give_up_at)).where(DELIVERIES.c.state.in_(UNSETTLED))
    with node.index.read() as connection:
        earliest = connection.scalar(query)
    if earliest is None:
        return 0.0
    return (node.clock.now - datetime.fromisoformat(earliest) + limit) / timedelta(hours=1)


def verdict(curve: Curve, hours: np.ndarray, values: np.ndarray) -> tuple[bool, str]:
    """Return whether a curve stays level once removal has begun, and the sentence that says so."""
    days = hours / 24
    middle = (SETTLED_DAYS + days[-1]) / 2
    first = values[(days >= SETTLED_DAYS) & (days < middle)]
    second = values[days >= middle]
    before, after = float(first.max()), float(second.max())
    is_level = after <= max(before, curve.least) * STEADY
    word = "level" if is_level else "GROWS"
    return is_level, f"{curve.name:30} {before:9.1f} {after:9.1f} {curve.unit:12} {word}"


def kept_kib(hours: np.ndarray, index: np.ndarray, cases_a_day: int) -> float:
    """Return by how much the index rises for each case once removal has begun.

    Cases, revisions and what was removed are kept for good: this alone grows, with the cases.
    """
    settled = hours / 24 >= SETTLED_DAYS
    slope_mib_a_day = float(np.polyfit(hours[settled] / 24, index[settled], 1)[0])
    return slope_mib_a_day * 1024 / cases_a_day


def plot(found: Sequence[tuple[Curve, np.ndarray]], hours: np.ndarray, path: Path) -> None:
    """Draw every curve, days along the axis."""
    figure, axes = plt.subplots(len(found), 1, figsize=(10, 2.0 * len(found)), sharex=True)
    for axis, (curve, values) in zip(axes, found, strict=True):
        axis.plot(hours / 24, values, linewidth=1.0)
        axis.axvline(SETTLED_DAYS, color="grey", linewidth=0.8, linestyle=":")
        axis.set_title(f"{curve.name} ({curve.unit})", fontsize=9, loc="left")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("days; dotted: from here on things are removed")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def live(node: Department, days: int, tell: Callable[[datetime], None]) -> np.ndarray:
    """Let days pass; return each curve's value for each hour, shape (curves, hours)."""
    measured = curves()
    rows = []
    for hour in range(days * 24):
        for _ in range(TICKS_AN_HOUR):
            tell(node.clock.now)
            node.tick()
        node.tidy()
        rows.append([curve.measure(node) for curve in measured])
        if hour % 24 == 23:
            print(f"day {hour // 24 + 1}: {node.attempts} attempts", file=sys.stderr, flush=True)
    return np.array(rows).T


def states_at_the_end(node: Department) -> dict[str, int]:
    """Return how many cases are in each state."""
    query = sa.select(CASES.c.state, sa.func.count()).group_by(CASES.c.state)
    with node.index.read() as connection:
        return {str(row[0]): int(row[1]) for row in connection.execute(query)}


def main() -> int:
    """Live through the weeks, judge, plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--cases-a-day", type=int, default=60)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.days < LEAST_DAYS:
        parser.error(f"--days: {LEAST_DAYS} at least, for there is nothing to compare before")
    logging.disable(logging.ERROR)
    out = asked.out or Path(tempfile.mkdtemp(prefix="hilum-fortnight-"))
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hilum-department-") as name:
        root, clock = Path(name), Clock()
        protocol = Protocol(name="liver", targets=("GTV*",))
        one = pattern(root / "pattern", Config(protocol=(protocol,)))
        with (
            troubled_peers(root / "peers", clock) as (peers, tell),
            department(root / "data", one, peers, clock, asked.cases_a_day) as node,
        ):
            values = live(node, asked.days, tell)
            states, attempts = states_at_the_end(node), node.attempts
    hours = np.arange(1, asked.days * 24 + 1, dtype=float)
    found = list(zip(curves(), values, strict=True))
    plot(found, hours, out / "fortnight.png")
    document = {curve.name: list(map(float, each)) for curve, each in found}
    (out / "fortnight.json").write_text(json.dumps(document), encoding="utf-8")
    judged = [verdict(curve, hours, each) for curve, each in found]
    print(f"{'largest of':30} {'1st half':>9} {'2nd half':>9}")
    print("\n".join(text for _, text in judged))
    spent = time.monotonic() - began
    print(f"cases at the end: {states}; {attempts} attempts; {spent:.0f} s; plot in {out}")
    kept = kept_kib(hours, next(v for c, v in found if c.name == "index"), asked.cases_a_day)
    print(f"of each case the index keeps {kept:.1f} KiB for good (bar {MOST_KEPT_KIB:.0f})")
    is_level = all(is_level for is_level, _ in judged) and kept <= MOST_KEPT_KIB
    print("nothing else grows without bound" if is_level else "SOMETHING GROWS")
    return 0 if is_level else 1


if __name__ == "__main__":
    sys.exit(main())
