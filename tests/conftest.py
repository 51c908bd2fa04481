"""What every test may ask for: outside programs and the public data sets."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.index import Index
from node.index.tables import METADATA
from tests.authority import Authority
from tests.postgres import PostgresServer, postgres_server, programs


def _absent(what: str) -> None:
    """Fail where a test must not be skipped (CI), skip with the reason elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is absent, and CI must not skip this test")
    pytest.skip(f"{what} is absent")


LONGEST_FIRST = (
    "test_process",
    "test_faults_killed",
    "test_web_browser",
    "test_fetching_node",
    "test_registration",
    "test_round_trip",
    "test_received_registrations",
    "test_machines",
    "test_faults",
    "test_delivering_node",
    "test_commission",
    "test_migrations",
    "test_positions_in_orthanc",
    "test_lint_gate",
    "test_backup",
    "test_peer_faults_node",
    "test_refinement",
    "test_encode_peers",
    "test_power_cut",
    "test_kill",
)
"""How the names of the files begin that take longest: begun last, one of them would run alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file, and among all others, the order stays."""

    def rank(item: pytest.Item) -> int:
        ranks = [i for i, name in enumerate(LONGEST_FIRST) if item.path.name.startswith(name)]
        return min(ranks, default=len(LONGEST_FIRST))

    items.sort(key=rank)


@pytest.fixture(autouse=True, scope="module")
def _log_level_as_it_was() -> Iterator[None]:
    """Let no file of tests run under the log level that another has set: some read all records."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a running PostgreSQL."""
    if programs() is None:
        _absent("PostgreSQL (deploy/test.sh installs it)")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_index(postgres: PostgresServer) -> Iterator[Index]:
    index = Index(postgres.database())
    index.create()
    yield index
    index.close()


@pytest.fixture
def postgres_index(_postgres_index: Index) -> Index:
    """Return an index in PostgreSQL that holds nothing."""
    names = [t.name for t in METADATA.sorted_tables if t.name != "schema_version"]
    with _postgres_index.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(names)} RESTART IDENTITY")
    return _postgres_index
