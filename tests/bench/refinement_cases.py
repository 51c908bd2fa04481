"""Cases for the refinement's bench: made as the pipeline makes them, cropped, kept in a folder.

A case is phantom or real pair -> decode -> register -> resample, then cropped around the target: it
holds all that `refine` is given, and the truth beside it. Making one takes a minute, so it is kept;
nothing is kept within the project. Nothing is refined or measured here.
"""

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import SimpleITK

from handlers.decode import CaseDatasets, decode_case
from handlers.geometry import Geometry, RigidTransform
from handlers.pipeline import series_by_frame
from handlers.registration import RegistrationSettings, register_frame
from handlers.results import Registration, ResampledMr
from handlers.sampling import mask_from_roi, resample
from handlers.values import Case, Image, Mask
from node.errors import NodeError
from node.phantom import PhantomOptions, make_study
from node.phantom.options import HiddenBy
from node.phantom.study import PhantomStudy

PROJECT = Path(__file__).resolve().parents[2]
MARGIN_MM = 45.0
"""How much around the target is kept: more than the refinement looks at, and room for faults."""

TARGET = "GTVn"
MAKERS = ("node/phantom", "handlers/decode", "handlers/registration", "handlers/sampling")
"""The code that decides what a kept case looks like."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class BenchCase:
    """All that `refine` is given, on one grid, and the truth.

    Attributes:
        name: Of the case.
        drawn: The target as drawn.
        ct: The planning CT.
        mr: The resampled series.
        mr_rigid: The same without the deformable step.
        organs: All other structures by ROI name.
        truth: The target as it is (of a real pair: as drawn on the MR).
        hidden: The part of the truth that the CT does not show; None or empty: there is none.
        is_useful: Whether the MR can tell anything about the target.
        features: What is uncommon about the case.
        error_mm: By contrast: how far the target's centre is from where it is shown.
    """

    name: str
    drawn: Mask
    ct: Image
    mr: tuple[ResampledMr, ...]
    mr_rigid: tuple[ResampledMr, ...]
    organs: Mapping[str, Mask]
    truth: Mask
    hidden: Mask | None = None
    is_useful: bool = True
    features: tuple[str, ...] = ()
    error_mm: Mapping[str, float] = field(default_factory=dict)

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The registrations of its series, each once."""
        return tuple({id(series.registration): series.registration for series in self.mr}.values())

    @property
    def uncertainty_mm(self) -> float:
        """The largest uncertainty that a registration states."""
        return max((found.uncertainty_mm for found in self.registrations), default=float("nan"))


class CaseSpec(Protocol):
    """Names a case, and can make it."""

    @property
    def name(self) -> str:
        """Of the case, and of the file it is kept in."""

    def make(self) -> BenchCase:
        """Return the case; ValueError: there is no such case."""


@dataclass(frozen=True, slots=True)
class KitSpec:
    """A case of the commissioning kit; `hidden_by` hides part of the node from the CT."""

    seed: int
    hard: bool = False
    hidden_by: HiddenBy = "nothing"

    @property
    def name(self) -> str:
        """Of the case, and of the file it is kept in."""
        hidden = "" if self.hidden_by == "nothing" else f"-{self.hidden_by}"
        return f"kit{self.seed}{'h' if self.hard else ''}{hidden}"

    def make(self) -> BenchCase:
        """Return the case: phantom, decoding, registration, resampling."""
        opened = open_kit(self)
        return bench_case(self.name, opened, registered(opened.case, opened.drawn))


@dataclass(frozen=True, slots=True, eq=False)
class OpenedStudy:
    """A phantom as the pipeline has it before the registration."""

    study: PhantomStudy
    case: Case
    drawn: Mask
    organs: dict[str, Mask]


def open_kit(spec: KitSpec) -> OpenedStudy:
    """Return the decoded phantom of full size."""
    options = PhantomOptions.for_seed(spec.seed, hard=spec.hard, hidden_by=spec.hidden_by)
    study = make_study(replace(options, with_dose=False))
    series = {str(s[0].SeriesInstanceUID): s for s in study.mr.values()}
    case = decode_case(CaseDatasets(study.ct, study.structure_set, series)).case
    rois = [roi for roi in case.structure_set.rois if roi.contours]
    organs = {roi.name: mask_from_roi(roi, case.ct.geometry) for roi in rois}
    return OpenedStudy(study, case, organs.pop(TARGET), organs)


def registered(
    case: Case,
    drawn: Mask,
    settings: RegistrationSettings | None = None,
    sent: Sequence[RigidTransform] = (),
) -> list[Registration]:
    """Return the registrations of a case as the pipeline finds them."""
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return [
        register_frame(case.ct, series, (drawn,), settings or RegistrationSettings(), sent=sent)
        for series in series_by_frame(case.mr)
    ]


def bench_case(name: str, opened: OpenedStudy, found: Sequence[Registration]) -> BenchCase:
    """Return the cropped case of a phantom with its registrations."""
    study, options = opened.study, opened.study.options
    crop = Crop.around(opened.drawn)
    centre = np.array([study.target_centre_mm])
    mr, rigid, error_mm = [], [], {}
    for registration in found:
        for image in opened.case.mr:
            if image.series_instance_uid not in registration.series_uids:
                continue
            mr.append(crop.resampled(image, registration))
            rigid.append(crop.resampled(image, replace(registration, deformation=None)))
            field_ = registration.deformation
            at = centre if field_ is None else centre + field_.at(centre)
            shown = registration.ct_from_series(image.series_instance_uid).inverse().apply(at)
            apart = shown - study.mr_points(centre, image.contrast)
            error_mm[image.contrast] = float(np.linalg.norm(apart))
    variety = options.variety
    return BenchCase(
        name=name,
        drawn=crop.mask(opened.drawn),
        ct=crop.image(opened.case.ct),
        mr=tuple(mr),
        mr_rigid=tuple(rigid),
        organs={k: crop.mask(v) for k, v in opened.organs.items() if crop.holds(v)},
        truth=crop.mask(study.true_target),
        hidden=crop.mask(study.hidden_target),
        is_useful=variety is None or variety.is_mr_useful,
        features=tuple(variety.features(options.breathing_mm, options.mr_plane) if variety else ()),
        error_mm=error_mm,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """The part of a grid around a target."""

    block: tuple[slice, slice, slice]
    geometry: Geometry

    @classmethod
    def around(cls, drawn: Mask) -> "Crop":
        """Return the crop of `MARGIN_MM` around a target."""
        slices = []
        for axis, spacing in enumerate(drawn.geometry.spacing_mm):
            others = tuple(other for other in range(3) if other != axis)
            at = np.flatnonzero(drawn.inside.any(axis=others))
            margin = int(np.ceil(MARGIN_MM / spacing))
            end = min(int(at[-1]) + margin + 1, drawn.geometry.shape[axis])
            slices.append(slice(max(int(at[0]) - margin, 0), end))
        z, y, x = slices
        shape = (z.stop - z.start, y.stop - y.start, x.stop - x.start)
        return cls((z, y, x), drawn.geometry.crop((z.start, y.start, x.start), shape))

    def mask(self, mask: Mask) -> Mask:
        """Return a mask of the full grid, cropped."""
        return Mask(self.geometry, mask.inside[self.block].copy())

    def image(self, image: Image) -> Image:
        """Return an image of the full grid, cropped."""
        return replace(image, geometry=self.geometry, voxels=image.voxels[self.block].copy())

    def holds(self, mask: Mask) -> bool:
        """Return whether a mask of the full grid has a voxel here."""
        return bool(mask.inside[self.block].any())

    def resampled(self, image: Image, registration: Registration) -> ResampledMr:
        """Return an MR series on this grid."""
        pose = registration.ct_from_series(image.series_instance_uid)
        moved, valid = resample(image, self.geometry, pose, registration.deformation)
        return ResampledMr(moved, valid, registration)


def in_own_processes(
    function: Callable[[Argument], Result], arguments: Iterable[Argument], jobs: int
) -> Iterator[Result]:
    """Yield the results in order, each from a process of its own, so that its memory is its own."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        yield from pool.map(function, arguments)


def prepare(specs: Sequence[CaseSpec], folder: Path, jobs: int) -> list[Path]:
    """Make the cases that the folder lacks; return the files of all that can be made.

    Args:
        specs: Which cases.
        folder: Where cases are kept.
        jobs: How many are made at once.
    """
    if PROJECT in (folder.resolve(), *folder.resolve().parents):
        raise SystemExit(f"{folder} lies within the project: keep cases elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{spec.name}.pickle" for spec in specs]
    missing = [pair for pair in zip(specs, paths, strict=True) if _kept_code(pair[1]) is None]
    for (_, path), problem in zip(missing, in_own_processes(_make, missing, jobs), strict=True):
        print(f"{path.stem}: {problem or 'made'}", flush=True)
        if problem:
            paths.remove(path)
    old = [path.stem for path in paths if _kept_code(path) != _code()]
    if old:
        print(f"NOTE: made by other code than today's (empty {folder} to renew): {' '.join(old)}")
    return paths


def load(path: Path) -> BenchCase:
    """Return a kept case."""
    with path.open("rb") as file:
        pickle.load(file)  # noqa: S301 -- our own file
        case = pickle.load(file)  # noqa: S301 -- our own file
    if not isinstance(case, BenchCase):
        raise TypeError(f"{path} holds no case")
    return case


def keep(case: BenchCase, path: Path) -> None:
    """Write a case, whole or not at all."""
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        pickle.dump((_code(), _layout()), file)
        pickle.dump(case, file)
    unfinished.replace(path)


def _make(pair: tuple[CaseSpec, Path]) -> str:
    """Make and keep a case; return why there is none."""
    spec, path = pair
    try:
        keep(spec.make(), path)
    except (ValueError, NodeError) as error:
        return f"cannot be made: {error}"
    return ""


def _kept_code(path: Path) -> str | None:
    """Return the code that made a kept case; None: it must be made anew."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        code, layout = pickle.load(file)  # noqa: S301 -- our own file
    return str(code) if layout == _layout() else None


def _layout() -> dict[str, tuple[str, ...]]:
    """Return the fields of what is kept: pickles of other fields cannot be read."""
    kinds = (BenchCase, Image, Mask, Registration, ResampledMr, Geometry, RigidTransform)
    return {kind.__name__: tuple(f.name for f in fields(kind)) for kind in kinds}


def _code() -> str:
    digest = hashlib.sha256()
    for folder in MAKERS:
        for path in sorted((PROJECT / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
