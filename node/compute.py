"""What runs in the child process: read the files, decode, compute, encode, write, say how it ended.

Where a second opinion is configured, it is asked for first: the core is handed its outlines. The
child has paths and settings; it has neither database nor network. It leaves result files in
`out/` and, last of all, one outcome record, so that a record on disk means that all files are.
Started as `python -m node.compute JOB PARENT`.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom

from handlers.decode import CaseDatasets, DecodedCase, decode_case
from handlers.derived import ClipRule, DerivedRule
from handlers.dose_results import EndCap, Prescribed
from handlers.dosimetry import DoseSettings, GeudRule
from handlers.dosimetry.reirradiation import OrganRule, ReirradiationSettings
from handlers.encode import Authorship, Sources, about_result, encode_result_set
from handlers.errors import HandlerError, InputRejectedError
from handlers.margins import Margins
from handlers.pages.document import document_of
from handlers.pages.html import html_of
from handlers.pages.pdf import pdf_of
from handlers.pipeline import Settings, TargetSwitch, find_targets, run
from handlers.refinement import RefinementSettings
from handlers.registration import RegistrationSettings
from handlers.report import metrics_document
from handlers.results import CaseResult
from handlers.surface_file import surface_file_name, surface_text
from handlers.values import Case, Finding, Severity
from node import protocol
from node.compute_job import (
    METRICS_FILE,
    OUTCOME_FILE,
    OUTPUT_FOLDER,
    REPORT_FILES,
    ComputeSettings,
    Job,
    Outcome,
)
from node.disk import sync_folder
from node.gate import GateError, findings_of_sources, judge
from node.limit_tables import limits_of, names_of
from node.outline_program import PROGRAM
from node.second_opinion import consult
from node.view_files import VIEW_FOLDER, write_view
from node.viewing import moved_ct_of_result, on_ct_of_result, view_of_result_set

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent dies."""


def compute(job: Job, out: Path) -> Outcome:
    """Compute one case and write its result set below `out`.

    Raises:
        HandlerError: The input is unfit, or the core could not do its work.
        GateError: What was made would be refused.
    """
    _tell("decode")
    datasets = datasets_of(job)
    decoded = decode_case(datasets)
    planned = _planned(datasets)
    moved = (*decoded.mr.values(), *decoded.other_ct.values())
    for dataset in (*decoded.ct, *(d for series in moved for d in series), *planned):
        dataset.pop("PixelData", None)
    noticed = tuple(Finding(f.code, Severity(f.severity), f.text) for f in job.findings)
    case = replace(decoded.case, findings=(*noticed, *decoded.case.findings))
    result = _result(case, job)
    _tell("encode")
    sources = _sources(decoded, planned)
    noticed, inherited = findings_of_sources(sources, job.settings.tps)
    result = replace(result, findings=(*result.findings, *noticed))
    authorship = Authorship(
        created=job.created,
        software_version=job.software_version,
        uid_seed=_uid_seed(job, result),
        parameters=json.dumps(job.settings.model_dump(), sort_keys=True),
    )
    report = _report(result, sources, authorship, job, out)
    surfaces = _surfaces(result, out)
    results: dict[str, str] = {}
    for name, dataset in encode_result_set(result, sources, authorship, report):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            pydicom.dcmwrite(file, dataset, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
        results[str(dataset.SOPInstanceUID)] = name
    judged = judge(
        {name: out / name for name in results.values()}, sources, job.settings.tps, inherited
    )
    # the report is among what was judged: what comes of that stands in the metrics alone
    result = replace(result, findings=(*result.findings, *judged))
    files = sorted([*results.values(), *REPORT_FILES, *surfaces])
    document = metrics_document(result, job.case) | {"files": files}
    _write(out / METRICS_FILE, json.dumps(document, indent=1))
    if job.with_view:
        _leave_view(decoded, result, out)
    summary = {
        "registrations": [
            {key: r[key] for key in ("kind", "status", "uncertainty_mm", "reasons")}
            for r in document["registrations"]
        ],
        "targets": [
            {key: t[key] for key in ("source_roi", "refined_roi", "status", "reasons")}
            for t in document["targets"]
        ],
        "findings": document["findings"],
    }
    return Outcome(kind="done", results=results, summary=summary)


def _leave_view(decoded: DecodedCase, result: CaseResult, out: Path) -> None:
    """Write what the page shows; a case does not fail because it cannot be looked at."""
    try:
        shown = on_ct_of_result(result), moved_ct_of_result(result)
        view = view_of_result_set(replace(decoded, case=result.case), *shown, out)
        write_view(view, out.parent / VIEW_FOLDER)
    except Exception as error:  # noqa: BLE001 - the result set is whole, and that is what counts
        _write_trace(error)


def _report(
    result: CaseResult, sources: Sources, authorship: Authorship, job: Job, out: Path
) -> bytes:
    """Write the report for people in both of its forms; return the PDF."""
    about = about_result(result, sources, authorship, str(job.case.get("protocol", "")))
    report = document_of(result, about)
    forms = (pdf_of(report), html_of(report).encode())
    for name, form in zip(REPORT_FILES, forms, strict=True):
        _write_bytes(out / name, form)
    return forms[0]


def _surfaces(result: CaseResult, out: Path) -> list[str]:
    """Write the surface of each target that was refined; return the names of the files."""
    names = []
    for number, target in enumerate(result.targets, start=1):
        if target.surface_map is not None:
            names.append(surface_file_name(number))
            _write(out / names[-1], surface_text(target.surface_map))
    return names


def _result(case: Case, job: Job) -> CaseResult:
    settings = pipeline_settings(job.settings)
    if job.second_opinion is None:
        return run(case, settings, seconds=time.monotonic, on_step=_tell)
    # an unfit case is refused before minutes are spent on it
    targets, _ = find_targets(case, settings.target_patterns)
    _tell("second opinion")
    began_s = time.monotonic()
    outlined, findings = consult(
        case,
        targets.values(),
        job.second_opinion,
        ignore_patterns=settings.refinement.ignore_patterns,
        context_fraction=settings.refinement.context_fraction,
    )
    spent_s = time.monotonic() - began_s
    result = run(
        replace(case, findings=(*case.findings, *findings)),
        settings,
        seconds=time.monotonic,
        on_step=_tell,
        further_organs=outlined,
    )
    return replace(
        result,
        outlined=outlined,
        outlined_by=PROGRAM,
        timing_s={"second opinion": spent_s, **result.timing_s},
    )


def _uid_seed(job: Job, result: CaseResult) -> str:
    """Return what all UIDs follow from: also what was outlined, which depends on the machine.

    Weights that come later, or a program that once took too long, make other results of the same
    job: those must not bear the UIDs of the first.
    """
    if job.second_opinion is None:
        return job.uid_seed
    digest = hashlib.sha256(job.uid_seed.encode())
    for name, mask in sorted(result.outlined.items()):
        digest.update(name.encode() + np.packbits(mask.inside).tobytes())
    for finding in result.case.findings:
        digest.update(finding.text.encode())
    return digest.hexdigest()


def datasets_of(job: Job) -> CaseDatasets:
    """Return the objects of a job, read from their files.

    Raises:
        HandlerError: One is not there any more, or cannot be read.
    """
    root = Path(job.root)
    others = job.other_ct
    return CaseDatasets(
        ct=_read(root, job.ct),
        structure_set=_read(root, [job.structure_set])[0],
        mr={uid: _read(root, paths) for uid, paths in job.mr.items()},
        doses=_read(root, job.doses),
        plans=_read(root, job.plans),
        registrations=_read(root, job.registrations),
        other_ct={uid: _read(root, other.images) for uid, other in others.items()},
        other_structure_sets={
            uid: _read(root, [other.structure_set])[0]
            for uid, other in others.items()
            if other.structure_set
        },
        other_doses={uid: _read(root, other.doses) for uid, other in others.items()},
        other_plans={uid: _read(root, other.plans) for uid, other in others.items()},
    )


def pipeline_settings(told: ComputeSettings) -> Settings:
    """Return what the protocol says about computing as settings of the core."""
    return Settings(
        target_patterns=told.target_patterns,
        registration=RegistrationSettings(use_as_sent=told.registration == "as-sent"),
        refinement=RefinementSettings(
            max_outward_mm=told.max_outward_mm,
            max_inward_mm=told.max_inward_mm,
            max_uncertainty_mm=told.max_uncertainty_mm,
            may_enter_patterns=told.may_enter,
        ),
        targets=tuple(
            TargetSwitch(each.name, each.refine, each.max_outward_mm, each.max_inward_mm)
            for each in told.target
        ),
        derived=tuple(_derived(each) for each in told.derived),
        dose=_dose(told),
        review=frozenset(told.review),
        holes_as_xor=told.holes == "xor",
    )


def _dose(told: ComputeSettings) -> DoseSettings:
    prescription, rules = told.prescription, told.dose
    limits = limits_of(rules.limits, told.own_limits, unchecked=rules.unchecked_limits)
    return DoseSettings(
        end_cap=EndCap(rules.end_cap),
        prescribed=None
        if prescription is None
        else Prescribed(prescription.dose_gy, prescription.fractions, "protocol"),
        limits=limits,
        names=names_of(told.organ, limits),
        reirradiation=_reirradiation(told),
        volumes_at_gy=rules.volumes_at_gy,
        geud=tuple(GeudRule(each.name, each.a) for each in rules.geud),
    )


def _reirradiation(told: ComputeSettings) -> ReirradiationSettings:
    rules = told.reirradiation
    return ReirradiationSettings(
        prior_fractions=rules.prior_fractions,
        current_fractions=None if told.prescription is None else told.prescription.fractions,
        organs=tuple(
            OrganRule(
                pattern=each.name,
                alpha_beta_gy=each.alpha_beta_gy,
                recovery=each.recovery,
                recovery_because=each.recovery_because,
                limit_gy=each.limit_eqd2_gy,
                limit_source=each.limit_source,
            )
            for each in rules.organ
        ),
        shift_mm=rules.shift_mm,
        is_sum_wanted=rules.eqd2_dose,
    )


def _derived(told: protocol.DerivedRule) -> DerivedRule:
    return DerivedRule(
        name=told.name,
        interpreted_type=told.type,
        source=told.source,
        target_patterns=told.targets,
        when_abstained=told.when_abstained,
        margins=Margins(**told.margin_mm.model_dump()),
        clips=tuple(ClipRule(clip.organs, clip.margin_mm) for clip in told.clip),
    )


def _planned(datasets: CaseDatasets) -> tuple[pydicom.Dataset, ...]:
    """Return the RT Doses and RT Plans of all CT."""
    others = (*datasets.other_doses.values(), *datasets.other_plans.values())
    return (*datasets.doses, *datasets.plans, *(ds for each in others for ds in each))


def _sources(decoded: DecodedCase, planned: tuple[pydicom.Dataset, ...]) -> Sources:
    # a multi-frame object stands there once for each of its frames; it is one source
    mr = {uid: tuple({id(ds): ds for ds in series}.values()) for uid, series in decoded.mr.items()}
    return Sources(
        ct=decoded.ct,
        structure_set=decoded.structure_set,
        mr=mr,
        other_ct=decoded.other_ct,
        radiotherapy=planned,
    )


def main(arguments: Sequence[str]) -> int:
    """Run the job that the first argument names, for the parent of the second argument's number."""
    job_file = Path(arguments[0])
    die_with_parent(int(arguments[1]))
    job = Job.model_validate_json(job_file.read_text(encoding="utf-8"))
    _limit_memory(job)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = job_file.parent / OUTPUT_FOLDER
    out.mkdir()
    # a warning of a library may quote the value it dislikes, and that value may be a name
    warnings.simplefilter("ignore")
    outcome = _outcome(job, out)
    for folder in (*(p for p in out.rglob("*") if p.is_dir()), out):
        sync_folder(folder)
    _write(job_file.parent / OUTCOME_FILE, outcome.model_dump_json())
    return 0


def _limit_memory(job: Job) -> None:
    """Bound this process; leave room above for the outside program, which gets its own bound."""
    own = hard = int(job.memory_mib * 1024 * 1024)
    if job.second_opinion is not None:
        wanted = int(job.second_opinion.memory_mib * 1024 * 1024)
        _, allowed = resource.getrlimit(resource.RLIMIT_AS)
        is_free = allowed == resource.RLIM_INFINITY
        hard = max(own, wanted if is_free else min(wanted, allowed))
    resource.setrlimit(resource.RLIMIT_AS, (own, hard))


def _outcome(job: Job, out: Path) -> Outcome:
    try:
        return compute(job, out)
    except InputRejectedError as error:
        return Outcome(kind="rejected", reasons=error.reasons)
    except GateError as error:
        return Outcome(kind="failed", reasons=error.reasons)
    except HandlerError as error:
        return Outcome(kind="failed", reasons=(str(error),))
    except MemoryError:
        return Outcome(
            kind="failed",
            reasons=(f"computing needs more than {job.memory_mib:.0f} MiB of memory",),
        )
    except Exception as error:  # noqa: BLE001 - the boundary of the process: every end is recorded
        # the text of a foreign error may quote a value, and that value may be a name: not kept
        _write_trace(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return Outcome(
            kind="failed", reasons=(f"internal error {type(error).__name__} at {place}",)
        )


def _write_trace(error: Exception) -> None:
    frames = "".join(traceback.format_tb(error.__traceback__))
    sys.stderr.write(f"{frames}{type(error).__name__}\n")


def _read(root: Path, paths: Sequence[str]) -> list[pydicom.Dataset]:
    datasets: list[pydicom.Dataset] = []
    for path in paths:
        try:
            datasets.append(pydicom.dcmread(root / path))
        except FileNotFoundError as error:
            raise HandlerError(
                "a stored object is missing from the data folder: send all again, then retry"
            ) from error
        except (MemoryError, OSError):
            raise  # the machine's fault, not the object's
        except Exception as error:  # pydicom raises many kinds for a broken file
            raise InputRejectedError(
                [f"object {Path(path).stem[:12]} cannot be read ({type(error).__name__})"],
                hint="send the object again",
            ) from error
    return datasets


def _tell(step: str) -> None:
    sys.stdout.write(json.dumps({"step": step}) + "\n")
    sys.stdout.flush()


def _write(path: Path, text: str) -> None:
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however that happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
