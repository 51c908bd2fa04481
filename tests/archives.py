"""Archives of others that answer C-FIND, C-MOVE and C-GET: Orthanc and DCMTK's dcmqrscp."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import uid

from node.association import open_association
from node.config import Peer, Role
from node.delivery import InstanceOutcome, send_instances
from node.errors import DeliveryError
from tests.nodes import NodeProcess, free_port, wait_for

ROLES = (Role.SEND, Role.QUERY)
VERIFICATION = "1.2.840.10008.1.1"


def archive_peer(name: str, port: int) -> Peer:
    """Return an archive as a peer of a node, which it may also send to."""
    return Peer(name=name, ae_title=name.upper(), host="127.0.0.1", port=port, roles=ROLES)


def fill(peer: Peer, paths: Sequence[Path]) -> None:
    """Store files in an archive; every one must be taken."""
    answers = send_instances(peer, "FILLER", paths, timeout_s=30)
    assert all(one.outcome is InstanceOutcome.SENT for one in answers), answers


def _answers(peer: Peer) -> bool:
    wanted = [(uid.UID(VERIFICATION), uid.ImplicitVRLittleEndian)]
    try:
        with open_association(peer, "FILLER", wanted, 5.0):
            return True
    except DeliveryError:
        return False


@contextmanager
def _process(command: Sequence[str], peer: Peer, folder: Path) -> Iterator[Peer]:
    with (folder / "archive.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: _answers(peer), timeout_s=60, what=f"{peer.name} to answer")
        yield peer
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def orthanc(
    find_program: Callable[[str], str],
    folder: Path,
    known: Mapping[str, int],
    *,
    name: str = "orthanc",
    port: int | None = None,
    http_port: int | None = None,
) -> Iterator[Peer]:
    """Run Orthanc; `known` are the ports by AE title of those that it may send to.

    Args:
        find_program: The fixture `peer_program`.
        folder: Gets its configuration and what it stores; an earlier one is taken up again.
        known: As said; they are on the loopback address.
        name: Of the peer.
        port: Where it listens; None: a free one.
        http_port: Where it answers questions of people; None: a free one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    peer = archive_peer(name, free_port() if port is None else port)
    settings = {
        "DicomPort": peer.port,
        "HttpPort": free_port() if http_port is None else http_port,
        "DicomAet": peer.ae_title,
        "StorageDirectory": str(folder / "stored"),
        "IndexDirectory": str(folder / "stored"),
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {ae: [ae, "127.0.0.1", port] for ae, port in known.items()},
        "OverwriteInstances": True,
    }
    (folder / "stored").mkdir(exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [find_program("Orthanc"), str(folder / "orthanc.json")]
    with _process(command, peer, folder) as running:
        yield running


@contextmanager
def dcmqrscp(
    find_program: Callable[[str], str],
    folder: Path,
    known: Mapping[str, int],
    *,
    name: str = "dcmtk",
    port: int | None = None,
) -> Iterator[Peer]:
    """Run DCMTK's dcmqrscp; arguments as of `orthanc`."""
    stored = folder / "stored"
    stored.mkdir(parents=True, exist_ok=True)
    peer = archive_peer(name, free_port() if port is None else port)
    hosts = "\n".join(f"{ae.lower()} = ({ae}, localhost, {at})" for ae, at in known.items())
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {peer.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{peer.ae_title} {stored} RW (200, 1024mb) ANY\nAETable END\n",
        encoding="utf-8",
    )
    command = [find_program("dcmqrscp"), "-c", str(folder / "dcmqrscp.cfg")]
    with _process(command, peer, folder) as running:
        yield running


def let_fetch(node: NodeProcess, peer: Peer, *keys: str) -> None:
    """Add a fetch rule, and the peer it names, to the configuration of a node that is not up."""
    roles = ", ".join(f'"{role}"' for role in peer.roles)
    rule = "\n".join((f'peer = "{peer.name}"', *keys))
    with node.config.open("a", encoding="utf-8") as file:
        file.write(
            f"\n[[protocol.fetch]]\n{rule}\n"
            f'\n[[peer]]\nname = "{peer.name}"\nae_title = "{peer.ae_title}"\n'
            f'host = "{peer.host}"\nport = {peer.port}\nroles = [{roles}]\n'
        )
