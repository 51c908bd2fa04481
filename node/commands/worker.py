"""`hilum worker`: more computing, on this machine or another, where the index is in PostgreSQL."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from node.config import read_config
from node.console import OUT, PRIVATE, ConfigOption, LogLevel
from node.log import configure_logging

STARTED_ANEW_S = 5.0
"""After this a slot that has ended by itself is started anew."""

STOPPING_S = 60.0
"""How long slots may take to stop; then they are killed, which loses nothing."""


def add_commands(app: typer.Typer) -> None:
    """Add `hilum worker`."""
    app.command()(worker)


def worker(
    config: ConfigOption = None,
    slots: Annotated[
        int, typer.Option(min=1, max=32, help="Cases to compute at a time, a process for each.")
    ] = 1,
    log_level: Annotated[LogLevel, typer.Option(help="Least severity that is logged.")] = (
        LogLevel.INFO
    ),
) -> None:
    """Only compute, for the nodes that share the database and the data folder, until SIGTERM."""
    from node.worker import Worker, require_shared  # a second of imports that others do without

    settings = read_config(config)
    require_shared(settings)
    os.umask(PRIVATE)
    configure_logging(log_level, as_json=True)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopping.set())
    if slots > 1:
        _run_slots(config, slots, log_level, stopping)
        return
    one = Worker(settings)
    one.start()
    OUT.print(f"worker {one.name} computes for {settings.node.data.resolve()}; Ctrl-C stops it")
    stopping.wait()
    one.stop()


def _run_slots(
    config: Path | None, slots: int, log_level: LogLevel, stopping: threading.Event
) -> None:
    """Run a worker for each slot until told to stop; one that ends by itself comes back."""
    command = [sys.executable, "-m", "node", "worker", "--log-level", log_level]
    if config is not None:
        command += ["--config", str(config)]
    running = [subprocess.Popen(command) for _ in range(slots)]  # noqa: S603 - ourselves
    try:
        while not stopping.wait(STARTED_ANEW_S):
            running = [
                subprocess.Popen(command) if one.poll() is not None else one  # noqa: S603
                for one in running
            ]
    finally:
        for one in running:
            one.terminate()
        for one in running:
            try:
                one.wait(STOPPING_S)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
