"""Log lines: readable by machines, and without patient identifiers."""

import io
import itertools
import json
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from node.errors import StorageFullError
from node.log import (
    IDENTIFIERS,
    MASK,
    SHORTEST_MASKED,
    IdentifierMask,
    case_context,
    configure_logging,
)

LOGGER = logging.getLogger("node.test")
TOUCHED = ("", "node", "handlers", "hilum", "pydicom", "pynetdicom", "py.warnings")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Give the process its logging back."""
    loggers = [logging.getLogger(name) for name in TOUCHED]
    kept = [(x, x.level, list(x.handlers), x.propagate) for x in loggers]
    hook = threading.excepthook
    yield
    threading.excepthook = hook
    logging.captureWarnings(False)
    for logger, level, handlers, propagate in kept:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


def lines_of(run: Callable[[], object], level: str = "INFO") -> list[dict[str, Any]]:
    stream = io.StringIO()
    configure_logging(level, as_json=True, stream=stream)
    run()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_with_event_and_fields() -> None:
    """One event name, its fields, UTC."""
    (line,) = lines_of(lambda: LOGGER.info("case.finished", extra={"seconds": 1.5, "ok": True}))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "event": "case.finished",
        "logger": "node.test",
        "seconds": 1.5,
        "ok": True,
    }


def test_text_form_is_for_people() -> None:
    """The same content on a terminal."""
    stream = io.StringIO()
    configure_logging("INFO", as_json=False, stream=stream)
    LOGGER.warning("store.refused", extra={"peer": "ct"})
    assert 'WARNING store.refused logger="node.test" peer="ct"' in stream.getvalue()


def test_configured_twice_logs_once() -> None:
    """A second call replaces the first."""
    configure_logging(stream=io.StringIO())
    assert len(lines_of(lambda: LOGGER.info("once"))) == 1


def test_case_is_named_in_its_own_context_only() -> None:
    """Lines of two cases that run side by side must not be mixed up."""

    def run() -> None:
        with case_context("case-1"):
            other = threading.Thread(target=lambda: LOGGER.info("elsewhere"))
            other.start()
            other.join()
            LOGGER.info("within")
        LOGGER.info("after")

    found = {line["event"]: line.get("case_id") for line in lines_of(run)}
    assert found == {"elsewhere": None, "within": "case-1", "after": None}


def test_level_is_ours_alone() -> None:
    """DEBUG for us must not open the chatter of libraries, which prints data sets."""

    def run() -> None:
        LOGGER.debug("ours")
        logging.getLogger("pynetdicom.acse").info("theirs")

    assert [line["event"] for line in lines_of(run, "DEBUG")] == ["ours"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Marked^Nameless^Q", MASK),
        ("of nameless today", f"of {MASK} today"),
        ("id PID-4711, born 19500102.", f"id {MASK}, born {MASK}."),
        ("1.2.19500102.7", "1.2.19500102.7"),
        ("unmarked", "unmarked"),
        ("Q", "Q"),
    ],
)
def test_masking(text: str, expected: str) -> None:
    """Whole values and parts of names vanish; UIDs and longer words stay readable."""
    mask = IdentifierMask()
    mask.remember("Marked^Nameless^Q", "PID-4711", "19500102", "", "Q")
    assert mask.masked(text) == expected


@given(
    values=st.lists(st.text("ab.-^ _/\\İßé1", min_size=3, max_size=9), min_size=1, max_size=5),
    between=st.lists(st.text("ab.- ^", max_size=3), min_size=1, max_size=6),
    is_shouted=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_masking_is_that_of_all_values_together(
    values: list[str], between: list[str], is_shouted: bool
) -> None:
    """Looking values up by their first words finds just what comparing with each would."""
    mask = IdentifierMask()
    mask.remember(*values)
    text = "".join(gap + value for gap, value in zip(between, itertools.cycle(values)))
    text = text.upper() if is_shouted else text
    parts = {part for value in values for part in (value, *re.split(r"[\^=\s]+", value))}
    known = {part.strip().lower() for part in parts if len(part.strip()) >= SHORTEST_MASKED}
    found = sorted((one for one in known if one in text.lower()), key=len, reverse=True)
    pattern = rf"(?<![\w.])(?:{'|'.join(map(re.escape, found))})(?!\w|\.\w)"
    expected = re.sub(pattern, MASK, text, flags=re.IGNORECASE) if found else text
    assert mask.masked(text) == expected


def test_mask_forgets_the_oldest() -> None:
    """Memory is bounded."""
    mask = IdentifierMask(capacity=2)
    for name in ("first", "second", "third"):
        mask.remember(name)
    assert mask.masked("first second third") == f"first {MASK} {MASK}"


def test_remembered_values_vanish_wherever_they_stand() -> None:
    """Event, fields, keys, nested values, objects."""

    class Speaking:
        def __str__(self) -> str:
            return "it is MARKEDPERSON"

    IDENTIFIERS.remember("MARKEDPERSON^ONE")

    def run() -> None:
        LOGGER.info(
            "about MARKEDPERSON",
            extra={"a": "MARKEDPERSON", "b": [{"MARKEDPERSON": "x"}], "c": Speaking()},
        )

    assert "MARKEDPERSON" not in json.dumps(lines_of(run))


def test_foreign_exception_keeps_type_and_place_but_no_text() -> None:
    """A library may quote a value in its exception."""

    def run() -> None:
        try:
            try:
                float("UNKNOWNPERSON")  # Python quotes it
            except ValueError as error:
                raise StorageFullError("the disk refuses") from error
        except StorageFullError:
            LOGGER.exception("store.failed")

    (line,) = lines_of(run)
    trace = "\n".join(line["traceback"])
    assert "UNKNOWNPERSON" not in json.dumps(line)
    assert "StorageFullError: the disk refuses" in trace
    assert "ValueError" in trace
    assert "test_log.py:" in trace


def test_text_of_pydicom_is_withheld() -> None:
    """Its warnings quote values, through `logging` and through `warnings`."""

    def run() -> None:
        warnings.simplefilter("always")
        Dataset().PatientBirthDate = "UNKNOWNPERSON"

    with warnings.catch_warnings():
        lines = lines_of(run)
    assert {line["logger"] for line in lines} == {"pydicom", "py.warnings"}
    assert "UNKNOWNPERSON" not in json.dumps(lines)
    assert any("UserWarning" in line["place"] for line in lines)


def test_thread_that_dies_is_logged_without_text() -> None:
    """Python would print the exception with its text to stderr."""

    def run() -> None:
        thread = threading.Thread(target=lambda: float("UNKNOWNPERSON"), name="worker")
        thread.start()
        thread.join()

    (line,) = lines_of(run)
    assert (line["event"], line["thread_name"]) == ("thread.died", "worker")
    assert "UNKNOWNPERSON" not in json.dumps(line)
