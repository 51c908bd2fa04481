"""How wide the columns of a table are on a page of the PDF."""

from handlers.pages.content import Table
from handlers.pages.fonts import BOLD, PLAIN, width_of

CELL_SIZE = 6.2
"""Size of the letters in a table, in points."""

PADDING = 5.0
"""Room beside the words of a cell, in points."""

LONGEST_WORDS = (1.0, 0.28, 0.2, 0.14, 0.1, 0.07)
"""Parts of the table that a word may take before it is broken, tried until all columns have room;
numbers are not broken."""


def column_widths(table: Table, width: float) -> list[float]:
    """Return the width of each column in points, `width` together.

    Each gets what its longest word needs, and of the rest a part by how much more its longest cell
    would like. Where there is not room for all, long words are broken.
    """
    liked = [_liked(table, at) for at in range(len(table.columns))]
    if sum(liked) <= width:
        spare = (width - sum(liked)) / len(liked)
        return [each + spare for each in liked]
    least = liked
    for part in LONGEST_WORDS:
        if sum(least) > width:
            least = [_least(table, at, part * width) for at in range(len(liked))]
    if sum(least) >= width:
        return [each * width / sum(least) for each in least]
    wish = [max(0.0, more - some) for more, some in zip(liked, least, strict=True)]
    spare = (width - sum(least)) / sum(wish)
    return [some + spare * more for some, more in zip(least, wish, strict=True)]


def _least(table: Table, at: int, longest: float) -> float:
    """Return what a column needs so that no word of it is broken that is not longer than that."""
    column, cells = table.columns[at], [row[at] for row in table.rows]
    if column.is_number or column.is_whole:
        # a number and its unit stay together
        words = [_wide(cell, _font(table)) for cell in cells]
    else:
        each = [_wide(word, _font(table)) for cell in cells for word in cell.split()]
        words = [min(word, longest) for word in each]
    return max(words + [_wide(word, BOLD) for word in column.heading.split()]) + PADDING


def _liked(table: Table, at: int) -> float:
    """Return what a column needs so that nothing of it is broken."""
    cells = [_wide(row[at], _font(table)) for row in table.rows]
    return max([*cells, _wide(table.columns[at].heading, BOLD)]) + PADDING


def _font(table: Table) -> str:
    """Return the font of the widest rows: what is to be seen is in bold letters."""
    return BOLD if table.tones else PLAIN


def _wide(text: str, font: str) -> float:
    return width_of(text, font, CELL_SIZE)
