"""Pictures of a result for people: planes through a target, CT beneath MR, contours on top.

`target_overview` is the door. Values in, arrays of pixels out: knows no DICOM, reads no file (the
font is part of the library that draws it). Equal values give equal pixels.
"""

from handlers.pictures.colors import SOFT_TISSUE, mr_palette
from handlers.pictures.overview import NOT_APPROVED, Frame, Overview, target_overview

__all__ = ["NOT_APPROVED", "SOFT_TISSUE", "Frame", "Overview", "mr_palette", "target_overview"]
