"""Two hosts on a network file system; one is cut off from the network while both work.

    python -m tests.bench.two_hosts [--cases 8] [--limit-s 40]

As root, with Debian's iproute2, postgresql, glusterfs-server and glusterfs-client. A host is a
network, host name and mounts of its own; a third one holds PostgreSQL (synced as in a department)
and the only brick of a GlusterFS volume, which each host mounts over its own line. On each work a
serve and a worker. Senders and the TPS stand on the bridge between them. When a third of the cases
is sent, and the worker of host A computes, the line of A is cut; it comes back after all is
delivered. Printed is what was lost, doubled, taken over and refused, as JSON.
"""

import argparse
import json
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.config import Peer, Role
from node.errors import DeliveryError
from node.receiver import StandInReceiver
from tests.bench.machines import LONG_S, Sending, account
from tests.machines import CheapCases, HilumProcess, Machines
from tests.nodes import wait_for
from tests.postgres import programs

NETWORK = "10.77.0"
BRIDGE = "hilum0"
HERE, STORAGE = f"{NETWORK}.1", f"{NETWORK}.3"
DATA = Path("/srv/hilum-trial")
SILENT_LINE_S = 15
"""After this GlusterFS gives a server up, and a server its client with all locks."""


def run(*command: str) -> str:
    """Run a program; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Host:
    """A host name, a network and mounts of their own, as long as process `pid` sleeps."""

    name: str
    address: str
    pid: int

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a program on it."""
        return ("nsenter", "-t", str(self.pid), "-n", "-u", "-m")

    def run(self, script: str) -> str:
        """Run a shell script on it."""
        return run(*self.prefix, "sh", "-ec", script)

    def set_line(self, state: str) -> None:
        """Cut its line with "down", mend it with "up"."""
        run("ip", "link", "set", f"hl-{self.name}", state)


@contextmanager
def host(name: str, last: int) -> Iterator[Host]:
    """Give a host whose address ends with a number."""
    line = f"hl-{name}"
    command = ["unshare", "-n", "-u", "-m", "--propagation", "private", "sleep", "infinity"]
    sleeper = subprocess.Popen(command)
    try:
        made = Host(name, f"{NETWORK}.{last}", sleeper.pid)
        own = Path(f"/proc/{sleeper.pid}/ns/net")
        wait_for(
            lambda: own.readlink() != Path("/proc/self/ns/net").readlink(),
            timeout_s=60,
            what="a network namespace",
        )
        run("ip", "link", "add", line, "type", "veth", "peer", "eth0", "netns", str(sleeper.pid))
        run("ip", "link", "set", line, "master", BRIDGE, "up")
        made.run(
            f"hostname host-{name}; ip addr add {made.address}/24 dev eth0; ip link set eth0 up; "
            "ip link set lo up"
        )
        yield made
    finally:
        sleeper.kill()
        sleeper.wait()
        with suppress(AssertionError):
            run("ip", "link", "delete", line)


@contextmanager
def bridge() -> Iterator[None]:
    """Give what joins the lines."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{HERE}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        run("ip", "link", "delete", BRIDGE)


@contextmanager
def volume(storage: Host, folder: Path) -> Iterator[None]:
    """Serve a GlusterFS volume named hilum."""
    made = {"/var/lib/glusterd": "state", "/var/log/glusterfs": "log", "/run/gluster": "run"}
    for place, name in made.items():
        (folder / name).mkdir(parents=True)
        storage.run(f"mkdir -p {place}; mount --bind {folder / name} {place}")
    brick, pid = folder / "brick", folder / "glusterd.pid"
    brick.mkdir()
    storage.run(f"glusterd --pid-file {pid}")
    ask = "gluster --mode=script volume"
    try:
        wait_for(
            lambda: (
                "hilum"
                in storage.run(
                    f"{ask} create hilum {STORAGE}:{brick} force || true; {ask} list || true"
                )
            ),
            timeout_s=60,
            what="glusterd",
        )
        for key in ("network.ping-timeout", "server.tcp-user-timeout"):
            storage.run(f"{ask} set hilum {key} {SILENT_LINE_S}")
        storage.run(f"{ask} start hilum")
        yield
    finally:
        with suppress(AssertionError):
            storage.run(f"{ask} stop hilum force")
        os.kill(int(pid.read_text()), signal.SIGTERM)


def mount(one: Host, folder: Path) -> None:
    """Mount the volume where the configuration of all has the data folder."""
    DATA.mkdir(parents=True, exist_ok=True)
    log = folder / f"mount-{one.name}.log"
    one.run(f"mount -t glusterfs -o log-file={log} {STORAGE}:/hilum {DATA}")


@contextmanager
def database(storage: Host, folder: Path) -> Iterator[str]:
    """Run PostgreSQL on the third host; give the address of an empty database."""
    found = programs()
    assert found is not None, "PostgreSQL is absent"
    user = pwd.getpwnam("postgres").pw_uid
    folder.mkdir()
    os.chown(folder, user, -1)
    kept = folder / "data"
    initdb = [str(found / "initdb"), "-D", str(kept), "-U", "hilum", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*initdb, "--locale=C"], check=True, capture_output=True, user=user, cwd="/")
    with (kept / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {NETWORK}.0/24 trust\n")
    command = [*storage.prefix, "setpriv", f"--reuid={user}", "--clear-groups"]
    command += [str(found / "postgres"), "-D", str(kept), "-k", str(folder), "-c"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, "listen_addresses=*"], stdout=log, stderr=log, cwd="/")
    where = ("-h", STORAGE, "-U", "hilum")
    try:
        ready = [str(found / "pg_isready"), "-q", *where]
        wait_for(
            lambda: subprocess.run(ready, check=False).returncode == 0,
            timeout_s=120,
            what="PostgreSQL",
        )
        run(str(found / "createdb"), *where, "hilum")
        yield f"postgresql+psycopg://hilum@{STORAGE}/hilum"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=120)


class HostProcess(HilumProcess):
    """`hilum serve` or `hilum worker` on a host."""

    def __init__(self, role: str, config: Path, port: int, place: Host) -> None:
        super().__init__(role, config, port, place.prefix)
        self._address = place.address

    def peer(self) -> Peer:
        """Return it as a peer to send to."""
        return Peer(
            name="node", ae_title="HILUM", host=self._address, port=self.port, roles=(Role.RECEIVE,)
        )


def start(machines: Machines, role: str, place: Host) -> HostProcess:
    """Launch a process; it is called as the host is, nothing else tells the hosts apart."""
    config = machines.configured(f"{role}-{place.name}", 11112)
    text = config.read_text().replace(f'name = "{role}-{place.name}"\n', 'host = "0.0.0.0"\n', 1)
    config.write_text(text.replace('host = "127.0.0.1"', f'host = "{HERE}"'))
    process = HostProcess(role, config, 11112 if role == "serve" else 0, place)
    process.launch()
    machines.processes.append(process)
    return process


def events(machines: Machines) -> Counter[str]:
    """Return how often each event that tells of other processes stands in the logs."""
    told = ("process.taken_over", "receiving.taken_over", "case.overtaken", "delivery.overtaken")
    texts = [process.log.read_text() for process in machines.processes]
    return Counter({name: sum(text.count(f'"{name}"') for text in texts) for name in told})


def is_computing(process: HilumProcess) -> bool:
    """Tell whether a worker has begun a case and not ended it."""
    lines = [json.loads(x) for x in process.log.read_text().splitlines() if x.startswith("{")]
    last = [x["event"] for x in lines if x["event"] in ("case.step", "case.finished")]
    return last[-1:] == ["case.step"]


def trial(folder: Path, hosts: Sequence[Host], address: str, options: Any) -> dict[str, Any]:
    """Return what became of the cases."""
    cheap = CheapCases()
    files = [cheap.write(folder / "cases" / str(n), n) for n in range(options.cases)]
    with StandInReceiver(folder / "tps", "TPS", host=HERE) as receiver, ExitStack() as stack:
        machines = SharedMachines(
            folder / "logs",
            address,
            receiver.port,
            compute=False,
            heartbeat_limit_s=options.limit_s,
        )
        stack.callback(machines.end)
        serves = [start(machines, "serve", one) for one in hosts]
        workers = [start(machines, "worker", one) for one in hosts]
        for process in machines.processes:
            process.wait_until_ready()
        sending = Sending(files)
        threads = sending.through(serves)
        wait_for(
            lambda: sending.sent >= options.cases // 3 and is_computing(workers[0]),
            timeout_s=LONG_S,
            what="the worker of the first host to compute",
        )
        hosts[0].set_line("down")
        cut_s = time.monotonic()
        told = '"host-a.worker-1"'
        wait_for(
            lambda: any(
                "process.taken_over" in line and told in line
                for process in (serves[1], workers[1])
                for line in process.log.read_text().splitlines()
            ),
            timeout_s=LONG_S,
            what="the work of the first host to be taken over",
        )
        taken_over_s = round(time.monotonic() - cut_s, 1)
        for thread in threads:
            thread.join(LONG_S)
        machines.wait_until_delivered(options.cases, timeout_s=LONG_S)
        delivered_s = round(time.monotonic() - cut_s, 1)
        before = account(machines, receiver, sending.answered)
        hosts[0].set_line("up")
        back_s = time.monotonic()
        late = cheap.write(folder / "cases" / "late", options.cases)
        wait_for(
            lambda: took(serves[0], late, sending.answered),
            timeout_s=LONG_S,
            what="the first host to take a case",
        )
        again_s = round(time.monotonic() - back_s, 1)
        machines.wait_until_delivered(options.cases + 1, timeout_s=LONG_S)
        return {
            "cases": options.cases + 1,
            "limit_s": options.limit_s,
            "taken_over_after_s": taken_over_s,
            "all_delivered_after_s": delivered_s,
            "serves_again_after_s": again_s,
            "lived_on": [process.is_running() for process in machines.processes],
            "while_cut_off": before,
            "at_the_end": account(machines, receiver, sending.answered),
            "events": dict(events(machines)),
        }


def took(serve: HilumProcess, case: Sequence[Path], answered: set[str]) -> bool:
    """Send a case; tell whether all of it was answered with success, and note what was."""
    try:
        found = serve.send(case)
    except DeliveryError:
        return False
    answered.update(found)
    return len(found) == len(case)


class SharedMachines(Machines):
    """Machines whose data folder is a mount of each."""

    @property
    def data(self) -> Path:
        """The folder that all share."""
        return DATA / "data"


def main() -> None:
    """Make the hosts, run the trial, print what it found."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    options.add_argument("--cases", type=int, default=8)
    options.add_argument("--limit-s", type=float, default=40.0, help="heartbeat_limit_s")
    options.add_argument("--keep", type=Path, help="a new folder to keep the logs in")
    chosen = options.parse_args()
    with ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True, parents=True)
        folder.chmod(0o755)
        stack.enter_context(bridge())
        storage = stack.enter_context(host("db", 3))
        hosts = [stack.enter_context(host(name, n)) for name, n in (("a", 11), ("b", 19))]
        stack.enter_context(volume(storage, folder / "gluster"))
        address = stack.enter_context(database(storage, folder / "postgresql"))
        for one in hosts:
            mount(one, folder)
            stack.callback(one.run, f"umount --lazy {DATA}")
        print(json.dumps(trial(folder, hosts, address, chosen), indent=1), flush=True)


if __name__ == "__main__":
    main()
