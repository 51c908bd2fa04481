"""Objects that the node only keeps: taken over the network as configured, and judged by nobody."""

from pathlib import Path
from typing import Literal

import pytest
from pydicom import Dataset, uid
from pydicom.uid import UID

from node.config import NodeSection
from node.conformance import DOES_NOT_MATCH_SOP_CLASS, SUCCESS
from node.element_reader import encoded_from_file
from node.index.tables import INSTANCES
from tests.receiving_node import associated, encoded, running, status_of


def kept_object(sop_class: UID, modality: str | None) -> Dataset:
    """Return an object that has identity and nothing of what images need."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "1.2.826.0.1.77"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.2", "1.2.826.0.3"
    ds.PatientID, ds.PatientName = "MARKED-4711", "MARKEDNAME^Anna"
    if modality is not None:
        ds.Modality = modality
    return ds


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (uid.SecondaryCaptureImageStorage, "CT"),
        (uid.SecondaryCaptureImageStorage, "OT"),
        (uid.PositronEmissionTomographyImageStorage, "PT"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "PR"),
        (uid.EncapsulatedPDFStorage, "DOC"),
        (uid.XRayRadiationDoseSRStorage, "SR"),
        (uid.RawDataStorage, "MR"),
        (uid.RTBeamsTreatmentRecordStorage, "RTRECORD"),
        (uid.RTImageStorage, None),  # illegal, and nobody's business
    ],
)
def test_known_object_is_kept_whatever_its_modality(
    sop_class: UID, modality: str | None, tmp_path: Path
) -> None:
    """Issue 4, 15: it is stored byte for byte, with a row in the index."""
    ds = kept_object(sop_class, modality)
    with running(tmp_path) as node, associated(node, sop_classes=(sop_class,)) as assoc:
        assert status_of(assoc, encoded(ds), ds) == SUCCESS
        (row,) = node.rows(INSTANCES)
        assert row.modality == (modality or "")
        (path,) = (p for p in node.objects() if p.suffix == ".dcm")
        assert encoded_from_file(path)[1] == encoded(ds)


@pytest.mark.parametrize(("accept", "is_taken"), [("known", False), ("all", True)])
@pytest.mark.parametrize(
    ("sop_class", "syntax"),
    [
        (uid.VideoEndoscopicImageStorage, uid.MPEG4HP41),
        (UID("1.2.840.10008.5.1.4.1.1.6"), uid.ExplicitVRLittleEndian),  # retired ultrasound
        (UID("1.2.840.10008.5.1.4.1.1.66.7"), uid.RLELossless),  # Label Map Segmentation, new
    ],
)
def test_other_object_is_kept_if_everything_is_to_be(
    accept: Literal["known", "all"], is_taken: bool, sop_class: UID, syntax: UID, tmp_path: Path
) -> None:
    """Issue 4, 15: refused in negotiation, so that the sender tries no other; or kept as sent."""
    ds = kept_object(sop_class, "ES")
    section = NodeSection(port=0, network_timeout_s=30, accept=accept)
    with (
        running(tmp_path, section=section) as node,
        associated(node, sop_classes=(sop_class, uid.CTImageStorage), syntax=syntax) as assoc,
    ):
        taken = {context.abstract_syntax for context in assoc.accepted_contexts}
        assert (sop_class in taken) == is_taken
        if is_taken:
            assert status_of(assoc, encoded(ds), ds) == SUCCESS
            (row,) = node.rows(INSTANCES)
            assert row.transfer_syntax == syntax


def test_object_that_is_only_kept_must_say_where_it_belongs(tmp_path: Path) -> None:
    """Without Study Instance UID nothing can be filed; the association goes on."""
    bad, good = (kept_object(uid.RawDataStorage, "MR") for _ in range(2))
    del bad.StudyInstanceUID
    with (
        running(tmp_path) as node,
        associated(node, sop_classes=(uid.RawDataStorage,)) as assoc,
    ):
        assert status_of(assoc, encoded(bad), bad) == DOES_NOT_MATCH_SOP_CLASS
        assert status_of(assoc, encoded(good), good) == SUCCESS
        assert len(node.rows(INSTANCES)) == 1
