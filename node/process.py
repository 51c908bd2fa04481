"""One case from files, without network or database: the same result set as the node makes.

The same assembly, the same child process and the same encoding as in the node; only the waiting is
left out, since the files that are given are all there will ever be.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handlers.values import Severity
from node.assembly import CaseProposal, Patience, StoredInstance, assemble
from node.case_job import case_job
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, Outcome
from node.config import Config, Protocol
from node.element_reader import encoded_from_file
from node.errors import NodeError, UnfitObjectError, UnreadableObjectError
from node.header import header_from_bytes
from node.supervise import ChildProcesses

STEPS = (
    "read",
    "decode",
    "second opinion",
    "structures",
    "registration",
    "resampling",
    "refinement",
    "metrics",
    "dose",
    "encode",
)
"""The steps in order, for whoever draws a progress bar; one that is not configured is not told."""

MOST_UNREADABLE_TOLD = 5
"""Different reasons told for files that hold no usable object; the rest is counted."""


class NoCaseError(NodeError):
    """The files form no case that can be computed.

    Attributes:
        reasons: Each reason, in a sentence.
    """

    def __init__(self, reasons: Sequence[str], *, hint: str = "") -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons), hint=hint)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the given files hold.

    Attributes:
        instances: One entry for each SOP instance.
        unreadable: Why files hold no usable object, with the number of such files.
    """

    instances: tuple[StoredInstance, ...]
    unreadable: tuple[str, ...]


def process(
    inputs: Sequence[Path],
    out: Path,
    config: Config,
    *,
    protocol_name: str | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Outcome:
    """Compute the one case that the files form and leave its result set in `out`.

    Args:
        inputs: Files and folders.
        out: A folder that does not exist, is empty, or holds an earlier result set.
        config: Protocols and limits.
        protocol_name: Use this protocol only.
        on_step: Is told each step as it begins.

    Returns:
        The outcome; nothing is written unless it is `done`.

    Raises:
        NoCaseError: The files form no case, or more than one.
        ComputeError: The child process left no outcome.
        NodeError: `out` holds other things, or the protocol is unknown.
    """
    protocols = _protocols(config, protocol_name)
    out = out.resolve()
    _check_out(out, inputs)
    on_step("read")
    gathered = gather(inputs)
    proposal = only_case(gathered, protocols)
    protocol = next(p for p in protocols if p.name == proposal.protocol_name)
    job = case_job(proposal, protocol, config, root="/", created=datetime.now(UTC))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hilum-", dir=out.parent) as temporary:
            folder = Path(temporary) / "job"
            outcome = ChildProcesses().run(
                job, folder, timeout_s=config.node.compute_timeout_s, on_step=on_step
            )
            if outcome.kind == "done":
                _adopt(folder / OUTPUT_FOLDER, out, Path(temporary) / "replaced")
    except OSError as error:
        raise NodeError(
            f"the result set cannot be written: {error.strerror or error}",
            hint="name a folder on a disk with room, in which you may write",
        ) from error
    return outcome


def gather(inputs: Sequence[Path]) -> Gathered:
    """Read the headers of all files; a file that is no DICOM object is reported, not fatal."""
    found: dict[str, StoredInstance] = {}
    unreadable: Counter[str] = Counter()
    arrived = datetime.now(UTC)
    for path in _files(inputs):
        try:
            transfer_syntax_uid, encoded = encoded_from_file(path)
            header = header_from_bytes(encoded, transfer_syntax_uid)
        except (UnreadableObjectError, UnfitObjectError) as error:
            unreadable[str(error)] += 1
            continue
        digest = hashlib.sha256(encoded).hexdigest()
        earlier = found.get(header.sop_instance_uid)
        if header.is_ours or (earlier is not None and earlier.sha256 == digest):
            continue
        found[header.sop_instance_uid] = StoredInstance(
            header=header,
            sha256=digest,
            path=str(path.resolve()),
            received_at=arrived,
            association_is_open=False,
            quiet_s=0.0,
            replaces_other_content=earlier is not None,
        )
    told = [f"{n} files: {why}" for why, n in unreadable.most_common(MOST_UNREADABLE_TOLD)]
    others = unreadable.total() - sum(n for _, n in unreadable.most_common(MOST_UNREADABLE_TOLD))
    return Gathered(tuple(found.values()), (*told, *([f"{others} more files"] if others else [])))


def only_case(gathered: Gathered, protocols: Sequence[Protocol]) -> CaseProposal:
    """Return the one case that can be computed.

    Raises:
        NoCaseError: There is none, with every reason, or there are several.
    """
    patience = Patience(incomplete_s=0.0, mr_wait_h=0.0)
    now = datetime.now(UTC) + timedelta(seconds=1)
    proposals = assemble(gathered.instances, protocols, patience, now)
    ready = [p for p in proposals if not p.waiting_for and not p.rejection]
    if len(ready) == 1:
        return ready[0]
    if ready:
        labels = ", ".join(f"…{p.structure_set_uid[-12:]}" for p in ready)
        raise NoCaseError(
            [f"the files form {len(ready)} cases (structure sets {labels})"],
            hint="give the files of one case only",
        )
    reasons = [text for p in proposals for text in _why_not(p)]
    raise NoCaseError(
        [*(reasons or _nothing(gathered)), *gathered.unreadable],
        hint="a case is one planning CT, one structure set drawn on it, and MR of the same patient",
    )


def _why_not(proposal: CaseProposal) -> list[str]:
    """Return why a case cannot be computed: here nothing will come later."""
    told = [f.text for f in proposal.findings if f.severity != Severity.INFO]
    if proposal.structure_set_uid and proposal.ct_series_uid and not proposal.mr_series_uids:
        return ["no MR series of the CT's patient is among the files, or none is fit", *told]
    return [text for text in (proposal.rejection, *proposal.waiting_for) if text] + told


def _nothing(gathered: Gathered) -> list[str]:
    counts: dict[str, int] = {}
    for instance in gathered.instances:
        counts[instance.header.modality] = counts.get(instance.header.modality, 0) + 1
    if not counts:
        return ["no DICOM object was found in what was given"]
    held = ", ".join(f"{count} {modality}" for modality, count in sorted(counts.items()))
    return [f"no structure set drawn on a CT was found (objects by modality: {held})"]


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p, path))
        elif path.is_file():
            yield path
        else:
            raise NoCaseError([f"{path}: no such file or folder"])


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _protocols(config: Config, name: str | None) -> tuple[Protocol, ...]:
    if name is None:
        return config.protocol
    protocol = config.protocol_named(name)
    if protocol is None:
        known = ", ".join(p.name for p in config.protocol) or "none"
        raise NodeError(f"no protocol is named {name!r}", hint=f"the configuration has: {known}")
    return (protocol,)


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output folder in which anything lies that is not an earlier result set of ours."""
    if out.exists() and not out.is_dir():
        raise NodeError(f"{out} is a file", hint="name a folder")
    if any(path.resolve().is_relative_to(out) for path in inputs):
        raise NodeError(
            f"{out} holds what is to be computed", hint="name a folder of its own for the results"
        )
    if not out.exists():
        return
    ours = _files_of_result_set(out)
    others = [p for p in out.rglob("*") if p.is_file() and str(p.relative_to(out)) not in ours]
    if others or (not ours and any(out.iterdir())):
        raise NodeError(f"{out} holds {len(others)} other files", hint="name a new or empty folder")


def _files_of_result_set(out: Path) -> set[str]:
    """Return the files that an earlier `metrics.json` in this folder says it came with."""
    try:
        document = json.loads((out / METRICS_FILE).read_text(encoding="utf-8"))
        return {METRICS_FILE, *map(str, document["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _adopt(results: Path, out: Path, replaced: Path) -> None:
    """Put a whole result set in place of an earlier one; `metrics.json` comes last."""
    replaced.mkdir()
    out.mkdir(exist_ok=True)
    for path in list(out.iterdir()):
        path.rename(replaced / path.name)
    for path in sorted(results.iterdir(), key=lambda p: p.name == METRICS_FILE):
        path.rename(out / path.name)
