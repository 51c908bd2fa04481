"""`hilum serve` as a target of the judge's bench.py: any sender of this machine, every SOP class.

    python tests/bench/receive_target.py PORT OUT [--transport plain] [--keep FOLDER]

Writes a configuration beside OUT and becomes the node, with its data folder in OUT. With `--keep` a
shell stays above the node (1 MB) that moves the data folder there when the node has ended, before
the judge removes it: so that what was stored can be compared.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """\
[node]
ae_title = "ANY-SCP"
port = {port}
data = "{data}"
transport = "{transport}"
accept = "all"
max_associations = 100

[web]
enabled = false

[[peer]]
name = "bench"
ae_title = "*"
host = "127.0.0.1"
roles = ["send"]

[[protocol]]
name = "none"
targets = ["GTV"]
"""

RUN_AND_KEEP = """
"$@" &
node=$!
trap : TERM
while kill -0 $node 2>/dev/null; do wait $node; done
mv "$DATA" "$KEEP/$node"
"""
"""The judge ends the whole group with SIGTERM; the shell waits for the node and moves its data."""


def serve_command(port: int, data: Path, transport: str = "fast") -> list[str]:
    """Write the configuration beside the data folder and return the command of the node."""
    config = data.with_suffix(".toml")
    text = CONFIGURATION.format(port=port, data=data, transport=transport)
    config.write_text(text, encoding="utf-8")
    return [sys.executable, "-m", "node", "serve", "--config", str(config)]


def serve_environment() -> dict[str, str]:
    """Return the environment of a node that is started from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Become the node."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--transport", default="fast")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    data = options.out.resolve() / "data"
    command, environment = serve_command(options.port, data, options.transport), serve_environment()
    if options.keep is not None:
        environment |= {"DATA": str(data), "KEEP": str(options.keep.resolve())}
        command = ["sh", "-c", RUN_AND_KEEP, "sh", *command]
    os.execvpe(command[0], command, environment)  # noqa: S606 - our own program


if __name__ == "__main__":
    main()
