"""CT and resampled MR -> Advanced Blending Presentation State: a viewer shows them as one.

The viewer blends what it has: the original CT in grey, the MR that `image` resampled on its grid in
warm colors. Made only for MR whose registration did not fail.

Read first: DICOM PS3.3 A.33.7, C.11.33, C.11.34, PS3.4 N.2.6.
"""

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import AdvancedBlendingPresentationStateStorage

from handlers.encode.identity import SERIES_NUMBER_BLENDING, Reference, ResultSet, code_item
from handlers.encode.image import (
    REGISTRATION_IN_PLANNING,
    WINDOW_PERCENTILES,
    StoredFromReal,
    series_description,
)
from handlers.encode.registration import registration_reference
from handlers.encode.seg import series_arguments
from handlers.encode.softcopy import ct_stand_in, finish, resampled_stand_in, slices_by_rescale
from handlers.encode.text import LO_LENGTH
from handlers.errors import EncodingError
from handlers.pictures import SOFT_TISSUE, mr_palette
from handlers.results import RegistrationStatus, ResampledMr

ROLE = "BLENDING"
"""Role of these objects in a result set: gives their UIDs and names."""

LABEL = "CT_MR_BLENDING"
"""Content Label (0070,0080)."""

RELATIVE_OPACITY = 0.5
"""Opacity of the MR; equal parts, so a viewer that takes the inputs the other way shows the same.
"""

CT_INPUT, MR_INPUT = 1, 2
"""Blending Input Numbers."""

WINDOW_SAMPLES = 1_000_000
"""About so many voxels decide on the window of the MR: more would not move it."""


def has_blending(result_set: ResultSet, index: int) -> bool:
    """Tell whether the resampled MR of that index can be blended with the CT.

    Not where slices of the CT differ in their Modality LUT: a blending input has room for one.
    """
    resampled = result_set.result.resampled[index]
    slices = range(len(result_set.sources.ct))
    stand_ins = [ct_stand_in(result_set, i) for i in slices]
    is_one_group = len(slices_by_rescale(stand_ins)) == 1
    return resampled.registration.status is not RegistrationStatus.FAIL and is_one_group


def encode_blending(result_set: ResultSet, index: int) -> Dataset:
    """Return the presentation state that blends one resampled MR series with the CT.

    Raises:
        EncodingError: The registration of the MR failed.
    """
    resampled = result_set.result.resampled[index]
    if resampled.registration.status is RegistrationStatus.FAIL:
        raise EncodingError("an MR whose registration failed must not be blended")
    slices = range(len(result_set.sources.ct))
    ct = [ct_stand_in(result_set, i) for i in slices]
    mr = [resampled_stand_in(result_set, index, i) for i in slices]
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    center, width = stored_window(resampled)
    reference = result_set.reference(AdvancedBlendingPresentationStateStorage, ROLE, index)
    described = series_description(resampled)
    ds = hd.pr.AdvancedBlendingPresentationState(
        referenced_images=[*ct, *mr],
        blending=[
            _input(ct, CT_INPUT, SOFT_TISSUE.center, SOFT_TISSUE.width, greys),
            _input(mr, MR_INPUT, center, width, mr_palette()),
        ],
        blending_display=[
            hd.pr.BlendingDisplay(
                blending_mode=hd.pr.BlendingModeValues.FOREGROUND,
                # PS3.4 N.2.6: the opacity is that of the first
                blending_display_inputs=[
                    hd.pr.BlendingDisplayInput(MR_INPUT),
                    hd.pr.BlendingDisplayInput(CT_INPUT),
                ],
                relative_opacity=RELATIVE_OPACITY,
            )
        ],
        **series_arguments(result_set, reference, SERIES_NUMBER_BLENDING + index + 1),
        content_label=LABEL,
        content_description=result_set.text(f"Planning CT with {described}", LO_LENGTH),
        series_description=result_set.text(f"Blending CT, {described}", LO_LENGTH),
    )
    for item, is_display in zip(ds.AdvancedBlendingSequence, ("TRUE", "FALSE"), strict=True):
        item.GeometryForDisplay = is_display
        item.TimeSeriesBlending = "FALSE"
    result_set.add_frame_of_reference(ds)
    finish(ds, result_set)
    registration = registration_reference(result_set, resampled.registration)
    # what the blend rests on: no part of this IOD, but a legal addition to it
    rests_on = registration.item()
    rests_on.PurposeOfReferenceCodeSequence = [code_item(REGISTRATION_IN_PLANNING)]
    ds.ReferencedInstanceSequence = [rests_on]
    references = [Reference.of(image) for image in (*ct, *mr)]
    result_set.add_instance_references(ds, [*references, registration])
    return ds


def stored_window(resampled: ResampledMr) -> tuple[float, float]:
    """Return center and width, in stored values, between which the MR is shown."""
    covered = resampled.image.voxels[resampled.valid.inside]
    stored_from_real = StoredFromReal.spanning(covered)
    few = covered[:: max(1, covered.size // WINDOW_SAMPLES)]
    low, high = stored_from_real.apply(np.percentile(few, WINDOW_PERCENTILES))
    return float(low + high) / 2, max(1.0, float(high - low))


def _input(
    images: list[Dataset], number: int, center: float, width: float, palette: np.ndarray
) -> hd.pr.AdvancedBlending:
    window = hd.pr.SoftcopyVOILUTTransformation(
        window_center=round(center, 1), window_width=round(width, 1)
    )
    return hd.pr.AdvancedBlending(
        referenced_images=images,
        blending_input_number=number,
        voi_lut_transformations=[window],
        palette_color_lut_transformation=(
            hd.PaletteColorLUTTransformation.from_combined_lut(palette)
        ),
    )
