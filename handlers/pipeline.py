"""The order of the steps: the only module that knows it.

Reads no clock: the caller passes one in, as it passes the function that is told which step begins.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from handlers.contour_metrics import Structure, measured_target, smallest_distance_mm
from handlers.daily_position import daily_position, organs_of_the_day
from handlers.derived import DerivedRule, TargetVersions, derive
from handlers.dose_results import EndCap
from handlers.dosimetry import DoseSettings, measure_dose
from handlers.errors import InputRejectedError
from handlers.neighbours import settle
from handlers.refinement import RefinementSettings, refine
from handlers.refinement.account import cause_of_structure
from handlers.registration import RegistrationSettings, register_frame
from handlers.results import (
    CaseResult,
    DailyPosition,
    Refinement,
    Registration,
    RegistrationStatus,
    ResampledMr,
    TargetResult,
    TargetStatus,
)
from handlers.roi_names import matches, names_in_use, numbered, refined_name
from handlers.sampling import mask_from_roi, resample
from handlers.values import Case, Finding, Image, Mask, Roi, Severity

SWITCHED_OFF = "switched off by the protocol"
"""Why a target is left alone that the protocol does not want refined."""


@dataclass(frozen=True, slots=True)
class TargetSwitch:
    """What holds for the targets of some names.

    Attributes:
        pattern: ROI name pattern, ignoring case.
        is_refined: False: the target is measured and reported, never changed.
        max_outward_mm: Instead of the refinement's own; None: as it is.
        max_inward_mm: Likewise.
    """

    pattern: str
    is_refined: bool = True
    max_outward_mm: float | None = None
    max_inward_mm: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a case is computed; saved with every result.

    Attributes:
        target_patterns: ROI name patterns, ignoring case; the first that matches any ROI decides.
        registration: Settings of the registration.
        refinement: Settings of the refinement.
        targets: Switches for single targets; the first that fits a target holds.
        derived: Further ROIs to make from each target, in order.
        dose: Settings of what is measured of dose.
        review: As in `CaseResult`.
        holes_as_xor: As in `CaseResult`.
    """

    target_patterns: tuple[str, ...]
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    targets: tuple[TargetSwitch, ...] = ()
    derived: tuple[DerivedRule, ...] = ()
    dose: DoseSettings = field(default_factory=DoseSettings)
    review: frozenset[str] = frozenset()
    holes_as_xor: bool = False

    def of_target(self, name: str) -> RefinementSettings | None:
        """Return how to refine the target of that ROI name; None: not at all."""
        for switch in self.targets:
            if matches(name, [switch.pattern]):
                if not switch.is_refined:
                    return None
                outward, inward = switch.max_outward_mm, switch.max_inward_mm
                usual = self.refinement
                return replace(
                    usual,
                    max_outward_mm=usual.max_outward_mm if outward is None else outward,
                    max_inward_mm=usual.max_inward_mm if inward is None else inward,
                )
        return self.refinement


def run(
    case: Case,
    settings: Settings,
    *,
    seconds: Callable[[], float],
    on_step: Callable[[str], None],
    further_organs: Mapping[str, Mask] | None = None,
) -> CaseResult:
    """Register, refine and measure one case.

    Args:
        case: Its images and structures.
        settings: How to compute it.
        seconds: A clock that only runs forward.
        on_step: Is told the name of each step as it begins.
        further_organs: Organs that nobody drew, on the grid of the CT, by name. They bound targets
            and are measured to; what the protocol cuts at organs is cut at drawn ones only. A drawn
            ROI of the same name takes the place of such an organ.

    Raises:
        InputRejectedError: No ROI is a target, or no target has a usable contour.
    """
    watch = _Watch(seconds, on_step)
    watch.begin("structures")
    drawn, findings = find_targets(case, settings.target_patterns)
    organs = _drawn_organs(case, drawn)
    neighbours = {**(further_organs or {}), **organs}
    watch.begin("registration")
    registrations = _registered(case, tuple(drawn.values()), settings.registration)
    watch.begin("resampling")
    resampled = tuple(
        _resampled(image, case.ct, registration)
        for registration in registrations
        for image in case.mr
        if image.series_instance_uid in registration.series_uids
    )
    watch.begin("refinement")
    refinements, settled_findings = _refined(case, drawn, resampled, neighbours, settings)
    watch.begin("metrics")
    targets, derived_findings = _measured(
        case,
        drawn,
        refinements,
        neighbours,
        settings.derived,
        settings.dose.end_cap,
        drawn_organs=organs,
    )
    positions, position_findings = _daily_positions(case, registrations, targets)
    watch.begin("dose")
    dose, dose_findings = measure_dose(
        case, targets, neighbours, organ_rois(case, drawn), registrations, settings.dose
    )
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
            *settled_findings,
            *derived_findings,
            *position_findings,
            *dose_findings,
        ),
        timing_s=watch.spent_s,
        daily_positions=positions,
        review=settings.review,
        holes_as_xor=settings.holes_as_xor,
        dose=dose,
    )


def _drawn_organs(case: Case, targets: Container[Roi]) -> dict[str, Mask]:
    """Return the voxels of all ROIs that are no targets."""
    return {
        name: mask_from_roi(roi, case.ct.geometry)
        for name, roi in organ_rois(case, targets).items()
    }


def organ_rois(case: Case, targets: Container[Roi]) -> dict[str, Roi]:
    """Return all ROIs that are no targets; two may bear one name, each is an organ all the same."""
    organs: dict[str, Roi] = {}
    for roi in case.structure_set.rois:
        if roi.contours and roi not in targets:
            name = roi.name if roi.name not in organs else numbered(roi.name, roi.number)
            organs[name] = roi
    return organs


def _registered(
    case: Case, targets: Sequence[Mask], settings: RegistrationSettings
) -> tuple[Registration, ...]:
    # "as sent" speaks of the MR: of a CBCT, the daily position is what is asked for
    freely = replace(settings, use_as_sent=False)
    return tuple(
        register_frame(case.ct, series, targets, chosen, sent=case.registrations)
        for series, chosen in (
            *((series, settings) for series in series_by_frame(case.mr)),
            *(((other,), freely) for other in case.other_ct),
        )
    )


def find_targets(
    case: Case, patterns: Sequence[str]
) -> tuple[dict[Roi, Mask], tuple[Finding, ...]]:
    """Return the target ROIs with their voxels, and what is wrong with those that were left out.

    Raises:
        InputRejectedError: No ROI name matches, or no matching ROI can be used.
    """
    rois = case.structure_set.rois
    by_pattern = ([roi for roi in rois if matches(roi.name, [each])] for each in patterns)
    matching = next((found for found in by_pattern if found), [])
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
        if registration.kind_in(case) != "cbct" or registration.status is RegistrationStatus.FAIL:
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


def _refined(
    case: Case,
    drawn: Mapping[Roi, Mask],
    mr: Sequence[ResampledMr],
    organs: Mapping[str, Mask],
    settings: Settings,
) -> tuple[dict[Roi, Refinement], tuple[Finding, ...]]:
    """Return what is proposed for each target, no two overlapping anew."""
    # a target that could not be used, or that other protocols would choose, is no organ either
    barring = {
        name: mask for name, mask in organs.items() if not matches(name, settings.target_patterns)
    }
    refinements = {}
    for roi, mask in drawn.items():
        own = settings.of_target(roi.name)
        if own is None:
            numbers = {"drawn_cm3": mask.volume_cm3}
            refinements[roi] = Refinement(TargetStatus.ABSTAINED, None, (SWITCHED_OFF,), numbers)
        else:
            refinements[roi] = refine(mask, case.ct, mr, barring, own)
    return settle(drawn, refinements, {roi: roi.name for roi in drawn})


def _measured(
    case: Case,
    drawn: Mapping[Roi, Mask],
    refinements: Mapping[Roi, Refinement],
    organs: Mapping[str, Mask],
    rules: Sequence[DerivedRule],
    end_cap: EndCap,
    *,
    drawn_organs: Mapping[str, Mask],
) -> tuple[tuple[TargetResult, ...], tuple[Finding, ...]]:
    taken = names_in_use(roi.name for roi in case.structure_set.rois)
    names: dict[Roi, str | None] = dict.fromkeys(drawn)
    # refined targets choose their names before any further ROI does
    for roi in drawn:
        if refinements[roi].refined is not None:
            names[roi] = refined_name(roi.name, taken)
            taken.add(str(names[roi]).casefold())
    rois = organ_rois(case, drawn)
    around = {
        name: Structure(mask, rois[name].contours if name in rois else ())
        for name, mask in organs.items()
    }
    results = []
    findings: list[Finding] = []
    for roi, mask in drawn.items():
        versions = TargetVersions(roi, mask, refinements[roi], names[roi])
        derived, noticed = derive(versions, rules, drawn_organs, taken)
        target = TargetResult(roi, mask, refinements[roi], names[roi], {}, {}, derived)
        results.append(measured_target(target, around, cause_of_structure, end_cap))
        findings += noticed
    return tuple(results), tuple(findings)


def _verdicts(
    case: Case, registrations: Sequence[Registration], targets: Sequence[TargetResult]
) -> tuple[Finding, ...]:
    found = [
        Finding(
            f"registration.{registration.status}",
            Severity.WARNING,
            f"registration {number} ({registration.kind_in(case).upper()} to planning CT): "
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


__all__ = ["Settings", "TargetSwitch", "find_targets", "run", "series_by_frame"]
