"""How fast we send, beside DCMTK's dcmsend and storescu: a series of MR images to storescp.

    python -m tests.bench.send [--rounds 9] [--slices 212] [--tls]

Run by hand, from the project's folder, on an otherwise idle machine. Everything happens in one run:
one storescp per size of image, the senders in turn, in an order that is drawn anew each round. The
folder of storescp is emptied before each, and its files are counted after. Time is what a user
waits: for dcmsend and storescu the life of the process, less that of one which only prints its
version; for ours a call of `send_instances`, association and release included.

Both of DCMTK are run as they are meant for speed, without Nagle's algorithm (TCP_NODELAY=1); with
`--nagle` as Debian ships them, where every answer waits for a delayed acknowledgment.

Over TLS (`--tls`) the rival is `storescu +tls`, for dcmsend has none.
"""

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from node.config import Peer, Role, TlsSection
from node.delivery import InstanceOutcome, send_instances
from tests.authority import Authority, Certified
from tests.nodes import free_port

BAR = 1.0
"""Time of the rival divided by ours, in the median of the rounds (issue 6)."""
SIZES = (512, 256)
TIMEOUT_S = 60.0


def write_series(folder: Path, slices: int, matrix: int) -> list[Path]:
    """Write an axial MR series of noise, 16 bits allocated."""
    folder.mkdir()
    rng = np.random.default_rng(matrix)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for number in range(slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.FrameOfReferenceUID = frame
        ds.Modality, ds.PatientName, ds.PatientID = "MR", "BENCH^SEND", "BENCH"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20260101", "120000", ""
        ds.InstanceNumber = number + 1
        ds.ImagePositionPatient = [0, 0, number]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [1, 1], 1
        ds.Rows = ds.Columns = matrix
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = rng.integers(0, 4096, (matrix, matrix), dtype=np.uint16).tobytes()
        paths.append(folder / f"{number:04}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


@contextmanager
def storescp(kept: Path, environment: dict[str, str], tls: Sequence[str | Path]) -> Iterator[int]:
    """Run storescp until the end of the block."""
    kept.mkdir()
    port = free_port()
    command = ["storescp", *map(str, tls), "-od", str(kept), str(port)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT_S):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def run_seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    """Return how long a program takes; it must end well."""
    start_s = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def rival(
    name: str,
    port: int,
    paths: Sequence[Path],
    environment: dict[str, str],
    tls: Sequence[str | Path],
) -> Callable[[], float]:
    """Return what sends with a program of DCMTK and tells the seconds without its start."""
    start_s = min(run_seconds([name, "--version"], environment) for _ in range(5))
    command = [name, *map(str, tls), "127.0.0.1", str(port), *map(str, paths)]
    return lambda: run_seconds(command, environment) - start_s


def ours(port: int, paths: Sequence[Path], settings: TlsSection | None) -> Callable[[], float]:
    """Return what sends with our sender and tells the seconds."""
    peer = Peer.model_validate(
        {"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", "port": port,
         "roles": (Role.RECEIVE,), "tls": settings is not None}
    )  # fmt: skip

    def send() -> float:
        start_s = time.perf_counter()
        answers = send_instances(peer, "HILUM", paths, timeout_s=TIMEOUT_S, tls=settings)
        seconds = time.perf_counter() - start_s
        assert all(a.outcome is InstanceOutcome.SENT for a in answers)
        return seconds

    return send


def measure(
    senders: dict[str, Callable[[], float]], kept: Path, slices: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each sender, by round."""
    found: dict[str, list[float]] = {name: [] for name in senders}
    for at in range(rounds + 1):
        for name in random.sample(sorted(senders), len(senders)):
            for path in kept.iterdir():
                path.unlink()
            seconds = senders[name]()
            assert len(list(kept.iterdir())) == slices
            if at:  # the first round warms up
                found[name].append(seconds)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slices", type=int, default=212)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--nagle", action="store_true")
    chosen = parser.parse_args(arguments)
    environment = {**os.environ, "TCP_NODELAY": "0" if chosen.nagle else "1"}
    is_missed = False
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        settings, server, client = _certificates(root) if chosen.tls else (None, (), ())
        for matrix in SIZES:
            paths = write_series(root / f"mr{matrix}", chosen.slices, matrix)
            kept = root / f"kept{matrix}"
            with storescp(kept, environment, server) as port:
                senders = {
                    name: rival(name, port, paths, environment, client)
                    for name in (("storescu",) if chosen.tls else ("dcmsend", "storescu"))
                }
                senders["ours"] = ours(port, paths, settings)
                found = measure(senders, kept, chosen.slices, chosen.rounds)
            size_mb = sum(path.stat().st_size for path in paths) / 1e6
            print(f"{chosen.slices} x {matrix} x {matrix}, 16 bits, {size_mb:.0f} MB:")
            for sender, seconds in found.items():
                median_s = statistics.median(seconds)
                line = f"  {sender:9} median {median_s:.3f} s ({min(seconds):.3f} to "
                line += f"{max(seconds):.3f}), {size_mb / median_s:.0f} MB/s"
                if sender != "ours":
                    ratio = statistics.median(
                        theirs / own for theirs, own in zip(seconds, found["ours"], strict=True)
                    )
                    line += f"; ours is {ratio:.2f} times as fast"
                    is_missed |= ratio < BAR
                print(line)
            shutil.rmtree(kept)
    print("a bar is missed" if is_missed else f"every ratio is at least {BAR}")
    return int(is_missed)


def _certificates(
    root: Path,
) -> tuple[TlsSection, tuple[str | Path, ...], tuple[str | Path, ...]]:
    """Return our settings, and the options of storescp and of storescu."""
    authority = Authority(root / "authority", str(shutil.which("openssl")))

    def options(own: Certified) -> tuple[str | Path, ...]:
        return ("+tls", own.key, own.certificate, "+cf", authority.certificate)

    settings = authority.settings(authority.issue("hilum"))
    return settings, options(authority.issue("tps")), options(authority.issue("scu"))


if __name__ == "__main__":
    sys.exit(main())
