"""The delivered cases of a node as one table: read, written as CSV, told to a person.

What is compared, and how, is `handlers.cohort`'s.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from handlers.cohort import (
    DESCRIBED,
    FIGURES,
    CohortRow,
    PairedSummary,
    Spread,
    cohort_rows,
    describe,
    summarize,
)
from node.cohort_plot import plot_agreement
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, RESULTS_FOLDER
from node.console import OUT, clean
from node.errors import NodeError
from node.index import Index
from node.index.cases import CaseBook
from node.index.states import CaseState

__all__ = ["as_document", "cohort_rows", "documents_of", "plot_agreement", "tell", "write_csv"]


def documents_of(
    index: Index, data: Path, protocol: str | None
) -> tuple[list[dict[str, Any]], int]:
    """Return the metrics of delivered cases by case, and how many have none any more.

    Args:
        index: Of the node.
        data: Its data folder.
        protocol: Only cases of that protocol; None: all.
    """
    records = [
        record
        for record in CaseBook(index).cases()
        if record.state is CaseState.DELIVERED and protocol in (None, record.protocol)
    ]
    documents, lost = [], 0
    for record in sorted(records, key=lambda each: each.case_id):
        folder = data / RESULTS_FOLDER / record.case_id / str(record.revision)
        try:
            text = (folder / OUTPUT_FOLDER / METRICS_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            lost += 1
            continue
        documents.append(json.loads(text))
    return documents, lost


def as_document(rows: Sequence[CohortRow]) -> dict[str, Any]:
    """Return rows and statistics as plain values."""
    return {
        "rows": [asdict(row) for row in rows],
        "paired": [asdict(summary) for summary in summarize(rows)],
        "described": {
            key: {"targets": count, **asdict(spread)}
            for key, (count, spread) in describe(rows).items()
        },
    }


def write_csv(path: Path, rows: Sequence[CohortRow]) -> None:
    """Write one line for each target; a figure that is not told is an empty field."""
    header = ["case_id", "protocol", "target", "refined"]
    header += [f"{form}_{key}" for key in FIGURES for form in ("drawn", "refined")]
    header += list(DESCRIBED)
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(_csv_line(row) for row in rows)
    except OSError as error:
        raise NodeError(f"{path} cannot be written: {error.strerror}") from error


def _csv_line(row: CohortRow) -> list[str]:
    told = "yes" if row.is_refined else "no"
    line = [row.case_id, row.protocol, _no_formula(row.target), told]
    for key in FIGURES:
        line += [_number(row.drawn, key), _number(row.refined, key)]
    return line + [_number(row.between, key) for key in DESCRIBED]


def _no_formula(text: str) -> str:
    """Return a name of others as text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _number(figures: Mapping[str, float], key: str) -> str:
    return repr(figures[key]) if key in figures else ""


def tell(rows: Sequence[CohortRow]) -> None:
    """Print the table for a person."""
    cases = {row.case_id for row in rows}
    refined = [row for row in rows if row.is_refined]
    OUT.print(
        f"{len(rows)} targets of {len(cases)} cases: {len(refined)} refined, "
        f"{len(rows) - len(refined)} left as drawn (in no pair)"
    )
    protocols = {row.protocol for row in rows}
    if len(protocols) > 1:
        OUT.print(f"protocols mixed: {', '.join(sorted(protocols))}; choose one with --protocol")
    if len(rows) > len(cases):
        OUT.print("targets of one case are taken as independent, which they are not")
    header = ["", "pairs", "drawn", "refined", "difference", "p", "bias [limits of agreement]"]
    lines = [_line(summary) for summary in summarize(rows)]
    if OUT.is_terminal:
        table = Table(*header)
        for line in lines:
            table.add_row(*line)
        OUT.print(table)
    else:
        for line in (header, *lines):
            OUT.print("\t".join(line))
    for key, (count, spread) in describe(rows).items():
        OUT.print(clean(f"{DESCRIBED[key]}: {_spread(spread)}, {count} targets"))
    OUT.print(
        "median (quartiles); p: Wilcoxon signed ranks, two-sided, not corrected for several tests"
    )


def _line(summary: PairedSummary) -> list[str]:
    spreads = [_spread(each) for each in (summary.drawn, summary.refined, summary.difference)]
    p = "-" if summary.p is None else f"{summary.p:.3g}"
    return [FIGURES[summary.key], str(summary.pairs), *spreads, p, _agreement(summary)]


def _spread(spread: Spread) -> str:
    return f"{spread.median:.3g} ({spread.low:.3g} to {spread.high:.3g})"


def _agreement(summary: PairedSummary) -> str:
    if summary.agreement is None:
        return f"{summary.bias:+.3g}"
    low, high = summary.agreement
    return f"{summary.bias:+.3g} [{low:+.3g}, {high:+.3g}]"
