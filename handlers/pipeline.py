"""The order of the steps: the only module that knows it.

Reads no clock: the caller passes one in, as it passes the function that is told which step begins.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from handlers.contour_metrics import compare, smallest_distance_mm
from handlers.daily_position import daily_position, organs_of_the_day
from handlers.errors import InputRejectedError
from handlers.refinement import RefinementSettings, refine
from handlers.registration import RegistrationSettings, register_frame
from handlers.sampling import mask_from_roi, resample
from handlers.values import (
    Case,
    CaseResult,
    DailyPosition,
    Finding,
    Image,
    Mask,
    Refinement,
    Registration,
    RegistrationStatus,
    ResampledMr,
    Roi,
    Severity,
    TargetResult,
    TargetStatus,
)

ROI_NAME_LENGTH = 16
"""Longest ROI name that every TPS keeps (AAPM TG-263)."""

REFINED_SUFFIX = "_CT1MR1"
"""TG-263: the imaging that a target was drawn on, planning CT and MR together."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a case is computed; saved with every result.

    Attributes:
        target_patterns: ROI name patterns, ignoring case; the first that matches any ROI decides.
        registration: Settings of the registration.
        refinement: Settings of the refinement.
    """

    target_patterns: tuple[str, ...]
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    refinement: RefinementSettings = field(default_factory=RefinementSettings)


def run(
    case: Case,
    settings: Settings,
    *,
    seconds: Callable[[], float],
    on_step: Callable[[str], None],
) -> CaseResult:
    """Register, refine and measure one case.

    Args:
        case: Its images and structures.
        settings: How to compute it.
        seconds: A clock that only runs forward.
        on_step: Is told the name of each step as it begins.

    Raises:
        InputRejectedError: No ROI is a target, or no target has a usable contour.
    """
    watch = _Watch(seconds, on_step)
    watch.begin("structures")
    drawn, findings = find_targets(case, settings.target_patterns)
    organs: dict[str, Mask] = {}
    for roi in case.structure_set.rois:
        if roi.contours and roi not in drawn:
            # two ROIs may bear one name; each is an organ all the same
            name = roi.name if roi.name not in organs else f"{roi.name} (ROI {roi.number})"
            organs[name] = mask_from_roi(roi, case.ct.geometry)
    watch.begin("registration")
    # "as sent" speaks of the MR: of a CBCT, the daily position is what is asked for
    freely = replace(settings.registration, use_as_sent=False)
    registrations = tuple(
        register_frame(case.ct, series, tuple(drawn.values()), chosen, sent=case.registrations)
        for series, chosen in (
            *((series, settings.registration) for series in series_by_frame(case.mr)),
            *(((other,), freely) for other in case.other_ct),
        )
    )
    watch.begin("resampling")
    resampled = tuple(
        _resampled(image, case.ct, registration)
        for registration in registrations
        for image in case.mr
        if image.series_instance_uid in registration.series_uids
    )
    watch.begin("refinement")
    refinements = {
        roi: refine(mask, case.ct, resampled, organs, settings.refinement)
        for roi, mask in drawn.items()
    }
    watch.begin("metrics")
    targets = _measured(case, drawn, refinements, organs)
    positions, position_findings = _daily_positions(case, registrations, targets)
    watch.end()
    return CaseResult(
        case=case,
        registrations=registrations,
        resampled=tuple(
            item
            for item in resampled
            if item.registration.status is not RegistrationStatus.FAIL and item.valid.inside.any()
        ),
        targets=targets,
        findings=(
            *case.findings,
            *findings,
            *_verdicts(case, registrations, targets),
            *position_findings,
        ),
        timing_s=watch.spent_s,
        daily_positions=positions,
    )


def find_targets(
    case: Case, patterns: Sequence[str]
) -> tuple[dict[Roi, Mask], tuple[Finding, ...]]:
    """Return the target ROIs with their voxels, and what is wrong with those that were left out.

    Raises:
        InputRejectedError: No ROI name matches, or no matching ROI can be used.
    """
    rois = case.structure_set.rois
    matching = next(
        (found for pattern in patterns if (found := [r for r in rois if _matches(r, pattern)])), []
    )
    if not matching:
        names = ", ".join(repr(roi.name) for roi in rois)
        raise InputRejectedError(
            [f"no ROI is named like a target ({', '.join(patterns)}); the ROIs are {names}"],
            hint="rename the target in the TPS, or add its name to the protocol's targets",
        )
    drawn: dict[Roi, Mask] = {}
    problems: list[str] = []
    for roi in matching:
        problem, mask = _drawn_mask(case, roi)
        if problem or mask is None:
            problems.append(problem)
        else:
            drawn[roi] = mask
    if not drawn:
        raise InputRejectedError(
            problems, hint="mend the structure set in the TPS and send it again"
        )
    return drawn, tuple(Finding("target.unusable", Severity.WARNING, text) for text in problems)


def _matches(roi: Roi, pattern: str) -> bool:
    return fnmatchcase(roi.name.casefold(), pattern.casefold())


def _drawn_mask(case: Case, roi: Roi) -> tuple[str, Mask | None]:
    if not roi.contours:
        return f"target ROI '{roi.name}' holds no closed contour", None
    if roi.lost_contours:
        return (
            f"target ROI '{roi.name}': {roi.lost_contours} of its contours lie on no CT slice that "
            "was received, or are malformed",
            None,
        )
    mask = mask_from_roi(roi, case.ct.geometry)
    if not mask.inside.any():
        return f"target ROI '{roi.name}' encloses no voxel of the CT", None
    return "", mask


def series_by_frame(series: Sequence[Image]) -> list[tuple[Image, ...]]:
    """Return the MR series grouped by frame of reference, in the order of their first series."""
    groups: dict[str, list[Image]] = {}
    for image in series:
        groups.setdefault(image.geometry.frame_of_reference_uid, []).append(image)
    return [tuple(group) for group in groups.values()]


def _resampled(image: Image, ct: Image, registration: Registration) -> ResampledMr:
    moved, valid = resample(
        image,
        ct.geometry,
        registration.ct_from_series(image.series_instance_uid),
        registration.deformation,
    )
    return ResampledMr(moved, valid, registration)


def _daily_positions(
    case: Case, registrations: Sequence[Registration], targets: Sequence[TargetResult]
) -> tuple[dict[str, DailyPosition], tuple[Finding, ...]]:
    """Return how the patient lay for each CBCT, and why that cannot be said of some."""
    positions: dict[str, DailyPosition] = {}
    findings = []
    images = {image.series_instance_uid: image for image in case.other_ct}
    for registration in registrations:
        uid = registration.leading_series_uid
        if case.kind_of(registration) != "cbct" or registration.status is RegistrationStatus.FAIL:
            continue
        drawn = case.other_structure_sets.get(uid)
        organs = (
            organs_of_the_day(drawn, images[uid], case.ct, registration)
            if drawn is not None
            else {}
        )
        distances = {
            target.source_roi.name: {
                organ: smallest_distance_mm(target.drawn, mask) for organ, mask in organs.items()
            }
            for target in targets
            if organs
        }
        position = daily_position(registration, case.ct, images[uid], distances)
        if isinstance(position, str):
            findings.append(Finding("cbct.no_position", Severity.WARNING, f"CBCT: {position}"))
            continue
        positions[uid] = position
        if not position.is_frame_shared:
            text = (
                "CBCT: it lies in a frame of reference of its own, so its shift compares "
                "coordinates and says nothing of the room"
            )
            findings.append(Finding("cbct.frame", Severity.WARNING, text))
    return positions, tuple(findings)


def _measured(
    case: Case,
    drawn: Mapping[Roi, Mask],
    refinements: Mapping[Roi, Refinement],
    organs: Mapping[str, Mask],
) -> tuple[TargetResult, ...]:
    taken = {roi.name.casefold() for roi in case.structure_set.rois}
    results = []
    for roi, mask in drawn.items():
        refinement = refinements[roi]
        name = None
        metrics: dict[str, float] = {}
        final = mask
        if refinement.refined is not None:
            name = refined_name(roi.name, taken)
            taken.add(name.casefold())
            metrics = compare(mask, refinement.refined)
            final = refinement.refined
        distances = {
            organ: smallest_distance_mm(final, other)
            for organ, other in organs.items()
            if other.inside.any()
        }
        results.append(TargetResult(roi, mask, refinement, name, metrics, distances))
    return tuple(results)


def refined_name(source: str, taken: set[str]) -> str:
    """Return the TG-263 name of a refined target: at most 16 characters, unique ignoring case.

    Args:
        source: Name of the drawn ROI.
        taken: Case-folded names that are in use.

    Example:
        >>> refined_name("GTVn", {"gtvn"})
        'GTVn_CT1MR1'
        >>> refined_name("GTV Mass (primary)", {"gtvmasspr_ct1mr1"})
        'GTVMassp1_CT1MR1'
    """
    stem = re.sub(r"[^A-Za-z0-9^+-]", "", source) or "Target"
    number = ""
    while True:
        room = ROI_NAME_LENGTH - len(REFINED_SUFFIX) - len(number)
        name = f"{stem[:room]}{number}{REFINED_SUFFIX}"
        if name.casefold() not in taken:
            return name
        number = str(int(number or "0") + 1)


def _verdicts(
    case: Case, registrations: Sequence[Registration], targets: Sequence[TargetResult]
) -> tuple[Finding, ...]:
    found = [
        Finding(
            f"registration.{registration.status}",
            Severity.WARNING,
            f"registration {number} ({case.kind_of(registration).upper()} to planning CT): "
            f"{' '.join(registration.reasons)}",
            {"uncertainty_mm": registration.uncertainty_mm},
        )
        for number, registration in enumerate(registrations, start=1)
        if registration.status is not RegistrationStatus.PASS
    ]
    found += [
        Finding(
            "target.abstained",
            Severity.INFO,
            f"target '{target.source_roi.name}' stays as drawn: "
            f"{'; '.join(target.refinement.reasons)}",
        )
        for target in targets
        if target.refinement.status is TargetStatus.ABSTAINED
    ]
    return tuple(found)


class _Watch:
    """Tells which step begins and how long each took."""

    def __init__(self, seconds: Callable[[], float], on_step: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._on_step = on_step
        self._step = ""
        self._since = 0.0
        self.spent_s: dict[str, float] = {}

    def begin(self, step: str) -> None:
        self.end()
        self._step = step
        self._since = self._seconds()
        self._on_step(step)

    def end(self) -> None:
        if self._step:
            self.spent_s[self._step] = self._seconds() - self._since
            self._step = ""


__all__ = ["Settings", "find_targets", "refined_name", "run", "series_by_frame"]
