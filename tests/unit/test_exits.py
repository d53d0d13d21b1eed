"""How a process ends: child processes, because only they really end."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

BEGIN = "import atexit, os, signal, sys\nfrom exporter import start_run\n"


@pytest.fixture
def ends(tmp_path):
    """Runs a script that starts the runs ``r1``, ... in its folder; gives exit code, stderr and the runs' ends."""

    def run(script):
        result = subprocess.run(
            [sys.executable, "-c", BEGIN + textwrap.dedent(script)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        journals = sorted(tmp_path.glob("runs/*/metrics.jsonl"))
        lines = [[json.loads(line) for line in journal.read_text().splitlines()] for journal in journals]
        found = [[(x["status"], x["reason"]) for x in journal if x["_type"] == "run_end"] for journal in lines]
        return result.returncode, result.stderr, found

    return run


@pytest.mark.parametrize(
    ("script", "code", "end"),
    [
        ("run = start_run('r1')", 0, ("finished", "")),
        ("start_run('r1')", 0, ("finished", "")),
        ("def main():\n    run = start_run('r1')\n    run.log({'a': 1})\nmain()", 0, ("finished", "")),
        ("run = start_run('r1'); sys.exit()", 0, ("finished", "")),
        ("run = start_run('r1'); sys.exit(0)", 0, ("finished", "")),
        ("run = start_run('r1'); run.finish('crashed', 'lost')", 0, ("crashed", "lost")),
        ("with start_run('r1'): sys.exit(0)", 0, ("finished", "")),
        ("with start_run('r1'): sys.exit(3)", 3, ("failed", "SystemExit: 3")),
        ("run = start_run('r1'); 1 / 0", 1, ("failed", "ZeroDivisionError: division by zero")),
        ("with start_run('r1'): 1 / 0", 1, ("failed", "ZeroDivisionError: division by zero")),
        ("run = start_run('r1'); signal.raise_signal(signal.SIGINT)", -2, ("failed", "KeyboardInterrupt: ")),
        ("run = start_run('r1')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    pass", 0, ("finished", "")),
    ],
)
def test_a_process_that_ends_by_itself_ends_its_run(ends, script, code, end):
    """A run still open at exit is finished, after an unhandled exception failed; the exit code stays the script's."""
    assert ends(script)[::2] == (code, [[end]])


def test_the_traceback_is_still_shown(ends):
    """The hook that notes an exception leaves its traceback to Python."""
    _, stderr, _ = ends("run = start_run('r1'); 1 / 0")
    assert stderr.startswith("Traceback")
    assert stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_hook_of_the_script_is_still_called(ends):
    """A hook that the script had set before its first run is called too."""
    _, stderr, found = ends("sys.excepthook = lambda *a: print('mine', file=sys.stderr)\nr = start_run('r1'); 1 / 0")
    assert stderr == "mine\n"
    assert found == [[("failed", "ZeroDivisionError: division by zero")]]


def test_every_open_run_is_ended(ends):
    """Runs that are still open are all ended, those that were finished before are not ended twice."""
    _, _, found = ends("a, b, c = (start_run(f'r{n}') for n in (1, 2, 3))\nb.finish('crashed')\n1 / 0")
    failed = ("failed", "ZeroDivisionError: division by zero")
    assert found == [[failed], [("crashed", "")], [failed]]


def test_a_forked_child_ends_nothing(ends):
    """A forked child that ends by itself, even by an exception, leaves the run to its parent."""
    code, _, found = ends(
        """
        run = start_run('r1')
        if os.fork() == 0:
            raise RuntimeError
        os.wait()
        """
    )
    assert (code, found) == (0, [[("finished", "")]])


@pytest.mark.parametrize("end", ["os._exit(0)", "signal.raise_signal(signal.SIGKILL)"])
def test_a_process_that_is_killed_leaves_its_run_open(ends, end):
    """What ends a process outright cannot be recorded by it: no end is made up."""
    _, _, found = ends(f"run = start_run('r1'); run.log({{'a': 1}}); {end}")
    assert found == [[]]


def test_a_finished_run_is_let_go(ends):
    """A process with many runs one after the other keeps none of the finished ones alive, but every open one."""
    _, stderr, found = ends(
        """
        import gc, weakref
        refs = []
        for n in range(1, 5):
            run = start_run(f'r{n}')
            refs.append(weakref.ref(run))
            if n != 2:
                run.finish()
        del run
        gc.collect()
        print([ref() is not None for ref in refs], file=sys.stderr)
        """
    )
    assert stderr == "[False, True, False, True]\n"
    assert found == 4 * [[("finished", "")]]
