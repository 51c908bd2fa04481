"""What stands in the content of a report, for tests: words in reading order, tables, drawings."""

from collections.abc import Iterator

from handlers.pages.content import Beside, Block, Document, Facts, Figure, Statement, Table
from handlers.pages.drawing import Clip, Drawing, Part


def said(document: Document) -> Iterator[str]:
    """Return all that a document says in words, in reading order."""
    yield document.title
    yield document.warning
    for section in document.sections:
        yield section.title
        for block in section.blocks:
            yield from _said(block)


def _said(block: Block) -> Iterator[str]:
    if isinstance(block, Statement):
        yield from (block.lead, block.text)
    elif isinstance(block, Facts):
        yield from (word for row in block.rows for word in row)
    elif isinstance(block, Table):
        yield block.caption
        yield from (column.heading for column in block.columns)
        yield from (cell for row in block.rows for cell in row)
    elif isinstance(block, Figure):
        yield block.caption
    else:
        for column in block.columns:
            for each in column:
                yield from _said(each)


def tables_of(document: Document) -> list[Table]:
    return [t for s in document.sections for b in s.blocks for t in _tables(b)]


def _tables(block: Block) -> list[Table]:
    if isinstance(block, Beside):
        return [t for column in block.columns for each in column for t in _tables(each)]
    return [block] if isinstance(block, Table) else []


def table_called(document: Document, words: str) -> Table:
    (found,) = [t for t in tables_of(document) if t.caption.startswith(words)]
    return found


def parts_of(drawing: Drawing) -> list[Part]:
    """Return all parts, those within clips, too."""
    parts: list[Part] = []
    for part in drawing.parts:
        parts += part.parts if isinstance(part, Clip) else [part]
    return parts
