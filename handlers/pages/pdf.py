"""The report as PDF on A4: every page bears the patient, the warning and its number.

Fonts are embedded, dates are those of the document, and nothing comes from chance: equal documents
give equal bytes.
"""

import io
from collections.abc import Mapping
from typing import Any, TypeAlias

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
)
from reportlab.platypus import Table as Grid

from handlers.pages.content import (
    Beside,
    Block,
    Document,
    Facts,
    Figure,
    Section,
    Statement,
    Table,
    Tone,
)
from handlers.pages.fonts import BOLD, PLAIN, marked, pieces, register_fonts, width_of
from handlers.pages.pdf_columns import CELL_SIZE, column_widths
from handlers.pages.pdf_drawing import DrawnFigure

SIDE, TOP, BOTTOM = 15 * mm, 15 * mm, 12 * mm
"""Margins; the heads and feet of pages stand in them."""

WIDTH, HEIGHT = A4[0] - 2 * SIDE, A4[1] - TOP - BOTTOM
GUTTER = 5 * mm
HIGHEST_BESIDE = HEIGHT - 20 * mm
"""Of two columns, which cannot be broken: a heading must go with them."""

INK, SOFT, LINE = colors.HexColor("#1a1a1a"), colors.HexColor("#555555"), colors.HexColor("#c4c4c4")
ALARM = colors.HexColor("#b2182b")

BODY = ParagraphStyle(
    "body", fontName=PLAIN, fontSize=7.4, leading=9.6, textColor=INK, allowWidows=0, allowOrphans=0
)
CELL = ParagraphStyle("cell", parent=BODY, fontSize=CELL_SIZE, leading=7.2)
NUMBER = ParagraphStyle("number", parent=CELL, alignment=2)
SOFT_CELL = ParagraphStyle("soft", parent=CELL, textColor=SOFT)
TITLE = ParagraphStyle("title", parent=BODY, fontName=BOLD, fontSize=14, leading=17)
HEADINGS = (
    ParagraphStyle("h1", parent=BODY, fontName=BOLD, fontSize=9.2, leading=11.4, spaceBefore=5,
                   spaceAfter=2),
    ParagraphStyle("h2", parent=BODY, fontName=BOLD, fontSize=8.2, leading=10.5, spaceBefore=5,
                   spaceAfter=1.5),
)  # fmt: skip
STYLES: Mapping[Tone, ParagraphStyle] = {
    Tone.PLAIN: ParagraphStyle("plain", parent=BODY, spaceAfter=2),
    Tone.STRONG: ParagraphStyle("strong", parent=BODY, spaceAfter=2),
    Tone.CAUTION: ParagraphStyle("caution", parent=BODY, spaceAfter=2),
    Tone.NOTE: ParagraphStyle("note", parent=CELL, textColor=SOFT, fontSize=6.0,
                              leading=7.0, spaceAfter=2),
}  # fmt: skip

Style: TypeAlias = list[tuple[Any, ...]]


def pdf_of(document: Document) -> bytes:
    """Return a document as PDF."""
    register_fonts()
    stream = io.BytesIO()
    template = BaseDocTemplate(
        stream,
        pagesize=A4,
        title=document.title,
        author="Hilum",
        creator=f"Hilum {document.software_version}",
        subject=document.warning,
        lang="en",
        invariant=1,
        initialFontName=PLAIN,
    )
    # a frame without padding of its own: the margins are the margins
    frame = Frame(SIDE, BOTTOM, WIDTH, HEIGHT, 0, 0, 0, 0)
    template.addPageTemplates([PageTemplate(frames=[frame])])
    story: list[Flowable] = [
        Paragraph(_marked(document.title), TITLE),
        Spacer(1, 1 * mm),
        _warning(document),
        Spacer(1, 1.5 * mm),
    ]
    for section in document.sections:
        story += _section(section)

    def canvas(*arguments: Any, **options: Any) -> Canvas:
        return _Pages(document, *arguments, **options)

    template.build(story, canvasmaker=canvas)
    return stream.getvalue()


class _Pages(Canvas):  # type: ignore[misc]
    """A canvas that knows how many pages there are before it writes heads and feet."""

    def __init__(self, document: Document, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._document = document
        self._waiting: list[dict[str, Any]] = []
        self.setDateFormatter(lambda *_: _pdf_date(document))

    def showPage(self) -> None:  # noqa: N802 - reportlab's name
        self._waiting.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, state in enumerate(self._waiting, start=1):
            self.__dict__.update(state)
            self._head_and_foot(number, len(self._waiting))
            super().showPage()
        super().save()

    def _head_and_foot(self, number: int, of: int) -> None:
        document, top = self._document, A4[1] - 9.5 * mm
        self._line(document.subject, BOLD, 7.6, INK, top, WIDTH)
        self.setStrokeColor(INK)
        self.setLineWidth(0.6)
        self.line(SIDE, top - 2 * mm, A4[0] - SIDE, top - 2 * mm)
        self._line(document.warning, PLAIN, 6.4, SOFT, 7 * mm, WIDTH - 20 * mm)
        self.drawRightString(A4[0] - SIDE, 7 * mm, f"page {number} of {of}")

    def _line(
        self, text: str, font: str, size: float, color: colors.Color, y: float, width: float
    ) -> None:
        """Write a line as large as there is room for."""
        fitting = size * min(1.0, width / max(width_of(text, font, size), 1.0))
        self.setFillColor(color)
        x = SIDE
        for part, chosen in pieces(text, font):
            self.setFont(chosen, fitting)
            self.drawString(x, y, part)
            x += self.stringWidth(part, chosen, fitting)
        self.setFont(font, size)


def _pdf_date(document: Document) -> str:
    digits = f"{document.created_date}{document.created_time}"
    return f"D:{''.join(c for c in digits if c.isdigit())}+00'00'"


def _warning(document: Document) -> Flowable:
    words = Paragraph(_marked(document.warning, is_bold=True), STYLES[Tone.STRONG])
    box = Grid([[words]], [WIDTH], hAlign="LEFT")
    box.setStyle([("BOX", (0, 0), (-1, -1), 0.9, INK), *_padding(4, 4, 2, 1)])
    return box


def _section(section: Section) -> list[Flowable]:
    blocks = [
        [KeepTogether(_block(block, WIDTH))] if isinstance(block, Figure) else _block(block, WIDTH)
        for block in section.blocks
    ]
    if not section.title:
        return [flowable for block in blocks for flowable in block]
    style = HEADINGS[section.level - 1]
    heading = Paragraph(_marked(section.title), style)
    if not blocks or not blocks[0]:
        return [heading]
    first, *rest = blocks[0]
    story: list[Flowable] = []
    begin = section.blocks[0]
    if isinstance(begin, Table):
        # it may be broken: its caption, head and first rows stay with the heading
        is_said = begin.caption == section.title
        story.append(CondPageBreak(32 * mm))
        story += _table(begin, WIDTH, caption_style=style) if is_said else [heading, first]
    else:
        story.append(KeepTogether([heading, first]))
    return [*story, *rest, *(flowable for block in blocks[1:] for flowable in block)]


def _block(block: Block, width: float) -> list[Flowable]:
    if isinstance(block, Statement):
        lead = f"{_marked(block.lead, is_bold=True)} " if block.lead else ""
        text = lead + _marked(block.text)
        if block.tone is Tone.CAUTION:
            text = f'<font color="#b2182b">▌</font> {text}'
        return [Paragraph(text, STYLES[block.tone])]
    if isinstance(block, Facts):
        return [_facts(block, width)]
    if isinstance(block, Table):
        return _table(block, width)
    if isinstance(block, Figure):
        return _figure(block, width)
    return _beside(block, width)


def _beside(block: Beside, width: float) -> list[Flowable]:
    room = width - GUTTER * (len(block.columns) - 1)
    cells: list[Any] = []
    widths: list[float] = []
    for column, share in zip(block.columns, block.shares, strict=True):
        cells += [[flowable for each in column for flowable in _block(each, room * share)], ""]
        widths += [room * share, GUTTER]
    grid = Grid([cells[:-1]], widths[:-1], hAlign="LEFT")
    grid.spaceAfter = 3
    grid.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), *_padding(0, 0, 0, 0)])
    if grid.wrap(width, HEIGHT)[1] <= HIGHEST_BESIDE:
        return [grid]
    # what does not fit on a page stands one below the other, and can be broken
    return [f for column in block.columns for each in column for f in _block(each, width)]


def _facts(facts: Facts, width: float) -> Flowable:
    cells = [[Paragraph(_marked(n), SOFT_CELL), Paragraph(_marked(v), CELL)] for n, v in facts.rows]
    names = width * facts.name_share
    grid = Grid(cells, [names, width - names], hAlign="LEFT")
    grid.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), *_padding(0, 3, 0.4, 0.8)])
    return grid


def _figure(figure: Figure, width: float) -> list[Flowable]:
    drawn = DrawnFigure(figure.drawing, width)
    if not figure.caption:
        return [drawn, Spacer(1, 1 * mm)]
    caption = Paragraph(_marked(figure.caption), STYLES[Tone.NOTE])
    return [Spacer(1, 0.6 * mm), drawn, Spacer(1, 0.6 * mm), caption]


def _table(
    table: Table, width: float, *, caption_style: ParagraphStyle | None = None
) -> list[Flowable]:
    """Return a table; with a style of its own, its caption is a heading."""
    widths = column_widths(table, width)
    caption = Paragraph(_marked(table.caption, is_bold=True), caption_style or CELL)
    styles = [NUMBER if column.is_number else CELL for column in table.columns]
    head = [
        Paragraph(_marked(column.heading, is_bold=True), style)
        for column, style in zip(table.columns, styles, strict=True)
    ]
    lines: list[list[Any]] = [[caption, *[""] * (len(widths) - 1)], head]
    style: Style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("VALIGN", (0, 1), (-1, 1), "BOTTOM"),
        ("SPAN", (0, 0), (-1, 0)),
        ("LINEBELOW", (0, 1), (-1, 1), 0.7, INK),
        ("LINEBELOW", (0, 2), (-1, -1), 0.25, LINE),
        *_padding(1.5, 3, 0.3, 0.8),
    ]
    for index, row in enumerate(table.rows):
        tone = table.tones.get(index, Tone.PLAIN)
        is_bold = tone in (Tone.STRONG, Tone.CAUTION)
        lines.append(
            [
                Paragraph(_marked(cell, is_bold=is_bold), style_)
                for cell, style_ in zip(row, styles, strict=True)
            ]
        )
        if tone is Tone.CAUTION:
            style.append(("LINEBEFORE", (0, index + 2), (0, index + 2), 2.0, ALARM))
    if caption_style is not None:
        style.append(("LEFTPADDING", (0, 0), (-1, 0), 0))
    grid = Grid(lines, widths, repeatRows=2, hAlign="LEFT", splitInRow=1)
    grid.spaceBefore = 2 if caption_style is None else caption_style.spaceBefore
    grid.spaceAfter = 3
    grid.setStyle(style)
    return [grid]


def _padding(left: float, right: float, top: float, bottom: float) -> Style:
    everywhere = (0, 0), (-1, -1)
    return [
        # what stands in an empty cell: else the page would name a font that is not embedded
        ("FONTNAME", *everywhere, PLAIN),
        ("LEFTPADDING", *everywhere, left),
        ("RIGHTPADDING", *everywhere, right),
        ("TOPPADDING", *everywhere, top),
        ("BOTTOMPADDING", *everywhere, bottom),
    ]


def _marked(text: str, *, is_bold: bool = False) -> str:
    """Return a text as a paragraph takes it."""
    words = marked(text)
    return f"<b>{words}</b>" if is_bold else words
