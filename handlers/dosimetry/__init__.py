"""What dose did: histograms, indices of plans, limits, and all courses of a patient together.

`measure_dose` is the door. A structure becomes a solid of small boxes (`solids`), the dose is taken
at each (`histogram`), figures are made of that (`figures`, `indices`), by what is prescribed
(`prescription`). Prior courses are added as EQD2 (`accumulation`, `biology`).
"""

from handlers.dosimetry.measuring import measure_dose
from handlers.dosimetry.settings import DoseSettings, GeudRule

__all__ = ["DoseSettings", "GeudRule", "measure_dose"]
