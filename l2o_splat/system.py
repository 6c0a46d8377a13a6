"""What differs between operating systems, in one place; other modules use only what all of them have.

Only Linux is tested. What is missing elsewhere is answered with None, or done as far as it can be.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

KILLED = -9
"""Exit status of a process that was killed, where processes end by signals."""


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str | None:
    """Name of the processor; None if the system has no list of them."""
    return _entry("/proc/cpuinfo", r"model name\s*:\s*(.*)")


def total_memory() -> int | None:
    """Memory of the machine, bytes; None if the system does not say."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_memory() -> int | None:
    """Memory that programs can still get, bytes; None if the system does not say."""
    kibibytes = _entry("/proc/meminfo", r"MemAvailable:\s*(\d+)")
    return None if kibibytes is None else 1024 * int(kibibytes)


def memory_left_in_container() -> int | None:
    """What the limit of the container of this process leaves, bytes; None if there is no limit."""
    limit = _entry("/sys/fs/cgroup/memory.max", r"(\d+)")
    used = _entry("/sys/fs/cgroup/memory.current", r"(\d+)")
    return None if limit is None or used is None else max(int(limit) - int(used), 0)


def shared_memory() -> Path | None:
    """Folder of files that live in memory and that all processes can read; None if there is none to write to."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


def peak_memory() -> int | None:
    """Peak of the resident memory of this process, bytes; None if the system does not say."""
    # Prefer this to ru_maxrss, which a child inherits from the process that started it.
    kibibytes = _entry("/proc/self/status", r"VmHWM:\s*(\d+)")
    if kibibytes is not None:
        return 1024 * int(kibibytes)
    try:
        import resource
    except ImportError:
        return None
    # In bytes on macOS, in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def kills_for_memory() -> int:
    """How many processes the system has killed because memory ran out; 0 if it does not say."""
    return int(_entry("/proc/vmstat", r"oom_kill (\d+)") or 0)


def kill_with_children(process: subprocess.Popen) -> None:
    """Kill a process that was started with ``start_new_session``, and what it has started.

    What it has started is killed even if it has ended by itself; on Windows, only the process is killed.
    """
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, -KILLED)
    else:
        process.kill()
    process.wait()


def lock(file: int) -> bool:
    """Lock an open file for this process until it is closed; False if another process holds the lock.

    Args:
        file: Descriptor of a file that is open for writing.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(file: int) -> bool:
    import msvcrt

    # A byte far behind the end: a locked byte cannot be read by others.
    before = os.lseek(file, 0, os.SEEK_CUR)
    os.lseek(file, 2**40, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    finally:
        os.lseek(file, before, os.SEEK_SET)
    return True


def _entry(file: str, pattern: str) -> str | None:
    """What a line of a system file says; None if there is no such file or line."""
    path = Path(file)
    found = re.search(f"^{pattern}", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else None
