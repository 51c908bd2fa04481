"""Own pairs through `hilum commission`: landmarks, a given REG, a known motion, and no names."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from node.commission import altered
from node.commission.landmarks import COLUMNS, read_landmarks
from node.commission.own import OwnPair, read_own_pair
from node.errors import NodeError
from node.phantom import PhantomOptions, PhantomStudy, make_study
from tests.nodes import hilum_here, run_hilum, write_datasets
from tests.test_commission import pdf_text

MARKED = {
    "PatientName": "Zzyzxmann^Quirin",
    "PatientID": "QX-4711-ZZ",
    "PatientBirthDate": "19310217",
    "AccessionNumber": "ACC-990817",
}
"""Identifiers that must not be found again anywhere."""

HEADER = ",".join(COLUMNS)


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=6, size="tiny", contrasts=("T1",), with_dose=False))


@pytest.fixture(scope="module")
def pair(study: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose very name is a patient's, with a REG 0 mm and landmarks 1 mm off."""
    folder = tmp_path_factory.mktemp("own") / MARKED["PatientName"]
    objects = [pydicom.Dataset(ds) for ds in study.instances()]
    for ds, source in zip(objects, study.instances(), strict=True):
        ds.file_meta = source.file_meta
        for keyword, value in MARKED.items():
            setattr(ds, keyword, value)
    write_datasets(objects, folder)
    write_datasets([altered.spatial_registration(objects[0], study.ct_from_mr)], folder / "REG")
    points = np.random.default_rng(5).uniform(-30, 30, (12, 3)) + study.target_centre_mm
    lines = [HEADER]
    for ct, mr in zip(points, study.mr_points(points), strict=True):
        lines.append(",".join(f"{v:.4f}" for v in (*ct, *mr)))
    (folder / "landmarks.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_own_pair_when_commissioned_is_measured_and_never_named(pair: Path, tmp_path: Path) -> None:
    """Issue 3: a department's pair with REG and landmarks; only its number is told."""
    out = tmp_path / "report"
    answer = run_hilum(
        "commission", "--out", str(out), "--cases", "0", "--own", str(pair), "--json"
    )
    assert answer.returncode in (0, 1), answer.stderr
    text = (out / "report.csv").read_text(encoding="utf-8")
    lines = [r for r in csv.DictReader(io.StringIO(text)) if r["case"] == "own 1"]
    told = {line["what"]: line for line in lines}
    assert told["verdict"]["value"] in ("pass", "warn", "fail"), lines
    assert float(told["TRE of 12 own landmarks, median"]["value"]) < 4.0, "voxels measure 4 mm"
    assert float(told["distance from the given REG at the +-40 mm box, largest"]["value"]) < 6.0
    assert told["verdict on the given REG"]["value"] in ("pass", "warn", "fail")
    assert "repeatability, same MR moved by a known motion" in told
    document = json.loads(answer.stdout)
    assert answer.returncode == (0 if document["outcome"] == "met" else 1)
    assert bool(document["not_met"]) == (document["outcome"] == "failed")
    words = pdf_text((out / "commissioning.pdf").read_bytes())
    assert "own 1" in words
    everything = (words + text + answer.stdout + answer.stderr).casefold()
    for part in ("zzyzxmann", "quirin", "qx-4711-zz", "19310217", "acc-990817", "20250311"):
        assert part not in everything


def test_own_pair_when_it_has_no_mr_is_listed_as_failed(pair: Path, tmp_path: Path) -> None:
    """A failing case is listed with its reason, and the report is written nevertheless."""
    folder = tmp_path / MARKED["PatientName"]
    folder.mkdir()
    for path in pair.glob("*.dcm"):
        if pydicom.dcmread(path, specific_tags=["Modality"]).Modality != "MR":
            shutil.copy(path, folder)
    out = tmp_path / "report"
    answer = hilum_here("commission", "--out", str(out), "--cases", "0", "--own", str(folder))
    assert answer.returncode == 1, answer.stderr
    lines = list(csv.DictReader(io.StringIO((out / "report.csv").read_text(encoding="utf-8"))))
    told = {line["what"]: line for line in lines if line["case"] == "own 1"}
    assert told["case"]["value"] == "failed"
    assert told["case"]["met"] == "no"
    assert "no MR series" in told["reason"]["value"]
    assert "zzyzxmann" not in (answer.stdout + answer.stderr + str(lines)).casefold()


def check_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    """Assert that a landmark file is refused with these words, which hold no path."""
    path = tmp_path / f"{name}.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(NodeError, match=words) as refused:
        read_landmarks(path, "own 1, landmarks")
    assert str(path) not in str(refused.value)
    assert str(refused.value).startswith("own 1, landmarks: ")
    assert HEADER in refused.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "header"),
        ("1,2,3,4,5,6\n", "header"),
        ("x,y,z,mr_x,mr_y,mr_z\n1,2,3,4,5,6\n", "header"),
        (f"{HEADER}\n", "holds no pair"),
        (f"{HEADER}\n1,2,3,4,5\n", "line 2 does not hold 6 numbers"),
        (f"{HEADER}\n1,2,3,4,5,six\n", "line 2 does not hold 6 numbers"),
        (f"{HEADER}\n1,2,3,4,5,nan\n", "line 2 does not hold 6 numbers"),
        (f"{HEADER}\n1,2,3,4,5,6\n1;2;3;4;5;6\n", "line 3 does not hold 6 numbers"),
        (f"{HEADER}\n1,2,3,4,5,60000\n1,2\n", "line 2 .*; line 3 "),
    ],
)
def test_landmarks_when_malformed_are_refused(text: str, words: str, tmp_path: Path) -> None:
    """Header required; every bad line is told; nothing is repaired."""
    check_refused("bad", text, words, tmp_path)


def test_landmarks_when_sound_are_read_in_order(tmp_path: Path) -> None:
    """Spaces, a byte order mark and empty lines at the end do no harm."""
    path = tmp_path / "good.csv"
    path.write_text(f"\ufeff{HEADER}\n1, 2,3,4,5,-6.5\n7,8,9,10,11,12\n\n", encoding="utf-8")
    pairs = read_landmarks(path, "own 1, landmarks")
    np.testing.assert_array_equal(pairs.ct, [[1, 2, 3], [7, 8, 9]])
    np.testing.assert_array_equal(pairs.mr, [[4, 5, -6.5], [10, 11, 12]])


def test_sentences_when_told_of_own_pairs_hold_no_identifier(pair: Path) -> None:
    """Names, paths and quotations (ROI names are free text) are taken out."""
    found: OwnPair = read_own_pair(pair, 1)
    told = found.anonymous(f"ROI 'Meier' of QUIRIN in {pair}/x.dcm, born 19310217: no contour")
    assert told == "ROI … of … in …, born …: no contour" or told == (
        "ROI … of … in … born …: no contour"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cases", "0"], "--own"),
        (["--cases", "0", "--own", "{absent}"], "own 1 is no folder"),
        (["--cases", "0", "--own", "{table}"], "the header is not"),
        (["--cases", "-1"], "--cases"),
    ],
)
def test_command_when_called_wrongly_ends_with_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    """Wrong use is told apart from a limit that is not met, and nothing is written."""
    table = tmp_path / "table"
    table.mkdir()
    (table / "points.csv").write_text("a,b\n", encoding="utf-8")
    given = [a.format(absent=tmp_path / "absent", table=table) for a in arguments]
    answer = hilum_here("commission", "--out", str(tmp_path / "out"), *given)
    assert answer.returncode == 2, answer.stderr
    assert words in answer.stderr
    assert not (tmp_path / "out").exists()


def test_command_when_the_folder_holds_something_refuses_it(tmp_path: Path) -> None:
    """A report is never mixed with what lies there already."""
    (tmp_path / "kept.txt").write_text("mine")
    answer = hilum_here("commission", "--out", str(tmp_path), "--cases", "1", "--small")
    assert answer.returncode == 2
    assert "is not empty" in answer.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
