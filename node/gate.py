"""The export gate: what we made is judged before it is sent, as its receivers will judge it.

Rules and judgement are those of `handlers.lint`. Here: reading files for it, telling our own faults
from those that the sources already had, and turning what was found into findings. A fault of ours
stops the whole result set; a fault that came with the sources cannot be ours to mend (originals go
back as they came), and is told.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.uid import DeflatedExplicitVRLittleEndian

from handlers.errors import HandlerError
from handlers.lint import Level, Place, PlanningSystem, Problem, Subject, lint
from handlers.lint.reading import element, items_of, tag_of, text, texts, vr_of, whole
from handlers.values import Finding, Severity

if TYPE_CHECKING:
    from handlers.encode import Sources  # importing it would double the time of `hilum lint`

LEFT_IN_FILE_BYTES = 65536
"""Values longer than this are read later, and pixels never: no rule asks for them."""

PIXELS = tag_of("PixelData")

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of a value that ends with a delimiter (PS3.5 7.5)."""

MOST_PLACES_TOLD = 3
"""Places told in a finding or a reason; the rest is counted."""

OURS_APPROVED = "gate.approved"

_ROI_ITEMS: Mapping[int, str] = {
    tag_of("StructureSetROISequence"): "ROINumber",
    tag_of("ROIContourSequence"): "ReferencedROINumber",
    tag_of("RTROIObservationsSequence"): "ReferencedROINumber",
}
"""The sequences of a structure set whose items go over from the source, and what numbers them."""


_OF_SEVERAL_ROIS = frozenset({"roi.number-not-unique"})
"""Rules that compare ROIs: an old one may break them by what a new one is called."""

_COPIED_TO_NEW = frozenset(map(tag_of, ("RTROIInterpretedType", "RTROIIdentificationCodeSequence")))
"""What the observation of a refined target takes over from the ROI that it was drawn as."""


class GateError(HandlerError):
    """What we made would be refused: nothing of it is sent.

    Attributes:
        reasons: Rule and place of each fault.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(
            "; ".join(reasons), hint="a fault of this program: report it; `hilum lint` shows it"
        )


def read_object(path: Path) -> Dataset:
    """Read an object for `lint`; its pixels stay in the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no DICOM object, or only a part of one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may quote values
        try:
            ds = pydicom.dcmread(path, defer_size=LEFT_IN_FILE_BYTES)
            if ds.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                ds = pydicom.dcmread(path)  # nothing of it can be read alone later
            is_cut = _is_cut(ds, path.stat().st_size)
            if not is_cut:
                _fetch_all_but_pixels(ds)
        except pydicom.errors.InvalidDicomError as error:
            raise ValueError("no DICOM file (PS3.10)") from error
        except OSError:
            raise
        except Exception as error:  # pydicom raises many kinds for a broken file
            raise ValueError(f"no readable DICOM object ({type(error).__name__})") from error
    if is_cut:
        raise ValueError("the file ends before its object does")
    if not text(ds, "SOPClassUID"):
        raise ValueError("no object of a SOP class (a DICOMDIR, or a part of an object)")
    return ds


def _fetch_all_but_pixels(ds: Dataset) -> None:
    """Read what was left in the file: the rules are told values, they read no file."""
    for tag in list(ds.keys()):
        found = element(ds, tag)
        if tag != PIXELS and isinstance(found, RawDataElement) and found.value is None:
            ds[tag] = ds.get_item(tag)


def _is_cut(ds: Dataset, file_bytes: int) -> bool:
    """Return whether a value is shorter than it says: the library takes what it gets."""
    for tag in list(ds.keys()):
        found = element(ds, tag)
        if not isinstance(found, RawDataElement) or found.length == UNDEFINED_LENGTH:
            continue
        if found.value is None and found.value_tell + found.length > file_bytes:
            return True
        if found.value is not None and len(found.value) < found.length:
            return True
    return False


class Inherited:
    """What the sources of a result set already get wrong, and which values came from them.

    Items of ROIs go over byte for byte: whatever is wrong with one came with it. What else is
    copied has its fault at the same tags as a source; all of the sources are judged for that only
    when the first of each series does not have it, too.
    """

    def __init__(self, sources: "Sources", told: Iterable[Problem]) -> None:
        """Remember sources, and what is known already of their faults."""
        self._sources = sources
        self._told = frozenset((p.rule.id, p.place.tags) for p in told)
        self._numbers = {
            tag: frozenset(whole(item, keyword) for item in items_of(sources.structure_set, tag))
            for tag, keyword in _ROI_ITEMS.items()
        }

    @cached_property
    def _everywhere(self) -> frozenset[tuple[str, tuple[int, ...]]]:
        """Return rule and tags of each problem of any source."""
        each = [Subject("source", ds) for ds in _every(self._sources)]
        return frozenset((p.rule.id, p.place.tags) for p in lint(each).problems)

    @cached_property
    def _uids(self) -> frozenset[str]:
        return frozenset(uid for ds in _every(self._sources) for uid in _uids(ds))

    def has(self, problem: Problem, ds: Dataset) -> bool:
        """Return whether a problem of a result came with its sources."""
        if problem.rule.id == "uid.illegal" and _uid_at(ds, problem.place) <= self._uids:
            return True
        if is_of_roi(problem):
            if problem.rule.id in _OF_SEVERAL_ROIS:
                return self.is_told(problem)
            is_copied = len(problem.place.tags) > 1 and problem.place.tags[1] in _COPIED_TO_NEW
            return self._is_of_source_roi(problem, ds) or (is_copied and self.is_told(problem))
        if self.is_told(problem):
            return True
        is_error = problem.rule.level is Level.ERROR  # a warning stops nothing: worth no search
        return is_error and (problem.rule.id, problem.place.tags) in self._everywhere

    def is_told(self, problem: Problem) -> bool:
        """Return whether the findings of the sources tell this one."""
        return (problem.rule.id, problem.place.tags) in self._told

    def _is_of_source_roi(self, problem: Problem, ds: Dataset) -> bool:
        tag, number = problem.place.steps[0]
        if number is None:
            return self.is_told(problem)
        sequence = items_of(ds, tag)
        is_there = number <= len(sequence)
        return is_there and whole(sequence[number - 1], _ROI_ITEMS[tag]) in self._numbers[tag]


def is_of_roi(problem: Problem) -> bool:
    """Return whether a problem lies in one of the sequences that list ROIs."""
    return bool(problem.place.steps) and problem.place.steps[0][0] in _ROI_ITEMS


def findings_of_sources(
    sources: "Sources", tps: Collection[PlanningSystem]
) -> tuple[tuple[Finding, ...], Inherited]:
    """Judge what goes back as it came, before the report is written.

    Args:
        sources: What a result set is made from: the source structure set's ROIs go back unchanged,
            patient and study are the CT's, the acquisition is the MR's.
        tps: Planning systems of the destinations.

    Returns:
        One finding for each rule that a source ROI breaks, and what results will inherit.
    """
    slices = _slices(sources)
    source = Subject("structure set", sources.structure_set)
    moved = (*sources.mr.values(), *sources.other_ct.values())
    others = [Subject("series", series[0]) for series in moved if series]
    everything = [*slices, source, *others]
    drawn = lint(everything, tps, only=[source]).problems
    alone = lint(everything, tps, only=[*slices[:1], *others]).problems
    told = _findings(filter(is_of_roi, drawn), "of the structure set as it came")
    return told, Inherited(sources, (*drawn, *alone))


def judge(
    results: Mapping[str, Path],
    sources: "Sources",
    tps: Collection[PlanningSystem],
    inherited: Inherited,
) -> tuple[Finding, ...]:
    """Judge a result set as it was written.

    Args:
        results: File by name.
        sources: What it was made from; the CT is the reference.
        tps: Planning systems of the destinations.
        inherited: What is not ours.

    Returns:
        One finding for each rule that brings a warning; faults of source ROIs are not told again.

    Raises:
        GateError: An object that we made would be refused.
    """
    ours = [Subject(name, read_object(path)) for name, path in results.items()]
    by_name = {subject.name: subject for subject in ours}
    problems = lint([*_slices(sources), *ours], tps, only=ours).problems
    own: list[Problem] = []
    copied: list[Problem] = []
    for problem in problems:
        if not inherited.has(problem, by_name[problem.name].ds):
            own.append(problem)
        elif not is_of_roi(problem) or not inherited.is_told(problem):
            copied.append(problem)
    errors = [p for p in own if p.rule.level is Level.ERROR]
    approved = [s.name for s in ours if text(s.ds, "ApprovalStatus") not in ("", "UNAPPROVED")]
    reasons = [f"gate: {name} is approved ({OURS_APPROVED})" for name in approved]
    reasons += [_told(rule_problems) for rule_problems in _by_rule(errors).values()]
    if reasons:
        raise GateError(reasons)
    return (*_findings(own, "of a result"), *_findings(copied, "copied from the sources"))


def _slices(sources: "Sources") -> list[Subject]:
    return [Subject("CT", ds) for ds in sources.ct]


def _findings(problems: Iterable[Problem], origin: str) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            f"gate.{rule_id}",
            Severity.WARNING,
            f"{_told(those)} ({origin}); {those[0].rule.mend}",
            {"count": float(len(those))},
        )
        for rule_id, those in _by_rule(problems).items()
    )


def _by_rule(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.rule.id, []).append(problem)
    return found


def _told(problems: Sequence[Problem]) -> str:
    rule = problems[0].rule
    places = [f"{p.name} {p.place}" for p in problems[:MOST_PLACES_TOLD]]
    more = len(problems) - len(places)
    doubt = "" if rule.is_confirmed else " (unconfirmed)"
    return f"{rule.id}{doubt}: {rule.what}, at {', '.join(places)}" + (
        f" and {more} more" if more else ""
    )


def _every(sources: "Sources") -> Iterator[Dataset]:
    moved = (*sources.mr.values(), *sources.other_ct.values())
    return chain(sources.ct, [sources.structure_set], *moved, sources.radiotherapy)


def _uids(ds: Dataset) -> Iterator[str]:
    for tag in list(ds.keys()):
        found = element(ds, tag)
        if found is None:
            continue
        if vr_of(found) == "SQ":
            for item in items_of(ds, tag):
                yield from _uids(item)
        elif vr_of(found) == "UI" and dictionary_has_tag(tag):
            yield from texts(ds, keyword_for_tag(tag))


def _uid_at(ds: Dataset, place: Place) -> set[str]:
    item = ds
    for tag, number in place.steps[:-1]:
        item = items_of(item, tag)[(number or 1) - 1]
    return set(texts(item, keyword_for_tag(place.steps[-1][0])))
