"""The kinds of objects in a result set, told by the names of their files.

`handlers.encode` chooses the names; a protocol chooses, for each destination, which kinds it gets.
"""

from collections.abc import Mapping
from typing import Literal, get_args

Output = Literal[
    "mr",
    "registration",
    "deformation",
    "structure-set",
    "dose",
    "segmentation",
    "report",
    "review",
    "overview",
    "blending",
    "contours",
    "document",
]
"""What a destination can be sent: `mr` is the resampled MR, `dose` the sum of all courses, `review`
the probability of targets, `overview` the fused colour pictures, `blending` and `contours` the
presentation states, `document` the report for people as PDF."""

OUTPUTS: tuple[Output, ...] = get_args(Output)

_BY_ROLE: Mapping[str, Output] = {
    "MR": "mr",
    "REG": "registration",
    "DEFREG": "deformation",
    "RTSTRUCT": "structure-set",
    "RTDOSE": "dose",
    "SEG": "segmentation",
    "SR": "report",
    "PSEG": "review",
    "PM": "review",
    "OVERVIEW": "overview",
    "BLENDING": "blending",
    "CONTOURS": "contours",
    "PDF": "document",
}


def output_of(file_name: str) -> Output:
    """Return the kind of the object in a file of a result set.

    Args:
        file_name: Relative to the result set, as `MR_1/0007.dcm` or `fused/OVERVIEW_1.dcm`.

    Raises:
        KeyError: No result set has such a file.

    Example:
        >>> output_of("MR_1/0007.dcm"), output_of("SEG.dcm"), output_of("fused/OVERVIEW_2.dcm")
        ('mr', 'segmentation', 'overview')
    """
    *folders, name = file_name.split("/")
    named = folders[0] if folders and folders[0] != "fused" else name.removesuffix(".dcm")
    return _BY_ROLE[named.partition("_")[0]]
