"""Checks whether a node can work on this machine and reach its peers, and says what to mend.

Answers the first support question before it is asked. Looks and reports; it creates nothing that
stays, changes nothing and prints nothing (the command line does). Peers are asked with C-ECHO.
"""

import base64
import errno
import os
import platform
import resource
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path

from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from node.config import ANY_AE_TITLE, Config, NodeSection, Peer, Role, is_loopback
from node.delivery import echo
from node.errors import DeliveryError, NodeError
from node.index import Index
from node.index.heartbeats import Heartbeats

BYTES_PER_MIB = 1 << 20

EARLIEST_PLAUSIBLE = datetime(2026, 1, 1, tzinfo=UTC)
"""A clock before this is wrong: the program did not exist."""

LATEST_PLAUSIBLE = datetime(2046, 1, 1, tzinfo=UTC)

FILE_CLOCK_TOLERANCE_S = 5.0
"""How far the clock of the file system (perhaps another machine's) may be off ours."""

SLOW_SYNC_MS = 50.0
"""Every received instance waits for the disk; beyond this the disk sets the pace (20 a second)."""

TESTED_PYTHON = ((3, 11), (3, 13))

FILES_ALWAYS_OPEN = 128
FILES_PER_ASSOCIATION = 8
"""Sockets, object files and index of one association, with a margin."""

NATIVE_LIMIT_S = 60.0

_FRAMES = {
    # 8 x 8 pixels of 12 bits, pixel n holding 61 n. JPEG-LS Lossless, encoded by DCMTK;
    # JPEG 2000 Lossless, encoded by OpenJPEG; both decoded right by a second decoder.
    JPEGLSLossless: (
        "/9j/9wALEAAIAAgBAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAKPMeY8x3nWPMd/oR6jxO06XK4R6"
        "+hbrZarRZrJHj51i4N7c2tidvma2ppaGdmTp8rKyMbEwsC5fIvry6uLa0uHxrKysLCurLcD//9k="
    ),
    JPEG2000Lossless: (
        "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1IADAAAAAEAAgQEAAH/"
        "XAAKQICIiJCIiJD/ZAAqAAFDcmVhdGVkIGJ5IEdEQ00vT3BlbkpQRUcgdmVyc2lvbiAyLjMuMP+QAAoA"
        "AAAAAD8AAf+T3/iQUAeBV1pCMZwCxU/AD8ASA/kEAA0DAD8LPgIkwAPqBYA/MGAiGIB4fwN+aSi7d//Z"
    ),
}


class CheckStatus(StrEnum):
    """Whether the node can work in spite of it."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `mend` tells what to do and is empty if there is nothing to do."""

    name: str
    status: CheckStatus
    text: str
    mend: str = ""


def run_checks(config: Config, *, echo_timeout_s: float) -> tuple[Check, ...]:
    """Return everything found, the machine first, then the configuration, then the peers.

    Args:
        config: The configuration that the node would run with.
        echo_timeout_s: How long to wait for each peer; peers are asked at the same time.
    """
    node = config.node
    checks = [
        check_origin(config),
        check_python(sys.version_info[:2]),
        *check_native_libraries(),
        *check_data_folder(node.data, node.min_free_mib),
        check_database(node),
        check_clock(datetime.now().astimezone()),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], node.max_associations),
        check_memory(_memory_mib(), node.compute_memory_mib),
        check_port(config, echo_timeout_s=echo_timeout_s),
        *check_peer_table(config),
        *check_protocols(config),
    ]
    if config.peer:
        with ThreadPoolExecutor(max_workers=8) as pool:
            checks += pool.map(lambda p: check_peer(p, node.ae_title, echo_timeout_s), config.peer)
    return tuple(checks)


def check_origin(config: Config) -> Check:
    """Tell where the configuration comes from; it has been read without a problem by then."""
    counts = f"{len(config.peer)} peers, {len(config.protocol)} protocols"
    if config.origin == "file":
        return Check("configuration", CheckStatus.OK, f"read from the file: {counts}")
    return Check(
        "configuration",
        CheckStatus.WARN,
        f"no file given, the defaults apply: loopback only, {counts}",
        "copy deploy/hilum.example.toml, adapt it, and name it with --config",
    )


def check_python(version: tuple[int, int]) -> Check:
    """Tell whether this Python is one that the tests ran on."""
    text = f"Python {version[0]}.{version[1]}, {platform.python_implementation()}"
    low, high = TESTED_PYTHON
    if low <= version <= high:
        return Check("python", CheckStatus.OK, text)
    tested = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
    return Check("python", CheckStatus.WARN, text, f"use one that was tested: {tested}")


def check_native_libraries() -> tuple[Check, ...]:
    """Try the native libraries in a child process, which they may crash without harm."""
    return tuple(
        check_native(name, probe)
        for name, probe in (("SimpleITK", probe_simpleitk), ("gdcm", probe_gdcm))
    )


def check_native(name: str, probe: Callable[[], str]) -> Check:
    """Tell how a probe ends that may raise, hang or take its process with it."""
    mend = f"install Hilum's dependencies again for this machine ({platform.machine()})"
    pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
    try:
        return Check(name, CheckStatus.OK, pool.submit(probe).result(NATIVE_LIMIT_S))
    except BrokenProcessPool:
        return Check(name, CheckStatus.FAIL, "crashes the process that uses it", mend)
    except TimeoutError:
        return Check(name, CheckStatus.FAIL, f"gives no result in {NATIVE_LIMIT_S:.0f} s", mend)
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is the finding
        return Check(name, CheckStatus.FAIL, f"{type(error).__name__}: {error}", mend)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def probe_simpleitk() -> str:
    """Resample an image by half a voxel and return what ran; raise if the result is wrong."""
    import SimpleITK as sitk  # noqa: N813 - must not be loaded by the caller

    ramp = sitk.PhysicalPointSource(sitk.sitkVectorFloat32, [4, 4, 4])
    image = sitk.VectorIndexSelectionCast(ramp, 0)
    shifted = sitk.Resample(image, sitk.TranslationTransform(3, [0.5, 0.0, 0.0]))
    value = shifted.GetPixel(1, 1, 1)
    if value != 1.5:
        raise ArithmeticError(f"resampling gives {value} instead of 1.5")
    return f"SimpleITK {sitk.Version.VersionString()} resamples"


def probe_gdcm() -> str:
    """Decode a JPEG-LS and a JPEG 2000 frame and return what ran; raise if a pixel is wrong."""
    import gdcm
    from pydicom import Dataset
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    for syntax, frame in _FRAMES.items():
        ds = Dataset()
        ds.Rows = ds.Columns = 8
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelRepresentation = 0
        ds.BitsAllocated, ds.BitsStored = 16, 12
        ds.PixelData = encapsulate([base64.b64decode(frame)])
        pixels, _ = get_decoder(syntax).as_array(ds, decoding_plugin="gdcm")
        if pixels.ravel().tolist() != [61 * n for n in range(64)]:
            raise ArithmeticError(f"transfer syntax {syntax} is decoded wrongly")
    return f"gdcm {gdcm.Version.GetVersion()} decodes JPEG-LS and JPEG 2000"


def check_data_folder(folder: Path, min_free_mib: float) -> tuple[Check, ...]:
    """Tell whether objects can be kept durably under `folder`, and for how many there is room."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    mend = f"give the user of the node a writable folder: node.data = {str(folder)!r}"
    if not place.is_dir():
        return (Check("data folder", CheckStatus.FAIL, f"{place} is not a folder", mend),)
    try:
        sync_ms, file_time = _write_durably(place)
    except OSError as error:
        text = f"{place} cannot be written: {error.strerror}"
        return (Check("data folder", CheckStatus.FAIL, text, mend),)
    state = "is writable" if place == folder.absolute() else "will be made at the first start"
    return (
        Check("data folder", CheckStatus.OK, f"{folder} {state}"),
        check_sync(sync_ms),
        check_file_clock(datetime.now(UTC), file_time),
        check_free_space(shutil.disk_usage(place).free / BYTES_PER_MIB, min_free_mib),
    )


def check_sync(sync_ms: float) -> Check:
    """Tell how fast a write is safe on the disk; each received object waits for that."""
    text = f"a write is safe after {sync_ms:.1f} ms"
    if sync_ms <= SLOW_SYNC_MS:
        return Check("disk", CheckStatus.OK, text)
    mend = "move node.data to a faster disk: each received object waits for this"
    return Check("disk", CheckStatus.WARN, text, mend)


def check_file_clock(now: datetime, file_time: datetime) -> Check:
    """Tell whether the file system, perhaps another machine's, has our time."""
    off_s = abs((now - file_time).total_seconds())
    text = f"times of files are within {off_s:.0f} s of the clock"
    if off_s <= FILE_CLOCK_TOLERANCE_S:
        return Check("file clock", CheckStatus.OK, text)
    mend = "let this machine and the file server follow the same time server"
    return Check("file clock", CheckStatus.WARN, text, mend)


def _write_durably(folder: Path) -> tuple[float, datetime]:
    """Return the median time of write and fsync in ms, and the time the file got."""
    times_ms = []
    for _ in range(3):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".hilum-doctor-") as file:
            start_s = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times_ms.append(1000 * (time.perf_counter() - start_s))
            file_time = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # a rename is durable only if the folder can be synced
    finally:
        os.close(descriptor)
    return statistics.median(times_ms), file_time


def check_free_space(free_mib: float, min_free_mib: float) -> Check:
    """Tell how long there will be room; below the minimum senders are answered 0xA700."""
    text = f"{free_mib:.0f} MiB free, the node wants {min_free_mib:.0f}"
    if free_mib < min_free_mib:
        return Check("free space", CheckStatus.FAIL, text, "free space, or move node.data")
    if free_mib < 2 * min_free_mib:
        return Check("free space", CheckStatus.WARN, text, "free space soon, or move node.data")
    return Check("free space", CheckStatus.OK, text)


def check_database(node: NodeSection) -> Check:
    """Tell whether the index can be opened; one that is not there yet is left alone."""
    name = "database"
    if node.database is None and not (node.data / "index.sqlite").exists():
        return Check(name, CheckStatus.OK, "SQLite, made at the first start", "")
    try:
        index = Index(node.database_url)
        index.create()
        beat = Heartbeats(index).last()
        index.close()
    except NodeError as error:
        return Check(name, CheckStatus.FAIL, str(error), error.hint)
    lived = f"a node last worked on it at {beat:%Y-%m-%d %H:%M:%S} UTC" if beat else "no node yet"
    return Check(name, CheckStatus.OK, f"opens; {lived}", "")


def check_clock(now: datetime) -> Check:
    """Tell whether the clock can be right; dates and times of results come from it."""
    text = f"{now:%Y-%m-%d %H:%M:%S}, time zone {now:%Z} ({now:%z})"
    if EARLIEST_PLAUSIBLE <= now <= LATEST_PLAUSIBLE:
        return Check("clock", CheckStatus.OK, text)
    return Check("clock", CheckStatus.FAIL, text, "set the clock, and follow a time server")


def check_open_files(limit: int, max_associations: int) -> Check:
    """Tell whether the process may open what all its associations need."""
    needed = FILES_ALWAYS_OPEN + FILES_PER_ASSOCIATION * max_associations
    if limit in (resource.RLIM_INFINITY, -1) or limit >= needed:
        return Check("open files", CheckStatus.OK, f"at least {needed} may be open")
    return Check(
        "open files",
        CheckStatus.WARN,
        f"{limit} may be open, {max_associations} associations may need {needed}",
        "raise the limit (ulimit -n, LimitNOFILE=), or lower node.max_associations",
    )


def _memory_mib() -> float:
    """Return the memory of this machine, or of this container if that is less."""
    total_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / BYTES_PER_MIB
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total_mib
    return min(total_mib, int(limit) / BYTES_PER_MIB) if limit.isdecimal() else total_mib


def check_memory(total_mib: float, compute_memory_mib: float) -> Check:
    """Tell whether a computation reaches its own limit before it exhausts the machine."""
    text = f"{total_mib:.0f} MiB, a computation may take {compute_memory_mib:.0f}"
    if total_mib >= compute_memory_mib:
        return Check("memory", CheckStatus.OK, text)
    mend = "add memory, or lower node.compute_memory_mib"
    return Check("memory", CheckStatus.WARN, text, mend)


def check_port(config: Config, *, echo_timeout_s: float) -> Check:
    """Tell whether the node can listen, or whether it is the node itself that listens there."""
    node = config.node
    where = f"{node.host} port {node.port}"
    if node.port == 0:
        mend = "choose a fixed node.port: peers must know it"
        return Check("port", CheckStatus.WARN, "the system chooses one at each start", mend)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            node.host or None, node.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except (socket.gaierror, UnicodeError):
        return Check("port", CheckStatus.FAIL, f"host {node.host} is unknown", "correct node.host")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _who_listens(config, where, echo_timeout_s)
        mends = {
            errno.EACCES: "choose a node.port above 1023, or allow the node to use this one",
            errno.EADDRNOTAVAIL: "set node.host to an address of this machine, or to 0.0.0.0",
        }
        mend = mends.get(error.errno or 0, "choose another node.host or node.port")
        return Check("port", CheckStatus.FAIL, f"{where}: {error.strerror}", mend)
    return Check("port", CheckStatus.OK, f"{where} is free")


def _who_listens(config: Config, where: str, echo_timeout_s: float) -> Check:
    node = config.node
    itself = Peer(
        name="node",
        ae_title=node.ae_title,
        host="127.0.0.1" if _is_any_address(node.host) else node.host,
        port=node.port,
        roles=(Role.SEND,),
    )
    local = [p.ae_title for p in config.peer if is_loopback(p.host) and p.ae_title != ANY_AE_TITLE]
    try:
        answer = echo(itself, next(iter(local), node.ae_title), timeout_s=echo_timeout_s)
    except DeliveryError as error:
        status = CheckStatus.FAIL if error.is_retryable else CheckStatus.WARN
        mend = "unless it is this node: stop the program that listens there, or change node.port"
        return Check("port", status, f"{where} is taken: {error}", mend)
    text = f"{where}: {node.ae_title} listens and answers in {1000 * answer.seconds:.0f} ms"
    return Check("port", CheckStatus.OK, text)


def check_peer_table(config: Config) -> tuple[Check, ...]:
    """Tell which peers are described so that something cannot work."""
    name = "peers"
    found = [
        Check(name, status, f"peer {peer.name} {text}", mend)
        for peer in config.peer
        for status, text, mend in _peer_faults(peer, config.node)
    ]
    for at, peer in enumerate(config.peer):
        for other in config.peer[:at]:
            if (other.ae_title, other.host) == (peer.ae_title, peer.host):
                text = f"{other.name} and {peer.name} have one AE title and host: {other.name} wins"
                found.append(Check(name, CheckStatus.WARN, text, "make them one peer"))
    if not config.peer:
        text = "none is configured: nobody may send, and results stay here"
        return (Check(name, CheckStatus.FAIL, text, "add a [[peer]]"),)
    return tuple(found) or (Check(name, CheckStatus.OK, f"{len(config.peer)} told apart"),)


def _peer_faults(peer: Peer, node: NodeSection) -> Iterator[tuple[CheckStatus, str, str]]:
    for role in (Role.QUERY, Role.COMMIT):
        if role in peer.roles and peer.port is None:
            yield CheckStatus.FAIL, f"has the role {role} and no port", "add its port"
    is_here = peer.host == node.host or (
        is_loopback(peer.host) and (is_loopback(node.host) or _is_any_address(node.host))
    )
    if is_here and peer.port == node.port:
        yield CheckStatus.FAIL, "has the host and port of this node", "correct its host or port"
    if peer.ae_title == node.ae_title:
        text = "has our own AE title: neither side can tell the two apart"
        yield CheckStatus.WARN, text, "give one of them another AE title"


def check_protocols(config: Config) -> tuple[Check, ...]:
    """Tell where the results of each protocol go."""
    if not config.protocol:
        text = "none is configured: no case can ever be formed"
        return (Check("protocols", CheckStatus.FAIL, text, "add a [[protocol]]"),)
    return tuple(
        Check(f"protocol {p.name}", CheckStatus.OK, f"results go to {', '.join(p.destinations)}")
        if p.destinations
        else Check(
            f"protocol {p.name}",
            CheckStatus.WARN,
            "has no destination: results stay here",
            "name a peer with the role receive in its destinations",
        )
        for p in config.protocol
    )


def check_peer(peer: Peer, calling_ae: str, echo_timeout_s: float) -> Check:
    """Tell whether a peer's host is known and whether it answers C-ECHO.

    A peer that only sends to us need not answer; one that receives must.
    """
    name = f"peer {peer.name}"
    try:
        socket.getaddrinfo(peer.host, None)
    except (socket.gaierror, UnicodeError):
        text = f"host {peer.host} is unknown: nothing can be sent to it or accepted from it"
        mend = "correct its host, or enter it in the name service"
        return Check(name, CheckStatus.FAIL, text, mend)
    if peer.port is None or peer.ae_title == ANY_AE_TITLE:
        return Check(name, CheckStatus.OK, "host is known; it is never called, so not asked")
    try:
        answer = echo(peer, calling_ae, timeout_s=echo_timeout_s)
    except DeliveryError as error:
        status = CheckStatus.FAIL if Role.RECEIVE in peer.roles else CheckStatus.WARN
        return Check(name, status, str(error), error.hint)
    return Check(name, CheckStatus.OK, f"answers C-ECHO in {1000 * answer.seconds:.0f} ms")


def _is_any_address(host: str) -> bool:
    """Tell whether a node that listens at `host` listens at every address."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
