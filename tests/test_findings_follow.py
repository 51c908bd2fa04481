"""What was noticed of an object on its way in stands in the results of every case it touches."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, uid

from node.assembly import Patience, StoredInstance, assemble
from node.case_job import case_job
from node.compute import compute
from node.compute_job import METRICS_FILE, Job
from node.config import Config, Protocol
from node.header import header_from_file
from node.phantom import PhantomOptions, make_study
from tests.encode_cases import MR_SERIES, MR_SERIES_B, SHAPE, build_case, written
from tests.nodes import write_datasets

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIVER = Protocol(name="liver", targets=("GTVn*", "GTV*"))


def held(path: Path, root: Path, *, is_replaced: bool) -> StoredInstance:
    """Return a file as the index would hold it."""
    return StoredInstance(
        header=header_from_file(path),
        sha256=path.name,
        path=str(path.relative_to(root)),
        received_at=NOW,
        association_is_open=False,
        quiet_s=1.0,
        replaces_other_content=is_replaced,
    )


def job_of(root: Path, replaced: str) -> Job:
    """Return the job of the only case that the files in `root` make."""
    instances = [
        held(path, root, is_replaced=path.parent.name == replaced)
        for path in sorted(root.rglob("*.dcm"))
    ]
    (case,) = assemble(instances, [LIVER], Patience(60.0, 1.0), NOW + timedelta(seconds=30))
    assert not case.waiting_for
    assert not case.rejection
    return case_job(case, LIVER, Config(), root=str(root), created=NOW)


def report_texts(ds: Dataset) -> list[str]:
    """Return every text of a structured report."""
    found = [str(ds.TextValue)] if "TextValue" in ds else []
    return found + [text for item in ds.get("ContentSequence", ()) for text in report_texts(item)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """Compute a case whose structure set was replaced and whose MR was compressed with loss."""
    root = tmp_path_factory.mktemp("objects")
    options = PhantomOptions(seed=5, size="tiny", contrasts=("T1", "ADC"), with_dose=False)
    study = make_study(options)
    write_datasets(study.ct, root / "ct")
    write_datasets([study.structure_set], root / "structures")
    for contrast, series in study.mr.items():
        for ds in series:
            ds.LossyImageCompression = "01"
        write_datasets(series, root / contrast)
    out = tmp_path_factory.mktemp("out")
    outcome = compute(job_of(root, replaced="structures"), out)
    assert outcome.kind == "done"
    metrics = json.loads((out / METRICS_FILE).read_text(encoding="utf-8"))
    (report,) = (ds for ds in map(pydicom.dcmread, out.rglob("*.dcm")) if ds.Modality == "SR")
    return metrics, report_texts(report)


@pytest.mark.parametrize(
    ("code", "fragment"),
    [
        ("replaced_content", "received twice with different content"),
        ("mr.lossy", "were compressed with loss"),
    ],
)
def test_finding_of_an_object_stands_in_metrics_and_report(
    results: tuple[dict[str, Any], list[str]], code: str, fragment: str
) -> None:
    """Issue 4, 5 and 14: the finding follows the case to those who must weigh it."""
    metrics, texts = results
    told = [f for f in metrics["findings"] if f["code"] == code]
    assert told
    assert {f["severity"] for f in told} == {"warning"}
    assert all(fragment in f["text"] for f in told)
    # as many as there: their texts differ where the report's character set lacks a sign
    assert sum(f"warning [{code}]" in text and fragment in text for text in texts) == len(told)


@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        (uid.JPEGLSNearLossless, {"01", None}),
        (uid.JPEGLSLossless, {None}),
    ],
)
def test_resampled_mr_says_that_its_source_was_compressed_with_loss(
    syntax: uid.UID, expected: set[str | None]
) -> None:
    """C.7.6.1.1.5: lossy once stays lossy, also where only the transfer syntax told it."""
    case = build_case()
    mr = dict(case.sources.mr)
    for ds in mr[MR_SERIES]:
        del ds.LossyImageCompression
        ds.file_meta.TransferSyntaxUID = syntax
    case = replace(case, sources=replace(case.sources, mr=mr))
    objects = written(case, until=f"MR_2/{SHAPE[0]:04d}.dcm")
    made = [ds for ds in objects.values() if ds.Modality == "MR"]
    assert {ds.get("LossyImageCompression") for ds in made} == expected
    assert len({ds.SeriesInstanceUID for ds in made}) == len((MR_SERIES, MR_SERIES_B))
