"""What a page says, read as a browser and a screen reader would."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})
CONTROLS = frozenset({"select", "input", "textarea", "progress", "meter", "button"})


@dataclass
class Element:
    """An element with what lies in it; texts are kept as strings in their place."""

    name: str
    attributes: dict[str, str]
    content: list["Element | str"] = field(default_factory=list)
    above: "Element | None" = None

    def text(self) -> str:
        """Return the words in it, apart by single spaces."""
        return " ".join(" ".join(_texts(self)).split())

    def all(self, name: str) -> list["Element"]:
        """Return the elements of a name in it, in their order."""
        return [each for each in elements(self) if each.name == name]

    def within(self, name: str) -> "Element | None":
        """Return the next element of a name that it lies in."""
        found = self.above
        while found is not None and found.name != name:
            found = found.above
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.top = self.here = Element("document", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs}, above=self.here)
        self.here.content.append(made)
        if tag not in VOID:
            self.here = made

    def handle_endtag(self, tag: str) -> None:
        assert self.here.name == tag, f"</{tag}> closes <{self.here.name}>"
        assert self.here.above is not None
        self.here = self.here.above

    def handle_data(self, data: str) -> None:
        self.here.content.append(data)


def read_page(text: str) -> Element:
    """Return the document; every element must be closed where it was opened."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.top, f"<{reader.here.name}> is not closed"
    return reader.top


def unlabelled(page: Element) -> list[str]:
    """Return the controls of which nobody is told what they are for."""
    named = {label.attributes.get("for") for label in page.all("label") if label.text()}
    return [
        f"{each.name} {each.attributes}"
        for each in elements(page)
        if each.name in CONTROLS and each.attributes.get("type") != "hidden"
        if not (
            each.attributes.get("aria-label")
            or each.attributes.get("id") in named - {None}
            or (each.name == "button" and each.text())
            or ((label := each.within("label")) is not None and label.text())
        )
    ]


def elements(top: Element) -> Iterator[Element]:
    """Give every element in one, in their order."""
    for each in top.content:
        if isinstance(each, Element):
            yield each
            yield from elements(each)


def _texts(top: Element) -> Iterator[str]:
    for each in top.content:
        if isinstance(each, str):
            yield each
        elif each.name not in ("script", "style", "template"):
            yield from _texts(each)
