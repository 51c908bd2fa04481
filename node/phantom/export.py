"""A phantom on disk: the study as a department would send it, and beside it the truth.

    study/   CT/ MR_T1/ MR_T2/ ... RTSTRUCT.dcm RTPLAN.dcm RTDOSE.dcm
             and on request RTDOSE_BEAM_1.dcm ..., RTPLAN_2.dcm RTDOSE_2.dcm, and of an earlier
             course PRIOR_CT/ PRIOR_RTSTRUCT.dcm PRIOR_RTPLAN.dcm PRIOR_RTDOSE.dcm
    truth/   truth.json truth.npz RTSTRUCT_truth.dcm

Bytes follow from the options alone. Writes nothing into a folder that holds something.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from node.errors import NodeError
from node.phantom.study import PhantomStudy
from node.phantom.truth import truth_arrays, truth_document

STUDY_FOLDER, TRUTH_FOLDER = "study", "truth"


def check_folder(out: Path) -> None:
    """Refuse a folder in which anything lies.

    Raises:
        NodeError: `out` is a file or is not empty.
    """
    if out.exists() and not out.is_dir():
        raise NodeError(f"{out} is a file", hint="name a folder")
    if out.exists() and any(out.iterdir()):
        raise NodeError(f"{out} is not empty", hint="name a new or empty folder")


def write_study(study: PhantomStudy, out: Path) -> int:
    """Write the study and its truth below `out`, whole or not at all.

    Args:
        study: From `make_study`.
        out: A folder that does not exist or is empty.

    Returns:
        The number of DICOM objects in the study.

    Raises:
        NodeError: `out` is a file or is not empty.
    """
    out = out.resolve()
    check_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hilum-", dir=out.parent) as temporary:
        whole = Path(temporary) / "whole"
        count = _write_objects(study, whole / STUDY_FOLDER)
        _write_truth(study, whole / TRUTH_FOLDER)
        whole.chmod(0o755)
        # an empty folder is replaced in one step
        whole.replace(out)
    return count


def _write_objects(study: PhantomStudy, folder: Path) -> int:
    series: list[tuple[str, Iterable[Dataset]]] = [("CT", study.ct)]
    series += [(f"MR_{contrast}", found) for contrast, found in study.mr.items()]
    if study.prior is not None:
        series.append(("PRIOR_CT", study.prior.ct))
    count = 0
    for name, instances in series:
        (folder / name).mkdir(parents=True)
        for number, ds in enumerate(instances, start=1):
            _write(ds, folder / name / f"{name}_{number:04d}.dcm")
            count += 1
    for name, single in _single_objects(study):
        if single is not None:
            _write(single, folder / f"{name}.dcm")
            count += 1
    return count


def _single_objects(study: PhantomStudy) -> Iterator[tuple[str, Dataset | None]]:
    yield "RTSTRUCT", study.structure_set
    yield "RTPLAN", study.plan
    yield "RTDOSE", study.dose
    for number, dose in enumerate(study.beam_doses, start=1):
        yield f"RTDOSE_BEAM_{number}", dose
    if study.second is not None:
        yield "RTPLAN_2", study.second[0]
        yield "RTDOSE_2", study.second[1]
    if study.prior is not None:
        yield "PRIOR_RTSTRUCT", study.prior.structure_set
        yield "PRIOR_RTPLAN", study.prior.plan
        yield "PRIOR_RTDOSE", study.prior.dose


def _write_truth(study: PhantomStudy, folder: Path) -> None:
    folder.mkdir(parents=True)
    text = json.dumps(truth_document(study), indent=1, allow_nan=False)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")
    np.savez_compressed(folder / "truth.npz", **truth_arrays(study))  # type: ignore[arg-type]
    _write(study.true_structure_set(), folder / "RTSTRUCT_truth.dcm")


def _write(ds: Dataset, path: Path) -> None:
    ds.save_as(path, enforce_file_format=True)
