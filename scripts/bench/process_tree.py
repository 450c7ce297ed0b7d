"""A server's processes: who belongs to it, the memory they have held, their processor time, their end. Linux only."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


class Process(NamedTuple):
    """One entry of /proc. ``started`` tells it from a later process with the same number."""

    pid: int
    parent: int
    session: int
    started: int
    ended: bool


def adopt_orphans() -> None:
    """Let processes whose parent ends become children of this one, so that they can be waited for."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processor_s() -> float:
    """Processor time in seconds of this process and of all whose end it has waited for, with what descended from them.

    With ``adopt_orphans`` and ``end_processes`` that is all of every server that has been ended.
    """
    return sum(os.times()[:4])


def process_tree(root: int, proc: Path = PROC) -> list[Process]:
    """``root``, all that descend from it and all of its session that run."""
    everyone = list(_processes(proc))
    members = {root}
    while True:
        more = {p.pid for p in everyone if p.parent in members or p.session == root} - members
        if not more:
            return [p for p in everyone if p.pid in members and not p.ended]
        members |= more


def peak_bytes(pids: list[int], proc: Path = PROC) -> int:
    """Most memory that the processes held together, at most.

    It is the sum of VmHWM - (Rss - Pss): each one's own peak, less what it shares now with others and the others count
    as well. Read once, after the load, so measuring it disturbs nothing. Peaks that did not coincide make it too large.
    A process that has ended does not count.
    """
    total = 0
    for pid in pids:
        try:
            status, rollup = _kilobytes(proc / str(pid) / "status"), _kilobytes(proc / str(pid) / "smaps_rollup")
        except OSError:
            continue
        if "VmHWM" in status and "Pss" in rollup:
            total += status["VmHWM"] - (rollup["Rss"] - rollup["Pss"])
    return total * 1024


def tree_processor_s(root: int, proc: Path = PROC) -> float:
    """Processor time in seconds that the tree of ``root`` has used so far, in the kernel's ticks of 0.01 s.

    Each one's own and that of the children it has waited for, so a worker's time stays when the worker ends.
    """
    ticks = 0
    for process in process_tree(root, proc):
        with contextlib.suppress(OSError):  # ended since
            ticks += sum(int(field) for field in _stat_fields(proc / str(process.pid))[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def end_processes(root: int, patience_s: float = 10.0) -> None:
    """End a process and its descendants: SIGTERM to the first, SIGKILL to whoever is left after ``patience_s``.

    The caller has started ``root`` in a session of its own and called ``adopt_orphans`` before.
    """
    seen = set(process_tree(root))
    if seen:
        _send(root, signal.SIGTERM)
    try:
        _await_end(root, seen, patience_s)
    except KeyboardInterrupt:  # a second one: no more patience, but an end
        _await_end(root, seen, 0)
        raise


def _await_end(root: int, seen: set[Process], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while left := _remaining(root, seen):
        if time.monotonic() >= deadline:
            for process in left:
                _send(process.pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _remaining(root: int, seen: set[Process]) -> list[Process]:
    """Who still runs of those seen so far and those found now; adds the latter to ``seen`` and reaps who has ended."""
    seen.update(process_tree(root))
    known = {(p.pid, p.started) for p in seen}
    left = []
    for process in _processes(PROC):
        if (process.pid, process.started) in known:
            if process.ended:
                _reap(process.pid)
            else:
                left.append(process)
    return left


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # another's child, who will do it
        os.waitpid(pid, os.WNOHANG)


def _processes(proc: Path) -> Iterator[Process]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                fields = _stat_fields(entry)
            except OSError:
                continue
            yield Process(int(entry.name), int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in "ZX")


def _stat_fields(folder: Path) -> list[str]:
    """Those of a process from its state on, the third in proc(5): the name before may itself hold parentheses."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _kilobytes(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}
