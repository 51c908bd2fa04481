"""The export gate: what we made is judged before it is sent, as its receivers will judge it.

Rules and judgement are those of `handlers.lint`. Here: reading files for it, telling our own faults
from those that the sources already had, and turning what was found into findings. A fault of ours
stops the whole result set; a fault that came with the sources cannot be ours to mend (originals go
back as they came), and is told.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.uid import DeflatedExplicitVRLittleEndian

from handlers.encode import Sources
from handlers.errors import HandlerError
from handlers.lint import Level, Place, PlanningSystem, Problem, Subject, lint
from handlers.lint.reading import element, items, items_of, tag_of, text, texts, whole
from handlers.values import Finding, Severity

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


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the sources of a result set already get wrong, and which values came from them.

    Attributes:
        faults: Rule and tags of each problem of the sources: what is copied has it at these, too.
        sources: What the result set is made from.
        rois: ROI Numbers of the source structure set.
    """

    faults: frozenset[tuple[str, tuple[int, ...]]]
    sources: Sources
    rois: frozenset[int]

    def has(self, problem: Problem, ds: Dataset) -> bool:
        """Return whether a problem of a result came with its sources."""
        if problem.rule.id == "uid.illegal" and _uid_at(ds, problem.place) <= _uids_of(
            self.sources
        ):
            return True
        if (problem.rule.id, problem.place.tags) not in self.faults:
            return False
        return not is_of_roi(problem) or self._is_of_source_roi(problem, ds)

    def _is_of_source_roi(self, problem: Problem, ds: Dataset) -> bool:
        tag, number = problem.place.steps[0]
        sequence = items_of(ds, tag)
        return (
            number is not None
            and number <= len(sequence)
            and whole(sequence[number - 1], _ROI_ITEMS[tag]) in self.rois
        )


def is_of_roi(problem: Problem) -> bool:
    """Return whether a problem lies in one of the sequences that list ROIs."""
    return bool(problem.place.steps) and problem.place.steps[0][0] in _ROI_ITEMS


def findings_of_sources(
    sources: Sources, tps: Collection[PlanningSystem]
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
    faults = frozenset((p.rule.id, p.place.tags) for p in (*drawn, *alone))
    rois = frozenset(
        number
        for item in items(sources.structure_set, "StructureSetROISequence")
        if (number := whole(item, "ROINumber")) is not None
    )
    told = _findings(filter(is_of_roi, drawn), "of the structure set as it came")
    return told, Inherited(faults, sources, rois)


def judge(
    results: Mapping[str, Path],
    sources: Sources,
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
        elif not is_of_roi(problem):
            copied.append(problem)
    errors = [p for p in own if p.rule.level is Level.ERROR]
    approved = [s.name for s in ours if text(s.ds, "ApprovalStatus") not in ("", "UNAPPROVED")]
    reasons = [f"gate: {name} is approved ({OURS_APPROVED})" for name in approved]
    reasons += [_told(rule_problems) for rule_problems in _by_rule(errors).values()]
    if reasons:
        raise GateError(reasons)
    return (*_findings(own, "of a result"), *_findings(copied, "copied from the sources"))


def _slices(sources: Sources) -> list[Subject]:
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


def _uids_of(sources: Sources) -> set[str]:
    series = (*sources.mr.values(), *sources.other_ct.values())
    moved = (ds for each in series for ds in each)
    return {uid for ds in (*sources.ct, sources.structure_set, *moved) for uid in _uids(ds)}


def _uids(ds: Dataset) -> Iterable[str]:
    for tag in list(ds.keys()):
        if ds[tag].VR == "SQ":
            for item in ds[tag].value or ():
                yield from _uids(item)
        elif ds[tag].VR == "UI":
            yield from texts(ds, ds[tag].keyword) if ds[tag].keyword else ()


def _uid_at(ds: Dataset, place: Place) -> set[str]:
    item = ds
    for tag, number in place.steps[:-1]:
        item = items_of(item, tag)[(number or 1) - 1]
    return set(texts(item, pydicom.datadict.keyword_for_tag(place.steps[-1][0])))
