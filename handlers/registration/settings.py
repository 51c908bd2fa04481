"""The tunables of the registration, with unit and meaning; no logic."""

from dataclasses import dataclass, field

from handlers.registration.smooth_field import DeformableSettings


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
        coarse_spacings_mm: Voxel edge aimed at on each level on which starts are compared.
        coarse_steps_mm: First step of the optimiser on each of these levels.
        coarse_samples: CT points at which it compares the images.
        coarse_iterations: Most steps on each of these levels.
        fine_spacing_mm: Voxel edge aimed at for both engines and all that is judged.
        histogram_bins: Bins per image of the mutual information.
        box_half_mm: Half edge of the box around the targets' centre at whose corners runs are
            compared.
        neighbourhood_mm: Radius of the ball around the targets' centre in which the pose is judged.
        brightness_sigmas_mm: Smoothing on each level of the engine that compares brightness.
        brightness_steps_mm: Its first step on each level.
        brightness_iterations: Its steps on each level.
        brightness_points: Points that it compares in each step.
        structure_spacings_mm: Grid on each level of the engine that compares structure.
        structure_reach_mm: Half edge of the box around the targets' centre that it looks at.
        structure_points: Points that it compares.
        apart_start_mm: How far off its start, along each axis and to both sides, the engine on
            brightness begins, and the engine on structure: an engine that merely stays where it was
            put must not look as if it agreed.
        apart_start_deg: The same as angles about each axis.
        engines_agree_mm: Engines nearer than this (median at the corners of the box) are averaged.
        local_margin_mm: The ball of the local search holds the target and this much around it.
        close_margin_mm: The same of the smaller ball that is searched once that shift was followed.
        largest_rest_mm: What the smaller ball may still ask for.
        local_radius_mm: Largest radius of that ball.
        local_spacing_mm: Grid of the local search.
        local_reach_mm: Largest shift along an axis that it tries.
        local_agreement_mm: A local shift is followed only if all measures agree within this.
        least_local_shift_mm: Below it the target lies as the whole body does: neither a smaller
            ball nor a deformation is looked at.
        largest_local_shift_mm: A local shift beyond this is not followed.
        largest_series_shift_mm: A series may lie this far beside the leading one.
        deformable: How the local deformation is sought and judged.
        use_as_sent: Take the registration that was sent (or the shared frame of reference, where
            none was) as it is, and judge it only.
    """

    seed: int = 1
    start_spacing_mm: float = 8.0
    start_rotations_deg: tuple[tuple[float, float, float], ...] = (
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 15.0),
        (0.0, 0.0, -15.0),
        (0.0, 15.0, 0.0),
        (0.0, -15.0, 0.0),
        (15.0, 0.0, 0.0),
        (-15.0, 0.0, 0.0),
        (180.0, 0.0, 0.0),
        (0.0, 180.0, 0.0),
        (0.0, 0.0, 180.0),
    )
    least_start_overlap: float = 0.4
    turned_weight: float = 0.75
    start_count: int = 4
    followed_count: int = 2
    coarse_spacings_mm: tuple[float, float] = (6.0, 3.0)
    coarse_steps_mm: tuple[float, float] = (4.0, 1.0)
    coarse_samples: tuple[int, int] = (20_000, 50_000)
    coarse_iterations: int = 100
    fine_spacing_mm: float = 1.5
    histogram_bins: int = 32
    box_half_mm: float = 40.0
    neighbourhood_mm: float = 50.0
    brightness_sigmas_mm: tuple[float, ...] = (4.0, 2.0, 1.0)
    brightness_steps_mm: tuple[float, ...] = (2.0, 1.0, 1.0)
    brightness_iterations: tuple[int, ...] = (120, 120, 200)
    brightness_points: int = 2500
    structure_spacings_mm: tuple[float, ...] = (6.0, 4.0, 2.5)
    structure_reach_mm: float = 140.0
    structure_points: int = 20_000
    apart_start_mm: float = 3.0
    apart_start_deg: float = 2.0
    engines_agree_mm: float = 4.6
    local_margin_mm: float = 40.0
    close_margin_mm: float = 22.0
    largest_rest_mm: float = 3.0
    local_radius_mm: float = 75.0
    local_spacing_mm: float = 2.5
    local_reach_mm: float = 12.5
    local_agreement_mm: float = 1.5
    least_local_shift_mm: float = 1.0
    largest_local_shift_mm: float = 10.0
    largest_series_shift_mm: float = 5.0
    deformable: DeformableSettings = field(default_factory=DeformableSettings)
    use_as_sent: bool = False
