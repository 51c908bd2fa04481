r"""Contours of targets -> Grayscale Softcopy Presentation State on the slices of the planning CT.

For viewers that know no structure sets. Drawn targets solid, refined and derived ones dashed, each
in a layer of its own that can be switched off; soft tissue window; no pixels and no approval.

In PIXEL units the corner of the first pixel is 0\0 and its middle 0.5\0.5, so a voxel's index and
its place on the picture are half a pixel apart (PS3.3 C.10.5.1.2). The displayed area counts pixels
from 1 instead (C.10.4).

Read first: DICOM PS3.3 A.33.1, C.10.5.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from handlers.encode.identity import SERIES_NUMBER_CONTOURS, ResultSet
from handlers.encode.new_rois import TARGET_COLORS
from handlers.encode.seg import series_arguments
from handlers.encode.softcopy import ct_stand_in, finish, slices_by_rescale
from handlers.encode.text import LO_LENGTH
from handlers.geometry import Geometry
from handlers.pictures import SOFT_TISSUE
from handlers.results import TargetResult, VoxelField
from handlers.sampling import (
    contours_by_slice,
    contours_from_level,
    contours_from_mask,
    slice_of_contour,
)
from handlers.values import Contour, Mask

ROLE = "CONTOURS"
"""Role of these objects in a result set: gives their UIDs and names."""

LABEL = "TARGET_CONTOURS"
"""Content Label (0070,0080)."""

HALF_PIXEL = 0.5
"""From the index of a pixel to its middle in PIXEL units (PS3.3 C.10.5.1.2)."""

MOST_POINTS = 8000
"""Longest polyline: Graphic Data has a length of 16 bits in explicit VR, so at most 8191 points."""

DRAWN_COLOR = (255, 60, 60)
"""Drawn targets: the red that they usually have; refined ones have the color of their new ROI."""

DERIVED_COLOR = (255, 190, 120)

DASHES = 0xFF00FF00
"""Line Pattern (0070,0255): each bit a dot of the line, eight on and eight off."""

LAYERS = {
    "DRAWN": ("Targets as drawn", DRAWN_COLOR),
    "REFINED": ("Targets refined with MR, proposal, not approved", TARGET_COLORS[0]),
    "DERIVED": ("Made from targets by protocol, not approved", DERIVED_COLOR),
}
"""Graphic layers from below to above: what is in them, and their color."""


@dataclass(frozen=True, slots=True, eq=False)
class _Outline:
    """One structure to be drawn: its layer, its words, its contours by slice index."""

    layer: str
    words: str
    contours: Mapping[int, tuple[Contour, ...]]
    tracking_uid: str


def encode_contour_graphics(result_set: ResultSet) -> Iterator[Dataset]:
    """Yield the presentation states: one, or one for each Modality LUT that slices of the CT have.

    None where no target has a contour. Each speaks of all the slices of its group, so that its
    window holds for those without a contour, too.
    """
    outlines = [o for o in _outlines(result_set) if o.contours]
    stand_ins = [ct_stand_in(result_set, i) for i in range(len(result_set.sources.ct))]
    number = 0
    for group in slices_by_rescale(stand_ins):
        annotations = _annotations(result_set, outlines, {i: stand_ins[i] for i in group})
        if annotations:
            yield _encode(result_set, number, [stand_ins[i] for i in group], annotations)
            number += 1


def _encode(
    result_set: ResultSet,
    number: int,
    images: Sequence[Dataset],
    annotations: Sequence[hd.pr.GraphicAnnotation],
) -> Dataset:
    reference = result_set.reference(GrayscaleSoftcopyPresentationStateStorage, ROLE, number)
    used = {annotation.GraphicLayer for annotation in annotations}
    layers = [_layer(name) for name in LAYERS if name in used]
    ds = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=images,
        **series_arguments(result_set, reference, SERIES_NUMBER_CONTOURS + number + 1),
        content_label=LABEL,
        content_description="Targets, drawn and refined, proposal, not approved",
        series_description="Contours of targets on the planning CT",
        graphic_annotations=annotations,
        graphic_layers=layers,
        voi_lut_transformations=[
            hd.pr.SoftcopyVOILUTTransformation(
                window_center=SOFT_TISSUE.center, window_width=SOFT_TISSUE.width
            )
        ],
    )
    finish(ds, result_set)
    return ds


def _outlines(result_set: ResultSet) -> Iterator[_Outline]:
    geometry = result_set.result.case.ct.geometry
    for index, target in enumerate(result_set.result.targets):
        for layer, name, contours, uid in _of_target(result_set, index, target):
            yield _Outline(layer, f"{name} {layer.lower()}", _by_slice(contours, geometry), uid)


def _of_target(
    result_set: ResultSet, index: int, target: TargetResult
) -> Iterator[tuple[str, str, tuple[Contour, ...], str]]:
    drawn_uid = result_set.tracking_uid(index, is_refined=False)
    name = target.source_roi.name or f"target {index + 1}"
    yield "DRAWN", name, _drawn(target), drawn_uid
    refinement = target.refinement
    if refinement.refined is not None:
        refined_uid = result_set.tracking_uid(index, is_refined=True)
        contours = _traced(refinement.refined, refinement.level)
        yield "REFINED", target.refined_roi_name or name, contours, refined_uid
    for number, derived in enumerate(target.derived):
        uid = result_set.uid(f"derived {index}", number)
        yield "DERIVED", derived.name, _traced(derived.mask, derived.level), uid


def _drawn(target: TargetResult) -> tuple[Contour, ...]:
    """Return the contours as they were drawn, those that lie on slices of the CT."""
    by_slice = contours_by_slice(target.source_roi, target.drawn.geometry)
    return tuple(contour for contours in by_slice.values() for contour in contours)


def _traced(mask: Mask, level: VoxelField | None) -> tuple[Contour, ...]:
    # without keyholes: here a channel would be a line that nobody drew
    if level is None:
        return contours_from_mask(mask, holes_as_xor=True)
    return contours_from_level(level, mask, holes_as_xor=True)


def _by_slice(contours: Sequence[Contour], geometry: Geometry) -> Mapping[int, tuple[Contour, ...]]:
    found: dict[int, tuple[Contour, ...]] = {}
    for contour in contours:
        index = slice_of_contour(contour, geometry)
        if index is not None:
            found[index] = (*found.get(index, ()), contour)
    return found


def _annotations(
    result_set: ResultSet, outlines: Sequence[_Outline], images: Mapping[int, Dataset]
) -> list[hd.pr.GraphicAnnotation]:
    geometry = result_set.result.case.ct.geometry
    annotations = []
    for slice_index, image in images.items():
        for layer in LAYERS:
            graphics: list[hd.pr.GraphicObject] = []
            labels: list[hd.pr.TextObject] = []
            for outline in outlines:
                contours = outline.contours.get(slice_index, ())
                if outline.layer != layer or not contours:
                    continue
                rings = [points_on_picture(contour, geometry) for contour in contours]
                words = result_set.text(outline.words, LO_LENGTH)
                for part in (part for ring in rings for part in _parts(ring)):
                    graphics.append(_polyline(part, words, outline))
                labels.append(_label(words, rings, layer))
            if graphics:
                annotations.append(
                    hd.pr.GraphicAnnotation(
                        referenced_images=[image],
                        graphic_layer=_layer(layer),
                        graphic_objects=graphics,
                        text_objects=labels,
                    )
                )
    return annotations


def points_on_picture(contour: Contour, geometry: Geometry) -> npt.NDArray[np.float32]:
    """Return a contour as a closed polyline, (column, row) in PIXEL units, within the picture."""
    indices = geometry.indices_from_points(contour.points)
    points = indices[:, [2, 1]] + HALF_PIXEL
    points = np.clip(points, 0.0, [geometry.shape[2], geometry.shape[1]])
    return np.concatenate([points, points[:1]]).astype(np.float32)


def _parts(ring: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a polyline in parts of at most `MOST_POINTS`, each beginning where the last ended."""
    for begin in range(0, len(ring) - 1, MOST_POINTS - 1):
        yield ring[begin : begin + MOST_POINTS]


def _layer(name: str) -> hd.pr.GraphicLayer:
    description, color = LAYERS[name]
    return hd.pr.GraphicLayer(
        layer_name=name,
        order=list(LAYERS).index(name) + 1,
        description=description,
        display_color=hd.color.CIELabColor.from_rgb(*color),
    )


def _polyline(
    points: npt.NDArray[np.float32], words: str, outline: _Outline
) -> hd.pr.GraphicObject:
    item = hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
        graphic_data=points,
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        tracking_id=words,
        tracking_uid=outline.tracking_uid,
    )
    if outline.layer != "DRAWN":
        item.LineStyleSequence = [_dashed(LAYERS[outline.layer][1])]
    return item


def _dashed(color: tuple[int, int, int]) -> Dataset:
    """Return a line style that tells the line from a solid one without color (C.10.5.1.3.13)."""
    style = Dataset()
    style.PatternOnColorCIELabValue = list(hd.color.CIELabColor.from_rgb(*color).value)
    style.PatternOnOpacity = 1.0
    style.LineThickness = 1.0
    style.LineDashingStyle = "DASHED"
    style.LinePattern = DASHES
    style.ShadowStyle = "OFF"
    style.ShadowOffsetX = style.ShadowOffsetY = 0.0
    style.ShadowColorCIELabValue = [0, 0, 0]
    style.ShadowOpacity = 0.0
    return style


def _label(words: str, rings: Sequence[npt.NDArray[np.float32]], layer: str) -> hd.pr.TextObject:
    """Return the name of a structure, beside its first ring: drawn at the top, others below."""
    ring = max(rings, key=len)
    at = ring[np.argmin(ring[:, 1])] if layer == "DRAWN" else ring[np.argmax(ring[:, 1])]
    return hd.pr.TextObject(
        text_value=words,
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        anchor_point=(float(at[0]), float(at[1])),
        anchor_point_visible=False,
    )
