"""The commonest faults of an installation, each made for real: the doctor names it and its mend.

`deploy/operations.md` tells operators of the same faults, by the same names.
"""

import copy
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, SpatialRegistrationStorage

from node.backup import RECORD_FILE
from node.config import (
    Config,
    NodeSection,
    Peer,
    Protocol,
    RetentionSection,
    Role,
    TlsSection,
    WebSection,
    default_config,
)
from node.doctor import check_peer, check_peer_table, check_ports, check_protocols
from node.doctor_access import check_access
from node.doctor_files import check_files
from node.doctor_machine import (
    Check,
    check_clock,
    check_data_folder,
    check_file_clock,
    check_inodes,
    check_memory,
    check_open_files,
    check_text_encoding,
    check_time_server,
    clock_is_followed,
)
from node.doctor_mount import check_shared_folder
from node.doctor_ownership import check_ownership
from node.doctor_results import SOP_CLASSES, check_results
from node.doctor_sharing import check_offset, check_processes
from node.doctor_telling import check_telling
from node.doctor_upkeep import check_upkeep
from node.index import Index
from node.index.heartbeats import ProcessIdentity, Sign
from node.index.tables import SCHEMA, SCHEMA_VERSION
from node.membership import SERVE
from node.outputs import OUTPUTS
from node.phantom import PhantomOptions, make_study
from node.receiver import Rejection, StandInReceiver
from tests.nodes import ROOT, free_port, run_hilum, write_datasets
from tests.receiving_node import associated, ct, encoded, running, status_of
from tests.shelf import Shelf
from tests.version_2 import restore_index

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
PATIENCE_S = 30.0
PATIENT = "Zyxwvut"


@dataclass
class Bench:
    """Where faults are made: a folder, and what must be closed afterwards."""

    folder: Path
    study: list[Dataset]
    stack: ExitStack = field(default_factory=ExitStack)

    def node(self, **keys: object) -> NodeSection:
        usual = {"data": self.folder / "data", "min_free_mib": 1.0, "port": 11112}
        return NodeSection.model_validate({**usual, **keys})

    def receiver(self, **given: Any) -> StandInReceiver:
        return self.stack.enter_context(StandInReceiver(self.folder / "tps", "TPS", **given))

    def taken_port(self) -> int:
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return int(listener.getsockname()[1])

    def index(self) -> Index:
        index = Index(f"sqlite:///{self.folder / 'data' / 'index.sqlite'}")
        index.create()
        self.stack.callback(index.close)
        return index

    def upkeep(self, *, now: datetime = NOON, **sections: Any) -> tuple[Check, ...]:
        config = Config(node=self.node(), **{"web": WebSection(enabled=False), **sections})
        return check_upkeep(config, now)

    def export(self, *changes: Callable[[Dataset], Dataset | None]) -> tuple[Check, ...]:
        """Return what is said of an export whose objects were changed, or left out (None)."""
        objects: list[Dataset] = []
        for one in self.study:
            changed: Dataset | None = copy.deepcopy(one)
            for change in changes:
                changed = None if changed is None else change(changed)
            if changed is not None:
                objects.append(changed)
        write_datasets(objects, self.folder / "export")
        return check_files(default_config(), [self.folder / "export"])


@pytest.fixture(scope="module")
def study() -> list[Dataset]:
    options = PhantomOptions(seed=7, size="tiny", contrasts=("T1",), with_dose=False)
    objects = list(make_study(options).instances())
    for one in objects:
        one.PatientName = f"{PATIENT}^Marked"
    return objects


@pytest.fixture
def bench(tmp_path: Path, study: list[Dataset]) -> Iterator[Bench]:
    found = Bench(tmp_path, study)
    with found.stack:
        yield found


def tps(port: int | None, **given: Any) -> Peer:
    usual = {"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", "roles": (Role.RECEIVE,)}
    return Peer.model_validate({**usual, "port": port, **given})


def protocol(name: str = "sbrt", **given: Any) -> Protocol:
    return Protocol.model_validate({"name": name, "targets": ("GTV*",), **given})


# --- each fault -------------------------------------------------------------------------------


def port_taken(bench: Bench) -> tuple[Check, ...]:
    config = Config(node=bench.node(port=bench.taken_port()), protocol=(protocol(),))
    return check_ports(config, echo_timeout_s=0.5)


def page_port_taken(bench: Bench) -> tuple[Check, ...]:
    bench.index()
    return bench.upkeep(web=WebSection(port=bench.taken_port()))


def page_without_user(bench: Bench) -> tuple[Check, ...]:
    bench.index()
    return bench.upkeep(web=WebSection(port=0, login=True))


def foreign_host(bench: Bench) -> tuple[Check, ...]:
    return check_ports(Config(node=bench.node(host="192.0.2.7")), echo_timeout_s=0.5)


def called_ae(bench: Bench) -> tuple[Check, ...]:
    receiver = bench.receiver()
    receiver.rejection = Rejection.CALLED_AE_UNKNOWN
    return (check_peer(tps(receiver.port), "HILUM", PATIENCE_S),)


def calling_ae(bench: Bench) -> tuple[Check, ...]:
    receiver = bench.receiver()
    receiver.rejection = Rejection.CALLING_AE_UNKNOWN
    return (check_peer(tps(receiver.port), "HILUM", PATIENCE_S),)


def unknown_name(_bench: Bench) -> tuple[Check, ...]:
    return (check_peer(tps(104, host="tps.invalid"), "HILUM", PATIENCE_S),)


def refused(_bench: Bench) -> tuple[Check, ...]:
    return (check_peer(tps(free_port()), "HILUM", PATIENCE_S),)


def mute(bench: Bench) -> tuple[Check, ...]:
    return (check_peer(tps(bench.taken_port()), "HILUM", 0.5),)


def lacks_class(bench: Bench) -> tuple[Check, ...]:
    receiver = bench.receiver(sop_classes=[SpatialRegistrationStorage])
    config = Config(
        node=bench.node(), peer=(tps(receiver.port),), protocol=(protocol(destinations=("tps",)),)
    )
    return tuple(check_results(config, timeout_s=PATIENCE_S))


def itself_as_peer(bench: Bench) -> tuple[Check, ...]:
    return check_peer_table(Config(node=bench.node(), peer=(tps(11112),)))


def no_destination(_bench: Bench) -> tuple[Check, ...]:
    return check_protocols(Config(protocol=(protocol(),)))


def never_reached(_bench: Bench) -> tuple[Check, ...]:
    return check_protocols(Config(protocol=(protocol("any"), protocol("liver", mr=("T1*",)))))


def certificate_gone(bench: Bench) -> tuple[Check, ...]:
    files = {key: bench.folder / key for key in ("certificate", "key", "peer_authorities")}
    return check_access(Config(tls=TlsSection(**files)), NOON)


def folder_is_file(bench: Bench) -> tuple[Check, ...]:
    (bench.folder / "data").write_bytes(b"")
    return check_data_folder(bench.folder / "data", 1.0)


def disk_full(bench: Bench) -> tuple[Check, ...]:
    return check_data_folder(bench.folder, 1e9)


def inodes_spent(_bench: Bench) -> tuple[Check, ...]:
    return check_inodes(17, 1_000_000)


def clock_wrong(_bench: Bench) -> tuple[Check, ...]:
    return (check_clock(datetime(1970, 1, 1, tzinfo=UTC)),)


def clock_free(_bench: Bench) -> tuple[Check, ...]:
    return check_time_server(is_followed=False)


def file_clock(_bench: Bench) -> tuple[Check, ...]:
    return (check_file_clock(NOON, NOON + timedelta(minutes=1)),)


def hosts_apart(_bench: Bench) -> tuple[Check, ...]:
    return (check_offset(timedelta(seconds=9)),)


def versions_mixed(_bench: Bench) -> tuple[Check, ...]:
    signs = [
        Sign(ProcessIdentity(f"host-{n}.serve", SERVE, f"1.{n}"), beats=1, beat_at=NOON)
        for n in range(2)
    ]
    return (check_processes(signs, NOON, limit_s=60.0),)


def folder_locks_for_one(bench: Bench) -> tuple[Check, ...]:
    mounts = f"1 0 0:1 / {bench.folder.resolve()} rw - nfs host:/data rw,vers=3,nolock\n"
    return (check_shared_folder(bench.folder, mounts),)


def few_files(_bench: Bench) -> tuple[Check, ...]:
    return (check_open_files(256, 100),)


def little_memory(_bench: Bench) -> tuple[Check, ...]:
    return (check_memory(2000.0, 8192.0),)


def ascii_locale(_bench: Bench) -> tuple[Check, ...]:
    return (check_text_encoding("utf-8", "ANSI_X3.4-1968"),)


def database_damaged(bench: Bench) -> tuple[Check, ...]:
    (bench.folder / "data").mkdir()
    (bench.folder / "data" / "index.sqlite").write_bytes(b"this is no database at all " * 100)
    return bench.upkeep()


def database_older(bench: Bench) -> tuple[Check, ...]:
    (bench.folder / "data").mkdir()
    restore_index(bench.folder / "data" / "index.sqlite")
    return bench.upkeep()


def database_newer(bench: Bench) -> tuple[Check, ...]:
    with bench.index().begin() as connection:
        connection.execute(SCHEMA.update().values(version=SCHEMA_VERSION + 1))
    return bench.upkeep()


def no_backup(bench: Bench) -> tuple[Check, ...]:
    bench.index()
    return bench.upkeep()


def room_cannot_be_made(bench: Bench) -> tuple[Check, ...]:
    Shelf(bench.folder / "data", bench.index()).store("A", "1")
    keep = RetentionSection(make_room_below_mib=9e6)
    return bench.upkeep(retention=keep)


def left_by_root(bench: Bench) -> tuple[Check, ...]:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    Shelf(bench.folder / "data", bench.index()).store("A", "1")
    os.chown(bench.folder / "data" / "index.sqlite", 65534, 65534)
    return check_ownership(bench.folder / "data")


def secret_gone(bench: Bench) -> tuple[Check, ...]:
    hook = {"url": "https://hook.clinic.example/", "secret_file": str(bench.folder / "absent")}
    return check_telling(Config.model_validate({"notify": {"webhook": hook}}))


def authorities_gone(bench: Bench) -> tuple[Check, ...]:
    syslog = {"host": "syslog.clinic.example", "authorities": str(bench.folder / "absent")}
    return check_telling(Config.model_validate({"audit": {"syslog": syslog}}))


def promised_not_filed(bench: Bench) -> tuple[Check, ...]:
    """Receive an object; leave the folder as a power cut in that moment would."""
    at_work, kept = bench.folder / "at-work", bench.folder / "data"
    with running(at_work) as node:
        with associated(node) as assoc:
            one = ct()
            assert status_of(assoc, encoded(one), one) == 0
        shutil.copytree(at_work, kept)
    for database in kept.glob("index.sqlite*"):
        database.unlink()
    bench.index()
    return bench.upkeep()


def other_frame(bench: Bench) -> tuple[Check, ...]:
    def move(one: Dataset) -> Dataset:
        if one.Modality == "RTSTRUCT":
            text = one.to_json()
            old = one.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
            meta = one.file_meta
            one = Dataset.from_json(text.replace(old, "1.2.3.99"))
            one.file_meta = meta
        return one

    return bench.export(move)


def slices_not_exported(bench: Bench) -> tuple[Check, ...]:
    return bench.export(lambda d: None if d.Modality == "CT" and d.InstanceNumber == 3 else d)


def no_target(bench: Bench) -> tuple[Check, ...]:
    def rename(one: Dataset) -> Dataset:
        for roi in one.get("StructureSetROISequence", ()):
            roi.ROIName = roi.ROIName.replace("GTV", "Lump")
        return one

    return bench.export(rename)


def two_patients(bench: Bench) -> tuple[Check, ...]:
    def swap(one: Dataset) -> Dataset:
        if one.Modality == "MR":
            one.PatientID = "SOMEBODY-ELSE"
        return one

    return bench.export(swap)


def tilted(bench: Bench) -> tuple[Check, ...]:
    def lean(one: Dataset) -> Dataset:
        if one.Modality == "CT":
            x, y, z = one.ImagePositionPatient
            one.ImagePositionPatient = [x, y + 0.2 * z, z]
        return one

    return bench.export(lean)


def uneven(bench: Bench) -> tuple[Check, ...]:
    def spread(one: Dataset) -> Dataset:
        if one.Modality == "CT" and one.ImagePositionPatient[2] > 0:
            x, y, z = one.ImagePositionPatient
            one.ImagePositionPatient = [x, y, z * 1.25]
        return one

    return bench.export(spread)


def damaged_files(bench: Bench) -> tuple[Check, ...]:
    (bench.folder / "export").mkdir()
    (bench.folder / "export" / "report.dcm").write_bytes(b"PK no DICOM at all")
    return bench.export()


FAULTS: list[tuple[str, str, Callable[[Bench], tuple[Check, ...]], str]] = [
    ("port", "fail", port_taken, "is taken"),
    ("port", "fail", foreign_host, "node.host to an address of this machine"),
    ("page", "fail", page_port_taken, "web.port"),
    ("page", "fail", page_without_user, "hilum users add"),
    ("peer tps", "fail", called_ae, "correct ae_title of [[peer]] tps"),
    ("peer tps", "fail", calling_ae, "add our AE title HILUM"),
    ("peer tps", "fail", unknown_name, "name service"),
    ("peer tps", "fail", refused, "firewall"),
    ("peer tps", "fail", mute, "is it a DICOM SCP"),
    ("results to tps", "fail", lacks_class, "structure-set (RT Structure Set Storage)"),
    ("peers", "fail", itself_as_peer, "host and port of this node"),
    ("protocol sbrt", "warn", no_destination, "results stay here"),
    ("protocol liver", "warn", never_reached, "protocol any"),
    ("tls", "fail", certificate_gone, "certificate"),
    ("data folder", "fail", folder_is_file, "is not a folder"),
    ("free space", "fail", disk_full, "free space"),
    ("inodes", "fail", inodes_spent, "mkfs"),
    ("clock", "fail", clock_wrong, "set the clock"),
    ("time server", "warn", clock_free, "time server"),
    ("file clock", "warn", file_clock, "same time server"),
    ("shared clock", "warn", hosts_apart, "one time server"),
    ("processes", "warn", versions_mixed, "bring all to one version"),
    ("shared folder", "fail", folder_locks_for_one, "NFS 4.1"),
    ("open files", "warn", few_files, "LimitNOFILE"),
    ("memory", "warn", little_memory, "node.compute_memory_mib"),
    ("text encoding", "warn", ascii_locale, "LANG=C.UTF-8"),
    ("database", "fail", database_damaged, "restore a backup"),
    ("database", "warn", database_older, "the next start brings it up to date"),
    ("database", "fail", database_newer, "update this one"),
    ("backup", "warn", no_backup, "hilum backup"),
    ("retention", "fail", room_cannot_be_made, "hilum retention --dry-run"),
    ("ownership", "warn", left_by_root, "chown -R root:"),
    ("notification", "fail", secret_gone, "notify.webhook.secret_file"),
    ("audit trail", "fail", authorities_gone, "audit.syslog.authorities"),
    ("journal", "warn", promised_not_filed, "start the node"),
    ("frame of reference", "fail", other_frame, "from the same plan"),
    ("listed slices", "fail", slices_not_exported, "1 of 28 slices"),
    ("target", "fail", no_target, "rename the ROI"),
    ("patient", "fail", two_patients, "correct the Patient ID"),
    ("gantry tilt", "fail", tilted, "11.3 degrees"),
    ("slice spacing", "fail", uneven, "export all slices"),
    ("files", "warn", damaged_files, "export again"),
]
"""Name of the check, what it says of the fault, the fault, and a part of what is told."""


@pytest.mark.parametrize(
    ("name", "status", "fault", "words"), FAULTS, ids=[row[2].__name__ for row in FAULTS]
)
def test_fault_is_named_with_its_mend(
    bench: Bench, name: str, status: str, fault: Callable[[Bench], tuple[Check, ...]], words: str
) -> None:
    """Bullet 6: found where it is really made; the finding names the mend, and no patient."""
    found = fault(bench)
    meant = [c for c in found if c.name == name and c.status == status]
    assert meant, found
    assert all(check.mend for check in meant)
    assert any(words in f"{check.text}; {check.mend}" for check in meant), meant
    assert PATIENT not in str(found)


def test_sound_things_are_no_faults(bench: Bench) -> None:
    """The same checks say nothing of a sound node, its peer, and a sound export."""
    Shelf(bench.folder / "data", bench.index()).store("A", "1")
    (bench.folder / "elsewhere").mkdir()
    record = {"at": NOON.isoformat(), "folder": str(bench.folder / "elsewhere")}
    (bench.folder / "data" / RECORD_FILE).write_text(json.dumps(record))
    receiver = bench.receiver()
    config = Config(
        node=bench.node(), peer=(tps(receiver.port),), protocol=(protocol(destinations=("tps",)),)
    )
    found = [
        *bench.upkeep(now=NOON + timedelta(days=1)),
        *check_results(config, timeout_s=PATIENCE_S),
        *check_protocols(config),
        *check_inodes(10_000_000, 20_000_000),
        check_text_encoding("utf-8", "UTF-8"),
        *bench.export(),
    ]
    assert [check for check in found if check.status != "ok"] == []
    late = bench.upkeep(now=NOON + timedelta(days=30))
    assert any(c.name == "backup" and "30 days old" in c.text for c in late)


def test_doctor_changes_nothing(bench: Bench) -> None:
    """An older index stays as it is, for the program that still works on it."""
    (bench.folder / "data").mkdir()
    restore_index(bench.folder / "data" / "index.sqlite")
    before = sorted(path.name for path in (bench.folder / "data").iterdir())
    bench.upkeep()
    index = Index(f"sqlite:///{bench.folder / 'data' / 'index.sqlite'}")
    assert index.version() == 2
    index.close()
    after = sorted(p.name for p in (bench.folder / "data").iterdir() if p.suffix == ".sqlite")
    assert after == before


def test_clock_of_this_machine_can_be_asked() -> None:
    """Whether it is followed is the machine's affair; that Linux tells is not."""
    assert clock_is_followed() in (True, False)


def test_results_of_every_kind_have_a_sop_class() -> None:
    """A kind that is added to the result sets is asked for, too."""
    assert set(SOP_CLASSES) == set(OUTPUTS)
    assert SOP_CLASSES["structure-set"] == RTStructureSetStorage


def test_operators_are_told_of_every_fault() -> None:
    """The table in the guide has a row for each check by which a fault is found, and no other."""
    guide = (ROOT / "deploy" / "operations.md").read_text(encoding="utf-8")
    table = guide.partition("### What the doctor finds")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    kinds = {re.sub(r"\b(tps|sbrt|liver)$", "NAME", name) for name, *_ in FAULTS}
    assert sorted(set(rows)) == sorted(kinds)
    assert len(FAULTS) >= 20


def test_command_looks_at_an_export(bench: Bench) -> None:
    """`hilum doctor --files` is what a physicist runs before the first patient."""
    slices_not_exported(bench)
    done = run_hilum("doctor", "--json", "--files", str(bench.folder / "export"))
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert (done.returncode, found["listed slices"]["status"]) == (1, "fail")
    assert "Traceback" not in done.stderr
    (wrong,) = check_files(default_config(), [bench.folder / "nowhere"])
    assert "no such file or folder" in wrong.text
