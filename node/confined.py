"""Runs an outside program as a process of its own: bounded, without network, nothing left behind.

Between this process and the program stands a guard (this file, run as a script). It limits memory,
takes the network away where the kernel lets it, starts the program, and ends every process that
comes from it, also those that left its group: on time-out, at the program's own end, and when we
die. What the program prints goes nowhere. Nothing else of the node is imported, so that the guard
starts at once; errors for people are the caller's business.

Deliberately no sandbox for files: the program may read and write what the node may.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
"""unshare(2): a user namespace of its own, and a network namespace with no way out of it."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): the signal at the parent's death; orphans of our descendants become our children."""

_CLOSED_PROXY = "http://127.0.0.1:9"
"""Nothing listens on the discard port: a second wall for libraries that honour proxies."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program ended.

    Attributes:
        code: Its exit code, negative for a signal; None: out of time, or not started.
        start_error: Why it could not be started (no path); empty if it was.
        is_offline: Whether the kernel kept it from every network.
    """

    code: int | None
    start_error: str
    is_offline: bool


def run_confined(
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str],
    timeout_s: float,
    memory_bytes: int,
) -> Ended:
    """Run a program in `folder` and return how it ended, when none of its processes is left.

    Args:
        command: Absolute path of the program, and its arguments.
        folder: Working folder; removed by the guard if this process dies or is stopped meanwhile.
        environment: All that the program is told of the environment, beside closed proxies.
        timeout_s: Time until it is killed.
        memory_bytes: Limit of the address space of each of its processes.
    """
    told = json.dumps(
        {
            "command": list(command),
            "folder": str(folder),
            "timeout_s": timeout_s,
            "memory_bytes": memory_bytes,
            "parent": os.getpid(),
        }
    )
    proxies = dict.fromkeys(
        (f"{kind}_proxy" for kind in ("http", "https", "ftp", "all")), _CLOSED_PROXY
    )
    proxies |= {name.upper(): proxy for name, proxy in proxies.items()}
    guard = subprocess.Popen(  # noqa: S603 - our own interpreter and this file
        [sys.executable, "-I", "-S", __file__, told],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, **proxies, "no_proxy": "", "NO_PROXY": ""},
        start_new_session=True,
    )
    try:
        answer, _ = guard.communicate()
    finally:
        if guard.poll() is None:
            guard.terminate()  # it ends the program first
            guard.wait()
    try:
        return Ended(**json.loads(answer))
    except (ValueError, TypeError):
        return Ended(None, f"its guard ended with code {guard.returncode}", is_offline=False)


def _guard(told: Mapping[str, object]) -> int:
    folder, parent = str(told["folder"]), int(str(told["parent"]))
    memory_bytes, timeout_s = int(str(told["memory_bytes"])), float(str(told["timeout_s"]))
    command = told["command"]
    code, start_error, is_offline, is_orphan = None, "", False, False
    try:
        signal.signal(signal.SIGTERM, _stop)
        is_offline = _leave_network()
        # after the change of credentials, which forgets the death signal
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != parent:
            _stop(0, None)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        process = subprocess.Popen(  # noqa: S603 - the program that the operator named
            command if isinstance(command, list) else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            # safe: the guard has one thread
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        code = None  # which tells the parent that it was still running
    except (OSError, ValueError) as error:
        start_error = getattr(error, "strerror", None) or type(error).__name__
    except _Stopped:
        # not told by the parent's number: it stays while one of its threads still dies
        is_orphan = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_descendants()
    if is_orphan:
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    answer = {"code": code, "start_error": start_error, "is_offline": is_offline}
    sys.stdout.write(json.dumps(answer))
    return 0


class _Stopped(BaseException):
    """The parent died, or told us to stop."""


def _stop(_number: int, _frame: object) -> None:
    raise _Stopped


def _leave_network() -> bool:
    """Go to a network namespace without any way out; tell whether the kernel allowed it."""
    user, group = os.getuid(), os.getgid()
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNET) == 0:
            return True
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            # stay who we are; without this the program would run as nobody
            with contextlib.suppress(OSError):
                Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
                Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
                Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
            return True
    return False


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _end_descendants() -> None:
    """Kill and reap until no child is left; orphans come to us, so this reaches all of them."""
    while True:
        for child in _children():
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own, found = str(os.getpid()), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name, which may hold anything) state parent
                status = (entry / "stat").read_text(encoding="ascii", errors="replace")
                if status.rpartition(")")[2].split()[1] == own:
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(_guard(json.loads(sys.argv[1])))
