"""The second opinion: a stand-in for the program, and every way in which it fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handlers.values import Image
from node.errors import NodeError
from node.second_opinion import (
    ORGANS,
    SecondOpinionError,
    SecondOpinionSettings,
    check,
    second_opinion,
)
from tests.grids import FACINGS, HFS, grid
from tests.outline_stand_in import (
    CT_FAST_WEIGHTS,
    HANG,
    LABELS,
    MR_WEIGHTS,
    OUTLINE,
    RECORD,
    Bench,
    ct,
    levels,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return Bench(tmp_path, temporary)


def check_failure(bench: Bench, settings: SecondOpinionSettings, *words: str) -> SecondOpinionError:
    """Ask for an opinion that fails; each word stands in the error, and nothing stays behind."""
    with pytest.raises(SecondOpinionError) as raised:
        second_opinion(ct(), settings)
    text = f"{raised.value} ({raised.value.hint})"
    assert [word for word in words if word not in text] == [], text
    assert raised.value.hint
    assert isinstance(raised.value, NodeError)
    assert list(bench.temporary.iterdir()) == []
    return raised.value


def own_network() -> str:
    return str(Path("/proc/self/ns/net").readlink())


def is_namespace_allowed() -> bool:
    tries = (["unshare", "--net", "true"], ["unshare", "--map-root-user", "--net", "true"])
    return any(subprocess.run(t, check=False, capture_output=True).returncode == 0 for t in tries)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# mirrored: slices run to the feet, so that the grid's handedness changes
GRIDS = {**FACINGS, "mirrored": HFS @ np.diag((-1, 1, 1))}


@pytest.mark.parametrize("facing", GRIDS)
def test_opinion_when_grid_lies_any_way_lands_on_the_right_voxels(
    bench: Bench, facing: str
) -> None:
    """Flipped, oblique and left-handed grids: every mask is on the voxels that it was made from."""
    geometry = grid(spacing_mm=(2.5, 0.9765625, 1.1), shape=(5, 20, 24), axes=GRIDS[facing])
    image = ct(geometry)
    found = second_opinion(image, bench.settings())
    assert len(found) == len(LABELS)
    for number, organ in enumerate(ORGANS, start=1):
        mask = found[f"{organ.name}_TS"]
        assert mask.geometry.coincides_with(geometry, tolerance_mm=0.0)
        assert np.array_equal(mask.inside, image.voxels == 100.0 * number), organ.label
        assert mask.inside.any()
    assert list(bench.temporary.iterdir()) == []


def test_image_when_written_lies_in_ras_and_holds_no_identifier(bench: Bench) -> None:
    """NIfTI-1 bytes, by hand: srow at 280 maps (column, row, slice) to RAS: x, y negated."""
    geometry = grid(spacing_mm=(3.0, 1.0, 2.0), origin_mm=(-12.0, 7.0, -100.0))
    second_opinion(ct(geometry), bench.settings(RECORD + OUTLINE))
    header = bytes.fromhex(bench.seen["header"])
    assert np.frombuffer(header, "<i2", 8, 40).tolist()[:4] == [3, 24, 20, 5]
    srow = np.frombuffer(header, "<f4", 12, 280).reshape(3, 4)
    # head first supine: columns to the left 2 mm, rows to the back 1 mm, slices to the head 3 mm
    assert np.allclose(srow, [[-2, 0, 0, 12], [0, -1, 0, -7], [0, 0, 3, -100]], atol=1e-4)
    seen = json.dumps(bench.seen) + header.decode("latin-1")
    assert "DOE" not in seen
    assert "1.2.3" not in seen


def test_program_when_run_is_told_to_be_silent_and_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights by environment, no usage statistics, closed proxies, memory limit, own folder."""
    monkeypatch.setenv("HILUM_SECRET", "passcode")
    settings = replace(bench.settings(RECORD + OUTLINE), memory_mib=4096.0, is_fast=True)
    bench.lay_weights(CT_FAST_WEIGHTS[:1])
    second_opinion(ct(), settings)
    seen = bench.seen
    arguments = " ".join(seen["arguments"])
    assert "--task total " in arguments
    assert "--fast" in arguments
    assert "--device cpu" in arguments
    assert arguments.endswith("--roi_subset " + " ".join(LABELS))
    environment = seen["environment"]
    assert environment["TOTALSEG_WEIGHTS_PATH"] == str(bench.weights)
    assert Path(environment["TOTALSEG_HOME_DIR"]).parent == Path(seen["folder"])
    assert environment["TMPDIR"] == seen["folder"]
    assert environment["HTTPS_PROXY"] == environment["https_proxy"] == "http://127.0.0.1:9"
    assert "HILUM_SECRET" not in environment
    assert seen["config"]["send_usage_stats"] is False
    assert seen["memory"] == 4096 * 1024 * 1024
    assert seen["files"] == ["home", "home/config.json", "image.nii", "masks"]
    assert Path(seen["folder"]).parent == bench.temporary


def test_program_when_it_calls_out_reaches_nobody(bench: Bench) -> None:
    """It must never download by itself: it has no network, not even to this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        call = (
            "import socket\ntry:\n"
            f"    socket.create_connection(('127.0.0.1', {port}), timeout=20).close()\n"
            "    sys.exit(7)\nexcept OSError:\n    pass\n"
        )
        settings = bench.settings(RECORD + call + OUTLINE)
        try:
            found = second_opinion(ct(), settings)
        except SecondOpinionError:
            if not is_namespace_allowed():
                pytest.skip("the kernel gives this user no network namespace; proxies are closed")
            raise
    assert len(found) == len(LABELS)
    assert bench.seen["network"] != own_network()


def test_opinion_when_image_is_mr_takes_the_task_for_mr(bench: Bench) -> None:
    """MR units are free and may be fractions: the program's whole numbers keep them apart."""
    bench.lay_weights(MR_WEIGHTS)
    geometry = grid()
    raw = np.maximum(levels(geometry), 0.0)
    image = Image(geometry, (raw / 140_000.0).astype(np.float32), "MR", "1.2.4")  # largest: 0.01
    # 10 000 for the largest, which is organ 14: organ n has 10 000 n / 14
    body = OUTLINE.replace(
        "{step} * (labels.index(label) + 1)", "(labels.index(label) + 1) / 1.4e-3"
    )
    body = body.replace("level, level)", "int(level - 5), int(level + 5))")
    found = second_opinion(image, bench.settings(RECORD + body))
    assert bench.seen["arguments"][bench.seen["arguments"].index("--task") + 1] == "total_mr"
    assert len(found) == len(LABELS)
    for number, organ in enumerate(ORGANS, start=1):
        assert np.array_equal(found[f"{organ.name}_TM"].inside, raw == 100.0 * number)


def test_opinion_when_organ_is_not_found_leaves_it_out(bench: Bench) -> None:
    """An empty mask says nothing."""
    image = ct()
    voxels = np.where(image.voxels == 100.0, 0.0, image.voxels).astype(np.float32)
    found = second_opinion(replace(image, voxels=voxels), bench.settings())
    assert "Liver_TS" not in found
    assert len(found) == len(LABELS) - 1


def test_program_when_absent_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named but not there, not executable, not on the PATH."""
    settings = bench.settings()
    absent = replace(settings, program=bench.folder / "gone")
    assert check(absent) == [f"{absent.program} is no program that can be run: name the path of "
                             "TotalSegmentator"]  # fmt: skip
    check_failure(bench, absent, "no program TotalSegmentator where it is configured")
    bench.program.chmod(0o644)
    check_failure(bench, settings, "no program TotalSegmentator where it is configured")
    monkeypatch.setenv("PATH", str(bench.folder / "empty"))
    check_failure(bench, replace(settings, program=None), "no program TotalSegmentator", "PATH")


def test_program_when_on_the_path_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured path the console script is looked for."""
    settings = replace(bench.settings(), program=None)
    monkeypatch.setenv("PATH", f"{bench.folder}{os.pathsep}{os.environ['PATH']}")
    assert check(settings) == []
    assert second_opinion(ct(), settings)


def test_program_when_its_interpreter_is_gone_cannot_be_started(bench: Bench) -> None:
    """A console script whose environment was deleted."""
    settings = bench.settings()
    bench.program.write_text("#!/nowhere/python\n")
    check_failure(bench, settings, "cannot be started", "No such file")


def test_program_when_it_fails_is_told_without_its_words(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it prints may quote a name: neither in the error nor on our own output."""
    failing = "print('DOE^JANE')\nprint('DOE^JANE', file=sys.stderr)\nsys.exit(3)\n"
    error = check_failure(bench, bench.settings(failing), "ended with code 3", "memory_mib")
    told = capfd.readouterr()
    assert "DOE" not in f"{error} {error.hint} {error.__cause__} {told.out} {told.err}"
    killed = "import signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    check_failure(bench, bench.settings(killed), "ended by SIGKILL")


def test_program_when_it_wants_more_memory_than_allowed_fails(bench: Bench) -> None:
    """The limit holds."""
    greedy = replace(bench.settings("bytearray(1 << 30)\n"), memory_mib=512.0)
    check_failure(bench, greedy, "ended with code 1", "memory_mib = 512")


def test_program_when_it_hangs_is_ended_with_all_it_started(bench: Bench) -> None:
    """Time limit; also a process that left the group is gone when the error is raised."""
    settings = replace(bench.settings(HANG), timeout_s=5.0)
    check_failure(bench, settings, "took longer than 5 s", "timeout_s")
    assert len(bench.seen) == 3
    assert [pid for pid in bench.seen if is_alive(pid)] == []


def test_program_when_it_leaves_processes_behind_is_cleaned_up_after(bench: Bench) -> None:
    """A good answer, and a worker that was forgotten."""
    forgetful = HANG.rpartition("time.sleep")[0] + OUTLINE
    assert len(second_opinion(ct(), bench.settings(forgetful))) == len(LABELS)
    assert [pid for pid in bench.seen if is_alive(pid)] == []


def test_program_when_we_are_killed_ends_and_its_folder_goes(bench: Bench) -> None:
    """The supervising node kills the computing child: no process and no image may stay."""
    settings = bench.settings(HANG)
    run = (
        "import sys, tempfile, numpy as np\nfrom pathlib import Path\n"
        "from handlers.geometry import Geometry\nfrom handlers.values import Image\n"
        "from node.second_opinion import SecondOpinionSettings, second_opinion\n"
        "tempfile.tempdir, weights, program = sys.argv[1:]\n"
        "image = Image(Geometry('1.2', np.eye(4), (2, 3, 4)), np.zeros((2, 3, 4)), 'CT', '1.2.3')\n"
        "second_opinion(image, SecondOpinionSettings(Path(weights), Path(program)))\n"
    )
    told = [str(bench.temporary), str(settings.weights), str(settings.program)]
    with subprocess.Popen([sys.executable, "-c", run, *told], cwd=ROOT) as process:
        until(bench.seen_file.exists)
        assert all(is_alive(pid) for pid in bench.seen)
        process.send_signal(signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in bench.seen))
    until(lambda: not any(bench.temporary.iterdir()))


def until(is_true: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


SPOILED = {
    "moved by a millimetre": (
        "mask = sitk.ReadImage(path)\n"
        "mask.SetOrigin([x + 1 for x in mask.GetOrigin()])\n"
        "sitk.WriteImage(mask, path)\n",
        "does not lie on the grid",
    ),
    "the same place in another order": (
        "sitk.WriteImage(sitk.Flip(sitk.ReadImage(path), [True, False, False]), path)\n",
        "does not lie on the grid",
    ),
    "coarser": (
        "sitk.WriteImage(sitk.Shrink(sitk.ReadImage(path), [2, 2, 1]), path)\n",
        "does not lie on the grid",
    ),
    "a plane": ("sitk.WriteImage(sitk.ReadImage(path)[:, :, 0], path)\n", "is no volume"),
    "other values": (
        "sitk.WriteImage(sitk.ReadImage(path) * 2, path)\n",
        "other values than 0 and 1",
    ),
    "fractions": (
        "sitk.WriteImage(sitk.Cast(sitk.ReadImage(path), sitk.sitkFloat32) * 0.5, path)\n",
        "other values than 0 and 1",
    ),
    "garbage": ("pathlib.Path(path).write_bytes(b'DOE^JANE' * 500)\n", "is no NIfTI image"),
    "empty": ("pathlib.Path(path).write_bytes(b'')\n", "is no NIfTI image"),
    "cut off": (
        "import gzip\nwhole = gzip.decompress(pathlib.Path(path).read_bytes())\n"
        "pathlib.Path(path).write_bytes(gzip.compress(whole[:-1000]))\n",
        "is cut off",
    ),
    "compressed half": (
        "packed = pathlib.Path(path).read_bytes()\n"
        "pathlib.Path(path).write_bytes(packed[: len(packed) - 12])\n",
        "is cut off",
    ),
    "missing": ("pathlib.Path(path).unlink()\n", "was not written"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_mask_when_spoiled_is_refused(
    bench: Bench, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One bad mask among good ones spoils the whole opinion, and is named."""
    spoil, words = SPOILED[case]
    path = "\npath = str(told.masks / 'duodenum.nii.gz')\n"
    error = check_failure(bench, bench.settings(OUTLINE + path + spoil), "mask duodenum", words)
    assert "DOE" not in f"{error} {error.hint}"


def test_masks_when_none_is_written_are_refused(bench: Bench) -> None:
    """A program that ends well and did nothing has not spoken."""
    check_failure(bench, bench.settings("told.masks.rmdir()\n"), "was not written", "version")
