"""What all commands share: consoles, options, progress, and how errors and results are told."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from node.config import Config, Peer
from node.errors import NodeError
from node.index import Index

PRIVATE = 0o027
"""What others may not do with the files of the node: patients are named in them."""


class LogLevel(StrEnum):
    """Severities of the log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


FAILED = 1
WRONG_USE = 2
STOPPED = 128
"""Added to the number of the signal that stopped a command, as shells do."""

OUT = Console(soft_wrap=True, highlight=False, markup=False)
ERR = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (TOML); none: the defaults.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what a script can read.")]


def findings_told(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return findings as lines for people."""
    return [f"{f['severity']}: {f['text']}" for f in findings]


def clean(text: str) -> str:
    """Return text without what could steer a terminal: ROI names come from others."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def peer_to_call(config: Config, name: str) -> Peer:
    """Return the peer of that name, which can be called.

    Raises:
        NodeError: There is none, or it has no port.
    """
    peer = config.peer_named(name)
    if peer is None or peer.port is None:
        known = ", ".join(p.name for p in config.peer if p.port) or "none"
        raise NodeError(f"no peer {name!r} with a port", hint=f"the configuration has: {known}")
    return peer


@contextmanager
def open_index(config: Config) -> Iterator[Index]:
    """Give the index of a node that has worked.

    Raises:
        NodeError: None has worked in that folder.
    """
    if config.node.database is None and not (config.node.data / "index.sqlite").exists():
        raise NodeError(
            f"no node has worked in {config.node.data}", hint="name its file with --config"
        )
    index = Index(config.node.database_url)
    index.require_tables()
    try:
        yield index
    finally:
        index.close()


@contextmanager
def progress(steps: tuple[str, ...], *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show steps as a bar that fills, on the error stream, where a person sits before it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=ERR, transient=True, disable=quiet or not ERR.is_terminal
    ) as bar:
        task = bar.add_task(steps[0], total=len(steps))
        yield lambda step: bar.update(
            task, description=step, completed=steps.index(step) if step in steps else 0
        )


@contextmanager
def counted(total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show how many of a number of objects are sent; the block calls what it is given for each."""
    with Progress(console=ERR, transient=True, disable=quiet or not ERR.is_terminal) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda: bar.advance(task)


def print_json(document: Any) -> None:
    """Print what a script can read."""
    sys.stdout.write(json.dumps(document, default=str, indent=1) + "\n")


def say(error: NodeError) -> None:
    """Tell an error and its hint."""
    ERR.print(clean(str(error)))
    if error.hint:
        ERR.print(error.hint)
