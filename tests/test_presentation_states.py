"""Presentation states and the overview as objects: judges, places to half a pixel, refusals."""

import copy
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    AdvancedBlendingPresentationStateStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from handlers.encode.contour_graphics import MOST_POINTS
from handlers.pictures import target_overview
from handlers.results import Refinement, RegistrationStatus, TargetStatus
from handlers.values import Contour, Mask
from node.delivery import DISPENSABLE
from node.header import header_from_bytes
from node.outputs import output_of
from node.phantom.options import PatientPosition
from node.storage_classes import SENT
from tests.archives import fill, orthanc
from tests.encode_cases import EncodeCase, bytes_of, written
from tests.presentation_cases import (
    CONTRASTS,
    filled,
    graphics_by_slice,
    phantom_case,
    phantom_of,
    renamed,
)
from tests.test_encode_peers import errors_of
from tests.test_overview import HOSTILE

PeerProgram = Callable[[str], str]

POSITIONS: tuple[PatientPosition, ...] = ("HFS", "HFP", "FFS", "FFP")
OVERVIEW, CONTOURS = "fused/OVERVIEW_1.dcm", "fused/CONTOURS_1.dcm"
BLENDING = ("fused/BLENDING_1.dcm", "fused/BLENDING_2.dcm")


@pytest.fixture(scope="module")
def case() -> EncodeCase:
    """The phantom on its back, head first."""
    return phantom_case("HFS")


@pytest.fixture(scope="module")
def objects(case: EncodeCase) -> dict[str, Dataset]:
    """Its result set, as received."""
    return written(case, until=CONTOURS)


@cache
def fused(case: EncodeCase) -> dict[str, Dataset]:
    """Return what a result set has for viewers."""
    return written(case, below="fused/")


def run(*arguments: str | Path) -> str:
    """Run a program that must succeed and return all it printed."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, timeout=60, check=False)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, text
    return text


# --- outside judges -------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("position", POSITIONS)
def test_judges_find_no_error_when_the_patient_lies_so(
    position: PatientPosition, tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Issue 6: no error from dciodvfy on any output; dcmpschk accepts the presentation states."""
    made = fused(phantom_case(position))
    assert list(made) == [OVERVIEW, *BLENDING, CONTOURS]
    for name, ds in made.items():
        path = tmp_path / Path(name).name
        path.write_bytes(bytes_of(ds))
        assert errors_of(peer_program("dciodvfy"), path) == set(), name
        if ds.Modality == "PR":
            assert "Test passed" in run(peer_program("dcmpschk"), path)
        run(peer_program("dcmdump"), "-q", path)


@pytest.mark.peers
def test_judges_find_no_error_when_the_name_is_hostile(
    case: EncodeCase, tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Names of ROIs come from strangers: every object that quotes one stays legal."""
    for name, ds in fused(renamed(case, HOSTILE)).items():
        path = tmp_path / Path(name).name
        path.write_bytes(bytes_of(ds))
        assert errors_of(peer_program("dciodvfy"), path) == set(), name
        assert ds.Modality != "PR" or "Test passed" in run(peer_program("dcmpschk"), path)


@pytest.mark.peers
def test_dcmtk_renders_every_frame_when_it_shows_the_overview(
    case: EncodeCase, objects: dict[str, Dataset], tmp_path: Path, peer_program: PeerProgram
) -> None:
    """The pictures arrive as drawn: DCMTK's bitmaps are ours, pixel for pixel."""
    path = tmp_path / "overview.dcm"
    path.write_bytes(bytes_of(objects[OVERVIEW]))
    overview = target_overview(case.result, 0)
    assert overview is not None
    for number, frame in enumerate(overview.frames, start=1):
        bitmap = tmp_path / f"{number}.ppm"
        run(peer_program("dcm2pnm"), "+op", "+F", str(number), path, bitmap)
        header, _, rest = bitmap.read_bytes().partition(b"255\n")
        assert header.split()[:3] == [b"P6", *(b"%d" % n for n in frame.pixels.shape[1::-1])]
        assert rest == frame.pixels.tobytes()


@pytest.mark.peers
def test_dcmtk_applies_the_window_and_keeps_the_graphics_when_it_reads_the_contours(
    case: EncodeCase, objects: dict[str, Dataset], tmp_path: Path, peer_program: PeerProgram
) -> None:
    """DCMTK shows a CT slice by our state: soft tissue from black to white, the graphics kept.

    It draws no vector graphics itself; that they lie right is the next tests' part.
    """
    state = tmp_path / "state.dcm"
    state.write_bytes(bytes_of(objects[CONTOURS]))
    index = len(case.sources.ct) // 2
    slice_uid = case.sources.ct[index].SOPInstanceUID
    source = next(ds for ds in phantom_of("HFS").ct if ds.SOPInstanceUID == slice_uid)
    image = tmp_path / "ct.dcm"
    image.write_bytes(bytes_of(source))
    bitmap, kept = tmp_path / "ct.pgm", tmp_path / "kept.dcm"
    run(peer_program("dcmp2pgm"), "-p", state, "+S", kept, image, bitmap)
    rows, columns = case.result.case.ct.geometry.shape[1:]
    raw = bitmap.read_bytes()[-rows * columns :]
    shown = np.frombuffer(raw, dtype=np.uint8).reshape(rows, columns).astype(float)
    expected = np.clip((case.result.case.ct.voxels[index] + 160.0) / 400.0, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 1.5
    ours, theirs = objects[CONTOURS], pydicom.dcmread(kept)
    for layer in ("DRAWN", "REFINED", "DERIVED"):
        before, after = (graphics_by_slice(ds, layer) for ds in (ours, theirs))
        assert before.keys() == after.keys()
        for uid, polylines in before.items():
            for one, other in zip(polylines, after[uid], strict=True):
                assert np.array_equal(one, other)


@pytest.mark.peers
def test_orthanc_takes_and_serves_them_when_they_are_sent(
    case: EncodeCase, objects: dict[str, Dataset], tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Issue 6: Orthanc reads all of them, in the study of the CT."""
    paths = []
    for name, ds in objects.items():
        if name.startswith("fused/"):
            path = tmp_path / Path(name).name
            path.write_bytes(bytes_of(ds))
            paths.append(path)
    with orthanc(peer_program, tmp_path / "orthanc", {}) as archive:
        fill(archive, paths)
        found = run(
            peer_program("findscu"),
            *("-S", "-aet", "FILLER", "-aec", archive.ae_title),
            *("-k", "QueryRetrieveLevel=SERIES", "-k", "Modality"),
            *("-k", f"StudyInstanceUID={case.sources.ct[0].StudyInstanceUID}"),
            *("-k", "SeriesInstanceUID", archive.host, str(archive.port)),
        )
    assert found.count("[PR]") + found.count("[PR ") == 3
    assert found.count("[OT]") + found.count("[OT ") == 1
    for name in (OVERVIEW, *BLENDING, CONTOURS):
        assert objects[name].SeriesInstanceUID in found


def test_highdicom_reads_the_frames_when_it_opens_the_overview(
    case: EncodeCase, objects: dict[str, Dataset], tmp_path: Path
) -> None:
    """An independent reader gets each frame as it was drawn."""
    path = tmp_path / "overview.dcm"
    path.write_bytes(bytes_of(objects[OVERVIEW]))
    image = highdicom.imread(path)
    overview = target_overview(case.result, 0)
    assert overview is not None
    for number, frame in enumerate(overview.frames, start=1):
        assert np.array_equal(image.get_frame(number, apply_icc_profile=False), frame.pixels)


# --- the overview as an object --------------------------------------------------------------------


def test_overview_tells_what_it_is_and_was_made_from_when_read(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """PS3.3 A.8.5: a secondary capture, derived, with its sources; burned-in text is admitted."""
    ds = objects[OVERVIEW]
    assert ds.SOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage
    assert (ds.ConversionType, list(ds.ImageType[:2])) == ("WSD", ["DERIVED", "SECONDARY"])
    assert (ds.BurnedInAnnotation, ds.PhotometricInterpretation) == ("YES", "RGB")
    assert ds.PlanarConfiguration == 0
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    frames = int(ds.NumberOfFrames)
    assert list(ds.PageNumberVector) == list(range(1, frames + 1))
    assert len(ds.FrameLabelVector) == frames == len(set(ds.FrameLabelVector))
    assert ds.StudyInstanceUID == case.sources.ct[0].StudyInstanceUID
    assert "FrameOfReferenceUID" not in ds, "it has no geometry"
    sources = {item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence}
    t1 = case.result.resampled[0].image.series_instance_uid
    assert sources == {
        str(each.SOPInstanceUID) for each in (*case.sources.ct, *case.sources.mr[t1])
    }
    (registration,) = ds.ReferencedInstanceSequence
    assert registration.ReferencedSOPInstanceUID == objects["REG_1.dcm"].SOPInstanceUID
    assert "not approved" in ds.SeriesDescription
    assert len(ds.PixelData) <= 15e6


def test_patient_is_in_no_picture_when_descriptions_name_him(case: EncodeCase) -> None:
    """No identity is burned in: free text of a scanner, which may hold a name, is not shown."""
    told = "Zacharias Xaver 19500102"
    result = case.result
    image = replace(result.resampled[0].image, description=told)
    named = replace(
        result,
        case=replace(
            result.case,
            ct=replace(result.case.ct, description=told),
            structure_set=replace(result.case.structure_set, label=told),
        ),
        resampled=(replace(result.resampled[0], image=image),),
    )
    overview, plain = target_overview(named, 0), target_overview(result, 0)
    assert overview is not None
    assert plain is not None
    words = [frame.words for frame in overview.frames]
    assert "Xaver" not in str(words)
    assert words == [frame.words for frame in plain.frames]


@pytest.mark.parametrize(("part", "expected"), [("HEADNECK", "YES"), ("ABDOMEN", None)])
def test_face_is_admitted_when_the_ct_is_of_the_head(
    case: EncodeCase, part: str, expected: str | None
) -> None:
    """A sagittal plane of a head may show a profile; elsewhere nothing is said."""
    ct = copy.deepcopy(case.sources.ct)
    for ds in ct:
        ds.BodyPartExamined = part
    made = fused(replace(case, sources=replace(case.sources, ct=ct)))
    assert made[OVERVIEW].get("RecognizableVisualFeatures") == expected


def test_lossy_compression_is_passed_on_when_a_source_had_it(case: EncodeCase) -> None:
    """PS3.3 C.7.6.1.1.5: once lossy, always lossy."""
    assert fused(case)[OVERVIEW].LossyImageCompression == "00"
    ct = copy.deepcopy(case.sources.ct)
    ct[3].LossyImageCompression, ct[3].LossyImageCompressionRatio = "01", "8"
    ct[3].LossyImageCompressionMethod = "ISO_10918_1"
    ds = fused(replace(case, sources=replace(case.sources, ct=ct)))[OVERVIEW]
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 8)


# --- contours as graphics -------------------------------------------------------------------------


def masks_of(case: EncodeCase) -> dict[str, Mask]:
    """Return the voxels that each layer outlines."""
    (target,) = case.result.targets
    assert target.refinement.refined is not None
    return {
        "DRAWN": target.drawn,
        "REFINED": target.refinement.refined,
        "DERIVED": target.derived[0].mask,
    }


@pytest.mark.parametrize("position", POSITIONS)
def test_contours_enclose_the_very_pixels_when_drawn_over_a_slice(
    position: PatientPosition,
) -> None:
    """PS3.3 C.10.5.1.2: to half a pixel; filled by a viewer, they give the voxels of each mask."""
    case = phantom_case(position)
    state = fused(case)[CONTOURS]
    rows, columns = case.result.case.ct.geometry.shape[1:]
    for layer, mask in masks_of(case).items():
        drawn = graphics_by_slice(state, layer)
        occupied = np.flatnonzero(mask.inside.any(axis=(1, 2)))
        assert set(drawn) == {str(case.sources.ct[i].SOPInstanceUID) for i in occupied}
        is_shifted_right = []
        for index in occupied:
            polylines = drawn[str(case.sources.ct[index].SOPInstanceUID)]
            assert all(np.array_equal(points[0], points[-1]) for points in polylines)
            inside = filled(polylines, rows, columns)
            assert np.array_equal(inside, mask.inside[index]), (layer, index)
            shifted = filled(polylines, rows, columns, shift=0.5)
            is_shifted_right.append(np.array_equal(shifted, mask.inside[index]))
        assert not all(is_shifted_right), "the test would see half a pixel"


def with_square(case: EncodeCase, low: float, high: float) -> EncodeCase:
    """Return the case with a drawn square, given by its column and row indices, on one slice."""
    (target,) = case.result.targets
    geometry = case.result.case.ct.geometry
    corners = [(5, low, low), (5, low, high), (5, high, high), (5, high, low)]
    contour = Contour(geometry.points_from_indices(corners))
    roi = replace(target.source_roi, contours=(contour,))
    abstained = Refinement(TargetStatus.ABSTAINED, None, ("Too little is seen.",))
    changed = replace(
        target, source_roi=roi, refinement=abstained, refined_roi_name=None, derived=()
    )
    return case.with_result(targets=(changed,))


def test_square_around_ten_pixels_when_drawn_has_the_corners_of_the_standard(
    case: EncodeCase,
) -> None:
    """Pixels 10 to 19 (counted from 0) reach from 10.0 to 20.0 in PIXEL units."""
    state = fused(with_square(case, 9.5, 19.5))[CONTOURS]
    ((points,),) = graphics_by_slice(state, "DRAWN").values()
    assert points[:-1] == pytest.approx(
        np.array([(10, 10), (10, 20), (20, 20), (20, 10)]), abs=1e-4
    ) or (
        points[:-1] == pytest.approx(np.array([(10, 10), (20, 10), (20, 20), (10, 20)]), abs=1e-4)
    )
    assert [layer.GraphicLayer for layer in state.GraphicLayerSequence] == ["DRAWN"]


def test_contour_is_cut_at_the_border_when_it_leaves_the_picture(case: EncodeCase) -> None:
    """PS3.3 C.10.5.1.2: values lie from 0 to Columns and Rows."""
    state = fused(with_square(case, -7.0, 500.0))[CONTOURS]
    ((points,),) = graphics_by_slice(state, "DRAWN").values()
    rows, columns = case.result.case.ct.geometry.shape[1:]
    assert points.min() == 0.0
    assert points[:, 0].max() == columns
    assert points[:, 1].max() == rows


def test_long_contour_is_split_when_it_exceeds_the_length_of_its_vr(case: EncodeCase) -> None:
    """PS3.5 7.1.2: FL has 16 bits of length, 8191 points; the parts join without a gap."""
    (target,) = case.result.targets
    geometry = case.result.case.ct.geometry
    angle = np.linspace(0, 2 * np.pi, 2 * MOST_POINTS + 100, endpoint=False)
    ring = [np.full(len(angle), 5.0), 15 + 8 * np.sin(angle), 15 + 8 * np.cos(angle)]
    contour = Contour(geometry.points_from_indices(np.column_stack(ring)))
    long = replace(target, source_roi=replace(target.source_roi, contours=(contour,)))
    state = fused(case.with_result(targets=(long,)))[CONTOURS]
    (parts,) = graphics_by_slice(state, "DRAWN").values()
    assert len(parts) == 3
    assert all(len(part) <= 8191 for part in parts)
    assert all(np.array_equal(a[-1], b[0]) for a, b in pairwise(parts))
    assert np.array_equal(parts[0][0], parts[-1][-1])


def test_layers_labels_and_lines_when_read_tell_drawn_from_refined(
    objects: dict[str, Dataset],
) -> None:
    """Told apart by layer, color, words and dashes; tracked as in the SEG."""
    state = objects[CONTOURS]
    assert state.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage
    layers = {layer.GraphicLayer: layer for layer in state.GraphicLayerSequence}
    assert list(layers) == ["DRAWN", "REFINED", "DERIVED"]
    colors = [tuple(v.GraphicLayerRecommendedDisplayCIELabValue) for v in layers.values()]
    assert len(set(colors)) == 3
    tracked = {}
    for annotation in state.GraphicAnnotationSequence:
        for item in annotation.GraphicObjectSequence:
            is_dashed = "LineStyleSequence" in item
            assert is_dashed == (annotation.GraphicLayer != "DRAWN")
            assert not is_dashed or item.LineStyleSequence[0].LineDashingStyle == "DASHED"
            tracked[annotation.GraphicLayer] = item.TrackingUID
        (label,) = annotation.TextObjectSequence
        assert annotation.GraphicLayer.lower() in label.UnformattedTextValue
    segments = {s.TrackingUID for s in objects["SEG.dcm"].SegmentSequence}
    assert {tracked["DRAWN"], tracked["REFINED"]} <= segments


def test_whole_picture_is_shown_in_its_true_shape_when_pixels_are_not_square(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """C.10.4: the displayed area is the whole image, by the CT's own pixel spacing."""
    for name in (CONTOURS, *BLENDING):
        (area,) = objects[name].DisplayedAreaSelectionSequence
        assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
        rows, columns = case.result.case.ct.geometry.shape[1:]
        assert list(area.DisplayedAreaBottomRightHandCorner) == [columns, rows]
        assert list(area.PresentationPixelSpacing) == list(case.sources.ct[0].PixelSpacing)


def with_two_rescales(case: EncodeCase) -> EncodeCase:
    """Return the case with a CT whose upper half has another Rescale Intercept."""
    ct = copy.deepcopy(case.sources.ct)
    for ds in ct[len(ct) // 2 :]:
        ds.RescaleIntercept = int(ds.RescaleIntercept) - 1
    return replace(case, sources=replace(case.sources, ct=ct))


def test_slices_of_each_rescale_have_a_state_when_the_ct_has_two(case: EncodeCase) -> None:
    """C.11.1: one Modality LUT per state. A blending, which has no way to say two, is left out."""
    changed = with_two_rescales(case)
    made = fused(changed)
    states = {name: ds for name, ds in made.items() if "CONTOURS" in name}
    assert list(states) == [CONTOURS, "fused/CONTOURS_2.dcm"]
    assert not [name for name in made if "BLENDING" in name]
    named = []
    intercepts = {str(ds.SOPInstanceUID): ds.RescaleIntercept for ds in changed.sources.ct}
    for state in states.values():
        (series,) = state.ReferencedSeriesSequence
        uids = [str(item.ReferencedSOPInstanceUID) for item in series.ReferencedImageSequence]
        assert {intercepts[uid] for uid in uids} == {state.RescaleIntercept}
        named += uids
    assert sorted(named) == sorted(intercepts)
    assert len({ds.SOPInstanceUID for ds in states.values()}) == 2


# --- blending -------------------------------------------------------------------------------------


def test_blending_when_read_lays_the_mr_over_the_ct(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    """C.11.33, C.11.34: two inputs, the CT's geometry, MR in color first, opacity 0.5."""
    for number, name in enumerate(BLENDING, start=1):
        ds = objects[name]
        assert ds.SOPClassUID == AdvancedBlendingPresentationStateStorage
        ct, mr = ds.AdvancedBlendingSequence
        assert (ct.GeometryForDisplay, mr.GeometryForDisplay) == ("TRUE", "FALSE")
        listed = [
            {str(i.ReferencedSOPInstanceUID) for i in each.ReferencedImageSequence}
            for each in (ct, mr)
        ]
        assert listed[0] == {str(each.SOPInstanceUID) for each in case.sources.ct}
        images = {n: v for n, v in objects.items() if n.startswith(f"MR_{number}/")}
        assert listed[1] == {str(image.SOPInstanceUID) for image in images.values()}
        assert mr.SeriesInstanceUID == next(iter(images.values())).SeriesInstanceUID
        (display,) = ds.BlendingDisplaySequence
        assert (display.BlendingMode, display.RelativeOpacity) == ("FOREGROUND", 0.5)
        order = [i.BlendingInputNumber for i in display.BlendingDisplayInputSequence]
        assert order == [mr.BlendingInputNumber, ct.BlendingInputNumber]
        assert ds.FrameOfReferenceUID == case.sources.ct[0].FrameOfReferenceUID
        window = ct.SoftcopyVOILUTSequence[0]
        assert (window.WindowCenter, window.WindowWidth) == (40, 400)
        window, image = mr.SoftcopyVOILUTSequence[0], next(iter(images.values()))
        assert float(window.WindowCenter) == pytest.approx(float(image.WindowCenter), rel=0.02)
        (palette,) = mr.PaletteColorLookupTableSequence
        red, blue = (
            np.frombuffer(palette[f"{c}PaletteColorLookupTableData"].value, dtype=np.uint8)
            for c in ("Red", "Blue")
        )
        assert np.all(red.astype(int) >= blue), "warm colors"
        assert red[0] == 0
        assert red[-1] > 200


# --- what is left out, and who takes them ---------------------------------------------------------


def test_failed_mr_is_neither_shown_nor_blended_when_the_set_is_made(case: EncodeCase) -> None:
    """Only MR with pass or warn: a failed registration leaves CT, contours and a sentence."""
    failed = tuple(
        replace(r, status=RegistrationStatus.FAIL, reasons=("No overlap.",))
        for r in case.result.registrations
    )
    made = fused(case.with_result(registrations=failed, resampled=()))
    assert list(made) == [OVERVIEW, CONTOURS]
    assert "CT alone" in made[OVERVIEW].SeriesDescription
    assert "ReferencedInstanceSequence" not in made[OVERVIEW]


def test_set_without_targets_or_mr_when_made_has_what_still_makes_sense(case: EncodeCase) -> None:
    """Never a crash: no target leaves the blending, no target and no MR nothing for viewers."""
    assert list(fused(case.with_result(targets=()))) == list(BLENDING)
    made = written(case.with_result(targets=(), registrations=(), resampled=()))
    assert not [name for name in made if name.startswith("fused/")]
    assert {"RTSTRUCT.dcm", "SR.dcm"} <= made.keys()


def test_names_of_files_when_made_are_outputs_that_a_protocol_can_choose(case: EncodeCase) -> None:
    """One per target, per resampled MR, per structure set; each SOP class is announced as sent."""
    made = fused(case)
    assert len(made) == 2 + len(CONTRASTS)
    assert {output_of(name) for name in made} == {"overview", "blending", "contours"}
    sent = {row.sop_class_uid: row.modality for row in SENT}
    for ds in made.values():
        assert sent[ds.SOPClassUID] == ds.Modality
        assert ds.SOPClassUID in DISPENSABLE


def test_bytes_are_the_same_when_encoded_again(case: EncodeCase) -> None:
    """DESIGN 6: not one byte of them comes from a clock or from chance."""
    first, second = fused(case), fused.__wrapped__(case)
    assert {n: bytes_of(ds) for n, ds in first.items()} == {
        n: bytes_of(ds) for n, ds in second.items()
    }


def test_our_own_objects_when_they_come_back_are_known_as_ours(
    objects: dict[str, Dataset],
) -> None:
    """A PACS that forwards a study sends ours along: they start no case."""
    for name, ds in objects.items():
        if name.startswith("fused/"):
            buffer = BytesIO()
            pydicom.dcmwrite(buffer, Dataset(ds), implicit_vr=False, little_endian=True)
            header = header_from_bytes(buffer.getvalue(), ExplicitVRLittleEndian)
            assert header.is_ours, name
