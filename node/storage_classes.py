"""Which storage SOP classes and transfer syntaxes the node takes and sends, as tables.

The tables are data: `scp` and `header` obey them and `conformance` prints them. Opens no socket
and decides nothing about an association.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID

from node.config import Config

UNCOMPRESSED = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
LOSSLESS = (
    uid.JPEGLosslessSV1,
    uid.JPEGLossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.RLELossless,
)
PERHAPS_LOSSY = (
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
    uid.JPEGExtended12Bit,
    uid.JPEGBaseline8Bit,
)
"""Taken as sent; a case that is computed with a lossy image says so in a finding."""

IMAGE_SYNTAXES = UNCOMPRESSED + LOSSLESS + PERHAPS_LOSSY
"""Those in which images can be decoded. The first that a peer proposes is taken, so a lossy one
only if there is no other."""

_NOT_CONTAINED = (
    "1.2.840.10008.1.2.4.94",  # JPIP Referenced, and deflated; likewise for high throughput
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
    "1.2.840.10008.1.2.6.",  # MIME and XML
    "1.2.840.10008.1.2.7.",  # SMPTE streams
    "1.2.840.10008.1.20",  # Papyrus
)
"""Beginnings of UIDs: transfer syntaxes whose pixels are elsewhere, or that are no data set."""

KEPT_SYNTAXES = IMAGE_SYNTAXES + tuple(
    UID(syntax)
    for syntax, (_, kind, *_) in sorted(UID_dictionary.items())
    if kind == "Transfer Syntax"
    and not syntax.startswith(_NOT_CONTAINED)
    and syntax not in IMAGE_SYNTAXES
)
"""Those in which an object can be kept, video among them."""

SENT_SYNTAXES = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)

SYNTAX_SETS: Mapping[str, tuple[UID, ...]] = {
    "data sets": UNCOMPRESSED,
    "images": IMAGE_SYNTAXES,
    "everything": KEPT_SYNTAXES,
    "results": SENT_SYNTAXES,
}
"""Names by which the conformance statement calls them."""


@dataclass(frozen=True, slots=True)
class StorageClass:
    """A storage SOP class in one direction.

    Attributes:
        modality: What Modality (0008,0060) must say; empty: anything.
        transfer_syntaxes: Those we accept, or propose; the preferred one first.
        use: What for.
        is_computed: Cases are computed with it; otherwise it is only kept.
    """

    sop_class_uid: UID
    modality: str
    transfer_syntaxes: tuple[UID, ...]
    use: str
    is_computed: bool = False


def _computed(
    sop_class_uid: UID, modality: str, syntaxes: tuple[UID, ...], use: str
) -> StorageClass:
    return StorageClass(sop_class_uid, modality, syntaxes, use, is_computed=True)


ACCEPTED = (
    _computed(uid.CTImageStorage, "CT", IMAGE_SYNTAXES, "planning CT, earlier CT, CBCT"),
    StorageClass(uid.EnhancedCTImageStorage, "CT", IMAGE_SYNTAXES, "refused as planning CT"),
    StorageClass(
        uid.LegacyConvertedEnhancedCTImageStorage, "CT", IMAGE_SYNTAXES, "refused as planning CT"
    ),
    _computed(uid.MRImageStorage, "MR", IMAGE_SYNTAXES, "MR to register"),
    _computed(uid.EnhancedMRImageStorage, "MR", IMAGE_SYNTAXES, "MR to register"),
    _computed(uid.RTStructureSetStorage, "RTSTRUCT", UNCOMPRESSED, "targets and organs"),
    _computed(uid.RTDoseStorage, "RTDOSE", IMAGE_SYNTAXES, "dose in the targets"),
    StorageClass(uid.RTPlanStorage, "RTPLAN", UNCOMPRESSED, "joins a dose to its structure set"),
    StorageClass(uid.RTIonPlanStorage, "RTPLAN", UNCOMPRESSED, "joins a dose to its structure set"),
    _computed(uid.SpatialRegistrationStorage, "REG", UNCOMPRESSED, "where the MR may lie"),
    StorageClass(uid.DeformableSpatialRegistrationStorage, "REG", UNCOMPRESSED, "with its case"),
    StorageClass(uid.SegmentationStorage, "SEG", IMAGE_SYNTAXES, ""),
    StorageClass(
        uid.Comprehensive3DSRStorage, "SR", UNCOMPRESSED, "our own report, if a peer returns it"
    ),
)
"""Storage SOP classes as SCP that cases know."""

_KEPT_IMAGES = (
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
    uid.NuclearMedicineImageStorage,
    uid.EnhancedMRColorImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.ParametricMapStorage,
    uid.RTImageStorage,
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.XRay3DAngiographicImageStorage,
)
"""What scanners, linear accelerators and planning systems push beside their volumes."""

_KEPT_DOCUMENTS = (
    uid.BasicTextSRStorage,
    uid.EnhancedSRStorage,
    uid.ComprehensiveSRStorage,
    uid.XRayRadiationDoseSRStorage,
    uid.EnhancedXRayRadiationDoseSRStorage,
    uid.RadiopharmaceuticalRadiationDoseSRStorage,
    uid.KeyObjectSelectionDocumentStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.ColorSoftcopyPresentationStateStorage,
    uid.PseudoColorSoftcopyPresentationStateStorage,
    uid.BlendingSoftcopyPresentationStateStorage,
    uid.AdvancedBlendingPresentationStateStorage,
    uid.EncapsulatedPDFStorage,
    uid.EncapsulatedCDAStorage,
    uid.RTBeamsTreatmentRecordStorage,
    uid.RTBrachyTreatmentRecordStorage,
    uid.RTIonBeamsTreatmentRecordStorage,
    uid.RTTreatmentSummaryRecordStorage,
    uid.RTBeamsDeliveryInstructionStorage,
    uid.SpatialFiducialsStorage,
    uid.SurfaceSegmentationStorage,
    uid.RealWorldValueMappingStorage,
    uid.MRSpectroscopyStorage,
    uid.RawDataStorage,
)
"""What they push that is no image."""

KEPT = tuple(StorageClass(one, "", IMAGE_SYNTAXES, "") for one in _KEPT_IMAGES) + tuple(
    StorageClass(one, "", UNCOMPRESSED, "") for one in _KEPT_DOCUMENTS
)
"""Storage SOP classes that a peer pushes along with those that we use."""

_STORAGE_ROOTS = ("1.2.840.10008.5.1.4.1.1.", "1.2.840.10008.5.1.4.34.")
"""Beginnings of the UIDs of the Storage Service Class (PS3.4 B.5)."""

_WITHOUT_PATIENT = (
    "1.2.840.10008.5.1.4.1.1.200.1",
    "1.2.840.10008.5.1.4.1.1.200.3",
    "1.2.840.10008.5.1.4.1.1.200.7",
    "1.2.840.10008.5.1.4.1.1.201.1",
)
"""Protocols and inventories: Non-Patient Object Storage (PS3.4 GG), which belong to no study."""

_NOT_IN_PYDICOM = {
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State",
}
"""Names of storage SOP classes that are younger than pydicom's dictionary."""


def _every_storage_class() -> list[str]:
    known = [
        sop_class_uid
        for sop_class_uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class"
        and "Storage" in name
        and sop_class_uid.startswith(_STORAGE_ROOTS)
        and sop_class_uid not in _WITHOUT_PATIENT
    ]
    return sorted({*known, *_NOT_IN_PYDICOM})


_NAMED = {row.sop_class_uid for row in (*ACCEPTED, *KEPT)}

OTHERS = tuple(
    StorageClass(UID(one), "", KEPT_SYNTAXES, _NOT_IN_PYDICOM.get(one, ""))
    for one in _every_storage_class()
    if one not in _NAMED
)
"""Every other storage SOP class, retired ones among them; taken only if `accept` is `all`."""

SENT = (
    StorageClass(uid.MRImageStorage, "MR", SENT_SYNTAXES, "MR resampled on the planning CT"),
    StorageClass(uid.SpatialRegistrationStorage, "REG", SENT_SYNTAXES, "MR frame to CT frame"),
    StorageClass(
        uid.DeformableSpatialRegistrationStorage,
        "REG",
        SENT_SYNTAXES,
        "CT frame to MR frame, where a deformation is used",
    ),
    StorageClass(
        uid.RTStructureSetStorage, "RTSTRUCT", SENT_SYNTAXES, "original and refined targets"
    ),
    StorageClass(
        uid.RTDoseStorage,
        "RTDOSE",
        SENT_SYNTAXES,
        "on request: EQD2 of all courses of the patient",
    ),
    StorageClass(
        uid.SegmentationStorage,
        "SEG",
        SENT_SYNTAXES,
        "what the report refers to (BINARY); on request the probability of targets (FRACTIONAL)",
    ),
    StorageClass(
        uid.ParametricMapStorage, "OT", SENT_SYNTAXES, "on request: probability of targets"
    ),
    StorageClass(
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
        "OT",
        SENT_SYNTAXES,
        "overview: pictures of each target, CT with MR in color and contours",
    ),
    StorageClass(
        uid.AdvancedBlendingPresentationStateStorage,
        "PR",
        SENT_SYNTAXES,
        "planning CT and resampled MR blended by the viewer",
    ),
    StorageClass(
        uid.GrayscaleSoftcopyPresentationStateStorage,
        "PR",
        SENT_SYNTAXES,
        "contours of targets as graphics on the planning CT",
    ),
    StorageClass(uid.Comprehensive3DSRStorage, "SR", SENT_SYNTAXES, "measurements (TID 1500)"),
    StorageClass(uid.EncapsulatedPDFStorage, "DOC", SENT_SYNTAXES, "the report for people"),
)
"""Storage SOP classes as SCU."""

MODALITY_OF: Mapping[str, str] = {row.sop_class_uid: row.modality for row in ACCEPTED}
"""The Modality that a SOP class which cases know demands; of a class that is only kept, nothing."""


def accepted(config: Config) -> tuple[StorageClass, ...]:
    """Return the storage SOP classes that the node takes under this configuration."""
    return ACCEPTED + KEPT + (OTHERS if config.node.accept == "all" else ())
