"""The synthetic patient's visit: sent to a running node, results taken by a stand-in TPS.

Proves the whole way with objects that were never in one process together: what comes back is read
from disk again and held against the phantom's known truth.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import (
    AdvancedBlendingPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
)

from node.config import Config, Peer, Role
from node.delivery import InstanceOutcome, echo, send_instances
from node.errors import DeliveryError, NodeError
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import StandInReceiver

STEPS = ("make the patient", "reach the node", "send", "compute and receive", "read back")
"""The steps in order, for whoever draws a progress bar."""

MODALITY_AE = "DEMO_SCANNER"

LONGEST_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Visit:
    """What came back.

    Attributes:
        sent: Number of objects sent.
        received: File of each object that came back, by SOP Instance UID.
        lines: What was found, for people.
        problems: What is missing or wrong; empty when everything came and read back.
    """

    sent: int
    received: dict[str, Path]
    lines: tuple[str, ...]
    problems: tuple[str, ...]


def visit(
    config: Config,
    folder: Path,
    *,
    timeout_s: float,
    seed: int = 1,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Visit:
    """Send the phantom to the node that `config` describes and wait for its results.

    Args:
        config: Of the running node; its first destination must be on this machine.
        folder: Where the results are kept.
        timeout_s: How long to wait for them.
        seed: Which synthetic patient.
        on_step: Is told each step as it begins.

    Raises:
        NodeError: The node cannot be reached, or the stand-in TPS cannot listen.
    """
    on_step(STEPS[0])
    tps = _stand_in(config)
    study = make_study(PhantomOptions(seed=seed, size="small"))
    on_step(STEPS[1])
    node = Peer(
        name="node",
        ae_title=config.node.ae_title,
        host=config.node.host,
        port=config.node.port,
        roles=(Role.RECEIVE,),
    )
    sender = _sender_ae(config)
    echo(node, sender, timeout_s=config.node.network_timeout_s)
    with (
        tempfile.TemporaryDirectory(prefix="hilum-demo-") as temporary,
        StandInReceiver(folder, tps.ae_title, tps.port or 0) as receiver,
    ):
        on_step(STEPS[2])
        sent = _send(study, Path(temporary), node, sender, config.node.network_timeout_s)
        on_step(STEPS[3])
        expected = _expected(study)
        receiver.wait_for(sum(expected.values()), timeout_s=timeout_s)
        # else the node would owe the last object to nobody, and its case stay `delivering`
        receiver.wait_until_answered(timeout_s=LONGEST_ANSWER_S)
        received = dict(receiver.kept)
    on_step(STEPS[4])
    lines, problems = _read_back(received, study, expected)
    return Visit(sent, received, tuple(lines), tuple(problems))


def _stand_in(config: Config) -> Peer:
    for protocol in config.protocol:
        for name in protocol.destinations:
            peer = config.peer_named(name)
            if peer is not None:
                return peer
    raise NodeError(
        "the configuration sends results nowhere",
        hint="give the first protocol a destination on this machine",
    )


def _sender_ae(config: Config) -> str:
    """Return an AE title under which this machine may send to the node."""
    for peer in config.peer:
        if Role.SEND in peer.roles and peer.admits(peer.ae_title, "127.0.0.1"):
            return MODALITY_AE if peer.ae_title == "*" else peer.ae_title
    raise NodeError(
        "no configured peer may send to the node from this machine",
        hint='add a [[peer]] with host = "127.0.0.1" and roles = ["send"]',
    )


def _send(study: PhantomStudy, folder: Path, node: Peer, sender: str, timeout_s: float) -> int:
    paths: list[Path] = []
    for number, dataset in enumerate(study.instances()):
        path = folder / f"{number:05}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        paths.append(path)
    answers = send_instances(node, sender, paths, timeout_s=timeout_s)
    refused = [a for a in answers if a.outcome is not InstanceOutcome.SENT]
    if refused:
        raise DeliveryError(
            f"the node took {len(answers) - len(refused)} of {len(answers)} objects: "
            f"{refused[0].reason}",
            is_retryable=False,
        )
    return len(answers)


def _expected(study: PhantomStudy) -> dict[str, int]:
    return {
        MRImageStorage: len(study.mr) * len(study.ct),
        SpatialRegistrationStorage: 1,
        SegmentationStorage: 1,
        RTStructureSetStorage: 1,
        Comprehensive3DSRStorage: 1,
        MultiFrameTrueColorSecondaryCaptureImageStorage: 1,
        AdvancedBlendingPresentationStateStorage: len(study.mr),
        GrayscaleSoftcopyPresentationStateStorage: 1,
        EncapsulatedPDFStorage: 1,
    }


def _read_back(
    received: dict[str, Path], study: PhantomStudy, expected: dict[str, int]
) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    problems: list[str] = []
    by_class: dict[str, list[Dataset]] = {}
    for path in received.values():
        read = pydicom.dcmread(path)
        by_class.setdefault(str(read.SOPClassUID), []).append(read)
    for sop_class, count in expected.items():
        held = len(by_class.get(sop_class, ()))
        name = pydicom.uid.UID(sop_class).name
        lines.append(f"{held} of {count} {name}")
        if held != count:
            problems.append(f"{name}: {held} of {count} came")
    for dataset in by_class.get(SpatialRegistrationStorage, ()):
        text, problem = _judge_registration(dataset, study)
        lines.append(text)
        problems += [problem] if problem else []
    for dataset in by_class.get(RTStructureSetStorage, ()):
        text, problem = _judge_structures(dataset, study)
        lines.append(text)
        problems += [problem] if problem else []
    return lines, problems


LARGEST_ERROR_MM = 3.0
"""The demo's patient is rigid and kind: a registration farther off than this is broken."""


def _judge_registration(dataset: Dataset, study: PhantomStudy) -> tuple[str, str]:
    item = next(
        i
        for i in dataset.RegistrationSequence
        if i.FrameOfReferenceUID == study.ct_from_mr.from_frame_uid
    )
    matrix = item.MatrixRegistrationSequence[0].MatrixSequence[0]
    found = np.array(
        [float(v) for v in matrix.FrameOfReferenceTransformationMatrix], dtype=np.float64
    ).reshape(4, 4)
    inside = np.argwhere(study.true_target.inside)
    in_ct = study.true_target.geometry.points_from_indices(inside.mean(axis=0))
    in_mr = study.ct_from_mr.inverse().apply(in_ct)
    error = float(np.linalg.norm(in_mr @ found[:3, :3].T + found[:3, 3] - in_ct))
    text = f"registration error at the node's centre: {error:.2f} mm (known truth)"
    return text, "" if error <= LARGEST_ERROR_MM else text


def _judge_structures(dataset: Dataset, study: PhantomStudy) -> tuple[str, str]:
    drawn = {r.ROINumber: r for r in study.structure_set.StructureSetROISequence}
    contours = {c.ReferencedROINumber: c for c in study.structure_set.ROIContourSequence}
    new = [r.ROIName for r in dataset.StructureSetROISequence if r.ROINumber not in drawn]
    changed = [
        str(drawn[item.ReferencedROINumber].ROIName)
        for item in dataset.ROIContourSequence
        if item.ReferencedROINumber in drawn and item != contours[item.ReferencedROINumber]
    ]
    missing = len(drawn) - (len(dataset.StructureSetROISequence) - len(new))
    text = (
        f"structure set {dataset.ApprovalStatus}: {len(drawn) - missing} of {len(drawn)} ROIs as "
        f"drawn, new: {', '.join(new) or 'none (the refinement abstained)'}"
    )
    bad = changed or missing or dataset.ApprovalStatus != "UNAPPROVED"
    return text, text if bad else ""
