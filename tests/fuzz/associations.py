"""Sends damaged PDUs to a running node, by the hundred thousand, and looks how it fares.

    python -m tests.fuzz.associations [--cases 100000] [--seed 1] [--first 0]

Run by hand, from the project's folder. Each case is an association (most begin honestly) whose
PDUs were damaged at random. It must end: by the node within `ENDING_S`, with one A-ABORT at most
and a reason that was foreseen. Every `CHECKED_EVERY` cases an honest C-ECHO must be answered and no
thread of an association be left. Prints associations a second, the distinct endings, the slowest
case, the errors that the node logged, and the growth of its memory; exits 1 if anything broke a
rule. A case depends on seed and number alone.
"""

import argparse
import logging
import os
import random
import re
import resource
import ssl
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from node.config import NodeSection
from tests.hostile_peer import (
    HostilePeer,
    abort_reason,
    association_threads,
    command,
    context,
    damaged,
    echo_command,
    echo_status,
    item,
    pdv,
    request,
    store_command,
    user,
)
from tests.raw_sender import ABORT, DATA_TF, NO_DATA_SET, RELEASE_RQ, pdu
from tests.receiving_node import Node, ct, encoded, running

CHECKED_EVERY = 500
SLOW_S = 5.0
REQUESTS = 3
PATIENT = NodeSection(port=0, network_timeout_s=30, max_rejections_per_minute=100_000)
"""Of a node that shuts nobody out, however much nonsense comes."""

FORESEEN_REASONS = {(0, 0), *((2, reason) for reason in (1, 2, 4, 5, 6))}
"""PS3.8 table 9-26; no reason (2, 0) is what the node says of its own mistakes."""

_DATA = encoded(ct(7))
_C_FIND_RQ, _C_CANCEL_RQ = 0x0020, 0x0FFF


def whole_messages() -> list[bytes]:
    """Return PDUs as an honest peer sends them, to be damaged: `REQUESTS` requests, the rest."""
    negotiated = user(16384, item(0x54, b"\0\x111.2.840.10008.1.1\1\0"), item(0x53, b"\0\1\0\1"))
    step = 3000
    data = b"".join(
        pdu(DATA_TF, pdv(1, 2 if at + step >= len(_DATA) else 0, _DATA[at : at + step]))
        for at in range(0, len(_DATA), step)
    )
    return [
        request(),
        request(*[context(1 + 2 * n, "1.2.840.10008.1.1", "1.2.840.10008.1.2") for n in range(60)]),
        request(user_item=negotiated),
        echo_command(),
        store_command() + data,
        store_command(instance=b"1.2.826.0.1.7\0") + data,
        pdu(DATA_TF, pdv(1, 3, command(_C_FIND_RQ)) + pdv(1, 2, _DATA[:200])),
        pdu(DATA_TF, pdv(1, 3, command(_C_CANCEL_RQ, data=NO_DATA_SET))),
        pdu(RELEASE_RQ),
        pdu(ABORT),
    ]


def ending_of(
    node: Node, rng: random.Random, whole: list[bytes], secure: ssl.SSLContext | None = None
) -> str:
    """Send one case, over TLS if it is said how; return how it ended.

    Raises:
        AssertionError: More than one A-ABORT, or one with a reason that was not foreseen.
        TimeoutError: The node did not end it.
    """
    begins_honestly = rng.random() < 0.7
    messages = rng.choices(whole[REQUESTS:], k=rng.randint(1, 4))
    if not begins_honestly:
        messages.insert(0, rng.choice(whole[:REQUESTS]))
    stream = damaged(rng, b"".join(messages))
    with HostilePeer(node.port, secure) as peer:
        if begins_honestly:
            peer.associate()
        peer.send(stream)
        peer.finish()
        pdus = peer.ending()
    reason = abort_reason(pdus)
    assert reason is None or reason in FORESEEN_REASONS, f"reason {reason}"
    assert [kind for kind, _ in pdus].count(ABORT) <= 1, "two aborts"
    kinds = sorted({kind for kind, _ in pdus})
    return f"{'in' if begins_honestly else 'before'} an association: PDUs {kinds}, abort {reason}"


class _Errors(logging.Handler):
    """Counts what the node logs, without the numbers in it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()[:80]
        if record.exc_info and record.exc_info[0]:
            text += f": {record.exc_info[0].__name__}"
        self.counts[f"{record.levelname} {record.name} {re.sub(r'[0-9.]+', '#', text)}"] += 1


def resident_mib() -> float:
    """Return the memory of this process, the node included."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def fuzz(
    ending: Callable[[random.Random], str],
    is_served: Callable[[], bool],
    asked: argparse.Namespace,
) -> int:
    """Run the cases; return how many broke a rule.

    Args:
        ending: Sends one case, made by chance, and returns how it ended.
        is_served: Tells whether an honest peer is answered.
        asked: What the command line says, as of `parser_of`.
    """
    first, cases, seed = asked.first, asked.cases, asked.seed
    endings, failures = Counter[str](), 0
    slowest_s, slowest_case, begin_s, begin_mib = 0.0, 0, time.perf_counter(), 0.0
    for number in range(first, first + cases):
        start_s = time.perf_counter()
        try:
            endings[ending(random.Random(f"{seed}-{number}"))] += 1
            if number % CHECKED_EVERY == CHECKED_EVERY - 1:
                assert is_served(), "no echo"
                assert association_threads() == [], "a thread is left"
                begin_mib = begin_mib or resident_mib()
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            failures += 1
            print(f"case {number}\n{traceback.format_exc()}", flush=True)
        took_s = time.perf_counter() - start_s
        if took_s > slowest_s:
            slowest_s, slowest_case = took_s, number
        if took_s > SLOW_S:
            print(f"case {number} took {took_s:.1f} s", flush=True)
    for text, count in endings.most_common():
        print(f"{count:8}  {text}")
    print(
        f"{cases} cases, seed {seed}: {cases / (time.perf_counter() - begin_s):.0f} cases/s, "
        f"{len(endings)} endings, {failures} failures; slowest {slowest_s:.2f} s "
        f"(case {slowest_case}); memory {begin_mib:.0f} MiB after {CHECKED_EVERY}, "
        f"{resident_mib():.0f} at the end, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} at most"
    )
    return failures


def parser_of(description: str | None, cases: int) -> argparse.ArgumentParser:
    """Return what reads the command line: how many cases, which, by which seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    return parser


def main() -> int:
    """Run what the command line asks for."""
    asked = parser_of(__doc__, cases=100_000).parse_args()
    warnings.simplefilter("ignore")
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    whole = whole_messages()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), section=PATIENT) as node:
        failures = fuzz(
            lambda rng: ending_of(node, rng, whole), lambda: bool(echo_status(node.port)), asked
        )
        spare = sum(path.stat().st_size for path in Path(folder).rglob("spare/*"))
    print(f"{spare} bytes in spare files")
    for text, count in errors.counts.most_common(40):
        print(f"{count:8}  {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
