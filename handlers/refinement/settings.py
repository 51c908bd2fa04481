"""What can be tuned about the refinement: every number with its unit, meaning and bounds.

The defaults were chosen on a synthetic abdomen (see `handlers.refinement`). None was validated on
patients: they bound what can happen, they do not promise that it is right.
"""

from dataclasses import dataclass

VESSEL_PATTERNS = ("A_*", "V_*", "Aorta*", "IVC*", "Vena*", "PortalVein*", "GreatVes*", "Vessel*")
DUCT_PATTERNS = ("BileDuct*", "CBD*", "Gallbladder*")
BOWEL_PATTERNS = (
    *("Stomach*", "Duodenum*", "Bowel*", "Jejunum*", "Ileum*", "Colon*", "Esophagus*"),
)
"""TG-263 names (AAPM TG-263, 2018), then words in common use."""

EXCLUDE_PATTERNS = (*VESSEL_PATTERNS, *DUCT_PATTERNS, *BOWEL_PATTERNS)
"""Vessels, ducts, hollow organs: never target."""

IGNORE_PATTERNS = (
    *("GTV*", "IGTV*", "CTV*", "ITV*", "PTV*"),
    *("z*", "_*", "*PRV*", "*[-_][GCIP]TV*", "Couch*", "*Bag*", "Spc_Bowel*", "Bowel*Sp*c*"),
    *("[VDA]_[0-9]*", "*[0-9]Gy*", "*[0-9]*%*", "*Avoid*", "*[0-9]mm*", "*[0-9]cm*"),
)
"""Targets, planning structures (z and _ in TG-263), organs with a margin or without the target,
spaces that may well hold a node, isodoses and what helps the planner."""


@dataclass(frozen=True, slots=True)
class RefinementSettings:
    """How far, on what evidence, and against which structures a target may change.

    ROI names are matched with fnmatch, ignoring case; what matches an ignored pattern is ignored,
    whatever else it matches.

    Attributes:
        max_outward_mm: Hard: no new voxel centre lies farther from the nearest drawn voxel centre.
        max_inward_mm: Hard: tissue deeper than this within the drawn target stays, but for
            contoured or found vessels, ducts and hollow organs, and islands that they cut off
            (`min_island_cm3`).
        core_fraction: Likewise: of each drawn piece, what lies deeper than this part of its
            greatest depth stays, and teaches what the target looks like.
        exclude_patterns: Structures that are no target: never grown into, and removed where the
            drawn target overlaps them.
        ignore_patterns: Structures that say nothing about where the target ends. All others (liver,
            kidney) are never grown into, but what was drawn within them may stay.
        may_enter_patterns: Structures into which the target may grow if it overlapped them as
            drawn; none by default.
        removes_overlap: Whether drawn overlap with an excluded structure is removed.
        context_fraction: A structure that holds at least this part of the target (body, an organ
            that the target lies in) is its surroundings and bars nothing.
        min_contrasts: Kinds of MR contrast needed to move a contour; DWI and ADC are one kind.
        max_uncertainty_mm: Abstain if the registration's uncertainty is greater.
        coverage_margin_mm: A series counts only if it covers the target and this much around it.
        shell_mm: How far around the target the background is learned.
        min_volume_cm3: Smaller targets are left alone.
        min_voxels_across: Likewise targets of fewer voxels along an axis.
        max_blur_mm: A series counts only if its edges are this sharp (standard deviation of the
            blur). Thin structures make the estimate too small, by half around vessels. Blocks of
            equal voxels count as a blur of their edge over the square root of 12.
        min_similarity: Nor does it where it has so little in common with the CT that its place
            cannot be seen (normalised mutual information less one).
        min_variance_explained: A series counts only if CT structures explain this part of its
            variance around the target (0 to 1): noise, or a wrong place, has next to none.
        max_likeness: Nor does it where it repeats another contrast (0 to 1, size of the correlation
            around the target): the same image under two names is one.
        max_offset_mm: A series does not count if it fits the CT clearly better shifted by more.
        min_offset_gain: How much better is clearly: the ratio of the similarities.
        finds_structures: Whether vessels, fluid and gas that nobody contoured are looked for.
        min_separation: Abstain if the MR tells core and surroundings apart worse than this, where
            it was not learned (area under the ROC curve: 0.5 is chance, 1 perfect).
        degrees_of_freedom: Of Student's t: small numbers forgive outliers.
        background_classes: Clusters of the surroundings that no structure names.
        presence_mm: How far the presence of a background class reaches (standard deviation).
        drawn_error_mm: Standard error of the drawn contour: how strongly it is believed.
        max_drawn_offset_mm: How far within the drawn contour the border may be expected all around,
            because the images put it there in the mean.
        learns_rim: Whether the living rim of a target whose core has died teaches a look, too.
        class_spread: Smallest standard deviation of a class in a channel scaled to a spread of 1
            around the target: classes that are too sharp lose the voxels that hold two tissues.
        error_share: How often a single channel errs at a voxel: bounds what it can say.
        evidence_limit: Largest log-odds that one voxel's appearance may contribute.
        evidence_share: Exponent of the likelihoods, 0 to 1: channels and voxels repeat each other.
        stiffness: Weight of neighbours against a voxel's own evidence.
        edge_contrast: How much an edge in the images loosens that bond.
        min_island_cm3: Smaller separate pieces that hold no core are dropped.
        min_core_agreement: Abstain if less of the core (0 to 1) looks like the target.
        min_volume_ratio: Abstain if the result is smaller than this part of the drawn volume.
        max_volume_ratio: Abstain if it is larger.
        max_unnamed_share: Of the drawn target: if more would go for looking neither like its core
            nor like a structure or tissue with a name, the MR moves no contour.
    """

    max_outward_mm: float = 5.0
    max_inward_mm: float = 10.0
    core_fraction: float = 0.5
    exclude_patterns: tuple[str, ...] = EXCLUDE_PATTERNS
    ignore_patterns: tuple[str, ...] = IGNORE_PATTERNS
    may_enter_patterns: tuple[str, ...] = ()
    removes_overlap: bool = True
    context_fraction: float = 0.9
    min_contrasts: int = 2
    max_uncertainty_mm: float = 3.0
    coverage_margin_mm: float = 5.0
    shell_mm: float = 15.0
    min_volume_cm3: float = 0.2
    min_voxels_across: int = 4
    max_blur_mm: float = 1.25
    min_variance_explained: float = 0.12
    max_likeness: float = 0.998
    max_offset_mm: float = 2.5
    min_offset_gain: float = 1.1
    min_similarity: float = 0.02
    finds_structures: bool = True
    min_separation: float = 0.8
    degrees_of_freedom: float = 4.0
    background_classes: int = 3
    presence_mm: float = 4.0
    drawn_error_mm: float = 3.0
    max_drawn_offset_mm: float = 3.0
    learns_rim: bool = True
    error_share: float = 0.1
    evidence_limit: float = 6.0
    evidence_share: float = 1.0
    class_spread: float = 0.4
    stiffness: float = 1.0
    edge_contrast: float = 4.0
    min_island_cm3: float = 0.1
    min_core_agreement: float = 0.5
    min_volume_ratio: float = 0.4
    max_volume_ratio: float = 1.9
    max_unnamed_share: float = 0.2

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)}, must lie between {low} and {high}"
            for name, (low, high) in BOUNDS.items()
            if not low <= getattr(self, name) <= high
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


BOUNDS: dict[str, tuple[float, float]] = {
    "max_outward_mm": (0.0, 15.0),
    "max_inward_mm": (0.0, 30.0),
    "core_fraction": (0.2, 0.9),
    "context_fraction": (0.5, 1.0),
    "min_contrasts": (2, 3),
    "max_uncertainty_mm": (0.0, 5.0),
    "coverage_margin_mm": (0.0, 20.0),
    "shell_mm": (5.0, 40.0),
    "min_volume_cm3": (0.0, 1000.0),
    "min_voxels_across": (3, 50),
    "max_blur_mm": (0.5, 10.0),
    "min_variance_explained": (0.0, 1.0),
    "max_likeness": (0.5, 1.0),
    "max_offset_mm": (1.0, 10.0),
    "min_offset_gain": (1.0, 3.0),
    "min_similarity": (0.0, 0.5),
    "min_separation": (0.5, 1.0),
    "degrees_of_freedom": (2.5, 100.0),
    "background_classes": (1, 8),
    "presence_mm": (1.0, 20.0),
    "drawn_error_mm": (0.5, 20.0),
    "max_drawn_offset_mm": (0.0, 10.0),
    "error_share": (0.001, 0.5),
    "evidence_limit": (0.5, 20.0),
    "evidence_share": (0.01, 1.0),
    "class_spread": (0.05, 2.0),
    "stiffness": (0.01, 100.0),
    "edge_contrast": (0.0, 100.0),
    "min_island_cm3": (0.0, 10.0),
    "min_core_agreement": (0.0, 1.0),
    "min_volume_ratio": (0.05, 1.0),
    "max_volume_ratio": (1.0, 10.0),
    "max_unnamed_share": (0.0, 1.0),
}
"""Smallest and largest value of each number: beyond them a setting is a mistake."""
