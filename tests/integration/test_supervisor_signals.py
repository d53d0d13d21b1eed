"""``telemetry-exporter run``: every signal reaches the command exactly once, and its end is ours."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.servers import wait_until
from tests.support.supervised import PROGRAM, Recorded, Terminal, python, run, supervised

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes, signals and terminals as Unix has them")

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGCONT")
LISTENER = f"""
    import os, signal, sys, time
    for name in {PASSED_ON!r}:
        signal.signal(getattr(signal, name), lambda number, _: os.write(1, b"got %d\\n" % number))
    print("ready", os.getpid(), flush=True)
    sys.stdin.readline()
    sys.exit(5)
"""


@pytest.fixture
def terminal():
    """A terminal with a user in front of it."""
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_command_s(tmp_path, code):
    """We end with the command's exit code, and the run ends as finished for 0, else as failed."""
    assert run(tmp_path, ["sh", "-c", f"exit {code}"]) == (code, b"", b"")
    end = Recorded(tmp_path).end
    assert (end.exit_code, end.status) == (code, "failed" if code else "finished")
    assert end.reason == (f"exit code {code}" if code else "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGPIPE", "SIGINT", "SIGRTMIN"])
def test_a_death_by_signal_is_ours_too(tmp_path, name):
    """A command that dies of a signal makes us die of it, so that a shell or a scheduler sees what happened."""
    number = getattr(signal, name)
    assert run(tmp_path, ["sh", "-c", f"kill -{int(number)} $$"]) == (-number, b"", b"")
    end = Recorded(tmp_path).end
    assert (end.exit_code, end.status) == (128 + number, "crashed")
    assert end.reason.startswith(f"killed by {name}")


def test_the_exit_code_is_known_where_ends_of_children_are_ignored(tmp_path):
    """Started by somebody who ignores the ends of children we still know how the command ended."""
    assert run(tmp_path, ["sh", "-c", "exit 3"], shell='set -- env --ignore-signal=CHLD "$@"') == (3, b"", b"")
    assert Recorded(tmp_path).end.exit_code == 3


def test_only_the_command_dumps_core(tmp_path):
    """When we die of the command's signal we leave no core file beside, or instead of, the command's."""
    script = "from exporter.supervisor import end_like; end_like(-6)"
    result = subprocess.run(
        ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *python(script)], cwd=tmp_path, check=False
    )
    assert result.returncode == -signal.SIGABRT
    assert list(tmp_path.iterdir()) == []


def test_a_shell_shows_128_and_the_signal(tmp_path):
    """In a shell's ``$?`` a death by signal N is 128 + N, as it is without us."""
    shell = ["sh", "-c", '"$@"; echo $?', "sh", *PROGRAM, "--", "sh", "-c", "kill -TERM $$"]
    result = subprocess.run(shell, cwd=tmp_path, capture_output=True, timeout=30, check=True)
    assert result.stdout == b"143\n"


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_signal_for_us_reaches_the_command_once(tmp_path, name):
    """A signal that only we are sent is passed on, and one that the whole process group is sent is not."""
    number = getattr(signal, name)
    marker = signal.SIGUSR2 if number != signal.SIGUSR2 else signal.SIGUSR1
    with supervised(tmp_path, python(LISTENER)) as running:
        running.expect(b"\n")
        out = b""
        for send in (os.kill, os.killpg):
            send(running.process.pid, number)
            out += running.expect(b"got %d\n" % number)
            running.process.send_signal(marker)
            out += running.expect(b"got %d\n" % marker)
        running.say("end")
        code, rest, _ = running.end()
    assert code == 5
    counts = {int(text): (out + rest).count(b"got %s\n" % text) for text in re.findall(rb"\d+", out + rest)}
    assert (counts[number], counts[marker]) == (2, 2)
    assert [event.title for event in Recorded(tmp_path).events].count(name) == 2


def test_a_command_that_cleans_up_is_given_its_time(tmp_path):
    """After SIGTERM the command ends in its own way and time; the reason says that the signal came before."""
    script = """
        import signal, sys, time
        def clean_up(*_):
            print("cleaning up", flush=True)
            sys.stdin.readline()
            print("clean")
            sys.exit(7)
        signal.signal(signal.SIGTERM, clean_up)
        print("ready", flush=True)
        time.sleep(60)
    """
    with supervised(tmp_path, python(script)) as running:
        running.expect(b"ready\n")
        running.process.terminate()
        running.expect(b"cleaning up\n")
        running.say("go on")
        assert running.end() == (7, b"clean\n", b"")
    recorded = Recorded(tmp_path)
    assert (recorded.end.status, recorded.end.exit_code) == ("failed", 7)
    assert re.match(r"exit code 7; SIGTERM came \d+ s before the end\n", recorded.end.reason)
    assert [event.title for event in recorded.events] == ["SIGTERM"]


def test_what_was_ignored_stays_ignored(tmp_path):
    """Under nohup a closed terminal harms neither us nor the command."""
    command = ["sh", "-c", "echo ready; read line; echo $line"]
    with supervised(tmp_path, command, shell="trap '' HUP") as running:
        running.expect(b"ready\n")
        os.killpg(running.process.pid, signal.SIGHUP)
        running.say("still here")
        assert running.end() == (0, b"still here\n", b"")
    assert Recorded(tmp_path).events == []


def test_when_we_are_killed_the_command_meets_a_closed_pipe_and_no_more(tmp_path):
    """A SIGKILL of the supervisor leaves the command alive until it writes; the run is recorded as crashed."""
    said = tmp_path / "said"
    script = f"""
        import os, pathlib, time
        parent = os.getppid()
        print("ready", os.getpid(), flush=True)
        while os.getppid() == parent:
            time.sleep(0.01)
        try:
            os.write(1, b"output")
        except BrokenPipeError:
            pathlib.Path({str(said)!r}).write_text("closed pipe")
    """
    with supervised(tmp_path, python(script)) as running:
        command = psutil.Process(int(running.expect(b"\n").split()[1]))
        running.process.kill()
        running.process.wait(30)
        wait_until(lambda: said.exists() and said.read_text() == "closed pipe", 10, "the command's going on")
        command.wait(10)
        wait_until(lambda: Recorded(tmp_path).ends, 10, "the recorder's last word")
    end = Recorded(tmp_path).end
    assert (end.status, end.reason.split(";")[0]) == ("crashed", "the supervisor was killed")


def test_when_the_recorder_is_killed_the_command_goes_on(tmp_path):
    """Without its recorder the supervisor passes output, signals and exit code on as before."""
    with supervised(tmp_path, python(LISTENER)) as running:
        running.expect(b"\n")
        os.kill(running.recorder_pid(), signal.SIGKILL)
        running.process.send_signal(signal.SIGUSR1)
        running.expect(b"got %d\n" % signal.SIGUSR1)
        before = psutil.Process(running.process.pid).cpu_times()
        time.sleep(1)
        assert sum(psutil.Process(running.process.pid).cpu_times()[:2]) == pytest.approx(sum(before[:2]), abs=0.1)
        running.say("end")
        assert running.end() == (5, b"", b"")


def test_killing_our_group_leaves_nothing_behind(tmp_path):
    """Whoever kills our process group, as torchrun and timeout do, has killed the command and the recorder, too."""
    with supervised(tmp_path, python(LISTENER)) as running:
        pids = [int(running.expect(b"\n").split()[1]), running.recorder_pid()]
        os.killpg(running.process.pid, signal.SIGKILL)
        assert running.process.wait(30) == -signal.SIGKILL
        wait_until(lambda: not any(map(is_running, pids)), 10, "everybody's end")


def is_running(pid):
    """Whether a process lives; one that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ------------------------------------------------------------------ keys on a terminal


def test_ctrl_c_interrupts_the_command_once(tmp_path, terminal):
    """Ctrl-C is one SIGINT for the command, which may clean up; its exit code is ours."""
    script = """
        import signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        print("ready", flush=True)
        signal.sigwait({signal.SIGINT})
        print("interrupted", flush=True)
        print("got", input(), "and", len(signal.sigpending()), "more")
        sys.exit(6)
    """
    process = terminal.start(tmp_path, [*PROGRAM, "--", *python(script)])
    terminal.expect(b"ready\r\n")
    terminal.type(b"\x03")
    terminal.expect(b"interrupted\r\n")
    terminal.type(b"a line\n")
    terminal.expect(b"got a line and 0 more\r\n")
    assert process.wait(30) == 6


@pytest.mark.parametrize(("key", "number"), [(b"\x03", signal.SIGINT), (b"\x1c", signal.SIGQUIT)])
def test_keys_that_kill_the_command_kill_us_alike(tmp_path, terminal, key, number):
    """Ctrl-C and Ctrl-backslash end a command that does not mind them, nothing is left, and we end alike."""
    process = terminal.start(tmp_path, [*PROGRAM, "--", "sh", "-c", "echo $$; exec sleep 60"])
    pid = int(terminal.expect(b"\r\n"))
    terminal.type(key)
    assert process.wait(30) == -number
    assert not is_running(pid)
    assert Recorded(tmp_path).end.exit_code == 128 + number


def test_ctrl_z_stops_and_fg_continues(tmp_path, terminal):
    """In an interactive shell Ctrl-Z suspends us with the command, and fg continues both."""
    terminal.start(tmp_path, ["bash", "--norc", "--noediting", "-i"])
    script = "import sys; print('re' + 'ady', flush=True); print('got', input()); sys.exit(9)"
    terminal.type(f"PS1='ne''xt> '; {' '.join(PROGRAM)} -- {sys.executable} -c \"{script}\"\n".encode())
    terminal.expect(b"ready\r\n")
    terminal.type(b"\x1a")
    assert b"Stopped" in terminal.expect(b"next> ")
    terminal.type(b"echo shell''works; fg\n")
    terminal.expect(b"shellworks\r\n")
    terminal.type(b"a line\n")
    terminal.expect(b"got a line\r\n")
    terminal.type(b"echo code $?\n")
    terminal.expect(b"code 9\r\n")
    assert Recorded(tmp_path).end.exit_code == 9
