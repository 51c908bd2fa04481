"""How dose is measured; saved with every result."""

import math
from dataclasses import dataclass, field

from handlers.dose_results import EndCap, Limit, Prescribed
from handlers.dosimetry.reirradiation import ReirradiationSettings
from handlers.organ_names import OrganNames, organ_names
from handlers.roi_names import matches


@dataclass(frozen=True, slots=True)
class GeudRule:
    """Of which structures the gEUD is told, and with which exponent.

    Attributes:
        pattern: ROI name pattern, ignoring case.
        a: Its exponent: large for serial organs, 1 for the mean, negative for targets.
    """

    pattern: str
    a: float

    def __post_init__(self) -> None:
        if self.a == 0 or not math.isfinite(self.a):
            raise ValueError("the exponent of a gEUD must be a finite number other than 0")


@dataclass(frozen=True, slots=True)
class DoseSettings:
    """What a protocol says about dose.

    Attributes:
        end_cap: Where structures end beyond their first and last contour.
        prescribed: What the protocol prescribes, used where the plan does not tell; None: nothing.
        limits: Rows of the tables that plans are held to.
        names: By which ROIs are taken for organs.
        reirradiation: How courses are added.
        volumes_at_gy: Doses of which every structure's volume is told.
        geud: The first that fits a structure holds; without one it has no gEUD.
    """

    end_cap: EndCap = EndCap.TAPERED
    prescribed: Prescribed | None = None
    limits: tuple[Limit, ...] = ()
    names: OrganNames = field(default_factory=lambda: organ_names((), {}))
    reirradiation: ReirradiationSettings = field(default_factory=ReirradiationSettings)
    volumes_at_gy: tuple[float, ...] = ()
    geud: tuple[GeudRule, ...] = ()

    def geud_a(self, roi_name: str) -> float | None:
        """Return the exponent of the gEUD of a structure; None: it is not asked for."""
        return next((rule.a for rule in self.geud if matches(roi_name, [rule.pattern])), None)
