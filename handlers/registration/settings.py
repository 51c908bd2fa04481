"""The tunables of the registration, with unit and meaning; no logic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegistrationSettings:
    """How hard the registration tries and how strictly it is judged.

    Attributes:
        seed: Of the random samples of the optimiser; the same seed gives the same result.
        start_spacing_mm: Grid of the exhaustive search for the start.
        start_rotations_deg: Rotations about x, y, z in degrees that the search tries.
        least_start_overlap: Fraction of the smaller body part that must overlap at a start.
        start_count: Best starts that are tried at the coarsest level.
        refined_start_count: Best of those that are followed to the finest level.
        level_spacings_mm: Smallest voxel edge at each level, coarse to fine.
        level_steps_mm: First step of the optimiser at each level.
        samples: Number of CT points at which the optimiser compares the images.
        histogram_bins: Bins per image of the mutual information.
        iterations: Most steps per level.
        box_half_mm: Half edge of the box around the targets' centre at whose corners runs are
            compared.
    """

    seed: int = 1
    start_spacing_mm: float = 8.0
    start_rotations_deg: tuple[tuple[float, float, float], ...] = (
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 12.0),
        (0.0, 0.0, -12.0),
        (180.0, 0.0, 0.0),
        (0.0, 180.0, 0.0),
        (0.0, 0.0, 180.0),
    )
    least_start_overlap: float = 0.4
    start_count: int = 5
    refined_start_count: int = 2
    level_spacings_mm: tuple[float, ...] = (6.0, 3.0, 1.5)
    level_steps_mm: tuple[float, ...] = (4.0, 1.0, 0.5)
    samples: int = 50000
    histogram_bins: int = 50
    iterations: int = 120
    box_half_mm: float = 40.0
