"""Objects whose headers are read in tests, and their encoding by pydicom's writer."""

from pydicom import Dataset, uid
from pynetdicom.dsutils import encode

SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)


def image(sop_class: str = uid.CTImageStorage, modality: str = "CT") -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "1.2.826.0.1.7"
    ds.StudyDate, ds.AcquisitionDate, ds.Modality = "20260301", "20260302", modality
    ds.SeriesDescription = "Abdomen für Planung"
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Muster^Jörg", " PID-77 ", "HOSPITAL"
    ds.PatientBirthDate, ds.PatientSex = "19500102", "M"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.2", "1.2.826.0.3"
    ds.ImagePositionPatient = [-100.5, "2e1", -30]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = "1.2.826.0.4"
    ds.Rows, ds.Columns, ds.PixelSpacing = 2, 3, [0.5, 0.75]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = bytes(12)
    ds["PixelData"].VR = "OW"
    return ds


def item(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def references(*uids: str) -> list[Dataset]:
    return [
        item(ReferencedSOPClassUID=uid.CTImageStorage, ReferencedSOPInstanceUID=one) for one in uids
    ]


def structure_set() -> Dataset:
    """Two listed series: an MR with one image, the CT with three; a contour names a fourth."""
    ds = image(uid.RTStructureSetStorage, "RTSTRUCT")
    del ds.PixelData, ds.FrameOfReferenceUID
    ds.StructureSetLabel = "PLAN"
    mr = item(SeriesInstanceUID="1.9.1", ContourImageSequence=references("1.9.1.1"))
    ct = item(
        SeriesInstanceUID="1.9.2", ContourImageSequence=references("1.9.2.1", "1.9.2.2", "1.9.2.3")
    )
    study = item(ReferencedSOPInstanceUID="1.9", RTReferencedSeriesSequence=[mr, ct])
    ds.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID="1.8", RTReferencedStudySequence=[study])
    ]
    ds.StructureSetROISequence = [
        item(ROINumber=1, ROIName="GTVn", ReferencedFrameOfReferenceUID="1.8"),
        item(ROINumber=2, ROIName="Magenwände", ReferencedFrameOfReferenceUID="1.8"),
    ]
    contours = [
        item(ContourImageSequence=references(one), ContourData=[0, 0, 0, 1, 0, 0, 1, 1, 0])
        for one in ("1.9.2.2", "1.9.2.4")
    ]
    ds.ROIContourSequence = [item(ReferencedROINumber=1, ContourSequence=contours)]
    return ds


def encoded(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Encode with pydicom's writer, the outside judge of the encoding."""
    kind = uid.UID(syntax)
    found = encode(ds, kind.is_implicit_VR, kind.is_little_endian, kind.is_deflated)
    assert found is not None
    return found


def open_sequences(ds: Dataset) -> Dataset:
    """Give every sequence and item an undefined length."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for child in element.value:
                child.is_undefined_length_sequence_item = True
                open_sequences(child)
    return ds
