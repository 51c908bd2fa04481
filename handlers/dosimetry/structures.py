"""What dose is measured in: targets in all their versions, and organs, each made a solid once.

Contours that go out are measured as they go out: what was refined or derived is traced first, as in
the structure set that is sent.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from handlers.dose_results import EndCap, TargetVersion
from handlers.dosimetry.solids import Solid, solid_from_contours, solid_from_mask
from handlers.errors import EmptyStructureError, InputRejectedError
from handlers.geometry import Points
from handlers.organ_names import LESS_TUMOR, OrganNames
from handlers.results import TargetResult, VoxelField
from handlers.roi_names import numbered
from handlers.sampling import contours_from_level, contours_from_mask
from handlers.values import Case, Contour, Mask, Roi

TARGET_TYPES = ("GTV", "CTV", "PTV")
"""RT ROI Interpreted Types of what is to be irradiated."""

GROSS_TUMOR = "GTV"

BODY = "EXTERNAL"
"""RT ROI Interpreted Type of the outline of the body, which some systems call skin."""

DOUBTFUL = "Some of its contours are malformed or lie on no CT slice, so no limit is surely met."
"""Told of a limit that is judged on a structure that may not be what was drawn."""

NO_ORGAN = "It is drawn as the outline of the body (EXTERNAL), so no limit is judged on it."
"""Told of such an outline that bears the name of an organ."""

EDGE_MM = 1.0
"""Longest piece of a contour between two points that stand for it."""

MOST_BOXES = 200_000
"""About so many boxes, at most, make an organ that is known by its voxels."""

OUTLINED = "It was outlined by a program and reviewed by nobody."


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """What dose is measured in.

    Attributes:
        name: As in `StructureDose`; likewise `target` and `version`.
        target: Empty for what is no version of a target.
        version: None for it.
        mask: Its voxels on the CT grid.
        solid: None: it cannot be measured, and `reasons` say why.
        outline: Points on its contours, LPS mm, shape (n, 3).
        is_irradiated: It is a target of the protocol, or was drawn as one (a PTV of the plan).
        is_outlined: By a program, not drawn.
        is_body: The outline of the body, whatever it is called.
        is_doubtful: Contours of it are malformed or lie on no CT slice.
        reasons: What must be known, in sentences.
    """

    name: str
    target: str
    version: TargetVersion | None
    mask: Mask
    solid: Solid | None
    outline: Points
    is_irradiated: bool = False
    is_outlined: bool = False
    is_body: bool = False
    is_doubtful: bool = False
    reasons: tuple[str, ...] = ()


def structures_of(
    case: Case,
    targets: Sequence[TargetResult],
    organs: Mapping[str, Mask],
    drawn: Mapping[str, Roi],
    end_cap: EndCap,
    names: OrganNames,
) -> list[Structure]:
    """Return the targets in all versions, target by target, then the organs.

    Args:
        case: Its CT.
        targets: What became of the targets.
        organs: All else, drawn or outlined, by name.
        drawn: Those of them that are drawn.
        end_cap: Where structures end.
        names: What is an organ by its name was not drawn as a target, whatever its type says.
    """
    maker = _Maker(case, end_cap, names)
    found = [
        structure
        for target, name in zip(targets, called(targets), strict=True)
        for structure in maker.versions(target, name)
    ]
    for name, mask in organs.items():
        roi = drawn.get(name)
        if roi is None:
            found.append(maker.outlined(name, mask))
        else:
            found.append(maker.from_roi(name, roi, mask))
    return found


def called(targets: Sequence[TargetResult]) -> tuple[str, ...]:
    """Return what each target is called; two may bear one name."""
    rois = [target.source_roi for target in targets]
    names = [roi.name for roi in rois]
    return tuple(
        roi.name if names.count(roi.name) == 1 else numbered(roi.name, roi.number) for roi in rois
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Maker:
    """Makes structures on one CT, all ended alike."""

    case: Case
    end_cap: EndCap
    names: OrganNames

    def versions(self, target: TargetResult, called: str) -> Iterator[Structure]:
        """Give the versions of a target, the drawn one first."""
        roi = target.source_roi
        yield self.from_roi(called, roi, target.drawn, called, TargetVersion.DRAWN)
        refined = target.refinement.refined
        if refined is not None:
            name = target.refined_roi_name or called
            contours = _traced(refined, target.refinement.level)
            yield self._made(name, contours, refined, called, TargetVersion.REFINED)
        for derived in target.derived:
            contours = _traced(derived.mask, derived.level)
            yield self._made(derived.name, contours, derived.mask, called, TargetVersion.DERIVED)

    def from_roi(
        self,
        name: str,
        roi: Roi,
        mask: Mask,
        target: str = "",
        version: TargetVersion | None = None,
    ) -> Structure:
        """Return what was drawn."""
        reasons: tuple[str, ...] = ()
        if roi.lost_contours:
            reasons = (
                f"{roi.lost_contours} of its contours are malformed or lie on no CT slice: it may "
                "not be what was drawn.",
            )
        is_irradiated = version is not None or (
            roi.interpreted_type in TARGET_TYPES and not self.names.organ_of(name)
        )
        is_body = version is None and roi.interpreted_type == BODY
        if is_body and self.names.organ_of(name):
            reasons = (*reasons, NO_ORGAN)
        made = self._made(
            name, roi.contours, mask, target, version, reasons, is_irradiated=is_irradiated
        )
        return replace(made, is_body=is_body, is_doubtful=bool(roi.lost_contours))

    def outlined(self, name: str, mask: Mask) -> Structure:
        """Return what a program outlined."""
        nothing = np.zeros((0, 3))
        try:
            solid = fewer_boxes(solid_from_mask(mask), MOST_BOXES)
        except EmptyStructureError as error:
            reasons = (OUTLINED, _sentence(str(error)))
            return Structure(name, "", None, mask, None, nothing, is_outlined=True, reasons=reasons)
        return Structure(
            name, "", None, mask, solid, nothing, is_outlined=True, reasons=(OUTLINED,)
        )

    def _made(
        self,
        name: str,
        contours: Sequence[Contour],
        mask: Mask,
        target: str,
        version: TargetVersion | None,
        reasons: tuple[str, ...] = (),
        *,
        is_irradiated: bool = True,
    ) -> Structure:
        solid = None
        try:
            solid = solid_from_contours(contours, self.case.ct.geometry, self.end_cap)
            reasons = (*reasons, *(_sentence(reason) for reason in solid.reasons))
        except (EmptyStructureError, InputRejectedError) as error:
            reasons = (*reasons, f"It cannot be measured: {error} ({error.hint}).")
        return Structure(
            name,
            target,
            version,
            mask,
            solid,
            _outline(contours) if is_irradiated else np.zeros((0, 3)),
            is_irradiated=is_irradiated,
            reasons=reasons,
        )


def _traced(mask: Mask, level: VoxelField | None) -> tuple[Contour, ...]:
    """Return the contours that go out for a mask."""
    return contours_from_mask(mask) if level is None else contours_from_level(level, mask)


def _outline(contours: Sequence[Contour]) -> Points:
    """Return points along contours, no farther apart than `EDGE_MM`."""
    found: list[npt.NDArray[np.float64]] = [np.zeros((0, 3))]
    for contour in contours:
        start, end = contour.points, np.roll(contour.points, -1, axis=0)
        lengths = np.linalg.norm(end - start, axis=1)
        count = np.maximum(np.ceil(lengths / EDGE_MM), 1).astype(np.int64)
        edge = np.repeat(np.arange(len(start)), count)
        step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        part = (step / count[edge])[:, None]
        found.append(start[edge] + part * (end - start)[edge])
    return np.concatenate(found)


def less_gross_tumor(
    structures: Sequence[Structure], wanted: Collection[str], rois: Sequence[Roi], names: OrganNames
) -> list[Structure]:
    """Return organs less the gross tumor, as far as limits ask for them and nobody drew them.

    Boxes of the organ whose middle lies in a voxel of a drawn gross tumor are left out.

    Args:
        structures: All that is measured.
        wanted: TG-263 names that limits speak of.
        rois: All ROIs of the structure set.
        names: By which ROIs are taken for organs.
    """
    organ_of = {each.name: names.organ_of(each.name) for each in structures if not each.target}
    types = {roi.name: roi.interpreted_type for roi in rois}
    tumors = [
        each for each in structures if _is_gross_tumor(each, types.get(each.target or each.name))
    ]
    found = []
    for name in sorted(set(wanted) - set(organ_of.values())):
        whole = [s for s in structures if organ_of.get(s.name) == name.removesuffix(LESS_TUMOR)]
        if not name.endswith(LESS_TUMOR) or not tumors or len(whole) != 1:
            continue
        organ = whole[0]
        if organ.solid is None:
            continue
        keeps = ~np.any([holds(t.mask, organ.solid.centres_mm) for t in tumors], axis=0)
        if not keeps.any():
            continue
        solid = Solid(
            organ.solid.centres_mm[keeps],
            organ.solid.volumes_mm3[keeps],
            organ.solid.axes,
            organ.solid.widths_mm[keeps],
        )
        told = f"'{organ.name}' less {', '.join(repr(t.name) for t in tumors)} as drawn."
        reasons = (told, *organ.reasons)
        found.append(
            Structure(
                name, "", None, organ.mask, solid, np.zeros((0, 3)),
                is_outlined=organ.is_outlined, is_doubtful=organ.is_doubtful, reasons=reasons,
            )
        )  # fmt: skip
    return found


def _is_gross_tumor(structure: Structure, interpreted_type: str | None) -> bool:
    if structure.version not in (None, TargetVersion.DRAWN) or structure.is_outlined:
        return False
    if interpreted_type in TARGET_TYPES:
        return interpreted_type == GROSS_TUMOR
    return structure.is_irradiated and structure.name.upper().startswith(GROSS_TUMOR)


def fewer_boxes(solid: Solid, most: int) -> Solid:
    """Return a solid whose boxes, all of one size, are joined in blocks until they are few enough.

    A block has the volume of its boxes and lies in the middle of them; what it does not fill, at
    the surface, is taken from its width.
    """
    count = len(solid.volumes_mm3)
    if count <= most:
        return solid
    step = int(np.ceil((count / most) ** (1.0 / 3.0)))
    width_mm = solid.widths_mm[0]
    at = np.rint(solid.centres_mm @ solid.axes / width_mm).astype(np.int64) // step
    at -= at.min(axis=0)
    shape = tuple(int(size) for size in at.max(axis=0) + 1)
    _, block = np.unique(np.ravel_multi_index(tuple(at.T), shape), return_inverse=True)
    volumes = np.bincount(block, weights=solid.volumes_mm3).astype(np.float64)
    centres = [
        np.bincount(block, weights=solid.volumes_mm3 * solid.centres_mm[:, axis]) / volumes
        for axis in range(3)
    ]
    filled = np.cbrt(volumes / (float(np.prod(width_mm)) * step**3))
    widths = filled[:, None] * width_mm * step
    return Solid(np.column_stack(centres), volumes, solid.axes, widths, solid.reasons)


def holds(mask: Mask, points: Points) -> npt.NDArray[np.bool_]:
    """Tell for each point whether it lies in a voxel of a mask."""
    at = np.rint(mask.geometry.indices_from_points(points)).astype(np.int64)
    last = np.array(mask.geometry.shape) - 1
    within = np.all((at >= 0) & (at <= last), axis=1)
    return np.asarray(within & mask.inside[tuple(np.clip(at, 0, last).T)])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."
