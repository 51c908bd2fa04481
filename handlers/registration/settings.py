"""The tunables of the registration, with unit and meaning; no logic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegistrationSettings:
    """How hard the registration tries; how it is judged is fixed in `judgement`.

    Attributes:
        seed: Of the random samples of the optimiser; the same seed gives the same result.
        start_spacing_mm: Grid of the exhaustive search for the start.
        start_rotations_deg: Rotations about x, y, z in degrees that the search tries: as labelled,
            turned a little on the couch, and the three ways in which a label may be reversed.
        least_start_overlap: Fraction of the smaller body part that must overlap at a start.
        turned_weight: What a pose explains counts by this factor when it contradicts the
            orientation labels (turned by more than 60 degrees): labels are right unless the content
            says otherwise clearly. On the sarcoma pairs they explain 0.41 to 0.69 of the best.
        start_count: Best starts that are tried at the coarsest level.
        followed_count: Best of those that are followed to the middle level.
        level_spacings_mm: Voxel edge aimed at on each level, coarse to fine.
        level_steps_mm: First step of the optimiser on each level.
        level_samples: CT points at which the optimiser compares the images on each level.
        edge_sigma_mm: Width of the Gaussian under which the second run sees edges.
        histogram_bins: Bins per image of the mutual information.
        checking_bins: The same for the third run, which sees grey values more finely.
        iterations: Most steps per level.
        box_half_mm: Half edge of the box around the targets' centre at whose corners runs are
            compared.
        neighbourhood_mm: Radius of the ball around the targets' centre in which the pose is judged.
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
    turned_weight: float = 0.75
    start_count: int = 4
    followed_count: int = 2
    level_spacings_mm: tuple[float, ...] = (6.0, 3.0, 1.5)
    level_steps_mm: tuple[float, ...] = (4.0, 1.0, 0.5)
    level_samples: tuple[int, ...] = (20_000, 50_000, 100_000)
    edge_sigma_mm: float = 2.0
    histogram_bins: int = 32
    checking_bins: int = 50
    iterations: int = 100
    box_half_mm: float = 40.0
    neighbourhood_mm: float = 50.0
