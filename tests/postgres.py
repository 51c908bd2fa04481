"""A PostgreSQL server of Debian's, in a folder of its own, for as long as a test needs it."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.nodes import free_port, wait_for


@dataclass(frozen=True)
class PostgresServer:
    """A running server; everybody on this machine may connect to it as `hilum`."""

    port: int
    programs: Path

    def database(self) -> str:
        """Make an empty database; return its URL, as `node.database` takes it."""
        name = f"hilum_{uuid.uuid4().hex[:12]}"
        self.run("createdb", name)
        return f"postgresql+psycopg://hilum@127.0.0.1:{self.port}/{name}"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own clients on the server; return what it printed."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "hilum")
        command = [str(self.programs / program), *where, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def programs() -> Path | None:
    """Return the folder of the newest server that is installed, or None."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    found += [Path(path).resolve().parent for path in [shutil.which("initdb")] if path]
    return max(found, default=None)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server; what it keeps is gone afterwards."""
    folder = programs()
    assert folder is not None, "PostgreSQL is absent: apt-get install postgresql"
    # it refuses to be root's, and must reach its folder
    user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else os.geteuid()
    place = Path(tempfile.mkdtemp(prefix="hilum-postgres-", dir="/tmp"))
    os.chown(place, user, -1)
    port = free_port()
    try:
        initdb = [str(folder / "initdb"), "-D", str(place / "data"), "-U", "hilum", "-A", "trust"]
        subprocess.run(
            [*initdb, "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, capture_output=True, user=user, cwd="/",
        )  # fmt: skip
        options = {"port": port, "unix_socket_directories": place, "fsync": "off"}
        command = [str(folder / "postgres"), "-D", str(place / "data")]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        with (place / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, user=user, cwd="/")
        try:
            ready = [str(folder / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_for(
                lambda: subprocess.run(ready, check=False).returncode == 0,
                timeout_s=60,
                what="PostgreSQL",
            )
            yield PostgresServer(port, folder)
        finally:
            server.send_signal(signal.SIGINT)  # SIGTERM would wait for every client
            server.wait(timeout=60)
    finally:
        shutil.rmtree(place, ignore_errors=True)
