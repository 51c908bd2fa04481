"""What our own objects hold: modules and attributes for each SOP class, as a table.

A test encodes result sets and holds them against this table: nothing stands in an object that is
not told here, and what is told to be always there is. Attributes within sequences are left to
PS3.3. Source of the modules: PS3.3 annex A.
"""

from collections.abc import Mapping

from pydicom import uid
from pydicom.uid import UID


def _words(text: str) -> list[str]:
    return text.split()


MODULES: Mapping[str, str] = {
    "Patient": "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex",
    "General Study": "StudyInstanceUID StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber",
    "Series": "Modality SeriesInstanceUID SeriesNumber SeriesDate SeriesTime SeriesDescription",
    "Laterality of the series": "Laterality",
    "Operator": "OperatorsName",
    "SR Document Series": "ReferencedPerformedProcedureStepSequence",
    "Equipment": "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions",
    "Frame of Reference": "FrameOfReferenceUID PositionReferenceIndicator",
    "SOP Common": "SOPClassUID SOPInstanceUID SpecificCharacterSet InstanceCreationDate "
    "InstanceCreationTime InstanceNumber",
    "Contributing equipment": "ContributingEquipmentSequence",
    "Coding scheme": "CodingSchemeIdentificationSequence",
    "Content": "ContentDate ContentTime",
    "Content Identification": "ContentLabel ContentDescription ContentCreatorName",
    "Common Instance Reference": "ReferencedSeriesSequence "
    "StudiesContainingOtherReferencedInstancesSequence",
    "General Acquisition": "AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber",
    "Image": "ImageType LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod",
    "Burned-in annotation": "BurnedInAnnotation",
    "Recognizable features": "RecognizableVisualFeatures",
    "Derivation": "DerivationDescription DerivationCodeSequence SourceImageSequence "
    "ReferencedInstanceSequence",
    "General Reference": "SourceImageSequence",
    "Image Plane": "PixelSpacing ImageOrientationPatient ImagePositionPatient SliceThickness "
    "SpacingBetweenSlices SliceLocation",
    "Image Pixel": "SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated "
    "BitsStored HighBit PixelRepresentation PixelData",
    "MR Image": "ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime "
    "EchoTime EchoTrainLength InversionTime FlipAngle MagneticFieldStrength SequenceName "
    "EchoNumbers ImagedNucleus ImagingFrequency NumberOfAverages",
    "Contrast/Bolus": "ContrastBolusAgent",
    "Position": "PatientPosition BodyPartExamined ProtocolName",
    "VOI LUT": "WindowCenter WindowWidth",
    "Padding": "PixelPaddingValue",
    "Image reference": "ReferencedImageSequence",
    "Spatial Registration": "RegistrationSequence",
    "Deformable Spatial Registration": "DeformableRegistrationSequence",
    "Structure Set": "StructureSetLabel StructureSetName StructureSetDescription StructureSetDate "
    "StructureSetTime PredecessorStructureSetSequence ReferencedFrameOfReferenceSequence "
    "StructureSetROISequence",
    "ROI Contour": "ROIContourSequence",
    "RT ROI Observations": "RTROIObservationsSequence",
    "Approval": "ApprovalStatus",
    "Multi-frame": "NumberOfFrames FrameIncrementPointer",
    "RT Dose": "DoseUnits DoseType DoseSummationType DoseComment GridFrameOffsetVector "
    "DoseGridScaling SpatialTransformOfDose ReferencedSpatialRegistrationSequence "
    "ReferencedRTPlanSequence DerivationCodeSequence ReferencedInstanceSequence",
    "Multi-frame Functional Groups": "NumberOfFrames SharedFunctionalGroupsSequence "
    "PerFrameFunctionalGroupsSequence",
    "Multi-frame Dimension": "DimensionOrganizationSequence DimensionIndexSequence "
    "DimensionOrganizationType",
    "Segmentation Image": "SegmentationType SegmentSequence SegmentsOverlap "
    "SegmentationFractionalType MaximumFractionalValue PresentationLUTShape",
    "Parametric Map Image": "ContentQualification PresentationLUTShape PixelPresentation",
    "Acquisition Context": "AcquisitionContextSequence",
    "SC Equipment": "ConversionType",
    "Color": "PlanarConfiguration",
    "SC Multi-frame": "NumberOfFrames FrameIncrementPointer PageNumberVector FrameLabelVector "
    "PatientOrientation PixelSpacing",
    "Presentation State": "PresentationCreationDate PresentationCreationTime",
    "Displayed Area": "DisplayedAreaSelectionSequence",
    "Graphic Annotation": "GraphicAnnotationSequence GraphicLayerSequence",
    "Softcopy VOI LUT": "SoftcopyVOILUTSequence",
    "Softcopy Presentation LUT": "PresentationLUTShape",
    "Advanced Blending": "AdvancedBlendingSequence BlendingDisplaySequence PixelPresentation",
    "ICC Profile": "ICCProfile",
    "Presentation reference": "ReferencedInstanceSequence",
    "Encapsulated Document": "AcquisitionDateTime BurnedInAnnotation SourceInstanceSequence "
    "DocumentTitle ConceptNameCodeSequence VerificationFlag MIMETypeOfEncapsulatedDocument "
    "EncapsulatedDocumentLength EncapsulatedDocument",
    "SR Document General": "CompletionFlag PreliminaryFlag VerificationFlag "
    "PerformedProcedureCodeSequence CurrentRequestedProcedureEvidenceSequence "
    "PertinentOtherEvidenceSequence",
    "SR Document Content": "ValueType ConceptNameCodeSequence ContinuityOfContent "
    "ContentTemplateSequence ContentSequence",
}
"""Attributes by module, as far as we write them."""

_EVERY = ("Patient", "General Study", "Series", "Equipment", "SOP Common")
_PRESENTATION = ("Laterality of the series", "Contributing equipment", "Content Identification",
                 "Presentation State", "Displayed Area")  # fmt: skip

MODULES_OF: Mapping[UID, tuple[str, ...]] = {
    uid.MRImageStorage: (
        *_EVERY, "Laterality of the series", "Contributing equipment", "Frame of Reference",
        "General Acquisition", "Content", "Image", "Burned-in annotation", "Derivation",
        "Image reference", "Image Plane", "Image Pixel", "MR Image", "Contrast/Bolus", "Position",
        "VOI LUT", "Padding", "Common Instance Reference",
    ),
    uid.SpatialRegistrationStorage: (
        *_EVERY, "Laterality of the series", "Frame of Reference", "Content",
        "Content Identification", "Spatial Registration", "Common Instance Reference",
    ),
    uid.DeformableSpatialRegistrationStorage: (
        *_EVERY, "Laterality of the series", "Frame of Reference", "Content",
        "Content Identification", "Deformable Spatial Registration", "Common Instance Reference",
    ),
    uid.RTStructureSetStorage: (
        *_EVERY, "Operator", "Frame of Reference", "Structure Set", "ROI Contour",
        "RT ROI Observations", "Approval",
    ),
    uid.RTDoseStorage: (
        *_EVERY, "Operator", "Frame of Reference", "Content", "Image Plane", "Image Pixel",
        "Multi-frame", "RT Dose", "Common Instance Reference",
    ),
    uid.SegmentationStorage: (
        *_EVERY, "Contributing equipment", "Frame of Reference", "Content",
        "Content Identification", "Image", "General Reference", "Image Pixel",
        "Multi-frame Functional Groups", "Multi-frame Dimension", "Segmentation Image",
        "Common Instance Reference",
    ),
    uid.ParametricMapStorage: (
        *_EVERY, "Laterality of the series", "Contributing equipment", "Frame of Reference",
        "Content", "Content Identification", "Image", "Burned-in annotation",
        "Recognizable features", "General Reference", "Image Pixel",
        "Multi-frame Functional Groups", "Multi-frame Dimension", "Parametric Map Image",
        "Acquisition Context", "Common Instance Reference",
    ),
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage: (
        *_EVERY, "Laterality of the series", "SC Equipment", "Content", "Image",
        "Burned-in annotation", "Recognizable features", "Derivation", "Image Pixel", "Color",
        "SC Multi-frame",
        "Common Instance Reference",
    ),
    uid.AdvancedBlendingPresentationStateStorage: (
        *_EVERY, *_PRESENTATION, "Frame of Reference", "Advanced Blending", "ICC Profile",
        "Presentation reference", "Common Instance Reference",
    ),
    uid.GrayscaleSoftcopyPresentationStateStorage: (
        *_EVERY, *_PRESENTATION, "Graphic Annotation", "Softcopy VOI LUT",
        "Softcopy Presentation LUT", "Common Instance Reference",
    ),
    uid.Comprehensive3DSRStorage: (
        *_EVERY, "SR Document Series", "Contributing equipment", "Coding scheme", "Content",
        "SR Document General", "SR Document Content",
    ),
    uid.EncapsulatedPDFStorage: (
        *_EVERY, "SC Equipment", "Content", "Encapsulated Document", "Recognizable features",
    ),
}  # fmt: skip
"""Modules by SOP class; some of their names stand for a part of a larger module of PS3.3."""

COPIED = frozenset(
    _words(
        "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex StudyInstanceUID "
        "StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber FrameOfReferenceUID "
        "PositionReferenceIndicator AcquisitionDate AcquisitionTime AcquisitionDateTime "
        "AcquisitionNumber PixelSpacing ImageOrientationPatient ImagePositionPatient "
        "SliceThickness SpacingBetweenSlices SliceLocation ScanningSequence SequenceVariant "
        "ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength InversionTime "
        "FlipAngle MagneticFieldStrength SequenceName EchoNumbers ImagedNucleus ImagingFrequency "
        "NumberOfAverages ContrastBolusAgent PatientPosition BodyPartExamined ProtocolName "
        "SpecificCharacterSet LossyImageCompression LossyImageCompressionRatio "
        "LossyImageCompressionMethod Laterality"
    )
)
"""Taken from the objects of the case: from the planning CT, of the acquisition from the MR."""

NOT_ALWAYS = frozenset(
    _words(
        "IssuerOfPatientID AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber "
        "LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod "
        "SliceThickness SpacingBetweenSlices SliceLocation InversionTime FlipAngle "
        "MagneticFieldStrength SequenceName EchoNumbers ImagedNucleus ImagingFrequency "
        "NumberOfAverages ContrastBolusAgent BodyPartExamined ProtocolName PatientPosition "
        "StudiesContainingOtherReferencedInstancesSequence SegmentationFractionalType "
        "MaximumFractionalValue DimensionOrganizationType ReferencedInstanceSequence "
        "PixelPaddingValue SpecificCharacterSet RepetitionTime EchoTime "
        "PertinentOtherEvidenceSequence PixelPresentation Laterality RecognizableVisualFeatures "
        "ReferencedSpatialRegistrationSequence"
    )
)
"""Present only where the case, or the kind of the object, has it."""

TYPICAL: Mapping[str, str] = {
    "Manufacturer": "Hilum",
    "ApprovalStatus": "UNAPPROVED",
    "VerificationFlag": "UNVERIFIED",
    "SegmentationType": "BINARY; FRACTIONAL for the probability of targets",
    "BurnedInAnnotation": "NO; YES where words stand in the pixels",
    "ImageType": "DERIVED, SECONDARY, and what was done",
}
"""Values that stand fast."""


def attributes_of(sop_class_uid: UID) -> dict[str, str]:
    """Return the attributes of the objects of a class, each with its module, in order."""
    return {
        keyword: module
        for module in MODULES_OF[sop_class_uid]
        for keyword in MODULES[module].split()
    }
