"""Runs the demonstration: a node on free ports, a synthetic patient through it, then stops it.

Exits 0 only if every expected result arrived and read back.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGURATION = """\
[node]
port = {node}
data = "data"
quiet_s = 2
min_free_mib = 100

[web]
port = {web}

[[peer]]
name = "loopback"
ae_title = "*"
host = "127.0.0.1"
roles = ["send"]

[[peer]]
name = "tps"
ae_title = "TPS"
host = "127.0.0.1"
port = {tps}
roles = ["receive"]

[[protocol]]
name = "demo"
targets = ["GTVn*", "GTV*"]
destinations = ["tps"]
[protocol.prescription]
dose_gy = 40.0
fractions = 5
"""

START_LIMIT_S = 60.0


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until_listening(port: int, node: "subprocess.Popen[bytes]") -> bool:
    """Return whether the node listens before the limit; False too if it ended."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and node.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def main() -> int:
    """Run the demonstration and return the exit code of `hilum demo`."""
    folder = Path(tempfile.mkdtemp(prefix="hilum-demo-"))
    node_port, tps_port, web_port = free_ports(3)
    configuration = folder / "hilum.toml"
    configuration.write_text(
        CONFIGURATION.format(node=node_port, tps=tps_port, web=web_port), encoding="utf-8"
    )
    hilum = Path(sys.executable).parent / "hilum"
    log = folder / "node.log"
    with log.open("wb") as output:
        node = subprocess.Popen(
            [hilum, "serve", "--config", configuration], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        if not wait_until_listening(node_port, node):
            print(f"the node did not start; its log is {log}", file=sys.stderr)
            return 1
        print(f"a node listens on 127.0.0.1:{node_port}; its log is {log}", flush=True)
        print(f"its page, until this ends: http://127.0.0.1:{web_port}", flush=True)
        arguments = ["demo", "--config", configuration, "--out", folder / "results", *sys.argv[1:]]
        code = subprocess.run([hilum, *arguments], check=False, env=os.environ).returncode
        print(f"the page again: {hilum} serve --config {configuration}")
        return code
    finally:
        node.send_signal(signal.SIGTERM)
        try:
            node.wait(timeout=20)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


if __name__ == "__main__":
    sys.exit(main())
