"""`hilum lint` as a user and a script call it."""

import json
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from typer.testing import CliRunner, Result

from handlers.lint import RULES
from node.__main__ import app
from tests.encode_cases import bytes_of
from tests.lint_faults import (
    CT,
    MR,
    MR_2,
    PLAN,
    REG,
    SET,
    World,
    clean_world,
    put,
    through_a_file,
    unchecked,
)
from tests.nodes import hilum_here

FRAME = "ReferencedFrameOfReferenceUID"


def run(*arguments: str | Path) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(app, ["lint", *map(str, arguments)])


def write(world: World, folder: Path, *names: str) -> dict[str, Path]:
    """Write objects as files, as their makers did: also what is wrong with them."""
    paths = {}
    for name in names or world:
        paths[name] = folder / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        with unchecked():
            paths[name].write_bytes(bytes_of(world[name]))
    return paths


def test_clean_files_when_given_as_folder_end_in_0(tmp_path: Path) -> None:
    """Issue 6, 4: folders are walked; what is no DICOM in them is passed over and told."""
    write(clean_world(), tmp_path / "case")
    (tmp_path / "case" / "LICENSE").write_text("of the data")
    (tmp_path / "case" / ".hidden").mkdir()
    (tmp_path / "case" / ".hidden" / "x.dcm").write_bytes(b"no object")
    result = run(tmp_path / "case")
    assert result.exit_code == 0, result.output
    assert "0 errors, 0 warnings" in result.output
    assert "1 files in the folders are no DICOM" in result.output


def test_fault_when_found_is_told_with_file_place_source_and_mend(tmp_path: Path) -> None:
    """Issue 6, 4: each problem with tag path, rule, source and mend; exit status 1."""
    world = clean_world()
    put(SET, FRAME, "1.2.3", "StructureSetROISequence", 2)(world)
    paths = write(world, tmp_path, SET)
    result = run(paths[SET])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    told = next(line for line in lines if "roi.frame-unknown" in line)
    assert told == (
        f"{paths[SET]}: error roi.frame-unknown (3006,0020)[2].(3006,0024) {FRAME}: ROI 5"
    )
    assert any("mend: list the frame" in line for line in lines)
    assert any("source: PS3.3 C.8.8.5; qurit/rt-utils#29" in line for line in lines)
    assert any("not checked" in line and "give the CT too" in line for line in lines)


def test_warning_when_strict_is_told_counts(tmp_path: Path) -> None:
    """Issue 6, 4: exit 0 for warnings only, unless `--strict`; the profile adds its own rules."""
    world = clean_world()
    put(SET, "ROIName", "GTVn1_CT1MR1_refined", "StructureSetROISequence", 1)(world)
    path = write(world, tmp_path, SET)[SET]
    assert run(path, "--strict").exit_code == 0
    assert run(path, "--tps", "eclipse").exit_code == 0
    strict = run(path, "--tps", "eclipse", "--strict")
    assert strict.exit_code == 1
    assert "eclipse.name-length" in strict.output
    assert "(unconfirmed)" in strict.output


def test_file_when_no_dicom_is_an_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Issue 6, 4: an error line for that file, the rest goes on."""
    world = clean_world()
    put(SET, FRAME, "1.2.3", "StructureSetROISequence", 2)(world)
    paths = write(world, tmp_path, SET, MR)
    text, cut = tmp_path / "note.txt", tmp_path / "cut" / "MR.dcm"
    text.write_text("no object")
    cut.parent.mkdir()
    cut.write_bytes(paths[MR].read_bytes()[:-1000])
    result = run(text, paths[SET], cut.parent)
    assert result.exit_code == 1
    assert f"{text}: error file.unreadable: no DICOM file (PS3.10)" in result.output
    assert f"{cut}: error file.unreadable: " in result.output
    assert "roi.frame-unknown" in result.output


@pytest.mark.parametrize("cut", [0, 10, 131, 132, 140, 200, 400, 1000, 5000])
def test_file_when_cut_anywhere_ends_in_a_clear_line(tmp_path: Path, cut: int) -> None:
    """STYLE 4.4: every bad input ends in a clear error: no traceback, no hang."""
    whole = bytes_of(clean_world()[SET])
    path = tmp_path / "cut.dcm"
    path.write_bytes(whole[:cut])
    result = run(path)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert f"{path}: error " in result.output


def test_command_when_called_wrongly_ends_in_2(tmp_path: Path) -> None:
    """Issue 6, 4: exit code for scripts: 2 is wrong use."""
    assert run().exit_code == 2
    absent = run(tmp_path / "absent.dcm")
    assert absent.exit_code == 2
    assert "no such file" in absent.output
    assert run(tmp_path, "--tps", "xio").exit_code == 2


def test_problems_when_asked_as_json_are_all_there(tmp_path: Path) -> None:
    """Issue 6, 4: a script reads every problem by itself."""
    world = clean_world()
    for name in (MR, MR_2, "MR_1/0003.dcm", "MR_1/0004.dcm", "MR_1/0005.dcm"):
        del world[name].MRAcquisitionType
    write(world, tmp_path)
    document = json.loads(run(tmp_path, "--json").output)
    assert document["objects"] == len(world)
    assert {p["rule"] for p in document["problems"]} == {"type2.missing"}
    assert [p["place"] for p in document["problems"]] == ["(0018,0023) MRAcquisitionType"] * 5
    assert document["problems"][0]["confirmed"] is True
    told = run(tmp_path).output
    assert told.count("type2.missing") == 3
    assert "and 2 more like this" in told
    assert run(tmp_path, "--all").output.count("type2.missing") == 5


def test_rules_when_listed_come_with_sources() -> None:
    """Issue 6, 4: the rules as data with sources."""
    told = run("--rules")
    assert told.exit_code == 0
    for rule in RULES:
        assert f"{rule.id}" in told.output
        assert rule.source in told.output
    document = json.loads(run("--rules", "--json").output)
    assert {rule["rule"] for rule in document} >= {rule.id for rule in RULES}


def test_file_header_when_it_names_another_object_is_found(tmp_path: Path) -> None:
    """PS3.10 7.1: header and object are one."""
    path = write(clean_world(), tmp_path, REG)[REG]
    ds = dcmread(path)
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dcmwrite(path, ds)
    assert "error file.other-instance (0008,0018) SOPInstanceUID" in run(path).output


def test_value_when_its_length_is_odd_is_found(tmp_path: Path) -> None:
    """PS3.5 7.1.1: values have an even length."""
    label = str(through_a_file(clean_world()[PLAN]).RTPlanLabel)
    padded = label + " " * (len(label) % 2)
    head = bytes.fromhex("0a300200") + b"SH"
    whole = bytes_of(clean_world()[PLAN])
    before = head + len(padded).to_bytes(2, "little") + padded.encode()
    assert whole.count(before) == 1
    path = tmp_path / "odd.dcm"
    path.write_bytes(whole.replace(before, head + b"\x03\x00odd"))
    assert "error value.odd-length (300a,0002) RTPlanLabel: 3 bytes" in run(path).output


def test_patient_when_values_are_broken_is_told_nowhere(tmp_path: Path) -> None:
    """Invariant 6: not on the screen either, and not by a library's warning."""
    world = clean_world()
    with unchecked():
        ds = world[SET]
        ds.PatientBirthDate, ds.PatientSex = "19GEHEIM", "GEHEIM"
        ds.PatientID = "GEHEIM" * 20
        ds.StudyInstanceUID = "1.2.0GEHEIM"
        ds.StructureSetROISequence[0].ROINumber = 3
    write(world, tmp_path, SET, CT)
    done = hilum_here("lint", str(tmp_path), "--tps", "eclipse")
    assert done.returncode == 1
    assert "value.malformed" in done.stdout
    assert "GEHEIM" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
