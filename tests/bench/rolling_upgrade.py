"""Processes of an earlier version are replaced one by one while cases come in, and back again.

    python -m tests.bench.rolling_upgrade [--old 60e1183] [--only PART]

Needs the repository's history (`git archive`). Both versions run as exported copies that say they
are versions of their own. Twelve minutes on two idle cores. Parts:

rolling    two serves and two workers on one PostgreSQL: each replaced by the present version while
           cases arrive (stopped in order, or killed), a serve and a worker changed back for a
           while, then all are new. Only for versions with the same tables (schema 3: 60e1183).
sqlite     `hilum serve` alone: stopped with a case at work, the new one started; and back.
tables     the same, where the new version's tables are of the next schema version (made up: a
           column more): old processes go on beside them, and refuse to be started again.
at-once    versions whose tables are older (1cf951d), with SQLite and with PostgreSQL: the new
           serve is started while the old one works, and refuses; the old one is stopped over a
           case, the new one finishes everything; the old one is started again, and refuses.
"""

import argparse
import json
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom

from node.receiver import StandInReceiver
from tests.bench.machines import account
from tests.bench.two_versions import (
    LONG_S,
    Traffic,
    Versions,
    exported,
    is_computing,
    is_entry,
    refusal,
    replaced,
    wait_until_computing,
    with_more_tables,
)
from tests.machines import HilumProcess, Machines, Program, installed_as
from tests.nodes import free_port, wait_for
from tests.postgres import PostgresServer, postgres_server

UNKNOWN_TO_SCHEMA_2 = re.compile(r"^(name = .*|heartbeat_limit_s = .*|compute = .*)\n", re.M)
"""Keys of `[node]` that programs of that time refuse."""

OF_SCHEMA_2 = "1cf951d"


def _sharing(
    server: PostgresServer, folder: Path, receiver: StandInReceiver, versions: Versions
) -> Machines:
    """Return machines of the old version that share an index and work."""
    return Machines(
        folder / "node",
        server.database(),
        receiver.port,
        compute=False,
        heartbeat_limit_s=20,
        program=versions.old,
    )


def rolling(server: PostgresServer, folder: Path, versions: Versions) -> dict[str, Any]:
    """Replace two serves and two workers one by one; return what became of the cases."""
    told: list[str] = []
    with StandInReceiver(folder / "tps", "TPS") as receiver:
        machines = _sharing(server, folder, receiver, versions)
        try:
            a, b = machines.serve("a"), machines.serve("b")
            c, d = machines.worker("c"), machines.worker("d")
            for process in machines.processes:
                process.wait_until_ready()

            def change(what: HilumProcess, to: Program, by: signal.Signals) -> HilumProcess:
                name = f"{what.config.stem} ({what.role})"
                version = "new" if to is versions.new else "old"
                told.append(f"{name} -> {version} after {by.name}, {traffic.delivered()} delivered")
                print(told[-1], flush=True)
                found = replaced(machines, what, to, by)
                traffic.wait_for_more(1)
                return found

            stop, kill = signal.SIGTERM, signal.SIGKILL
            with Traffic(machines, folder / "cases").flowing() as traffic:
                traffic.wait_for_more(1)
                a = change(a, versions.new, stop)
                c = change(c, versions.new, stop)
                wait_for(lambda: is_computing(d), timeout_s=LONG_S, what="d to compute")
                d = change(d, versions.new, kill)
                b = change(b, versions.new, kill)
                a = change(a, versions.old, stop)
                wait_for(lambda: is_computing(c), timeout_s=LONG_S, what="c to compute")
                c = change(c, versions.old, kill)
                a = change(a, versions.new, kill)
                change(c, versions.new, stop)
            machines.wait_until_delivered(traffic.sent, timeout_s=LONG_S)
            return {"changes": told, **verdict(machines, receiver, traffic)}
        finally:
            machines.end()


def sqlite(folder: Path, versions: Versions) -> dict[str, Any]:
    """Stop a lone serve of one version over a case, start the other, and back."""
    with StandInReceiver(folder / "tps", "TPS") as receiver:
        machines = Machines(folder / "node", "", receiver.port, program=versions.old)
        try:
            serve = machines.serve("a").wait_until_ready()
            with Traffic(machines, folder / "cases").flowing() as traffic:
                traffic.wait_for_more(1)
                for program, by in (
                    (versions.new, signal.SIGTERM),
                    (versions.old, signal.SIGTERM),
                    (versions.new, signal.SIGKILL),
                    (versions.old, signal.SIGKILL),
                    (versions.new, signal.SIGTERM),
                ):
                    wait_until_computing(serve)
                    serve = replaced(machines, serve, program, by)
                    traffic.wait_for_more(1)
            machines.wait_until_delivered(traffic.sent, timeout_s=LONG_S)
            return verdict(machines, receiver, traffic)
        finally:
            machines.end()


def at_once(database: str, folder: Path, versions: Versions) -> dict[str, Any]:
    """Replace a lone serve whose tables are older, at once; tell what refused to start meanwhile.

    Args:
        database: Of PostgreSQL, or empty: SQLite.
        folder: Gets everything.
        versions: The old one is of schema 2.
    """
    with StandInReceiver(folder / "tps", "TPS") as receiver:
        machines = Machines(folder / "node", database, receiver.port)
        port = free_port()
        new_config, old_config = machines.configured("a", port), folder / "node" / "old.toml"
        node, _, rest = new_config.read_text(encoding="utf-8").partition("[web]\nenabled = false\n")
        old_config.write_text(UNKNOWN_TO_SCHEMA_2.sub("", node) + rest, encoding="utf-8")
        old = HilumProcess("serve", old_config, port, program=versions.old)
        new = HilumProcess("serve", new_config, port, program=versions.new)
        try:
            machines.processes = [old.launch().wait_until_ready()]
            with Traffic(machines, folder / "cases").flowing() as traffic:
                traffic.wait_for_more(1)
                refused = [refusal(new)]
                traffic.wait_for_more(1)
                wait_until_computing(old)
                old.end()
                machines.processes = [new.launch().wait_until_ready()]
                traffic.wait_for_more(1)
            machines.wait_until_delivered(traffic.sent, timeout_s=LONG_S)
            new.end()
            refused.append(refusal(old))
            return {"refused": refused, **verdict(machines, receiver, traffic)}
        finally:
            machines.end()
            old.end(signal.SIGKILL)
            new.end(signal.SIGKILL)


def more_tables(server: PostgresServer, folder: Path, versions: Versions) -> dict[str, Any]:
    """Replace a serve and a worker by ones with newer tables; tell how an old one refuses."""
    newer = with_more_tables(
        versions.new, folder / "program", installed_as(folder / "installed", "0.3.0")
    )
    with StandInReceiver(folder / "tps", "TPS") as receiver:
        machines = _sharing(server, folder, receiver, versions)
        try:
            serves = [machines.serve("a"), machines.serve("b")]
            worker = machines.worker("c")
            for process in machines.processes:
                process.wait_until_ready()
            with Traffic(machines, folder / "cases").flowing() as traffic:
                traffic.wait_for_more(1)
                replaced(machines, serves[0], newer, signal.SIGTERM)
                traffic.wait_for_more(2)
                machines.processes.remove(serves[1])
                serves[1].end()
                refused = refusal(serves[1])
                wait_until_computing(worker)
                replaced(machines, worker, newer, signal.SIGKILL)
                traffic.wait_for_more(1)
            machines.wait_until_delivered(traffic.sent, timeout_s=LONG_S)
            return {"refused": refused, **verdict(machines, receiver, traffic)}
        finally:
            machines.end()


def verdict(machines: Machines, receiver: StandInReceiver, traffic: Traffic) -> dict[str, Any]:
    """Return what was lost or doubled, and what there is to wonder about."""
    reasons = Counter(
        reason for (reason,) in machines.rows("SELECT reason FROM history WHERE reason <> ''")
    )
    failures = Counter(
        f"{path.stem}: {line['event']} {line.get('exception', '')[-200:]}"
        for path in sorted(machines.folder.glob("*.log"))
        for line in map(json.loads, filter(is_entry, path.read_text().splitlines()))
        if line.get("level") in ("ERROR", "CRITICAL")
    )
    told = machines.rows("SELECT job FROM revisions")
    return {
        "states": dict(machines.states()),
        **account(machines, receiver, traffic.answered),
        "prepared_by": Counter(json.loads(job)["software_version"] for (job,) in told),
        "results_say_they_are_of": Counter(
            str(pydicom.dcmread(path, stop_before_pixels=True).get("SoftwareVersions"))
            for path in receiver.kept.values()
        ),
        "failures_of_computing": machines.rows("SELECT sum(failures) FROM revisions")[0][0],
        "starts_of_computing": machines.rows("SELECT sum(begun) FROM revisions")[0][0],
        "other_version": sum(n for text, n in reasons.items() if "other version" in text),
        "reasons": dict(reasons),
        "errors_in_logs": dict(failures),
    }


def main() -> None:
    """Run the parts and print what they found, as JSON."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    options.add_argument("--old", default="60e1183", help="a commit")
    options.add_argument("--only", choices=("rolling", "sqlite", "tables", "at-once"))
    options.add_argument("--keep", type=Path, help="leave everything in this folder")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, postgres_server() as server:
        folder = Path(name) if chosen.keep is None else chosen.keep
        versions = exported(chosen.old, folder / "programs")
        older = exported(OF_SCHEMA_2, folder / "older")
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "rolling": lambda: rolling(server, folder / "rolling", versions),
            "sqlite": lambda: sqlite(folder / "sqlite", versions),
            "tables": lambda: more_tables(server, folder / "tables", versions),
            "at-once": lambda: {
                "sqlite": at_once("", folder / "once-sqlite", older),
                "postgresql": at_once(server.database(), folder / "once-shared", older),
            },
        }
        for part, run in parts.items():
            if chosen.only in (None, part):
                print(json.dumps({part: run()}, indent=1), flush=True)


if __name__ == "__main__":
    main()
