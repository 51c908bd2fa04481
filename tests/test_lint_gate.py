"""The gate in the node: our own faults stop a result set, those of the sources are told."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from handlers.encode import Sources
from handlers.lint import Subject, lint
from handlers.values import Finding, Severity
from node.case_job import case_job
from node.config import Config, read_config
from node.gate import GateError, Inherited, findings_of_sources, judge
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.process import gather, only_case
from tests.encode_cases import (
    MR_SERIES,
    MR_SERIES_B,
    EncodeCase,
    as_received,
    build_case,
    bytes_of,
    standard_results,
    texts_of,
    written,
)
from tests.lint_faults import unchecked
from tests.nodes import hilum_here, run_hilum, write_datasets

SET, REG, MR = "RTSTRUCT.dcm", "REG_1.dcm", "MR_1/0003.dcm"


def sources_of(case: EncodeCase) -> Sources:
    """Return sources that a test may spoil."""
    return copy.deepcopy(case.sources)


def stored(objects: dict[str, Dataset], folder: Path) -> dict[str, Path]:
    """Write a result set as the computing child does."""
    paths = {}
    for name, ds in objects.items():
        paths[name] = folder / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        with unchecked():
            paths[name].write_bytes(bytes_of(ds))
    return paths


def judged(
    sources: Sources, results: dict[str, Dataset], folder: Path, *tps: str
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the findings of the sources and of the results."""
    before, inherited = findings_of_sources(sources, tps)  # type: ignore[arg-type]
    assert isinstance(inherited, Inherited)
    return before, judge(stored(results, folder), sources, tps, inherited)  # type: ignore[arg-type]


def test_result_set_when_whole_passes_without_a_finding(tmp_path: Path) -> None:
    """Issue 6, 4: what we make passes the gate, for every planning system that takes it."""
    before, after = judged(build_case().sources, standard_results(), tmp_path, "eclipse")
    assert (before, after) == ((), ())


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        (SET, lambda ds: setattr(ds, "StructureSetLabel", ""), "type1.empty"),
        (MR, lambda ds: delattr(ds, "MRAcquisitionType"), "type2.missing"),
        (REG, lambda ds: setattr(ds, "SeriesInstanceUID", "1.02.3"), "uid.illegal"),
        (SET, lambda ds: setattr(ds, "ApprovalStatus", "APPROVED"), "gate.approved"),
        (
            SET,
            lambda ds: setattr(
                ds.ROIContourSequence[3].ContourSequence[0], "NumberOfContourPoints", 3
            ),
            "contour.count-wrong",
        ),
    ],
)
def test_result_when_we_spoil_it_stops_the_whole_set(
    tmp_path: Path, name: str, spoil: Callable[[Dataset], None], told: str
) -> None:
    """Issue 6, 4: an error in what we made: nothing is sent, rule and object are named."""
    results = standard_results()
    with unchecked():
        spoil(results[name])
    with pytest.raises(GateError) as stopped:
        judged(build_case().sources, results, tmp_path)
    assert any(told in reason and name in reason for reason in stopped.value.reasons)


def test_source_roi_when_faulty_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    """Original ROIs go back as they came: their faults are one finding for each rule."""
    sources, results = sources_of(build_case()), standard_results()
    with unchecked():
        for ds in (sources.structure_set, results[SET]):
            for contour in ds.ROIContourSequence[0].ContourSequence:
                contour.ContourData = contour.ContourData[:6]
                contour.NumberOfContourPoints = 2
            ds.StructureSetROISequence[1].ROIName = "x" * 70
    before, after = judged(sources, results, tmp_path, "eclipse")
    codes = {finding.code: finding for finding in before}
    assert {"gate.contour.too-few-points", "gate.value.too-long"} <= codes.keys()
    assert "gate.eclipse.name-length" in codes
    assert len(codes) == len(before)
    few = codes["gate.contour.too-few-points"]
    assert few.severity is Severity.WARNING
    assert few.numbers["count"] == len(sources.structure_set.ROIContourSequence[0].ContourSequence)
    assert after == ()


def test_source_attribute_when_faulty_is_inherited_and_stops_nothing(tmp_path: Path) -> None:
    """A study UID or a study ID that is wrong at the source is not ours to mend."""
    sources, results = sources_of(build_case()), standard_results()
    with unchecked():
        for ds in (*sources.ct, sources.structure_set, *results.values()):
            ds.StudyInstanceUID = "1.2.0826.1"
            ds.StudyID = "seventeen letters"
    _, after = judged(sources, results, tmp_path)
    assert {finding.code for finding in after} == {"gate.uid.illegal", "gate.value.too-long"}
    assert all("copied from the sources" in finding.text for finding in after)
    with unchecked():
        results[REG].SeriesInstanceUID = "1.2.0826.2"
    with pytest.raises(GateError):
        judged(sources, results, tmp_path)


def orphans(sources: Sources) -> None:
    """Observations of an ROI that is gone, and of none."""
    for number in (99, None):
        observation = Dataset()
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", None
        sources.structure_set.RTROIObservationsSequence.append(observation)


def long_number_of_a_later_slice(sources: Sources) -> None:
    """A number that is too long in one slice, but not in the first (`-1.77e-15` is often so)."""
    bare(sources.ct[5], "SliceLocation", b"112.500000000000000")


def other_spelling(sources: Sources) -> None:
    """The structure set says in UTF-8 what the CT says in Latin 1."""
    for ds in (*sources.ct, sources.structure_set):
        ds.decode()
        ds.PatientID = "M\u00dc1"
    sources.structure_set.SpecificCharacterSet = "ISO_IR 192"
    sources.structure_set.StructureSetROISequence[2].ROIName = "\u8178\u7ba1"


def kanji(sources: Sources) -> None:
    """A name in which a byte of a letter is that of a backslash."""
    for ds in (*sources.ct, sources.structure_set):
        ds.decode()
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        ds.PatientName, ds.ReferringPhysicianName = "Kubo^Ken=\u7aaa\u8535^\u732e", ""
    sources.structure_set.StructureSetROISequence[2].ROIName = "Bowel"


def own_words(sources: Sources) -> None:
    """A target type and a code that the standard does not know; a new ROI takes them over."""
    code = Dataset()
    code.CodeValue = "a code of twenty sign"
    observation = sources.structure_set.RTROIObservationsSequence[0]
    observation.RTROIInterpretedType = "Target volume, drawn"
    observation.RTROIIdentificationCodeSequence = [code]


def wrong_slice(sources: Sources) -> None:
    """A contour of a set without a list of images names another slice than its own."""
    contour = sources.structure_set.ROIContourSequence[2].ContourSequence[0]
    contour.ContourImageSequence[0].ReferencedSOPInstanceUID = sources.ct[0].SOPInstanceUID


def odd_scanner(sources: Sources) -> None:
    """Words of a scanner's own, and numbers that are too long in its last image alone."""
    for ds in sources.mr[MR_SERIES]:
        ds.ScanningSequence, ds.MRAcquisitionType, ds.StationName = "SPGR", "VOLUME", "s" * 30
    for ds in sources.mr[MR_SERIES_B]:
        ds.MRAcquisitionType = "MIXED"
    bare(sources.mr[MR_SERIES][-1], "EchoTime", b"2.4000000000000000000000")


def no_thickness(sources: Sources) -> None:
    """Slice Thickness is of type 2: a CT may not know it."""
    for ds in sources.ct:
        ds.SliceThickness = None


def no_thickness_at_all(sources: Sources) -> None:
    """The same, left out against the standard."""
    for ds in sources.ct:
        del ds.SliceThickness


def long_numbers(sources: Sources) -> None:
    """Numbers of more than 16 characters, as real CTs have them."""
    for ds in sources.ct:
        bare(ds, "PixelSpacing", b"1.2500000000000000000\\1.5000000000000000000")
        bare(ds, "RescaleSlope", b"1.000000000000000000001")
        bare(ds, "RescaleIntercept", b"-1024.0")
        bare(ds, "RescaleType", b"H" * 70)


def bare(ds: Dataset, keyword: str, value: bytes) -> None:
    """Give a dataset an element as it may come from a file."""
    tag = Tag(keyword)
    padded = value + b" " * (len(value) % 2)
    raw = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
    ds.__setitem__(tag, raw)


@pytest.mark.parametrize(
    "spoilt",
    [
        (orphans, long_number_of_a_later_slice, own_words, wrong_slice, no_thickness),
        (long_numbers, other_spelling, odd_scanner, no_thickness_at_all),
        (kanji,),
    ],
    ids=["rois", "numbers", "letters"],
)
def test_result_set_when_a_source_is_odd_is_made_and_sent(
    tmp_path: Path, spoilt: tuple[Callable[[Sources], None], ...]
) -> None:
    """A patient's results are never withheld for faults that came with the sources.

    Faults of different elements come together: a result set is costly, and any one would stop it.
    """
    case = build_case()
    sources = sources_of(case)
    with unchecked():
        for spoil in spoilt:
            spoil(sources)
        results = written(replace(case, sources=sources))
    # a fault of ours would raise: what the sources bring along is told, and nothing is missing
    before, after = judged(
        sources, results, tmp_path, "eclipse", "raystation", "monaco", "pinnacle"
    )
    assert {finding.severity for finding in (*before, *after)} <= {Severity.WARNING}
    assert set(results) == set(standard_results())


@pytest.mark.parametrize("spoil", [other_spelling, kanji])
def test_patient_when_spelled_in_another_character_set_is_the_same(
    tmp_path: Path, spoil: Callable[[Sources], None]
) -> None:
    """Names are compared as text, not as bytes, and a letter's byte parts no value."""
    case = build_case()
    sources = sources_of(case)
    spoil(sources)
    sources = replace(sources, ct=tuple(as_received(ds) for ds in sources.ct))
    assert judged(sources, written(replace(case, sources=sources)), tmp_path) == ((), ())


def test_contours_of_no_roi_when_copied_do_not_become_a_new_rois() -> None:
    """Safety: a number that contours without an ROI have already is given to no new ROI."""
    case = build_case()
    sources = sources_of(case)
    stray = copy.deepcopy(sources.structure_set.ROIContourSequence[2])
    stray.ReferencedROINumber = 9
    sources.structure_set.ROIContourSequence.append(stray)
    ds = written(replace(case, sources=sources), until=SET)[SET]
    old = {3, 5, 8, 9}
    new = {int(roi.ROINumber) for roi in ds.StructureSetROISequence} - old
    assert new
    drawn = [int(item.ReferencedROINumber) for item in ds.ROIContourSequence]
    assert sorted(drawn) == sorted(old | new)


def test_illegal_study_uid_when_in_a_large_set_is_looked_for_once(tmp_path: Path) -> None:
    """The gate must not take minutes: old scanners wrote leading zeros in every UID."""
    case = build_case()
    sources = sources_of(case)
    study = "1.2.0840.113619"
    with unchecked():
        for ds in (*sources.ct, sources.structure_set):
            ds.StudyInstanceUID = study
        results = written(replace(case, sources=sources))
    _, inherited = findings_of_sources(sources, ())
    problems = lint([Subject(name, ds) for name, ds in results.items()]).problems
    illegal = [p for p in problems if p.rule.id == "uid.illegal"]
    began = time.process_time()
    assert all(inherited.has(p, results[p.name]) for p in illegal * 50)
    assert len(illegal) * 50 > 1000
    assert time.process_time() - began < 2.0


def test_findings_when_made_hold_no_value(tmp_path: Path) -> None:
    """Invariant 6: findings stand in the log, in the report and on the screen."""
    sources, results = sources_of(build_case()), standard_results()
    with unchecked():
        for ds in (*sources.ct, sources.structure_set, *results.values()):
            ds.PatientID = "GEHEIM" * 12
            ds.PatientBirthDate = "GEHEIM"
    before, after = judged(sources, results, tmp_path, "raystation", "eclipse")
    assert after
    assert "GEHEIM" not in " ".join(finding.text for finding in (*before, *after))


CONFIGURATION = """
[[peer]]
name = "one"
ae_title = "ONE"
host = "127.0.0.1"
port = 11113
roles = ["receive"]
tps = "raystation"
[[peer]]
name = "two"
ae_title = "TWO"
host = "127.0.0.1"
port = 11114
roles = ["receive"]
tps = "pinnacle"
[[peer]]
name = "three"
ae_title = "THREE"
host = "127.0.0.1"
port = 11115
roles = ["receive"]
tps = "monaco"
[[protocol]]
name = "liver"
targets = ["GTVn*", "GTV*"]
destinations = ["two", "one"]
"""


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=5, size="tiny", contrasts=("T1",), with_dose=False))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "hilum.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    return path


def case_files(study: PhantomStudy, folder: Path, spoil: Callable[[Dataset], None]) -> Path:
    """Write a case whose structure set is spoiled."""
    structure_set = copy.deepcopy(study.structure_set)
    with unchecked():
        spoil(structure_set)
        write_datasets(study.ct, folder / "ct")
        write_datasets([structure_set], folder / "rs")
        for contrast, series in study.mr.items():
            write_datasets(series, folder / contrast)
    return folder


def test_job_when_made_names_the_planning_systems_of_its_destinations(
    study: PhantomStudy, tmp_path: Path, config_file: Path
) -> None:
    """Issue 6, 4: results are judged by the rules of those who get them, and of nobody else."""
    config: Config = read_config(config_file)
    proposal = only_case(
        gather([case_files(study, tmp_path / "case", lambda _: None)]), config.protocol
    )
    made = [
        case_job(
            proposal,
            config.protocol[0],
            config.model_copy(update={"peer": peers}),
            root="/",
            created=proposal.instances[0].received_at,
        )
        for peers in (config.peer, ())
    ]
    assert made[0].settings.tps == ("pinnacle", "raystation")
    assert made[1].settings.tps == ()
    assert made[0].uid_seed != made[1].uid_seed


def test_case_when_computed_tells_what_its_receivers_dislike(
    study: PhantomStudy, tmp_path: Path, config_file: Path
) -> None:
    """Issue 6, 4: findings in metrics and report; the result set is whole and judged clean."""

    def spoil(ds: Dataset) -> None:
        ds.RTROIObservationsSequence[1].RTROIInterpretedType = ""
        ds.StructureSetROISequence[1].ROIName = "y" * 70

    case, out = case_files(study, tmp_path / "case", spoil), tmp_path / "out"
    done = run_hilum("process", str(case), "--out", str(out), "--config", str(config_file))
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    codes = [f["code"] for f in metrics["findings"] if f["code"].startswith("gate.")]
    assert {
        "gate.raystation.type-empty",
        "gate.value.too-long",
        "gate.pinnacle.registration-lost",
    } <= set(codes)
    assert len(codes) == len(set(codes))
    assert metrics["case"]["settings"]["tps"] == ["pinnacle", "raystation"]
    assert "raystation.type-empty" in " ".join(texts_of(dcmread(out / "SR.dcm")))
    # what is ours is clean; the drawn ROI's name is as it came
    lint = hilum_here("lint", str(case / "ct"), str(out), "--json")
    problems = json.loads(lint.stdout)["problems"]
    errors = {(p["rule"], p["place"]) for p in problems if p["level"] == "error"}
    assert errors == {("value.too-long", "(3006,0020)[2].(3006,0026) ROIName")}
