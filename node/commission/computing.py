"""One case through the node's own computation, bounded in time, and how it ended.

The same function as `hilum process`: assembly, child process, decoding, pipeline, encoding. Never
computes anything itself.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from handlers.errors import HandlerError
from node.commission.found_map import FoundResult, read_result
from node.commission.memory import PeakMemory
from node.config import Config, NodeSection, Protocol
from node.errors import NodeError
from node.process import process

T = TypeVar("T")

TIMEOUT_S = 900.0
"""Longest computation of one case; a case that takes longer is listed as failed."""

KIT_PROTOCOL = Protocol(name="commissioning", targets=("GTVn*", "GTV*"))


def kit_config(protocol: Protocol = KIT_PROTOCOL, *, as_sent: bool = False) -> Config:
    """Return the configuration of a computation, with this one protocol and without peers."""
    change = {"registration": "as-sent" if as_sent else "automatic", "destinations": ()}
    return Config(
        node=NodeSection(compute_timeout_s=TIMEOUT_S),
        protocol=(protocol.model_copy(update=change),),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """How a case ended.

    Attributes:
        result: What was found; None if it failed.
        reason: Why it failed, in a sentence without identifiers of ours; else empty.
        seconds: Wall time of all: reading, computing, writing.
        peak_mib: Peak memory of the computing process; 0 where the system does not tell.
    """

    result: FoundResult | None
    reason: str
    seconds: float
    peak_mib: float


class CaseFailedError(NodeError):
    """A case of the commissioning that could not be computed or measured."""


def compute(inputs: Sequence[Path], out: Path, config: Config) -> Computed:
    """Compute one case into a new folder.

    Returns:
        The outcome; an input that is refused is one too.
    """
    began, peak = time.monotonic(), PeakMemory()
    try:
        with peak:
            outcome = process(inputs, out, config)
        found = read_result(out) if outcome.kind == "done" else None
    except NodeError as error:
        return Computed(None, str(error), time.monotonic() - began, peak.mib)
    reason = "" if found else f"{outcome.kind}: {'; '.join(outcome.reasons)}"
    return Computed(found, reason, time.monotonic() - began, peak.mib)


def computed_result(inputs: Sequence[Path], out: Path, config: Config) -> FoundResult:
    """Return the result of one case.

    Raises:
        CaseFailedError: It was refused or failed, with the reason.
    """
    computed = compute(inputs, out, config)
    if computed.result is None:
        raise CaseFailedError(computed.reason)
    return computed.result


def attempt(work: Callable[[], T], on_failure: Callable[[str], None]) -> T | None:
    """Return what `work` returns, or None after telling why it could not.

    One case that fails must not take the report with it.
    """
    try:
        return work()
    except (NodeError, HandlerError) as error:
        on_failure(str(error))
    except Exception as error:  # noqa: BLE001 - the boundary of one case: every end is recorded
        # a foreign error's text may quote a name: only its place is told
        place = traceback.extract_tb(error.__traceback__)[-1]
        on_failure(f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}")
    return None


__all__ = [
    "KIT_PROTOCOL",
    "CaseFailedError",
    "Computed",
    "attempt",
    "compute",
    "computed_result",
    "kit_config",
]
