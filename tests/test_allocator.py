"""The node has one heap, however many threads come and go."""

import subprocess
import sys

import pytest

# Many threads at once allocate and free blocks that the C library gives, and end.
PROGRAM = """
import sys, threading
from node.allocator import share_one_arena
if sys.argv[1] == "one":
    share_one_arena()
together = threading.Barrier(8)
def work():
    together.wait(60)
    blocks = [bytearray(4096) for _ in range(100)]
    together.wait(60)
for thread in [threading.Thread(target=work) for _ in range(8)]:
    thread.start()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(60)
heap = 64 << 20
found = 0
for line in open("/proc/self/maps"):
    start, end = (int(text, 16) for text in line.split()[0].split("-"))
    found += start % heap == 0 and line.split()[1] == "rw-p" and len(line.split()) == 5
print(found)
"""


def heaps(how: str) -> int:
    """Return how many heaps beside the first one a process has; glibc aligns them to 64 MB."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(answer.stdout)


def test_threads_share_one_heap() -> None:
    """Without that, threads have heaps of their own, which stay when they end."""
    if not heaps("many"):
        pytest.skip("this C library has one heap anyway")
    assert heaps("one") == 0
