"""Which series of an MR frame of reference leads the registration; the others follow it."""

from collections.abc import Mapping, Sequence

from handlers.values import Image

CONTRAST_ORDER = ("T1", "T2", "", "DWI", "ADC")
"""T1 shows most of what CT shows; echo-planar series are coarse and distorted, ADC has no air."""

COVERAGE_GIVEN_UP = 0.1
"""A preferred contrast may show this much less of the target than the series that shows most."""


def by_preference(mr: Sequence[Image]) -> tuple[Image, ...]:
    """Return the series, the best first: by contrast, then voxel size, then field of view."""

    def rank(image: Image) -> tuple[int, float, float, str]:
        known = image.contrast if image.contrast in CONTRAST_ORDER else ""
        voxel_mm3 = image.geometry.voxel_volume_mm3
        return (
            CONTRAST_ORDER.index(known),
            voxel_mm3,
            -voxel_mm3 * image.voxels.size,
            image.series_instance_uid,
        )

    return tuple(sorted(mr, key=rank))


def leading_series(preferred: Sequence[Image], coverage: Mapping[str, float]) -> tuple[Image, str]:
    """Return the leading series and the sentence that tells why.

    Args:
        preferred: The series in the order of `by_preference`.
        coverage: Fraction of the target that each shows once roughly placed, by series UID.
    """
    most = max(coverage.values())
    shown = [coverage[image.series_instance_uid] for image in preferred]
    place = next(k for k, fraction in enumerate(shown) if fraction >= most - COVERAGE_GIVEN_UP)
    image = preferred[place]
    why = (
        f"The series with contrast {image.contrast or 'unknown'} and voxels of "
        f"{image.geometry.voxel_volume_mm3:.1f} mm3 leads of {len(preferred)}: "
        f"it shows the fraction {shown[place]:.2f} of the target"
    )
    if place:
        why += f"; {place} series preferred by contrast or resolution show less"
    return image, why + "."
