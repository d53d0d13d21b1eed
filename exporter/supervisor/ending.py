"""How a command ended, in words for somebody who was not there."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

from exporter.supervisor.memory import OomKills

__all__ = ["Ending", "exit_code", "explain", "last_lines", "signal_name", "status"]

_SHELL_SIGNAL_BASE = 128
_MAX_LINES = 20
_MAX_CHARACTERS = 2000

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_UNPRINTABLE = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f�]")

_SIGNAL_HINTS = {
    "SIGHUP": "its terminal or session was closed",
    "SIGINT": "Ctrl-C, or a scheduler's first warning",
    "SIGTERM": "a time limit, a preemption, or somebody ended it",
    "SIGKILL": "sent by the kernel when memory runs out, by a scheduler after its grace period, or by hand",
    "SIGBUS": "often a full /dev/shm: give the container more shared memory",
    "SIGSEGV": "a fault in native code",
    "SIGABRT": "native code gave up; its message stands in the last lines",
    "SIGPIPE": "whoever read its output was gone",
    "SIGXCPU": "its limit of CPU time was used up",
}

_MEMORY_HINTS = (
    (
        re.compile(r"(?:CUDA|HIP|XPU)(?: error:)? out of memory|CUBLAS_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED"),
        "the accelerator's memory ran out: use smaller batches or sequences, or shard the model",
    ),
    (
        re.compile(r"\b_?(?:Array)?MemoryError\b|ray\S*\.OutOfMemoryError|bad_alloc|[Cc]an(?:'t|not) allocate memory"),
        "the host's memory ran out: give the job more, or use fewer data workers",
    ),
)


class Ending(NamedTuple):
    """What the supervisor saw of the command's end."""

    returncode: int
    """Its exit code; negative for the signal that killed it."""
    stdout: str = ""
    """The last lines."""
    stderr: str = ""
    """The last lines; where both are one stream they stand here."""
    signals: Sequence[tuple[str, float]] = ()
    """Signals that came while it ran: the name, and how many seconds before its end."""
    skipped_bytes: int = 0
    """Output that came faster than it could be read for metrics; it was passed on all the same."""


def status(ending: Ending) -> str:
    """What a run with such an end is called."""
    if ending.returncode < 0:
        return "crashed"
    return "failed" if ending.returncode else "finished"


def exit_code(returncode: int) -> int:
    """The code as a shell shows it: 128 + N for a death by signal N."""
    return returncode if returncode >= 0 else _SHELL_SIGNAL_BASE - returncode


def explain(ending: Ending, killed: OomKills) -> str:
    """Why a command ended, with what points at memory and its last lines; nothing where it ended well."""
    if not ending.returncode:
        return ""
    facts = [_cause(ending.returncode), *_signals(ending.signals), *_memory(ending, killed)]
    name = "stderr" if ending.stderr else "stdout"
    lines = ending.stderr or ending.stdout
    return "; ".join(facts) + (f"\nlast lines of {name}:\n{lines}" if lines else "")


def last_lines(output: bytes) -> str:
    """The last lines as a terminal would show them, at most 20 with 2 000 characters."""
    text = _ANSI.sub("", output.decode("utf-8", "replace"))
    shown = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    lines = [_UNPRINTABLE.sub("", line).rstrip() for line in shown]
    return "\n".join([line for line in lines if line][-_MAX_LINES:])[-_MAX_CHARACTERS:]


def signal_name(number: int) -> str:
    """SIGTERM and the like; a real-time signal by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cause(returncode: int) -> str:
    by_signal = returncode < 0
    number = -returncode if by_signal else returncode - _SHELL_SIGNAL_BASE
    name = signal_name(number) if number > 0 else ""
    if not by_signal and name not in _SIGNAL_HINTS:
        return f"exit code {returncode}"
    hint = f" ({_SIGNAL_HINTS[name]})" if name in _SIGNAL_HINTS else ""
    if by_signal:
        return f"killed by {name}{hint}"
    return f"exit code {returncode}, which a shell gives for {name}{hint}"


def _signals(signals: Sequence[tuple[str, float]]) -> list[str]:
    return [f"{name} came {seconds:.0f} s before the end" for name, seconds in signals]


def _memory(ending: Ending, killed: OomKills) -> list[str]:
    """What says that memory ran out, the surest first."""
    if killed.cgroup:
        return [f"OUT OF MEMORY: the kernel killed {killed.cgroup} process(es) of this job: give it more memory"]
    for pattern, hint in _MEMORY_HINTS:
        if pattern.search(f"{ending.stdout}\n{ending.stderr}"):
            return [f"OUT OF MEMORY: {hint}"]
    if killed.host and exit_code(ending.returncode) == exit_code(-signal.SIGKILL):
        return [f"probably OUT OF MEMORY: the kernel killed {killed.host} process(es) of this host meanwhile"]
    return []
