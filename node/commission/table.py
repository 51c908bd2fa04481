"""The report as a table for machines: one line per measurement."""

import csv
import io
from collections.abc import Iterable

from node.commission.limits import Measurement

COLUMNS = ("case", "what", "series", "value", "unit", "limit", "met", "source")
MET = {True: "yes", False: "no", None: "-"}


def csv_text(rows: Iterable[Measurement]) -> str:
    """Return all rows as CSV, header first; numbers with six significant digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        limit, source = ("", "") if row.limit is None else (str(row.limit), row.limit.source)
        value = row.value if isinstance(row.value, str) else f"{row.value:.6g}"
        writer.writerow(
            (row.case, row.what, row.series, value, row.unit, limit, MET[row.is_met], source)
        )
    return stream.getvalue()


def printed(value: float | str, unit: str = "") -> str:
    """Return a value as people read it.

    Example:
        >>> printed(0.98765, "mm"), printed(100.0, "%"), printed("pass")
        ('0.99 mm', '100 %', 'pass')
    """
    if isinstance(value, str):
        return value
    text = f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:.0f}"
    return f"{text} {unit}".strip()
