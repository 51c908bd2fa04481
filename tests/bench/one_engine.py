"""One rigid registration by one engine, in a process of its own: the child of the comparison.

    python -m tests.bench.one_engine ENGINE TASK.npz ANSWER.json

The task holds `ct`, `ct_matrix`, `mr`, `mr_matrix` (patient_from_index, LPS mm), `inside` (target
on the CT grid), `start` (4 x 4, mr_from_ct) and `points` (LPS mm in the CT frame). The answer holds
where the engine puts the points in the MR, and what that cost. The start is put into the MR's
geometry, so that every engine begins at the identity. Each engine is set as a careful user would,
and not tuned on the data it is compared on. Does not judge the answer.
"""

import importlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
PYRAMID = (4, 2, 1)
TIME_LIMIT_S = 900.0
PLASTIMATCH_STAGE = """
[STAGE]
xform=rigid
optim=versor
impl=itk
metric=mattes
mi_histogram_bins=32
num_samples=50000
translation_scale_factor=200000
max_its=500
max_step={step}
min_step=0.005
res={shrink} {shrink} {shrink_z}
"""
"""With the default scale of translations its first step is a radian and it ends at the start."""


def grid_of(matrix: Matrix) -> tuple[list[float], list[float], Matrix]:
    """Return origin, spacing and direction, x before y before z, as ITK has them."""
    columns = matrix[:3, [2, 1, 0]]
    spacing = np.linalg.norm(columns, axis=0)
    return matrix[:3, 3].tolist(), spacing.tolist(), columns / spacing


def simple_image(voxels: npt.NDArray[np.float32], matrix: Matrix) -> Any:
    """Return a volume as a SimpleITK image."""
    sitk = importlib.import_module("SimpleITK")
    image = sitk.GetImageFromArray(voxels)
    origin, spacing, direction = grid_of(matrix)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    return image


def matrix_of_points(apply: Callable[[Any], Any]) -> Matrix:
    """Return the 4 x 4 matrix of an affine map that is told by what it does to points."""
    origin = np.array(apply((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        matrix[:3, axis] = np.array(apply(tuple(np.eye(3)[axis]))) - origin
    matrix[:3, 3] = origin
    return matrix


def by_elastix(task: dict[str, Any]) -> Matrix:
    """itk-elastix: Euler, AdvancedMattes, its own rigid map, a fixed seed, 4000 samples."""
    itk = importlib.import_module("itk")

    def image(voxels: npt.NDArray[np.float32], matrix: Matrix) -> Any:
        made = itk.image_from_array(voxels)
        origin, spacing, direction = grid_of(matrix)
        made.SetOrigin(origin)
        made.SetSpacing(spacing)
        made.SetDirection(itk.matrix_from_array(direction))
        return made

    parameters = itk.ParameterObject.New()
    rigid = parameters.GetDefaultParameterMap("rigid", len(PYRAMID))
    rigid["AutomaticTransformInitialization"] = ["false"]
    rigid["NumberOfSpatialSamples"] = ["4000"]
    rigid["RequiredRatioOfValidSamples"] = ["0.05"]
    rigid["RandomSeed"] = ["1"]
    rigid["WriteResultImage"] = ["false"]
    parameters.AddParameterMap(rigid)
    fixed, moving = image(task["ct"], task["ct_matrix"]), image(task["mr"], task["mr_matrix"])
    method = itk.ElastixRegistrationMethod.New(fixed, moving)
    method.SetParameterObject(parameters)
    method.SetLogToConsole(False)
    method.SetNumberOfThreads(1)
    method.UpdateLargestPossibleRegion()
    found = method.GetTransformParameterObject().GetParameterMap(0)
    euler = importlib.import_module("SimpleITK").Euler3DTransform()
    euler.SetComputeZYX(found["ComputeZYX"][0] == "true")
    euler.SetCenter([float(v) for v in found["CenterOfRotationPoint"]])
    euler.SetParameters([float(v) for v in found["TransformParameters"]])
    return matrix_of_points(euler.TransformPoint)


def by_greedy(task: dict[str, Any]) -> Matrix:
    """Greedy: six degrees of freedom, normalised mutual information, its default jitter."""
    engine = importlib.import_module("picsl_greedy").Greedy3D()
    engine.execute(
        "-a -dof 6 -i ct mr -ia-identity -o pose -m NMI -n 100x50x10 -V 0",
        out=io.StringIO(),
        err=io.StringIO(),
        ct=simple_image(task["ct"], task["ct_matrix"]),
        mr=simple_image(task["mr"], task["mr_matrix"]),
        pose=None,
    )
    return np.asarray(LPS_FROM_RAS @ np.asarray(engine["pose"]) @ LPS_FROM_RAS)


def by_ants(task: dict[str, Any]) -> Matrix:
    """ANTs through antspyx: `Rigid`, Mattes, fixed seed."""
    ants = importlib.import_module("ants")

    def image(voxels: npt.NDArray[np.float32], matrix: Matrix) -> Any:
        origin, spacing, direction = grid_of(matrix)
        return ants.from_numpy(np.ascontiguousarray(voxels.T), origin, spacing, direction)

    found = ants.registration(
        image(task["ct"], task["ct_matrix"]),
        image(task["mr"], task["mr_matrix"]),
        type_of_transform="Rigid",
        initial_transform="Identity",
        aff_metric="mattes",
        random_seed=1,
        singleprecision=False,
    )
    maps = [ants.read_transform(path) for path in found["fwdtransforms"]]
    matrix: Matrix = np.eye(4)
    for step in maps:
        matrix = matrix @ matrix_of_points(step.apply_to_point)
    return matrix


def by_plastimatch(task: dict[str, Any]) -> Matrix:
    """plastimatch: rigid by versor and Mattes mutual information, in three stages."""
    sitk = importlib.import_module("SimpleITK")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for role in ("ct", "mr"):
            image = simple_image(task[role], task[f"{role}_matrix"])
            sitk.WriteImage(image, str(folder / f"{role}.mha"))
        stages = [
            PLASTIMATCH_STAGE.format(shrink=s, shrink_z=max(1, s // 2), step=float(s))
            for s in PYRAMID
        ]
        command = "[GLOBAL]\nfixed=ct.mha\nmoving=mr.mha\nxform_out=found.txt\n" + "".join(stages)
        (folder / "command.txt").write_text(command)
        subprocess.run(
            ["plastimatch", "register", "command.txt"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=TIME_LIMIT_S,
        )
        found = sitk.ReadTransform(str(folder / "found.txt"))
    return matrix_of_points(found.TransformPoint)


ENGINES: dict[str, tuple[str, Callable[[dict[str, Any]], Matrix]]] = {
    "elastix": ("itk", by_elastix),
    "greedy": ("picsl_greedy", by_greedy),
    "ants": ("ants", by_ants),
    "plastimatch": ("", by_plastimatch),
}
"""The module that each needs, and how it is run."""


def load(engine: str) -> None:
    """Import what an engine needs, so that importing is not counted as registering."""
    if engine == "ours":
        importlib.import_module("handlers.registration")
        return
    importlib.import_module("SimpleITK")
    module = ENGINES[engine][0]
    if module:
        loaded = importlib.import_module(module)
        if engine == "elastix":  # itk loads on first use
            loaded.ElastixRegistrationMethod, loaded.ParameterObject.New()


def is_there(engine: str) -> bool:
    """Tell whether this interpreter can run an engine."""
    if engine == "plastimatch":
        return bool(importlib.import_module("shutil").which("plastimatch")) and has("SimpleITK")
    if engine == "elastix":
        return has("itk") and hasattr(importlib.import_module("itk"), "ElastixRegistrationMethod")
    return has(ENGINES[engine][0]) and has("SimpleITK")


def has(module: str) -> bool:
    """Tell whether a module can be found."""
    return find_spec(module) is not None


def by_ours(task: dict[str, Any]) -> tuple[Any, str]:
    """Return where our registration puts the points in the MR, and its verdict."""
    from handlers.geometry import Geometry
    from handlers.registration import RegistrationSettings, register_frame
    from handlers.values import Image, Mask

    ct_grid = Geometry("1.2.826.0.1.1", task["ct_matrix"], task["ct"].shape)
    mr_grid = Geometry("1.2.826.0.1.2", task["mr_matrix"], task["mr"].shape)
    ct = Image(ct_grid, task["ct"], "CT", "1.2.826.0.1.3")
    mr = Image(mr_grid, task["mr"], "MR", "1.2.826.0.1.4", "T1", "T1")
    target = Mask(ct_grid, task["inside"])
    found = register_frame(ct, [mr], [target], RegistrationSettings())
    points = task["points"]
    if found.deformation is not None:
        points = found.deformation.apply(points)
    return found.ct_from_mr.inverse().apply(points), str(found.status)


def own_peak_kb() -> int:
    """Return the most memory that this process has held.

    Linux hands a parent's `ru_maxrss` on to the program that it starts; this figure is our own.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def answer(engine: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run an engine on a task; return where it puts the points and what that cost."""
    load(engine)
    began, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status = ""
    if engine == "ours":
        points, status = by_ours(task)
    else:
        task["mr_matrix"] = np.linalg.inv(task["start"]) @ task["mr_matrix"]
        pose = task["start"] @ ENGINES[engine][1](task)
        points = task["points"] @ pose[:3, :3].T + pose[:3, 3]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    outside = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    # plastimatch is a program: its own memory counts, or what started it if that held more
    peak_kb = after.ru_maxrss if engine == "plastimatch" else own_peak_kb()
    return {
        "points": points.tolist(),
        "status": status,
        "cpu_s": time.process_time() - began + outside,
        "peak_mb": peak_kb / 1024,
    }


def main() -> None:
    """Read the task, run the engine, write the answer."""
    engine, source, destination = sys.argv[1:]
    with np.load(source) as arrays:
        task = {key: arrays[key] for key in arrays.files}
    Path(destination).write_text(json.dumps(answer(engine, task)))


if __name__ == "__main__":
    main()
