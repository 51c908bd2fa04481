"""The report as PDF: what a physicist reads, signs and files.

Lays out what it is given. Fonts are the PDF's own, so words keep to Latin letters.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reportlab.lib import colors
from reportlab.lib.enums import TA_LEFT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    Image,
    KeepTogether,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
    TableStyle,
)

from node.commission.limits import Measurement
from node.commission.table import printed

WIDTH = A4[0] - 36 * mm
INK, SOFT, LINE = colors.HexColor("#1a1a1a"), colors.HexColor("#666666"), colors.HexColor("#cccccc")
GOOD, BAD = colors.HexColor("#1b7837"), colors.HexColor("#b2182b")
BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=8.5, leading=11, textColor=INK)
SMALL = ParagraphStyle("small", parent=BODY, fontSize=7, leading=8.6)
SOFT_SMALL = ParagraphStyle("soft", parent=SMALL, textColor=SOFT)
TITLE = ParagraphStyle("title", parent=BODY, fontName="Helvetica-Bold", fontSize=17, leading=21)
HEADING = ParagraphStyle(
    "heading",
    parent=BODY,
    fontName="Helvetica-Bold",
    fontSize=11,
    leading=14,
    spaceBefore=9,
    spaceAfter=4,
    alignment=TA_LEFT,
)
MET_COLORS = {True: GOOD, False: BAD, None: SOFT}
MET_WORDS = {True: "met", False: "NOT MET", None: "-"}
NOT_A_DEVICE = "Hilum is not a cleared medical device: every result is a proposal for a clinician."
LETTER = 1.35 * mm
"""Mean width of a letter in a table."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with what stands below it."""

    png: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that the document tells.

    Attributes:
        facts: Version, machine, date and the like, by name.
        summary: Rows of all cases together.
        case_lines: The table of the cases: header first.
        planted: The table of planted faults and orientation tests: header first.
        own: Every row of the own pairs.
        not_met: Every row whose limit is not kept.
        plots: Plots of errors.
        pictures: Checkerboards.
        is_cut_short: Whether the run was interrupted.
    """

    facts: Mapping[str, str]
    summary: Sequence[Measurement]
    case_lines: Sequence[Sequence[str]]
    planted: Sequence[Sequence[str]]
    own: Sequence[Measurement]
    not_met: Sequence[Measurement]
    plots: Sequence[Picture]
    pictures: Sequence[Picture]
    is_cut_short: bool


def pdf_bytes(report: Report) -> bytes:
    """Return the report as a PDF."""
    stream = io.BytesIO()
    document = SimpleDocTemplate(
        stream,
        pagesize=A4,
        leftMargin=18 * mm,
        rightMargin=18 * mm,
        topMargin=16 * mm,
        bottomMargin=18 * mm,
        title="Commissioning report",
        author="Hilum",
    )
    story: list[Flowable] = [
        *_first_page(report),
        *_failures(report),
        *_cases(report),
        *_plots(report),
        *_pictures(report),
        _signature(),
    ]
    footer = f"Hilum {report.facts.get('software version', '')} - commissioning report"
    document.build(
        story,
        onFirstPage=lambda canvas, page: _footer(canvas, page.page, footer),
        onLaterPages=lambda canvas, page: _footer(canvas, page.page, footer),
    )
    return stream.getvalue()


def _footer(canvas: Canvas, page: int, text: str) -> None:
    canvas.saveState()
    canvas.setFont("Helvetica", 7)
    canvas.setFillColor(SOFT)
    canvas.drawString(18 * mm, 10 * mm, text)
    canvas.drawRightString(A4[0] - 18 * mm, 10 * mm, f"page {page}")
    canvas.restoreState()


def _first_page(report: Report) -> list[Flowable]:
    facts = [[_text(name, SOFT_SMALL), _text(value, SMALL)] for name, value in report.facts.items()]
    unmet = sum(row.is_met is False for row in report.summary)
    verdict = "All limits were met." if not report.not_met else "Not all limits were met."
    if report.is_cut_short:
        verdict = f"The run was cut short. {verdict}"
    color = "#1b7837" if not report.not_met and not report.is_cut_short else "#b2182b"
    lead = (
        f'<font color="{color}"><b>{verdict}</b></font> '
        f"{len(report.not_met) - unmet} single measurements and {unmet} of the summary miss their "
        "limit; each is listed."
        if report.not_met
        else f'<font color="{color}"><b>{verdict}</b></font>'
    )
    return [
        Paragraph("Commissioning of MR-CT registration", TITLE),
        Paragraph(f"As AAPM TG-132 asks, through the node's own computation. {NOT_A_DEVICE}", BODY),
        Spacer(1, 3 * mm),
        _table(facts, [38 * mm, WIDTH - 38 * mm], header=False),
        Spacer(1, 3 * mm),
        Paragraph(lead, BODY),
        Paragraph("Summary against the limits", HEADING),
        _limits_table(report.summary, with_case=False),
    ]


def _limits_table(rows: Sequence[Measurement], *, with_case: bool) -> Flowable:
    header = [*(["case"] if with_case else []), "quantity", "value", "limit", "", "source"]
    lines: list[Sequence[Flowable]] = [[_text(f"<b>{h}</b>", SMALL) for h in header]]
    for row in rows:
        color = MET_COLORS[row.is_met].hexval().replace("0x", "#")
        what = f"{row.what}, {row.series}" if row.series else row.what
        limit = "" if row.limit is None else str(row.limit)
        source = "" if row.limit is None else row.limit.source
        lines.append(
            [
                *([_text(_escaped(row.case), SMALL)] if with_case else []),
                _text(_escaped(what), SMALL),
                _text(_escaped(printed(row.value, row.unit)), SMALL),
                _text(_escaped(limit), SMALL),
                _text(f'<font color="{color}"><b>{MET_WORDS[row.is_met]}</b></font>', SMALL),
                _text(_escaped(source), SOFT_SMALL),
            ]
        )
    first = [30 * mm] if with_case else []
    rest = [22 * mm, 22 * mm, 15 * mm, 38 * mm]
    return _table(lines, [*first, WIDTH - sum(first) - sum(rest), *rest])


def _failures(report: Report) -> list[Flowable]:
    single = [row for row in report.not_met if row.case != "all"]
    heading = Paragraph("Limits not met, case by case", HEADING)
    if not single:
        return [KeepTogether([heading, Paragraph("None.", BODY)])]
    return [CondPageBreak(40 * mm), heading, _limits_table(single, with_case=True)]


def _cases(report: Report) -> list[Flowable]:
    story: list[Flowable] = []
    for title, lines in (
        ("Cases", report.case_lines),
        ("Planted faults and orientation tests", report.planted),
    ):
        if len(lines) > 1:
            story += [CondPageBreak(45 * mm), Paragraph(title, HEADING), _word_table(lines)]
    if report.own:
        heading = Paragraph("Own pairs", HEADING)
        story += [CondPageBreak(45 * mm), heading, _limits_table(report.own, with_case=True)]
    return story


def _word_table(lines: Sequence[Sequence[str]]) -> Flowable:
    """Return a table whose last column takes what room the others leave."""
    headings = [max(map(len, cell.split())) for cell in lines[0][:-1]]
    widths = [
        max(heading, *(len(line[k]) for line in lines[1:])) for k, heading in enumerate(headings)
    ]
    sized = [min(LETTER * width + 3 * mm, 42 * mm) for width in widths]
    last = WIDTH - sum(sized)
    bold = [[_text(f"<b>{_escaped(cell)}</b>", SMALL) for cell in lines[0]]]
    cells = [[_text(_emphasized(cell), SMALL) for cell in line] for line in lines[1:]]
    return _table([*bold, *cells], [*sized, last])


def _plots(report: Report) -> list[Flowable]:
    if not report.plots:
        return []
    story: list[Flowable] = [CondPageBreak(90 * mm), Paragraph("Errors", HEADING)]
    for picture in report.plots:
        story.append(_picture(picture, WIDTH))
    return story


def _pictures(report: Report) -> list[Flowable]:
    if not report.pictures:
        return []
    story: list[Flowable] = [
        CondPageBreak(90 * mm),
        Paragraph("CT and MR as a checkerboard through the target", HEADING),
        Paragraph("Axial, coronal, sagittal; fields of 25 mm; the cross is the target.", SMALL),
        Spacer(1, 2 * mm),
    ]
    return [*story, *(_picture(picture, WIDTH) for picture in report.pictures)]


def _picture(picture: Picture, width: float) -> Flowable:
    image = Image(io.BytesIO(picture.png))
    scale = min(width, image.imageWidth * 0.48) / image.imageWidth
    image.drawWidth, image.drawHeight = image.imageWidth * scale, image.imageHeight * scale
    image.hAlign = "LEFT"
    return KeepTogether([image, _text(picture.caption, SMALL), Spacer(1, 3 * mm)])


def _signature() -> Flowable:
    lines = [
        ["Name", "", "Date", ""],
        ["Signature", "", "Repeat by, or after the next upgrade", ""],
    ]
    cells = [[_text(cell, SOFT_SMALL) for cell in line] for line in lines]
    widths = [20 * mm, 62 * mm, 32 * mm, WIDTH - 114 * mm]
    table = Table(cells, widths, rowHeights=[13 * mm] * 2, hAlign="LEFT")
    table.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "BOTTOM"),
                ("LINEBELOW", (1, 0), (1, -1), 0.6, INK),
                ("LINEBELOW", (3, 0), (3, -1), 0.6, INK),
                ("LEFTPADDING", (0, 0), (-1, -1), 2),
            ]
        )
    )
    words = (
        "I have read this report and the limits that were not met, looked at the checkerboards, "
        "and decide on its ground how this version is used. TG-132 asks for a repetition after "
        "every upgrade and once a year."
    )
    return KeepTogether(
        [Paragraph("Responsible medical physicist", HEADING), Paragraph(words, BODY), table]
    )


def _table(
    lines: Sequence[Sequence[Flowable]], widths: Sequence[float], *, header: bool = True
) -> Table:
    table = Table(list(map(list, lines)), list(widths), repeatRows=int(header), hAlign="LEFT")
    style: list[tuple[object, ...]] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.25, LINE),
        ("LEFTPADDING", (0, 0), (-1, -1), 2),
        ("RIGHTPADDING", (0, 0), (-1, -1), 4),
        ("TOPPADDING", (0, 0), (-1, -1), 1.6),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2.2),
    ]
    if header:
        style.append(("LINEBELOW", (0, 0), (-1, 0), 0.8, INK))
    table.setStyle(TableStyle(style))
    return table


def _text(markup: str, style: ParagraphStyle) -> Paragraph:
    return Paragraph(markup, style)


def _escaped(text: str) -> str:
    latin = text.replace("…", "...").encode("cp1252", "replace").decode("cp1252")
    return latin.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


BAD_WORDS = ("WRONG AND ACCEPTED", "NOT FLAGGED", "failed")


def _emphasized(text: str) -> str:
    if text in BAD_WORDS:
        return f'<font color="#b2182b"><b>{_escaped(text)}</b></font>'
    return _escaped(text)
