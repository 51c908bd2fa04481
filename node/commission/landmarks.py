"""Landmarks of a department: pairs of points in CT and MR, from a CSV file.

Refuses a file in which anything is doubtful; repairs nothing.
"""

import csv
import math
from pathlib import Path

import numpy as np

from node.commission.accuracy import TruePairs
from node.errors import NodeError

COLUMNS = ("ct_x", "ct_y", "ct_z", "mr_x", "mr_y", "mr_z")
HINT = f"the first line must be {','.join(COLUMNS)}, then one pair per line, LPS mm, decimal points"
LARGEST_MM = 5000.0
"""Coordinates beyond this are slips of the pen, or another unit."""

LARGEST_BYTES = 1_000_000


def read_landmarks(path: Path, name: str) -> TruePairs:
    """Return the pairs of a file.

    Args:
        path: The file.
        name: How errors call it, since its own name may tell a patient's.

    Raises:
        NodeError: Its header, a line or a number is not as it must be; all reasons are told.
    """
    if path.stat().st_size > LARGEST_BYTES:
        raise NodeError(f"{name}: the file is larger than {LARGEST_BYTES} bytes", hint=HINT)
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise NodeError(f"{name}: the file is no CSV text in UTF-8", hint=HINT) from error
    header = tuple(cell.strip() for cell in lines[0]) if lines else ()
    if header != COLUMNS:
        raise NodeError(f"{name}: the header is not {','.join(COLUMNS)}", hint=HINT)
    problems, pairs = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        values = _numbers(line)
        if values is None:
            problems.append(
                f"line {number} does not hold 6 numbers between {-LARGEST_MM:.0f} and "
                f"{LARGEST_MM:.0f}"
            )
        else:
            pairs.append(values)
    if not pairs and not problems:
        problems.append("the file holds no pair")
    if problems:
        raise NodeError(f"{name}: {'; '.join(problems)}", hint=HINT)
    points = np.array(pairs)
    return TruePairs(points[:, :3], points[:, 3:])


def _numbers(line: list[str]) -> list[float] | None:
    if len(line) != len(COLUMNS):
        return None
    try:
        values = [float(cell) for cell in line]
    except ValueError:
        return None
    return values if all(math.isfinite(v) and abs(v) <= LARGEST_MM for v in values) else None
