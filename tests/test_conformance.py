"""The tables of the conformance statement, held against PS3.4 as pynetdicom knows it."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from pydantic import SecretStr
from pydicom import uid
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.status import STATUS_FAILURE, STORAGE_SERVICE_CLASS_STATUS

from handlers.encode import identity
from node import conformance
from node.config import Config, NodeSection, Peer, Role, TlsSection, default_config
from node.errors import (
    ComputeError,
    ConfigError,
    NodeError,
    StorageFullError,
    UnfitObjectError,
    UnreadableObjectError,
)
from node.statement import conformance_statement
from node.storage_classes import IMAGE_SYNTAXES, PERHAPS_LOSSY, StorageClass


@pytest.mark.parametrize(
    ("error", "status", "meaning"),
    [
        (UnreadableObjectError("x"), 0xC000, "Cannot Understand"),
        (UnfitObjectError("x"), 0xA900, "Data Set Does Not Match SOP Class"),
        (StorageFullError("x"), 0xA700, "Refused: Out of Resources"),
        (NodeError("x"), 0x0110, "Processing Failure"),
        (ComputeError("x"), 0x0110, "Processing Failure"),
        (ConfigError(["x"]), 0x0110, "Processing Failure"),
    ],
)
def test_status_of_each_error(error: NodeError, status: int, meaning: str) -> None:
    """Handbook A.2, and the meaning that a sender's library gives to the number."""
    assert conformance.status_of(error) == status
    assert STORAGE_SERVICE_CLASS_STATUS[status] == (STATUS_FAILURE, meaning)


def test_not_authorised_is_the_general_status() -> None:
    """PS3.7 Annex C, not the number that the template of PS3.2 prints by mistake."""
    assert STORAGE_SERVICE_CLASS_STATUS[conformance.NOT_AUTHORISED][1] == "Refused: Not Authorised"


def test_accepted_classes_are_those_of_the_handbook() -> None:
    """Handbook A.1: what the founding use case needs, and nothing by accident."""
    prefix = "1.2.840.10008.5.1.4.1.1."
    accepted = {row.sop_class_uid.removeprefix(prefix) for row in conformance.ACCEPTED}
    images, plans = {"2", "2.1", "2.2", "4", "4.1"}, {"481.2", "481.3", "481.5", "481.8"}
    assert accepted == images | plans | {"66.1", "66.3", "66.4", "88.34"}
    assert len(conformance.ACCEPTED) == len(accepted)
    assert Verification == conformance.VERIFICATION


STORAGE = {cx.abstract_syntax for cx in AllStoragePresentationContexts}


def accepting(accept: Literal["known", "all"]) -> tuple[StorageClass, ...]:
    return conformance.accepted(Config(node=NodeSection(accept=accept)))


def test_every_class_speaks_the_default_syntax() -> None:
    """PS3.5 10.1: Implicit VR Little Endian is mandatory."""
    for row in (*accepting("all"), *conformance.SENT):
        assert uid.ImplicitVRLittleEndian in row.transfer_syntaxes
        assert all(syntax.is_transfer_syntax for syntax in row.transfer_syntaxes)
        assert len(set(row.transfer_syntaxes)) == len(row.transfer_syntaxes)


def test_known_classes_are_those_that_cases_use_and_what_comes_with_them() -> None:
    """Issue 4, 15: a screen shot or dose report must not spoil the association of its CT."""
    known = accepting("known")
    names = [row.sop_class_uid.keyword for row in known]
    assert known[: len(conformance.ACCEPTED)] == conformance.ACCEPTED
    assert len(set(names)) == len(names)
    assert {row.sop_class_uid for row in known} < STORAGE
    for kept in (
        "SecondaryCaptureImageStorage",
        "MultiFrameTrueColorSecondaryCaptureImageStorage",
        "PositronEmissionTomographyImageStorage",
        "BasicTextSRStorage",
        "XRayRadiationDoseSRStorage",
        "KeyObjectSelectionDocumentStorage",
        "GrayscaleSoftcopyPresentationStateStorage",
        "EncapsulatedPDFStorage",
        "RTImageStorage",
        "RTBeamsTreatmentRecordStorage",
        "RawDataStorage",
    ):
        assert kept in names
    assert "VideoEndoscopicImageStorage" not in names


def test_all_classes_are_all_that_others_know() -> None:
    """Issue 4, 15: every storage SOP class, by the lists of two libraries."""
    every = {row.sop_class_uid for row in accepting("all")}
    assert every >= STORAGE
    assert len(accepting("all")) == len(every)
    assert uid.UID("1.2.840.10008.5.1.4.1.1.6") in every  # Ultrasound Image Storage (Retired)
    for no_storage in (uid.MediaStorageDirectoryStorage, StorageCommitmentPushModel):
        assert no_storage not in every
    for without_patient in (uid.CTDefinedProcedureProtocolStorage, uid.HangingProtocolStorage):
        assert without_patient not in every


def test_kept_objects_may_be_of_any_modality() -> None:
    """Issue 4, 15: what is only kept is not judged; what cases use is."""
    kept = accepting("all")[len(conformance.ACCEPTED) :]
    assert {row.modality for row in kept} == {""}
    assert not any(row.is_computed for row in kept)
    assert not {row.sop_class_uid for row in kept} & set(conformance.MODALITY_OF)
    assert all(conformance.MODALITY_OF.values())


@pytest.mark.parametrize("accept", ["known", "all"])
def test_lossless_syntaxes_are_preferred(accept: Literal["known", "all"]) -> None:
    """Issue 4, 14: pynetdicom takes the first of ours that the peer proposes."""
    for row in accepting(accept):
        of_images = [s for s in row.transfer_syntaxes if s in IMAGE_SYNTAXES]
        lossy = [syntax in PERHAPS_LOSSY for syntax in of_images]
        assert lossy == sorted(lossy)
        assert row.transfer_syntaxes[0] == uid.ExplicitVRLittleEndian


def test_every_sent_class_is_accepted_back() -> None:
    """Peers forward our own results; a refusal would stop their whole transfer."""
    accepted = {row.sop_class_uid for row in accepting("known")}
    assert {row.sop_class_uid for row in conformance.SENT} <= accepted


def test_identity_is_that_of_the_encoder() -> None:
    """Our own objects are recognised by what the encoder writes into them."""
    for name in ("MANUFACTURER", "IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME"):
        assert getattr(conformance, name) == getattr(identity, name)


@pytest.mark.parametrize("accept", ["known", "all"])
def test_statement_holds_what_is_in_force(accept: Literal["known", "all"]) -> None:
    """The statement is made from the tables and the configuration that run."""
    peer = Peer(name="tps-east", ae_title="EAST", host="10.1.2.3", port=1104, roles=(Role.RECEIVE,))
    node = NodeSection(
        ae_title="OURS",
        port=4242,
        network_timeout_s=17,
        max_associations=9,
        max_pdu_bytes=65432,
        accept=accept,
    )
    text = conformance_statement(Config(node=node, peer=(peer,)))
    rows = (*accepting(accept), *conformance.SENT)
    for expected in (
        *(f"| {row.sop_class_uid} |" for row in rows),
        *(f"| {syntax} |" for row in rows for syntax in row.transfer_syntaxes),
        *(f"0x{status:04X}" for status in conformance.STATUS_OF.values()),
        *("OURS", "4242", "17 s", "| 9 |", "tps-east", "EAST", "10.1.2.3", "aborted association"),
        "65432 bytes",
    ):
        assert expected in text
    assert (uid.VideoEndoscopicImageStorage in text) == (accept == "all")


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [
        (uid.CTImageStorage, "| CT | images | computed with |"),
        (uid.RTPlanStorage, "| RTPLAN | data sets | kept |"),
        (uid.EncapsulatedPDFStorage, "| any | data sets | kept |"),
        (uid.VideoEndoscopicImageStorage, "| any | everything | kept |"),
    ],
)
def test_statement_says_what_is_computed_with(sop_class: uid.UID, expected: str) -> None:
    """Issue 4, 15: what is only kept is called so."""
    text = conformance_statement(Config(node=NodeSection(accept="all")))
    (row,) = (r for r in text.split("#### 3.3.2")[1].split("#### 3.3.3")[0].splitlines()
              if r.startswith(f"| {sop_class.name} |"))  # fmt: skip
    assert expected in row


def test_statement_follows_the_order_of_ps3_2() -> None:
    """Readers of conformance statements look for things where PS3.2 puts them."""
    text = conformance_statement(default_config())
    titles = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    assert titles == [
        "DICOM conformance statement of Hilum",
        "1 Overview",
        "1.1 Network services",
        "2 Introduction",
        "3 Networking",
        "3.1 Implementation model",
        "3.2 Association policies",
        "3.3 Activities as SCP",
        "3.3.1 Verification",
        "3.3.2 Storage",
        "3.3.3 Storage commitment",
        "3.3.4 Query",
        "3.3.5 Retrieval",
        "3.4 Activities as SCU",
        "3.4.1 Verification",
        "3.4.2 Storage of results",
        "3.4.3 Commitment to results",
        "3.4.4 Query and retrieval",
        "3.5 Network interfaces",
        "4 Configuration",
        "5 Media interchange",
        "6 Character sets",
        "7 Security",
        "8 Annexes",
        "8.1 Contents of objects that are made here",
        "8.2 Coded terms",
        "8.3 Private attributes, classes and transfer syntaxes",
    ]
    lines = text.splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|"), below


@pytest.mark.parametrize(
    ("is_required", "expected"),
    [
        (False, "plain listener is open, too (port 4242)"),
        (True, "plain listener is closed"),
    ],
)
def test_statement_tells_encryption_and_identity(is_required: bool, expected: str) -> None:
    """The statement says who may connect how, as it is configured."""
    tls = TlsSection(
        certificate=Path("own.pem"),
        key=Path("own.key"),
        peer_authorities=Path("peers.pem"),
        port=2763,
        require=is_required,
    )
    peer = Peer(
        name="vault",
        ae_title="VAULT",
        host="10.1.2.3",
        port=2762,
        roles=(Role.RECEIVE,),
        tls=True,
        username="vault-user",
        passcode=SecretStr("hidden-word"),
    )
    config = Config(node=NodeSection(port=4242), peer=(peer,), tls=tls)
    security = conformance_statement(config).split("## 7 Security")[1]
    for part in ("port 2763", expected, "Called over TLS: vault", "is demanded of: vault"):
        assert part in security
    assert "hidden-word" not in security
    plain = conformance_statement(default_config()).split("## 7 Security")[1]
    assert "not encrypted" in plain
    assert "is demanded of: nobody" in plain
