"""The objects of a patient, by what others refer to: what `node.assembly` joins cases from.

Sorts and sums up, each object once; decides nothing about cases, knows no protocol and no clock.
Names attributes of patient identity, never their values.
"""

import itertools
import math
import operator
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from node.conformance import MODALITY_OF
from node.header import InstanceHeader

GAP_FACTOR = 1.5
"""A step between slices larger than this many usual (median) steps is a gap."""

SAME_POSITION_MM = 0.01
"""Slices closer than this lie at one position: a repeated slice is no narrow step."""

NOT_IMAGES = ("RTSTRUCT", "RTPLAN", "RTDOSE", "REG")
"""Modalities of objects that are no image series."""

KEPT_ONLY = "kept only"
"""Stands for the modality of a series of which no object can be computed with.

A dose page is a Secondary Capture of modality CT, a spectrum one of modality MR: what they say of
themselves makes no image series of them.
"""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One object that the node holds: the newest version of its SOP instance.

    Attributes:
        header: What the index knows of it.
        sha256: Of the stored file's data set; tells versions of one SOP instance apart.
        path: Where it lies, relative to the data folder.
        received_at: When it was stored, aware UTC.
        association_is_open: An association that carried objects of this series is still open.
        quiet_s: Quiet period of the peer that sent it.
        replaces_other_content: An older version with other content was received before.
    """

    header: InstanceHeader
    sha256: str
    path: str
    received_at: datetime
    association_is_open: bool
    quiet_s: float
    replaces_other_content: bool = False


@dataclass(frozen=True, slots=True)
class AssemblyFinding:
    """Something noticed while joining objects: code, severity (info, warning, failure), text."""

    code: str
    severity: str
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """What tells patients apart; never shown."""

    patient_id: str
    issuer: str
    birth_date: str
    sex: str


@dataclass(frozen=True, slots=True)
class Series:
    """An image series; localizers in it are counted and otherwise left out.

    Attributes:
        name: For people: modality and description, or the end of the UID.
        taken_on: Earliest acquisition (else study) date of its images, None if none is told.
        frame_uid: Frame of reference, or empty.
        identities: All patient identities that its instances carry: one, if all is well.
        images: By SOP Instance UID, without localizers.
        localizers: How many were left out.
        gap: CT: a sentence about missing slices, or empty.
    """

    uid: str
    modality: str
    name: str
    description: str
    taken_on: date | None
    frame_uid: str
    study_uids: frozenset[str]
    identities: frozenset[Identity]
    images: tuple[StoredInstance, ...]
    localizers: int
    gap: str

    @property
    def name_words(self) -> frozenset[str]:
        """The words of the patient's names, for comparing only; never shown."""
        names = {image.header.patient_name.casefold() for image in self.images}
        return frozenset(word for name in names for word in re.findall(r"\w{2,}", name))

    @property
    def placed_count(self) -> int:
        """How many images (or frames of multi-frame images) say where they lie."""
        headers = [image.header for image in self.images]
        # a multi-frame image says it frame by frame, not in the header that the index reads
        return sum(h.number_of_frames for h in headers if h.position_mm or h.number_of_frames > 1)


@dataclass(frozen=True, slots=True)
class Holdings:
    """The objects, by what others refer to; every list in the order of SOP Instance UIDs.

    Attributes:
        series: Image series by UID.
        series_of_image: Series UID by SOP Instance UID of an image.
        instance_counts: By series UID, how many SOP instances it has here, of whatever kind.
        ct_by_frame: CT series by frame of reference, those of localizers alone left out.
        structure_sets: All of them.
        drawn_on: By SOP Instance UID of a structure set, the series it was drawn on; several if it
            cannot be told which.
        plans: All of them; `doses` likewise.
        registrations_by_frame: Registrations by each frame they map.
        plan_uids: SOP Instance UIDs of the plans.
    """

    series: Mapping[str, Series]
    series_of_image: Mapping[str, str]
    instance_counts: Mapping[str, int]
    ct_by_frame: Mapping[str, Sequence[Series]]
    structure_sets: Sequence[StoredInstance]
    drawn_on: Mapping[str, tuple[Series, ...]]
    plans: Sequence[StoredInstance]
    doses: Sequence[StoredInstance]
    registrations_by_frame: Mapping[str, Sequence[StoredInstance]]
    plan_uids: frozenset[str]


def identity_of(header: InstanceHeader) -> Identity:
    """Return whose object it claims to be."""
    return Identity(
        header.patient_id.strip(),
        header.issuer_of_patient_id.strip(),
        header.patient_birth_date.strip(),
        header.patient_sex.strip().upper(),
    )


def conflicting_attributes(identities: Iterable[Identity], *, issuer_may_lack: bool = True) -> str:
    """Return the names of the attributes that tell two patients apart, never their values.

    Objects joined by UID may lack the issuer, birth date or sex, as TPS often drop them; what is
    joined by nothing but the Patient ID may not lack the issuer that gives that ID its meaning.
    """
    known = list(identities)
    issuers = {each.issuer for each in known}
    values = {
        "Patient ID": {each.patient_id for each in known},
        "Issuer of Patient ID": issuers - {""} if issuer_may_lack else issuers,
        "birth date": {each.birth_date for each in known} - {""},
        "sex": {each.sex for each in known} - {""},
    }
    return ", ".join(name for name, found in values.items() if len(found) > 1)


def take_holdings(instances: Iterable[StoredInstance]) -> Holdings:
    """Return the objects sorted by what they refer to; the same for any order of `instances`."""
    images: dict[str, list[StoredInstance]] = defaultdict(list)
    structure_sets: list[StoredInstance] = []
    plans: list[StoredInstance] = []
    doses: list[StoredInstance] = []
    registrations: dict[str, list[StoredInstance]] = defaultdict(list)
    for one in sorted(instances, key=operator.attrgetter("header.sop_instance_uid")):
        header = one.header
        if header.modality not in NOT_IMAGES or not _is_computable(header):
            images[header.series_instance_uid].append(one)
            continue
        if header.modality == "RTSTRUCT":
            structure_sets.append(one)
        elif header.modality == "RTPLAN":
            plans.append(one)
        elif header.modality == "RTDOSE":
            doses.append(one)
        for frame_uid in set(header.registered_frame_uids):
            registrations[frame_uid].append(one)
    series = {uid: _series(uid, images[uid]) for uid in sorted(images)}
    held = Holdings(
        series=series,
        series_of_image={
            one.header.sop_instance_uid: uid for uid, group in images.items() for one in group
        },
        instance_counts={uid: len(group) for uid, group in images.items()},
        ct_by_frame=_ct_by_frame(series.values()),
        structure_sets=structure_sets,
        drawn_on={},
        plans=plans,
        doses=doses,
        registrations_by_frame=registrations,
        plan_uids=frozenset(one.header.sop_instance_uid for one in plans),
    )
    drawn_on = {
        one.header.sop_instance_uid: _series_drawn_on(one.header, held) for one in structure_sets
    }
    return replace(held, drawn_on=drawn_on)


def _ct_by_frame(series: Iterable[Series]) -> dict[str, list[Series]]:
    found: dict[str, list[Series]] = defaultdict(list)
    for each in series:
        if each.modality == "CT" and each.images and each.frame_uid:
            found[each.frame_uid].append(each)
    return found


def _is_computable(header: InstanceHeader) -> bool:
    """Tell whether an object is of a SOP class that takes part in cases, whatever Modality says."""
    return header.sop_class_uid in MODALITY_OF


def _series(uid: str, received: Sequence[StoredInstance]) -> Series:
    """Return a series without the objects in it that are only kept, unless there are no others."""
    group = [one for one in received if _is_computable(one.header)]
    modality = min((one.header.modality for one in group), default=KEPT_ONLY)
    group = group or list(received)
    headers = [one.header for one in group]
    images = tuple(one for one in group if not _is_localizer(one.header))
    described = {h.series_description.strip() for h in headers} - {""}
    description = min(described, default="")
    return Series(
        uid=uid,
        modality=modality,
        name=f"{modality} series " + (f'"{description}"' if description else f"...{uid[-8:]}"),
        description=description,
        taken_on=min(filter(None, (_taken_on(one.header) for one in images)), default=None),
        frame_uid=min({h.frame_of_reference_uid for h in headers} - {""}, default=""),
        study_uids=frozenset(header.study_instance_uid for header in headers),
        identities=frozenset(identity_of(header) for header in headers),
        images=images,
        localizers=len(group) - len(images),
        gap=_gap([one.header for one in images]) if modality == "CT" else "",
    )


def _is_localizer(header: InstanceHeader) -> bool:
    return any(value.upper() == "LOCALIZER" for value in header.image_type)


def _taken_on(header: InstanceHeader) -> date | None:
    for text in (header.acquisition_date, header.study_date):
        if len(text) == 8 and text.isdecimal():
            try:
                return date(int(text[:4]), int(text[4:6]), int(text[6:]))
            except ValueError:
                continue
    return None


def _gap(headers: Iterable[InstanceHeader]) -> str:
    """Return a sentence about the largest gap between slices, or an empty string."""
    at = [(h.position_mm, h.orientation) for h in headers]
    placed = [(p, o) for p, o in at if p and o and all(map(math.isfinite, (*p, *o)))]
    if not placed:
        return ""
    ax, ay, az, bx, by, bz = placed[0][1]
    normal = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    along = sorted(sum(map(operator.mul, normal, position)) for position, _ in placed)
    steps = [(b - a, a, b) for a, b in itertools.pairwise(along) if b - a > SAME_POSITION_MM]
    if len(steps) < 2:
        return ""
    usual = statistics.median_low(step for step, _, _ in steps)
    gaps = [step for step in steps if step[0] > GAP_FACTOR * usual]
    if not gaps:
        return ""
    width, start, end = max(gaps)
    many = "a gap:" if len(gaps) == 1 else f"{len(gaps)} gaps, the largest"
    return (
        f"the CT has {many} {width:.1f} mm between slice positions {start + 0.0:.1f} and "
        f"{end + 0.0:.1f} mm (usual spacing {usual:.1f} mm)"
    )


def _series_drawn_on(header: InstanceHeader, held: Holdings) -> tuple[Series, ...]:
    named = held.series.get(header.referenced_series_uid)
    if named is not None and named.modality == "CT":
        return (named,)
    listed = set(header.referenced_sop_instance_uids)
    hits = Counter(held.series_of_image[uid] for uid in listed if uid in held.series_of_image)
    if named is not None:
        # a set of several frames of reference: its longest series may be an MR, its case the CT's
        of_ct = {uid: n for uid, n in hits.items() if held.series[uid].modality == "CT"}
        if not of_ct:
            return (named,)
        hits = Counter(of_ct)
    if hits:
        most = max(hits.values())
        return tuple(held.series[uid] for uid in sorted(hits) if hits[uid] == most)
    if header.referenced_series_uid or listed:
        # it names images that are not here yet: another series of the same frame is not them
        return ()
    return tuple(held.ct_by_frame.get(header.frame_of_reference_uid, ()))


def is_drawn_elsewhere(drawn_on: Sequence[Series]) -> bool:
    """Tell whether the series a structure set was drawn on are here and none is a CT."""
    return bool(drawn_on) and all(series.modality != "CT" for series in drawn_on)


def ct_without_structure_set(held: Holdings) -> list[Series]:
    """Return the CT series that wait for a structure set, on them or in their frame."""
    uids: set[str] = set()
    frames: set[str] = set()
    for structure_set in held.structure_sets:
        drawn_on = held.drawn_on[structure_set.header.sop_instance_uid]
        if not is_drawn_elsewhere(drawn_on):
            uids.update(series.uid for series in drawn_on)
            frames.update(series.frame_uid for series in drawn_on)
            frames.add(structure_set.header.frame_of_reference_uid)
    return [
        ct
        for ct in held.series.values()
        if ct.modality == "CT"
        and ct.uid not in uids
        and (not ct.frame_uid or ct.frame_uid not in frames)
        and ct.placed_count
    ]
