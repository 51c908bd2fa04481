"""What every test may ask for: outside programs and the public data sets."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.authority import Authority


def _absent(what: str) -> None:
    """Fail where a test must not be skipped (CI), skip with the reason elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is absent, and CI must not skip this test")
    pytest.skip(f"{what} is absent")


@pytest.fixture(scope="session")
def peer_program() -> Callable[[str], str]:
    """Return a function that finds a program of DCMTK, Orthanc, dicom3tools or plastimatch."""
    # pynetdicom installs programs of the same names beside our interpreter: not the judges we mean
    ours = Path(sys.executable).parent
    folders = [f for f in os.get_exec_path() if Path(f).resolve() != ours.resolve()]

    def find(name: str) -> str:
        path = shutil.which(name, path=os.pathsep.join(folders))
        if path is None:
            _absent(f"the program {name} (deploy/test.sh installs it)")
        return str(path)

    return find


@pytest.fixture
def authority(tmp_path: Path, peer_program: Callable[[str], str]) -> Authority:
    """Return one who issues certificates."""
    return Authority(tmp_path / "authority", peer_program("openssl"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of the public data sets, named by HILUM_REAL_DATA."""
    folder = os.environ.get("HILUM_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HILUM_REAL_DATA names no folder with the public data sets")
    return Path(folder)
