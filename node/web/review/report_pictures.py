"""The pictures of registrations that stand in the report, each by itself.

Taken from `report.html` as it lies in the result set: no picture is drawn twice, and the page shows
what the report shows.
"""

import html
import re
from dataclasses import dataclass
from pathlib import Path

_FIGURE = re.compile(
    r"(?P<svg><svg (?P<head>[^>]*)><title[^>]*>(?P<words>Checkerboard [^<]*)</title>.*?</svg>)"
    r"<figcaption>(?P<caption>Registration (?P<number>[0-9]{1,3}), [^<]*)</figcaption>",
    re.DOTALL,
)
"""What `handlers.pages.registration_figure` leaves in a figure."""

_FONT = 'font-family="system-ui, sans-serif" '
"""The report's style does not come along."""


@dataclass(frozen=True, slots=True)
class ReportPicture:
    """A picture of the report.

    Attributes:
        number: Of the registration, from 1.
        svg: The picture, whole in itself.
        words: What is seen, for those who do not see it.
        caption: As in the report.
    """

    number: int
    svg: str
    words: str
    caption: str


def registration_pictures(report: Path) -> dict[int, ReportPicture]:
    """Return checkerboard and contour transfer of each registration that has them, by its number.

    Args:
        report: `report.html` of a result set; where none can be read (any more), no picture is.
    """
    try:
        text = report.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    found = {}
    for figure in text.split("<figure>")[1:]:
        match = _FIGURE.match(figure)
        if match is not None:
            number = int(match["number"])
            svg = match["svg"].replace("<svg ", f"<svg {_FONT}", 1)
            words, caption = html.unescape(match["words"]), html.unescape(match["caption"])
            found[number] = ReportPicture(number, svg, words, caption)
    return found
