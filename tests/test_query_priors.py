"""Which of a patient's other studies are fetched: answers of a peer, and the choice by hand."""

import pytest

from node.completeness import Question
from node.conformance import MANUFACTURER
from node.header import InstanceHeader
from node.query.find import Match
from node.query.priors import (
    MOST_IMAGES,
    MOST_SERIES,
    MOST_STUDIES,
    OtherSeries,
    OtherStudy,
    choose_series,
    choose_studies,
    limited,
    why_stranger,
    with_links,
)

PATIENT = {
    "PatientID": "MARKED-1",
    "IssuerOfPatientID": "CLINIC",
    "PatientName": "Marked^Anna",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
}


def own(**changes: str) -> InstanceHeader:
    usual = {
        "patient_id": "MARKED-1",
        "issuer_of_patient_id": "CLINIC",
        "patient_name": "MARKED^ANNA",
        "patient_birth_date": "19500102",
        "patient_sex": "F",
    }
    kept = {**usual, **changes}
    return InstanceHeader("1.1", "1.2", "1.3", "RTSTRUCT", "5.1", "3.1", **kept)


def study(uid: str, date: str, **changes: str) -> Match:
    return Match({**PATIENT, "StudyInstanceUID": uid, "StudyDate": date, **changes})


def series(uid: str, modality: str, count: str = "10", **changes: str) -> Match:
    values = {"SeriesInstanceUID": uid, "Modality": modality}
    return Match({**values, "NumberOfSeriesRelatedInstances": count, **changes})


def question(*modalities: str, taken_on: str = "20260301") -> Question:
    return Question(
        *("priors", "pacs", "3.1", "5.1", "3.1", "move"),
        known_studies=("5.1",),
        taken_on=taken_on,
        modalities=modalities,
        window_days=1000.0,
        mr_window_days=60.0,
    )


def chosen(studies: list[Match], asked: Question) -> list[tuple[str, list[str]]]:
    found, _ = choose_studies(own(), studies, asked)
    return [(one.study_uid, sorted(one.modalities)) for one in found]


def test_studies_when_chosen_lie_within_the_windows_nearest_first() -> None:
    """MR of the case's own study and of near days; all else of other studies only."""
    studies = [
        study("5.3", "20250301"),
        study("5.2", "20260215"),
        study("5.1", "20260301"),
        study("5.4", "20100101"),
    ]
    assert chosen(studies, question("CT", "MR")) == [
        ("5.1", ["MR"]),
        ("5.2", ["CT", "MR"]),
        ("5.3", ["CT"]),
    ]
    assert chosen(studies, question("CT")) == [("5.2", ["CT"]), ("5.3", ["CT"])]


def test_dose_when_wanted_brings_what_it_is_of_no_use_without() -> None:
    """Handbook A.4: RTDOSE to RTPLAN to RTSTRUCT; the CT is found by reference."""
    assert with_links(["RTDOSE"]) == {"RTDOSE", "RTPLAN", "RTSTRUCT"}
    assert with_links(["RTPLAN"]) == {"RTPLAN", "RTSTRUCT"}
    assert with_links(["CT"]) == {"CT"}


@pytest.mark.parametrize("taken_on", ["", "2026"])
def test_studies_when_dates_cannot_be_compared_are_told_and_left(taken_on: str) -> None:
    """No study is fetched of which it cannot be said how old it is."""
    found, notes = choose_studies(
        own(), [study("5.2", "20260215")], question("CT", taken_on=taken_on)
    )
    assert found == []
    assert notes == ["1 studies at pacs not fetched: no dates to compare"]
    found, notes = choose_studies(own(), [study("5.2", "garbage!")], question("CT"))
    assert (found, len(notes)) == ([], 1)


@pytest.mark.parametrize(
    ("here", "there", "why"),
    [
        ({}, {}, ""),
        ({}, {"PatientName": "MARKED^OTHER"}, ""),
        ({}, {"PatientName": "Else^Whoever"}, "name differ"),
        ({}, {"PatientBirthDate": "19500103"}, "birth date differ"),
        ({}, {"PatientSex": "M"}, "sex differ"),
        ({}, {"IssuerOfPatientID": "OTHER"}, "Issuer of Patient ID differ"),
        ({}, {"IssuerOfPatientID": "", "PatientSex": "", "PatientBirthDate": ""}, ""),
        ({}, {"PatientName": "", "PatientSex": ""}, ""),
        ({}, {"PatientName": "", "PatientBirthDate": ""}, "neither name nor birth date"),
        ({"patient_name": "", "patient_birth_date": ""}, {}, "neither name nor birth date"),
    ],
)
def test_patient_when_compared_is_told_from_another(
    here: dict[str, str], there: dict[str, str], why: str
) -> None:
    """When in doubt nothing is fetched, and the reason names attributes, never values."""
    told = why_stranger(own(**here), Match({**PATIENT, **there}))
    assert told == why or (why and told.startswith(why))
    found, notes = choose_studies(own(**here), [study("5.2", "20260215", **there)], question("CT"))
    assert bool(found) is not bool(why)
    assert not any("MARKED" in note.upper() or "1950" in note for note in notes)


def test_series_when_held_whole_or_our_own_are_left() -> None:
    """What is here is not fetched again; unknown counts are looked into."""
    wanted = OtherStudy("5.2", frozenset({"CT", "RTSTRUCT", "MR"}))
    answers = [
        series("1.1", "CT"),
        series("1.2", "CT"),
        series("1.3", "CT", ""),
        series("1.4", "RTSTRUCT", "1"),
        series("1.5", "MR", Manufacturer=MANUFACTURER),
        series("1.6", "SEG"),
    ]
    found = choose_series(wanted, answers, {"1.1": 10, "1.2": 9, "1.3": 4})
    assert [(one.series_uid, one.count) for one in found] == [
        ("1.4", 1),
        ("1.2", 10),
        ("1.3", None),
    ]


def test_series_when_they_are_too_many_are_cut_and_told() -> None:
    """No rule fetches an archive."""
    many = [OtherSeries(f"1.{n}", "5.2", "CT", 1) for n in range(MOST_SERIES + 5)]
    kept, notes = limited(many, "pacs")
    assert len(kept) == MOST_SERIES
    assert "5 series of other studies at pacs not fetched" in notes[0]
    large = [OtherSeries(f"1.{n}", "5.2", "CT", MOST_IMAGES // 2) for n in range(3)]
    assert len(limited(large, "pacs")[0]) == 2
    assert limited(large[:2], "pacs")[1] == []
    studies = [study(f"5.{n}", "20260215") for n in range(10, 10 + MOST_STUDIES + 3)]
    found, told = choose_studies(own(), studies, question("CT"))
    assert len(found) == MOST_STUDIES
    assert told == [f"3 of {MOST_STUDIES + 3} other studies at pacs not looked into"]
