"""Objects damaged at random: a header or our error, agreed with pydicom, in bounds.

`tests.fuzz.data_sets` does the same by the million.
"""

import random
import time
import tracemalloc
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damaged_objects import Original, damaged, originals, outcome_of

ORIGINALS = originals()
LONGEST_S = 2.0
PEAK_BYTES = 8 << 20
"""The largest damaged object has half a megabyte; inflated it may have some."""

pytestmark = pytest.mark.filterwarnings(
    "ignore:Found unknown escape", "ignore:Failed to decode", "ignore:Unknown encoding"
)


@settings(
    max_examples=500,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False))
def test_damaged_object_is_read_as_pydicom_reads_it_or_refused(rng: random.Random) -> None:
    """Issue 4, point 9: nothing but our own errors, and no object that others would see otherwise.

    What is accepted must bear the UIDs that pydicom reads; the whole header must never be read of
    what the scan refuses, nor tell another patient; no error tells of the patient.
    """
    outcome = outcome_of(damaged(rng, ORIGINALS))
    assert (outcome.header is not None) == outcome.text.startswith("header")


def test_damaged_objects_take_neither_time_nor_memory() -> None:
    """Issue 4, point 9: no hang, no memory beyond bounds; the damage reaches every check."""
    outcomes: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for seed in range(1500):
            case = damaged(random.Random(seed), ORIGINALS)
            tracemalloc.reset_peak()
            before_bytes, start_s = tracemalloc.get_traced_memory()[0], time.process_time()
            outcomes[outcome_of(case).text] += 1
            assert time.process_time() - start_s < LONGEST_S, seed
            assert tracemalloc.get_traced_memory()[1] - before_bytes < PEAK_BYTES, seed
    finally:
        tracemalloc.stop()
    assert outcomes["header"] > 100  # else nothing was compared
    assert len(outcomes) > 20  # else most damages end alike
    for text in ("scanned; a sequence holds something else than whole items",
                 "the data set ends within a sequence", "sequences are nested too deeply",
                 "element (tag) stands twice", "SOPInstanceUID is not a legal UID"):  # fmt: skip
        assert outcomes[text], text


@pytest.mark.parametrize("original", ORIGINALS, ids=lambda one: one.syntax)
def test_undamaged_object_is_judged_readable(original: Original) -> None:
    """The judge itself: what is whole is read, and as pydicom reads it."""
    outcome = outcome_of(original)
    assert outcome.header is not None
    assert outcome.header.sop_instance_uid == "1.2.826.0.1.7"
