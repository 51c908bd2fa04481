"""The report as one page for a browser: no script, no link to the outside, prints on A4."""

from html import escape

from handlers.pages.content import (
    Beside,
    Block,
    Column,
    Document,
    Facts,
    Figure,
    Section,
    Statement,
    Table,
    Tone,
)
from handlers.pages.svg import svg_of

STYLE = """
:root{color-scheme:light;font-size:15px}
body{margin:0 auto;padding:1rem 1.5rem 3rem;max-width:70rem;background:#fff;color:#1a1a1a;
font:1rem/1.45 "DejaVu Sans",Verdana,"Segoe UI",sans-serif}
header{border-bottom:2px solid #1a1a1a;margin-bottom:1rem}
h1{font-size:1.5rem;line-height:1.2;margin:.2rem 0}
h2{font-size:1.15rem;margin:1.6rem 0 .5rem;border-bottom:1px solid #999}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.4rem 0}
.subject{margin:.2rem 0;font-weight:bold}
.warning{border:1.5px solid #1a1a1a;padding:.35rem .6rem;font-weight:bold;margin:.6rem 0}
.caution{border-left:4px solid #b2182b;padding-left:.5rem}
.note{font-size:.82rem;color:#444}
table{border-collapse:collapse;width:100%;margin:.6rem 0;font-size:.8rem}
caption{text-align:left;font-weight:bold;padding-bottom:.2rem}
.said{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{text-align:left;vertical-align:top;padding:.18rem .3rem;border-bottom:1px solid #ccc}
thead th{border-bottom:1.5px solid #1a1a1a;vertical-align:bottom}
tbody th{font-weight:normal}
.number{text-align:right;font-variant-numeric:tabular-nums}
td.number,.whole{white-space:nowrap}
tr.strong th,tr.strong td,tr.caution th,tr.caution td{font-weight:bold}
tr.caution th:first-child{border-left:4px solid #b2182b}
dl{display:grid;grid-template-columns:minmax(7rem,var(--names)) minmax(0,1fr);gap:.1rem .8rem;
margin:.5rem 0;font-size:.85rem}
dt{color:#444}
dd{margin:0;overflow-wrap:anywhere}
figure{margin:.6rem 0}
svg{display:block;width:100%;height:auto;
font-family:"DejaVu Sans",Verdana,"Segoe UI",sans-serif}
figcaption{font-size:.8rem;color:#333;margin-top:.3rem}
.beside{display:grid;gap:0 1.2rem}
@media(min-width:60rem){.beside{grid-template-columns:var(--columns)}}
@page{size:A4;margin:14mm 12mm}
@media print{:root{font-size:9.5px}
body{padding:0;max-width:none}
.beside{grid-template-columns:var(--columns)}
thead{display:table-header-group}
tr,figure,.warning{break-inside:avoid}
h2,h3,caption{break-after:avoid}}
"""

BREAK_AFTER = 12
"""Letters of a very long word after which a line may end in a table."""


def html_of(document: Document) -> str:
    """Return a document as HTML5, complete in itself.

    Headings are in order, tables have captions and header cells, figures have words for those who
    cannot see them; nothing is said by color alone.
    """
    sections = "".join(
        _section(section, f"s{number}") for number, section in enumerate(document.sections)
    )
    written = (
        f"Hilum {document.software_version}, {document.created_date} {document.created_time} UTC"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # nothing is loaded and nothing runs, whatever a name in the text may hold
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(document.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(document.title)}</h1>\n"
        f'<p class="subject">{escape(document.subject)}</p>\n</header>\n'
        f'<main>\n<p class="warning">{escape(document.warning)}</p>\n{sections}</main>\n'
        f'<footer><p class="note">{escape(written)}</p></footer>\n</body>\n</html>\n'
    )


def _section(section: Section, mark: str) -> str:
    level = section.level + 1
    heading = f"<h{level}>{escape(section.title)}</h{level}>\n" if section.title else ""
    # a caption that says the same is for those who hear the page
    said = f"<caption>{escape(section.title)}</caption>"
    blocks = "".join(_block(block, f"{mark}b{n}") for n, block in enumerate(section.blocks))
    blocks = blocks.replace(said, said.replace("<caption>", '<caption class="said">'))
    return f"<section>\n{heading}{blocks}</section>\n"


def _block(block: Block, mark: str) -> str:
    if isinstance(block, Statement):
        kind = "" if block.tone is Tone.PLAIN else f' class="{block.tone}"'
        lead = f"<strong>{escape(block.lead)}</strong> " if block.lead else ""
        return f"<p{kind}>{lead}{escape(block.text)}</p>\n"
    if isinstance(block, Facts):
        rows = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in block.rows)
        return f'<dl style="--names:{100 * block.name_share:.0f}%">{rows}</dl>\n'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        drawn = svg_of(block.drawing, block.alt, mark)
        caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
        return f"<figure>{drawn}{caption}</figure>\n"
    return _beside(block, mark)


def _beside(block: Beside, mark: str) -> str:
    columns = "".join(
        f"<div>{''.join(_block(each, f'{mark}c{at}n{n}') for n, each in enumerate(column))}</div>"
        for at, column in enumerate(block.columns)
    )
    shares = " ".join(f"minmax(0,{share:.3f}fr)" for share in block.shares)
    return f'<div class="beside" style="--columns:{shares}">{columns}</div>\n'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_aligned(c)}>{escape(c.heading)}</th>' for c in table.columns)
    body = "".join(_row(table, index) for index in range(len(table.rows)))
    return (
        f"<table><caption>{escape(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n"
    )


def _row(table: Table, index: int) -> str:
    tone = table.tones.get(index, Tone.PLAIN)
    kind = "" if tone is Tone.PLAIN else f' class="{tone}"'
    first, *rest = table.rows[index]
    cells = "".join(
        f"<td{_aligned(column)}>{_breakable(cell)}</td>"
        for column, cell in zip(table.columns[1:], rest, strict=True)
    )
    return f'<tr{kind}><th scope="row">{_breakable(first)}</th>{cells}</tr>\n'


def _aligned(column: Column) -> str:
    if column.is_whole:
        return ' class="whole"'
    return ' class="number"' if column.is_number else ""


def _breakable(text: str) -> str:
    """Return words of which very long ones may be broken; copied, they are what they were."""
    words = []
    for word in text.split(" "):
        pieces = [word]
        if len(word) > 2 * BREAK_AFTER:
            starts = range(0, len(word), BREAK_AFTER)
            pieces = [word[at : at + BREAK_AFTER] for at in starts]
        words.append("<wbr>".join(escape(piece) for piece in pieces))
    return " ".join(words)
