"""The program that gives a second opinion: where it is, what it is asked for, what it needs.

Data about TotalSegmentator, its section of the configuration, and checks of an installation; it is
not started: whoever reads the configuration or looks for faults needs no more than this. How it is
run and what becomes of its answer is `node.second_opinion`'s.

Read first: Wasserthal et al. 2023, Radiology: Artificial Intelligence 5(5):e230024.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Strict

from node.errors import NodeError
from node.protocol import Positive, Section

PROGRAM = "TotalSegmentator"
"""Its console script, looked for on the PATH where no path is configured."""

_CHECKPOINTS = "*/fold_*/checkpoint_final.pth"
"""What nnU-Net leaves below the folder of a data set when it has learned."""


class SecondOpinionError(NodeError):
    """No second opinion can be had; the case can be computed without."""


@dataclass(frozen=True, slots=True)
class SecondOpinionSettings:
    """Where the program is and what it may use.

    Attributes:
        weights: Folder that holds the weights, one `Dataset...` folder for each model.
        program: Path of the console script; None: `TotalSegmentator` on the PATH.
        modalities: Kinds of image that it will be asked about; their weights must be there.
        is_fast: Models of 3 mm voxels instead of 1.5 mm: minutes instead of many, coarser.
        device: Where it computes: `cpu` or `gpu`.
        timeout_s: It is killed after this.
        memory_mib: Limit of the address space of each of its processes.
    """

    weights: Path
    program: Path | None = None
    modalities: tuple[Literal["CT", "MR"], ...] = ("CT",)
    is_fast: bool = False
    device: Literal["cpu", "gpu"] = "cpu"
    timeout_s: float = 1200.0
    memory_mib: float = 16384.0


class SecondOpinionSection(Section):
    """`[second_opinion]`: the operator's program, off without it; as `SecondOpinionSettings`."""

    weights: Annotated[Path, Strict(strict=False)]
    program: Annotated[Path, Strict(strict=False)] | None = None
    fast: bool = False
    device: Literal["cpu", "gpu"] = "cpu"
    timeout_s: Positive = 1200.0
    memory_mib: Positive = 16384.0

    def settings(self) -> SecondOpinionSettings:
        """Return the settings it stands for; only the planning CT is asked about."""
        return SecondOpinionSettings(
            # absolute: a bare file name would be looked for on the PATH
            weights=self.weights.absolute(),
            program=None if self.program is None else self.program.absolute(),
            is_fast=self.fast,
            device=self.device,
            timeout_s=self.timeout_s,
            memory_mib=self.memory_mib,
        )


@dataclass(frozen=True, slots=True)
class Organ:
    """How one structure is called by the program, by TG-263, and by people.

    Attributes:
        label: Class name of the program, in its tasks `total` and `total_mr`.
        name: TG-263 name, at most 12 characters, so that a prefix and a suffix fit into 16.
        drawn_as: ROI name patterns, ignoring case, that mean that somebody drew it.
    """

    label: str
    name: str
    drawn_as: tuple[str, ...]


_PORTAL = ("V_Port*", "*Portal*", "PV", "V_Splen*", "*Splen*V*")
_SMALL_BOWEL = ("Bowel", "Bowels", "Bowel_S*", "*Small*Bowel*", "Jejunum*", "Ileum*")
_COLON = ("Bowel", "Bowels", "Bowel_L*", "*Large*Bowel*", "Colon*")

ORGANS = (
    Organ("liver", "Liver", ("Liver*",)),
    Organ("portal_vein_and_splenic_vein", "V_PortSplen", _PORTAL),
    Organ("inferior_vena_cava", "V_Venacava_I", ("*Vena*cava*", "*IVC*")),
    Organ("aorta", "A_Aorta", ("*Aorta*",)),
    Organ("duodenum", "Duodenum", ("*Duoden*",)),
    Organ("stomach", "Stomach", ("*Stomach*",)),
    Organ("small_bowel", "Bowel_Small", _SMALL_BOWEL),
    Organ("colon", "Colon", _COLON),
    Organ("esophagus", "Esophagus", ("*Esophag*",)),
    Organ("gallbladder", "Gallbladder", ("Gall*bladder*",)),
    Organ("pancreas", "Pancreas", ("*Pancrea*",)),
    Organ("spleen", "Spleen", ("Spleen*",)),
    Organ("kidney_left", "Kidney_L", ("Kidneys*", "Kidney?L*", "L*Kidney*")),
    Organ("kidney_right", "Kidney_R", ("Kidneys*", "Kidney?R*", "R*Kidney*")),
)
"""What is asked for. Labels: TotalSegmentator 2.18.0, the class maps of both tasks. Names: AAPM
TG-263 (2018), spelled as in the TG-263 concept map of HL7 CodeX Radiation Therapy. `V_PortSplen` is
ours: that list has V_Portal, but the program draws portal and splenic vein as one."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the program.

    Attributes:
        name: For `--task`.
        suffix: Of the names of what it outlines.
        weights: Folder of each model that it opens, and the task to fetch it by.
    """

    name: str
    suffix: str
    weights: Mapping[str, str]


_CT_PARTS = ("1_organs_1559", "2_vertebrae_1532", "3_cardiac_1559", "4_muscles_1559", "5_ribs_1559")
_CT_FULL = tuple(f"Dataset29{part[0]}_TotalSegmentator_part{part}subj" for part in _CT_PARTS)
_CT_3_MM = "Dataset297_TotalSegmentator_total_3mm_1559subj"
_CT_6_MM = "Dataset298_TotalSegmentator_total_6mm_1559subj"
_MR_FULL = ("Dataset850_TotalSegMRI_part1_organs_1088subj",
            "Dataset851_TotalSegMRI_part2_muscles_1088subj")  # fmt: skip
_MR_3_MM = "Dataset852_TotalSegMRI_total_3mm_1088subj"

TASKS: Mapping[tuple[str, bool], Task] = {
    ("CT", False): Task("total", "_TS", dict.fromkeys((*_CT_FULL, _CT_6_MM), "total")),
    ("CT", True): Task("total", "_TS", dict.fromkeys((_CT_3_MM, _CT_6_MM), "total_fast")),
    ("MR", False): Task(
        "total_mr", "_TM", {**dict.fromkeys(_MR_FULL, "total_mr"), _MR_3_MM: "total_fast_mr"}
    ),
    ("MR", True): Task("total_mr", "_TM", {_MR_3_MM: "total_fast_mr"}),
}
"""By modality and speed, read from TotalSegmentator 2.18.0. A subset of organs is found first by a
coarse model (6 mm for CT, 3 mm for MR); all parts of a full task must be there even if only the
organs' part is used. Both tasks and their weights are open for any use; others need a licence."""


def check(settings: SecondOpinionSettings) -> list[str]:
    """Return what is wrong with the settings on this machine, each with what to do about it."""
    problems = program_problems(settings)
    for modality in settings.modalities:
        problems += weights_problems(TASKS[modality, settings.is_fast], settings.weights)
    return list(dict.fromkeys(problems))


def unready(task: Task, settings: SecondOpinionSettings) -> str:
    """Return why a task cannot be run, for a result: no path of this machine; empty if it can."""
    reasons = []
    if program_problems(settings):
        where = "on the PATH" if settings.program is None else "where it is configured"
        reasons.append(f"there is no program {PROGRAM} {where} that can be run")
    if weights_problems(task, settings.weights):
        reasons.append(f"weights of task {task.name} are not in the configured folder")
    return "; ".join(reasons)


def find_program(settings: SecondOpinionSettings) -> Path:
    """Return where the program is.

    Raises:
        SecondOpinionError: Nowhere, or it cannot be run.
    """
    found = shutil.which(settings.program or PROGRAM)
    if found is None:
        raise SecondOpinionError(f"{PROGRAM} is not installed", hint="install it or name its path")
    return Path(found).absolute()


def program_problems(settings: SecondOpinionSettings) -> list[str]:
    """Return why the program cannot be run; empty if it can."""
    if shutil.which(settings.program or PROGRAM) is not None:
        return []
    if settings.program is None:
        return [
            f"no program {PROGRAM} is on the PATH: install TotalSegmentator in an environment of "
            "its own and name the path of its program"
        ]
    return [f"{settings.program} is no program that can be run: name the path of {PROGRAM}"]


def weights_problems(task: Task, weights: Path) -> list[str]:
    """Return which weights of a task are not there, and how to fetch them; empty if all are."""
    absent: dict[str, list[str]] = {}
    for folder, fetched_by in task.weights.items():
        if not _has_weights(weights / folder):
            absent.setdefault(fetched_by, []).append(folder)
    return [
        f"task {task.name}: weights are absent from {weights}: {', '.join(folders)}; fetch them on "
        f"a machine with network with TOTALSEG_WEIGHTS_PATH={weights} totalseg_download_weights "
        f"-t {fetched_by}"
        for fetched_by, folders in absent.items()
    ]


def _has_weights(folder: Path) -> bool:
    try:
        return any(path.stat().st_size > 0 for path in folder.glob(_CHECKPOINTS))
    except OSError:  # what we may not read the program may not read either
        return False
