"""Starts made comparable: Mattes mutual information on coarse grids, by SimpleITK.

The only module of the registration that knows SimpleITK's optimiser and its direction (fixed to
moving: here from CT points to MR points). It does not judge what it finds. The optimiser runs in
one thread on seeded samples, so equal inputs give equal results.

Read first: Mattes et al. 2003, IEEE Trans Med Imaging 22:120-128.
"""

import numpy as np
import SimpleITK

from handlers.errors import RegistrationFailedError
from handlers.geometry import Points, RigidTransform
from handlers.registration.prepare import Prepared
from handlers.registration.settings import RegistrationSettings
from handlers.sampling import itk_image, itk_mask
from handlers.values import Image, Mask

CT_MARGIN_MM = 25.0
"""CT kept around the MR's extent: beyond it nothing can overlap, and air would eat the samples."""

LEAST_STEP = 0.02
"""The optimiser of a level ends when its step fell to this fraction of the level's first step."""

RELAXATION = 0.5
"""Factor by which a step shrinks when the gradient turns back."""


def refine_pose(
    ct: Prepared,
    mr: Prepared,
    start: RigidTransform,
    centre_mm: Points,
    settings: RegistrationSettings,
    level: int,
) -> RigidTransform:
    """Return the pose of highest mutual information near `start`, at one level of resolution.

    Args:
        ct: Fixed image.
        mr: Moving image.
        start: Sends CT points to MR points.
        centre_mm: Centre of rotation, LPS in the CT frame.
        settings: Steps, samples, bins and seed.
        level: Which of `settings.coarse_spacings_mm`.

    Raises:
        RegistrationFailedError: The images do not overlap enough to be compared.
    """
    spacing_mm = settings.coarse_spacings_mm[level]
    extent = start.inverse().apply(mr.geometry.corners_mm())
    fixed = ct.cropped(extent, CT_MARGIN_MM).shrunk(spacing_mm)
    moving = mr.shrunk(spacing_mm)
    registration = SimpleITK.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(settings.histogram_bins)
    registration.SetMetricSamplingStrategy(registration.RANDOM)
    wanted = settings.coarse_samples[level] / fixed.voxels.size
    registration.SetMetricSamplingPercentage(min(1.0, wanted), settings.seed)
    registration.SetInterpolator(SimpleITK.sitkLinear)
    registration.SetMetricMovingMask(itk_mask(Mask(moving.geometry, moving.valid)))
    step_mm = settings.coarse_steps_mm[level]
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm,
        minStep=step_mm * LEAST_STEP,
        numberOfIterations=settings.coarse_iterations,
        relaxationFactor=RELAXATION,
        gradientMagnitudeTolerance=1e-9,
    )
    # a radian moves the corners of the box by its half diagonal
    lever_mm2 = float(settings.box_half_mm**2 * 2)
    registration.SetOptimizerScales([lever_mm2] * 3 + [1.0] * 3)
    transform = _euler(start, centre_mm)
    registration.SetInitialTransform(transform, inPlace=True)
    # the metric heeds the global number of threads only, and sums differ in their last digits
    threads = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        registration.Execute(_itk(fixed), _itk(moving))
    except RuntimeError as error:
        if "alloc" in str(error).lower():
            raise MemoryError from error  # the machine's verdict, not the images'
        raise RegistrationFailedError(
            f"the optimiser at {spacing_mm} mm found too little common to both images",
            hint="Check that both images show the region of the target.",
        ) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if not np.all(np.isfinite(transform.GetParameters())):
        raise RegistrationFailedError(f"the optimiser at {spacing_mm} mm diverged")
    return _rigid(transform, start)


def _itk(volume: Prepared) -> SimpleITK.Image:
    return itk_image(Image(volume.geometry, volume.voxels, "", ""))


def _euler(pose: RigidTransform, centre_mm: Points) -> SimpleITK.Euler3DTransform:
    transform = SimpleITK.Euler3DTransform()
    transform.SetCenter([float(v) for v in centre_mm])
    transform.SetMatrix([float(v) for v in pose.matrix[:3, :3].ravel()], 1e-5)
    transform.SetTranslation([float(v) for v in pose.apply(centre_mm)[0] - centre_mm])
    return transform


def _rigid(transform: SimpleITK.Euler3DTransform, like: RigidTransform) -> RigidTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix[:3, 3] = centre + np.array(transform.GetTranslation()) - matrix[:3, :3] @ centre
    return RigidTransform(matrix, like.to_frame_uid, like.from_frame_uid)
