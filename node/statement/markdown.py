"""Pieces of the statement: tables, and names of what they list."""

from collections.abc import Iterable, Sequence

from pydicom.uid import UID

from node.storage_classes import SYNTAX_SETS


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def set_name(syntaxes: Sequence[UID]) -> str:
    """Return how the statement calls a set of transfer syntaxes, or their names."""
    named = (name for name, those in SYNTAX_SETS.items() if those == tuple(syntaxes))
    return next(named, ", ".join(syntax.name for syntax in syntaxes))


def status(number: int) -> str:
    """Return a status as the standard writes it."""
    return f"0x{number:04X}"


def yes(is_so: bool) -> str:
    """Return how a table says whether something is so."""
    return "yes" if is_so else "no"
