"""The doctor's checks of the machine: libraries, disk, clock, memory, open files.

Knows neither peers nor protocols: those are `node.doctor`'s. Creates nothing that stays.
"""

import base64
import ctypes
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path

from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

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

LEAST_INODES = 100_000
"""So many objects come in a busy week or two."""

_TIMEX_BYTES = 512
_TIME_ERROR = 5
"""More than struct timex takes, and what adjtimex(2) returns for a clock that nobody keeps."""

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


def check_data_folder(
    folder: Path, min_free_mib: float, min_free_percent: float = 0.0
) -> tuple[Check, ...]:
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
    usage = shutil.disk_usage(place)
    wanted_mib = max(min_free_mib, usage.total / BYTES_PER_MIB * min_free_percent / 100)
    state = "is writable" if place == folder.absolute() else "will be made at the first start"
    return (
        Check("data folder", CheckStatus.OK, f"{folder} {state}"),
        check_sync(sync_ms),
        check_file_clock(datetime.now(UTC), file_time),
        check_free_space(usage.free / BYTES_PER_MIB, wanted_mib),
        *check_inodes(os.statvfs(place).f_favail, os.statvfs(place).f_files),
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


def check_inodes(free: int, total: int) -> tuple[Check, ...]:
    """Tell whether so many more files can be made; each object is one."""
    if not total:  # a file system that makes them as they are needed
        return ()
    text = f"{free} more files can be made"
    if free >= LEAST_INODES:
        return (Check("inodes", CheckStatus.OK, text),)
    mend = "remove small files, or make the file system anew with more inodes (mkfs -N)"
    return (Check("inodes", CheckStatus.FAIL, text, mend),)


def check_text_encoding(of_files: str, of_texts: str) -> Check:
    """Tell whether names of files and texts may hold any character."""
    text = f"names of files are {of_files}, texts {of_texts}"
    is_unicode = {of_files.lower().replace("-", ""), of_texts.lower().replace("-", "")} == {"utf8"}
    if is_unicode:
        return Check("text encoding", CheckStatus.OK, text)
    mend = "set LANG=C.UTF-8 for the node (Environment= in its unit)"
    return Check("text encoding", CheckStatus.WARN, text, mend)


def clock_is_followed() -> bool | None:
    """Return whether the system's clock follows a time server; None: the system does not tell."""
    try:
        record = ctypes.create_string_buffer(_TIMEX_BYTES)
        state = ctypes.CDLL(None, use_errno=True).adjtimex(record)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def check_time_server(is_followed: bool | None) -> tuple[Check, ...]:
    """Tell whether the clock is kept right by somebody."""
    if is_followed is None:
        return ()
    if is_followed:
        return (Check("time server", CheckStatus.OK, "the clock is synchronized"),)
    text = "the clock is not synchronized: dates of results and quiet periods may be wrong"
    mend = "let the machine follow a time server (chrony, systemd-timesyncd)"
    return (Check("time server", CheckStatus.WARN, text, mend),)


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


def memory_mib() -> float:
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
