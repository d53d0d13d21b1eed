"""How a command ended, in words; and the kernel's counters behind them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.supervisor.ending import Ending, exit_code, explain, last_lines, signal_name, status
from exporter.supervisor.memory import OomKills, count_oom_kills

NOBODY = OomKills(0, 0)
ACCELERATOR = "the accelerator's memory ran out: use smaller batches or sequences, or shard the model"


@pytest.mark.parametrize(
    ("returncode", "name", "code"),
    [(0, "finished", 0), (1, "failed", 1), (137, "failed", 137), (-9, "crashed", 137), (-15, "crashed", 143)],
)
def test_status_and_exit_code(returncode, name, code):
    """Finished is exit code 0, failed another one, crashed a signal, which a shell shows as 128 + N."""
    assert (status(Ending(returncode)), exit_code(returncode)) == (name, code)


@pytest.mark.parametrize(
    ("ending", "killed", "words"),
    [
        (Ending(0, stderr="warning: CUDA out of memory"), OomKills(1, 1), ""),
        (Ending(3), NOBODY, "exit code 3"),
        (Ending(200), NOBODY, "exit code 200"),
        (Ending(-34), NOBODY, "killed by SIGRTMIN"),
        (Ending(-40), NOBODY, "killed by signal 40"),
        (Ending(3, stdout="out"), NOBODY, "exit code 3\nlast lines of stdout:\nout"),
        (Ending(3, "out", "err"), NOBODY, "exit code 3\nlast lines of stderr:\nerr"),
        (Ending(1, signals=[("SIGUSR1", 61.2), ("SIGTERM", 0.4)]), NOBODY,
         "exit code 1; SIGUSR1 came 61 s before the end; SIGTERM came 0 s before the end"),
        (Ending(1), OomKills(2, 2),
         "exit code 1; OUT OF MEMORY: the kernel killed 2 process(es) of this job: give it more memory"),
        (Ending(1, stderr="HIP out of memory."), NOBODY,
         f"exit code 1; OUT OF MEMORY: {ACCELERATOR}\nlast lines of stderr:\nHIP out of memory."),
        (Ending(1), OomKills(0, 1), "exit code 1"),
        (Ending(1), OomKills(None, None), "exit code 1"),
    ],
)  # fmt: skip
def test_the_reason(ending, killed, words):
    """A reason says how it ended, which signals came before, what points at memory, and the last lines."""
    assert explain(ending, killed) == words


@pytest.mark.parametrize("returncode", [-9, 137])
def test_a_kill_beside_a_kill_for_memory_on_the_host_is_told(returncode):
    """A SIGKILL is probably the kernel's where it has killed somebody on this host meanwhile."""
    reason = explain(Ending(returncode), OomKills(None, 1))
    assert "SIGKILL" in reason
    assert "; probably OUT OF MEMORY: the kernel killed 1 process(es) of this host meanwhile" in reason
    assert "MEMORY" not in explain(Ending(returncode), NOBODY)


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"", ""),
        (b"one\r\ntwo\n\n \nthree", "one\ntwo\nthree"),
        (b" 10%|#  |\r 20%|## |\r\x1b[31mError\x1b[0m: why\x1b[K\n", "Error: why"),
        (b"\x1b]0;title\x07a\tb\x00\x08c\n", "a\tbc"),
        (b"\xff\xfegr\xc3\xb6\xc3\x9fe", "größe"),
        (b"".join(b"%d\n" % number for number in range(100)), "\n".join(map(str, range(80, 100)))),
        (b"x" * 5000, "x" * 2000),
    ],
)
def test_last_lines(output, lines):
    """The last lines are those that a terminal shows: 20 of them that say anything, 2 000 characters at most."""
    assert last_lines(output) == lines


@given(st.binary(max_size=4000))
def test_last_lines_of_anything(output):
    """Whatever bytes they are made of, the last lines are bounded, printable text that UTF-8 can hold."""
    text = last_lines(output)
    text.encode()
    assert len(text) <= 2000
    assert len(text.split("\n")) <= 20
    assert not any(ord(character) < 32 and character not in "\n\t" for character in text)


def test_signal_names():
    """A signal is called by its name, a nameless one by its number."""
    assert [signal_name(number) for number in (15, 40)] == ["SIGTERM", "signal 40"]


def write(root, **files):
    """A file system with these files; __ stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


EVENTS = "low 0\nhigh 3\nmax 9\noom 2\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def test_version_2_counts_our_own_group(tmp_path):
    """With control groups of version 2 the count is that of our own group."""
    root = write(tmp_path, proc__self__cgroup="0::/job/step\n", proc__vmstat="oom_kill 7\npgfault 3\n")
    write(root / "sys/fs/cgroup", **{"memory.events": EVENTS.format(5), "job__step__memory.events": EVENTS.format(2)})
    assert count_oom_kills(root) == (2, 7)


def test_version_1_counts_our_own_group(tmp_path):
    """With control groups of version 1 the count is in the memory controller's hierarchy."""
    groups = "9:name=systemd:/\n4:cpu,memory:/slurm/job_1\n0::/\n"
    root = write(tmp_path, proc__self__cgroup=groups)
    write(root / "sys/fs/cgroup/memory", **{"slurm__job_1__memory.oom_control": CONTROL.format(3)})
    assert count_oom_kills(root) == (3, None)


def test_a_container_sees_its_own_group_at_the_top(tmp_path):
    """In a container the path in /proc may be the host's; what is mounted is the container's own group."""
    root = write(tmp_path, proc__self__cgroup="4:memory:/docker/abc\n")
    write(root / "sys/fs/cgroup/memory", **{"memory.oom_control": CONTROL.format(1)})
    assert count_oom_kills(root).cgroup == 1


def test_a_machine_that_says_nothing(tmp_path):
    """Without counters nothing is known, and nothing is concluded from it."""
    write(tmp_path, proc__self__cgroup="0::/\n")
    nothing = count_oom_kills(tmp_path)
    assert nothing == (None, None)
    assert OomKills(4, 4).since(nothing) == (None, None)
    assert OomKills(4, 9).since(OomKills(1, 9)) == (3, 0)
