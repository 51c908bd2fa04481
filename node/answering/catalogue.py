"""Reads the headers of adopted results into the index, so that they can be found."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from node.answering.keys import KEYS, Level
from node.attributes import Attributes
from node.element_reader import encoded_from_file, read_elements
from node.errors import UnreadableObjectError
from node.index.catalogue import Adopted, Catalogue, ResultObject, ResultSeries
from node.wanted_elements import wanted_elements

LOGGER = logging.getLogger(__name__)

_NUMBERS = frozenset({"Rows", "Columns"})
_OF_OBJECT = tuple(k.keyword for k in KEYS if k.level is Level.IMAGE)
_OF_SERIES = tuple(k.keyword for k in KEYS if k.level is not Level.IMAGE and not k.is_counted)
_WANTED = wanted_elements(" ".join(("SpecificCharacterSet", *_OF_OBJECT, *_OF_SERIES)))


class ResultReader:
    """Brings the catalogue up to date.

    Args:
        catalogue: What can be found.
        root: The data folder, to which the paths of results are relative.
    """

    def __init__(self, catalogue: Catalogue, root: Path) -> None:
        self._catalogue = catalogue
        self._root = root
        self._one_at_a_time = threading.Lock()

    def catch_up(self) -> None:
        """Add what was adopted since; a file that cannot be read is left out, and logged."""
        with self._one_at_a_time:
            for adopted in self._catalogue.missing():
                self._catalogue.add(adopted, self._read(adopted))

    def _read(self, adopted: Adopted) -> list[tuple[ResultSeries, Sequence[ResultObject]]]:
        by_series: dict[tuple[str, str], list[tuple[Attributes, ResultObject]]] = {}
        for uid, path in sorted(adopted.results.items(), key=lambda item: item[1]):
            try:
                syntax, encoded = encoded_from_file(self._root / path)
                header = read_elements(encoded, syntax, _WANTED)
            except UnreadableObjectError as error:
                fields = {"case_id": adopted.case_id, "path": path, "reason": str(error)}
                LOGGER.warning("result.unreadable", extra=fields)
                continue
            one = ResultObject(uid, header.uid("SOPClassUID"), path, _values(header, _OF_OBJECT))
            key = header.uid("StudyInstanceUID"), header.uid("SeriesInstanceUID")
            by_series.setdefault(key, []).append((header, one))
        return [
            (_series(*key, found), [one for _, one in found]) for key, found in by_series.items()
        ]


def _series(
    study: str, series: str, found: Sequence[tuple[Attributes, ResultObject]]
) -> ResultSeries:
    header = found[0][0]
    classes = tuple(sorted({one.sop_class_uid for _, one in found}))
    return ResultSeries(study, series, _values(header, _OF_SERIES), classes, len(found))


def _values(header: Attributes, keywords: Sequence[str]) -> dict[str, str]:
    """Return what is there; what is empty is left out."""
    found = {k: _text(header, k) for k in keywords}
    return {keyword: text for keyword, text in found.items() if text}


def _text(header: Attributes, keyword: str) -> str:
    if keyword not in _NUMBERS:
        return header.text(keyword)
    number = header.number(keyword)
    return "" if number is None else str(number)
