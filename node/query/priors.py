"""Which of a patient's other studies are fetched: by protocol rule, and only if it is the patient.

Pure: chooses among what a peer answered. A Patient ID alone is not believed; where neither name
nor birth date can be compared, nothing is chosen and a note says why. No note holds an identifier.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from node.completeness import Question
from node.conformance import MANUFACTURER
from node.header import InstanceHeader
from node.query.find import Match

MOST_STUDIES = 12
"""Of a patient's other studies the nearest to the CT are looked into; of more a note tells."""

MOST_SERIES = 40
"""A rule fetches so many series of other studies at most: one course of treatment has some ten."""

MOST_IMAGES = 8_000
"""And so many instances at most: twenty CT of 400 slices."""

_LINKED: Mapping[str, tuple[str, ...]] = {
    "RTDOSE": ("RTPLAN", "RTSTRUCT"),
    "RTPLAN": ("RTSTRUCT",),
}
"""What a dose or plan is of no use without (handbook A.4); the CT of a structure set is found by
its reference, once the structure set is here."""

_ORDER = ("MR", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "CT")
"""In which series are fetched: what is small and leads to others first, CT last."""


@dataclass(frozen=True, slots=True)
class OtherStudy:
    """A study that is looked into, and the modalities that are wanted of it."""

    study_uid: str
    modalities: frozenset[str]


@dataclass(frozen=True, slots=True)
class OtherSeries:
    """A series that is wanted; `count` is None if the peer does not tell."""

    series_uid: str
    study_uid: str
    modality: str
    count: int | None


def with_links(modalities: Iterable[str]) -> frozenset[str]:
    """Return the modalities with those that they are of no use without."""
    given = frozenset(modalities)
    return given | {linked for one in given for linked in _LINKED.get(one, ())}


def choose_studies(
    own: InstanceHeader, studies: Sequence[Match], question: Question
) -> tuple[list[OtherStudy], list[str]]:
    """Return the studies to look into, nearest to the CT first, and notes on the others.

    Args:
        own: Whose case it is.
        studies: What the peer has under the Patient ID.
        question: The rule, the case's own studies, and the date of its CT.
    """
    wanted = with_links(question.modalities)
    found: list[tuple[int, str, frozenset[str]]] = []
    strangers: dict[str, int] = {}
    undated = 0
    for match in studies:
        study_uid = match["StudyInstanceUID"]
        is_own = study_uid in question.known_studies
        if is_own and "MR" not in wanted:
            continue
        if reason := why_stranger(own, match):
            strangers[reason] = strangers.get(reason, 0) + 1
            continue
        days = _days_between(match["StudyDate"], question.taken_on)
        if is_own:
            found.append((0, study_uid, frozenset({"MR"})))
        elif days is None:
            undated += 1
        elif modalities := _within(days, wanted, question):
            found.append((days, study_uid, modalities))
    found.sort(key=lambda one: one[:2])
    notes = [
        f"{count} studies at {question.peer} with this Patient ID not fetched: {reason}"
        for reason, count in sorted(strangers.items())
    ]
    if undated:
        notes.append(f"{undated} studies at {question.peer} not fetched: no dates to compare")
    if len(found) > MOST_STUDIES:
        left = len(found) - MOST_STUDIES
        notes.append(f"{left} of {len(found)} other studies at {question.peer} not looked into")
    return [OtherStudy(uid, wanted) for _, uid, wanted in found[:MOST_STUDIES]], notes


def choose_series(
    study: OtherStudy, answers: Sequence[Match], held: Mapping[str, int]
) -> list[OtherSeries]:
    """Return the series of a study that are wanted and not here whole.

    Args:
        study: The study and what is wanted of it.
        answers: Its series, as the peer says.
        held: By Series Instance UID, how many instances are here.
    """
    chosen = []
    for match in answers:
        uid, count = match["SeriesInstanceUID"], match.count
        is_here = count is not None and held.get(uid, 0) >= count
        if match["Modality"] in study.modalities and not is_here:
            if match["Manufacturer"] == MANUFACTURER:
                continue  # our own result, which the peer got from us
            chosen.append(OtherSeries(uid, study.study_uid, match["Modality"], count))
    return sorted(chosen, key=lambda one: (_ORDER.index(one.modality), one.series_uid))


def limited(series: Sequence[OtherSeries], peer: str) -> tuple[list[OtherSeries], list[str]]:
    """Return as many series as are fetched at most, and a note if that is not all."""
    kept: list[OtherSeries] = []
    images = 0
    for one in series:
        images += one.count or 1
        if len(kept) == MOST_SERIES or images > MOST_IMAGES:
            left = len(series) - len(kept)
            limits = f"at most {MOST_SERIES} series and {MOST_IMAGES} images"
            return kept, [f"{left} series of other studies at {peer} not fetched: {limits}"]
        kept.append(one)
    return kept, []


def why_stranger(own: InstanceHeader, match: Match) -> str:
    """Return why a study may be another patient's, or an empty string; never the values."""
    pairs = {
        "Issuer of Patient ID": (own.issuer_of_patient_id, match["IssuerOfPatientID"]),
        "birth date": (own.patient_birth_date, match["PatientBirthDate"]),
        "sex": (own.patient_sex.upper(), match["PatientSex"].upper()),
    }
    differ = [
        name
        for name, (here, there) in pairs.items()
        if here.strip() and there.strip() and here.strip() != there.strip()
    ]
    names = _words(own.patient_name), _words(match["PatientName"])
    if all(names) and names[0].isdisjoint(names[1]):
        differ.append("name")
    if differ:
        return f"{', '.join(differ)} differ"
    has_birth_date = all(value.strip() for value in pairs["birth date"])
    if not has_birth_date and not all(names):
        return "neither name nor birth date can be compared"
    return ""


def _within(days: int, wanted: frozenset[str], question: Question) -> frozenset[str]:
    """Return what is wanted of a study that many days from the CT."""
    mr = {"MR"} if "MR" in wanted and days <= question.mr_window_days else set()
    return frozenset(mr | (wanted - {"MR"} if days <= question.window_days else set()))


def _days_between(one: str, other: str) -> int | None:
    first, second = _date(one), _date(other)
    return None if first is None or second is None else abs((first - second).days)


def _date(text: str) -> date | None:
    found = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text)
    if found is None:
        return None
    try:
        return date(*map(int, found.groups()))
    except ValueError:
        return None


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w{2,}", name.casefold()))
