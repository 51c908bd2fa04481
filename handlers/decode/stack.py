"""Whether image planes make one evenly spaced stack at right angles to them, and if not, why.

Drops equal slices; otherwise alters nothing and closes no gap.
"""

from collections.abc import Sequence

import numpy as np

from handlers.decode.attributes import Floats, failure, note, number_of
from handlers.decode.planes import DECODE_ERRORS, Plane
from handlers.geometry import ORTHOGONALITY_TOLERANCE
from handlers.values import Finding

SPACING_TOLERANCE_MM = 0.05
"""A slice may lie this far from its even place (real series jitter by 0.001 mm), or"""

SPACING_TOLERANCE = 0.01
"""by this part of the slice spacing, whichever is more."""

SAME_POSITION_MM = 0.01
"""Slices nearer to each other than this lie at one position."""

SAME_DIRECTION = 1e-4
"""Direction cosines of one series differ by no more than this."""

SAME_SPACING_MM = 1e-3
"""Pixel spacings of one series differ by no more than this."""

SIDEWAYS_TOLERANCE_MM = 0.1
"""A slice may lie this far beside the line through the first pixels of the stack."""


def check_alike(planes: Sequence[Plane], kind: str, where: str) -> list[Finding]:
    """Return in what the planes of one stack differ though they must not."""
    if not planes:
        return []
    first = planes[0]
    turned = [np.abs(p.directions - first.directions).max() > SAME_DIRECTION for p in planes]
    scaled = [
        np.abs(np.subtract(p.spacing_mm, first.spacing_mm)).max() > SAME_SPACING_MM for p in planes
    ]
    sizes = {plane.size for plane in planes}
    stacks = {plane.stack for plane in planes}
    found = []
    if any(turned):
        found.append(
            failure(
                f"{kind}.mixed_orientations",
                f"{where}: {sum(turned)} of {len(planes)} images face another way than the first "
                "(a localizer or several stacks in one series?); send each stack as a series",
                count=sum(turned),
            )
        )
    if len(sizes) > 1:
        listed = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        found.append(failure(f"{kind}.mixed_sizes", f"{where}: images of different size: {listed}"))
    if any(scaled):
        found.append(
            failure(
                f"{kind}.mixed_pixel_spacings",
                f"{where}: {sum(scaled)} of {len(planes)} images have another Pixel Spacing than "
                "the first",
                count=sum(scaled),
            )
        )
    if len(stacks) > 1:
        found.append(
            failure(
                f"{kind}.several_stacks",
                f"{where}: the object holds {len(stacks)} stacks; send each as a series",
                count=len(stacks),
            )
        )
    return found


def positions_mm(planes: Sequence[Plane]) -> Floats:
    """Return where the planes lie along the normal of the first."""
    return np.array([plane.position_mm @ planes[0].normal for plane in planes])


def drop_equal_slices(
    planes: list[Plane], kind: str, where: str
) -> tuple[list[Plane], list[Finding]]:
    """Return the planes, of equal ones at one position only the first; sorted planes are needed."""
    kept: list[Plane] = []
    equal, unequal = 0, []
    for plane in planes:
        if not kept or (plane.position_mm - kept[-1].position_mm) @ plane.normal > SAME_POSITION_MM:
            kept.append(plane)
        elif _has_equal_pixels(plane, kept[-1]):
            equal += 1
        else:
            unequal.append(float(plane.position_mm @ plane.normal))
    found = []
    if equal:
        found.append(
            note(
                f"{kind}.duplicate_slices",
                f"{where}: {equal} slices were there twice with equal pixels; one of each is used",
                count=equal,
            )
        )
    if unequal:
        found.append(
            failure(
                f"{kind}.several_images_per_position",
                f"{where}: {len(unequal)} positions (the first at {unequal[0]:.2f} mm along the "
                "slice normal) hold several different images (echoes, b-values, time points or a "
                "repeated export); send one image for each position in a series",
                count=len(unequal),
            )
        )
    return kept, found


def _has_equal_pixels(one: Plane, other: Plane) -> bool:
    if np.linalg.norm(one.position_mm - other.position_mm) > SAME_POSITION_MM:
        return False
    try:
        return np.array_equal(one.real_values(), other.real_values())
    except DECODE_ERRORS:
        return False


def check_stack(planes: Sequence[Plane], kind: str, where: str) -> list[Finding]:
    """Return why sorted planes are no evenly spaced stack at right angles to them."""
    if len(planes) < 2:
        return [failure(f"{kind}.single_slice", f"{where}: one slice only; send the whole series")]
    along = positions_mm(planes)
    offsets = np.array([plane.position_mm - planes[0].position_mm for plane in planes])
    sideways = offsets @ planes[0].directions.T
    slope = np.abs(sideways[-1]).max() / (along[-1] - along[0])
    line = np.outer((along - along[0]) / (along[-1] - along[0]), sideways[-1])
    found = []
    if slope > ORTHOGONALITY_TOLERANCE:
        tilt = number_of(planes[0].dataset, "GantryDetectorTilt") or 0.0
        hint = f" (Gantry/Detector Tilt says {tilt:g} degrees)" if tilt else ""
        found.append(
            failure(
                f"{kind}.tilted_stack",
                f"{where}: the slices are stacked at {np.degrees(np.arctan(slope)):.2f} degrees to "
                f"their normal{hint}; acquire without gantry tilt, or resample before sending",
                angle_deg=float(np.degrees(np.arctan(slope))),
            )
        )
    elif np.abs(sideways - line).max() > SIDEWAYS_TOLERANCE_MM:
        found.append(
            failure(
                f"{kind}.shifted_slices",
                f"{where}: slices are shifted sideways by up to {np.abs(sideways - line).max():.2f}"
                " mm against each other",
                shift_mm=float(np.abs(sideways - line).max()),
            )
        )
    return found + _check_spacing(along, kind, where)


def _check_spacing(along: Floats, kind: str, where: str) -> list[Finding]:
    steps = np.diff(along)
    step = float(np.median(steps))
    tolerance = max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * step)
    found = []
    for i in np.flatnonzero(np.abs(steps - step) > tolerance):
        missing = round(steps[i] / step) - 1
        is_gap = (
            missing >= 1 and abs(steps[i] / step - 1 - missing) * step <= (1 + missing) * tolerance
        )
        what = f"{missing} slices are missing; send them" if is_gap else "the spacing is uneven"
        found.append(
            failure(
                f"{kind}.gap" if is_gap else f"{kind}.uneven_spacing",
                f"{where}: {steps[i]:.2f} mm instead of {step:.2f} mm between the slices at "
                f"{along[i]:.2f} and {along[i + 1]:.2f} mm along the slice normal: {what}",
                missing=max(missing, 0),
                step_mm=float(steps[i]),
                position_mm=float(along[i]),
            )
        )
    even = np.linspace(along[0], along[-1], len(along))
    if not found and np.abs(along - even).max() > tolerance:
        found.append(
            failure(
                f"{kind}.uneven_spacing",
                f"{where}: the slice spacing drifts from {steps.min():.3f} to {steps.max():.3f} mm",
                drift_mm=float(np.abs(along - even).max()),
            )
        )
    return found
