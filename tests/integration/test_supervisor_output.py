"""``telemetry-exporter run`` passes the command's output on as if nothing stood in between."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import termios
import time

import psutil
import pytest

from tests.support.servers import wait_until
from tests.support.supervised import PROGRAM, Recorded, Terminal, python, read_until, run, supervised

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes, signals and terminals as Unix has them")

PIPE_BYTES = 65536
SHOUTER = """
    import os, pickle, sys
    for fd, data in pickle.load(open(sys.argv[1], "rb")):
        while data:
            data = data[os.write(fd, data):]
"""


@pytest.fixture
def terminal():
    """A terminal with a user in front of it."""
    terminal = Terminal()
    yield terminal
    terminal.close()


def random_output(seed):
    """What a program may write: (descriptor, bytes), of any length and content."""
    rng = random.Random(seed)
    kinds = [
        lambda: rng.randbytes(rng.randrange(1, 3000)),
        lambda: b"\r%3d%%|####      | 3/10 [00:01<00:02, 1.5it/s]" % rng.randrange(100),
        lambda: b"\x1b[31mred\x1b[0m \x1b]0;title\x07",
        lambda: b"\n" * rng.randrange(1, 4),
        lambda: b"\0\n\0",
        lambda: b"iter %d: loss 1.5, time 2ms\n" % rng.randrange(1000),
        lambda: b"x" * rng.randrange(1, 3 * PIPE_BYTES),
        lambda: "größe é".encode()[: rng.randrange(1, 9)],
    ]
    return [(rng.choice([1, 2]), rng.choice(kinds)()) for _ in range(200)]


def shout(folder, output):
    """A command that writes that."""
    import pickle

    (folder / "output").write_bytes(pickle.dumps(output))
    return [*python(SHOUTER), str(folder / "output")]


@pytest.mark.parametrize("seed", range(4))
def test_every_byte_arrives_in_its_own_stream(tmp_path, seed):
    """Both streams are passed on byte for byte, whatever they hold and in whatever pieces they are written."""
    output = random_output(seed)
    code, out, err = run(tmp_path, shout(tmp_path, output))
    assert code == 0
    for fd, passed_on in ((1, out), (2, err)):
        is_same = passed_on == b"".join(data for target, data in output if target == fd)
        assert is_same  # a difference of so many bytes would take minutes to show


def test_streams_that_are_one_stay_in_order(tmp_path):
    """With 2>&1 the bytes of both streams come in the order in which the command wrote them."""
    output = random_output("one")
    code, out, _ = run(tmp_path, shout(tmp_path, output), stderr=subprocess.STDOUT)
    is_same = out == b"".join(data for _, data in output)
    assert (code, is_same) == (0, True)


def test_output_comes_at_once_and_input_gets_through(tmp_path):
    """What has no newline yet is passed on, too: a prompt is seen before it is answered."""
    with supervised(tmp_path, ["sh", "-c", 'printf "name? "; read name; echo "hello $name"']) as running:
        assert running.expect(b"? ") == b"name? "
        running.say("you")
        assert running.end() == (0, b"hello you\n", b"")


def test_output_goes_on_while_the_recorder_does_not(tmp_path):
    """Reading along never holds up the output: a recorder that stands still costs metrics, in whole lines, no more."""
    lines = 100_000
    script = f"""
        import sys
        sys.stdin.readline()
        for number in range({lines}):
            sys.stdout.write(f"s:{{number}} twice:{{2 * number}} norm:{{number}}.5\\n")
        sys.stdout.flush()
        sys.stdin.readline()
        print("s:{lines} twice:{2 * lines} norm:{lines}.5")
    """
    with supervised(tmp_path, python(script), env={**os.environ, "PYTHONUNBUFFERED": ""}) as running:
        wait_until(lambda: Recorded(tmp_path).starts, 10, "the start of the run")
        os.kill(running.recorder_pid(), signal.SIGSTOP)
        running.say("go")
        out = running.expect(f"norm:{lines - 1}.5\n".encode())
        assert Recorded(tmp_path).steps == []
        os.kill(running.recorder_pid(), signal.SIGCONT)
        wait_until(lambda: len(Recorded(tmp_path).steps) > 1000, 20, "reading what there was room for")
        running.say("end")
        code, rest, _ = running.end()
    assert code == 0
    is_same = out + rest == b"".join(b"s:%d twice:%d norm:%d.5\n" % (n, 2 * n, n) for n in range(lines + 1))
    assert is_same
    recorded = Recorded(tmp_path)
    assert len(recorded.steps) < lines
    assert recorded.steps[-1].step == lines
    for step in recorded.steps:
        assert step.metrics == {"twice": 2 * step.step, "norm": step.step + 0.5}
    (event,) = recorded.events
    assert (event.title, event.alert_type) == ("output skipped", "warning")
    missing = len(out) - sum(len(b"s:%d twice:%d norm:%d.5\n" % (s.step, 2 * s.step, s.step)) for s in recorded.steps)
    assert int(event.text.split()[0]) == pytest.approx(missing, rel=0.01)


def test_a_slow_reader_makes_the_command_wait(tmp_path):
    """Whoever does not read our output holds up the command, as without us, and loses nothing."""
    size = 4 << 20
    done = tmp_path / "done"
    script = f"import os\nos.write(1, b'x' * {size})\nopen({str(done)!r}, 'w')"
    with supervised(tmp_path, python(script)) as running:
        pipe = running.process.stdout.fileno()
        wait_until(lambda: unread(pipe) == PIPE_BYTES, 10, "a full pipe")
        assert not done.exists()
        code, out, _ = running.end()
    assert (code, len(out), set(out)) == (0, size, {ord("x")})
    assert done.exists()


def unread(fd):
    """Bytes that wait in a pipe."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]


def test_a_reader_that_goes_away_ends_the_command(tmp_path):
    """``| head`` ends the command by SIGPIPE, and us alike, as without us."""
    with supervised(tmp_path, ["yes"]) as running:
        running.expect(b"y\n")
        running.process.stdout.close()
        assert running.process.wait(30) == -signal.SIGPIPE
    assert Recorded(tmp_path).end.exit_code == 128 + signal.SIGPIPE


def test_a_full_disk_costs_the_output_only(tmp_path):
    """Where our output cannot be written the command goes on, and its metrics are recorded."""
    script = "for n in range(3): print(f's:{n} loss:1.5', flush=True)"
    with open("/dev/full", "wb") as full:
        assert run(tmp_path, python(script), stdout=full) == (0, None, b"")
    assert [step.step for step in Recorded(tmp_path).steps] == [0, 1, 2]


def test_an_output_that_others_made_non_blocking(tmp_path):
    """A pipe that somebody else made non-blocking loses nothing when it is full."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with supervised(tmp_path, ["sh", "-c", "head -c 1000000 /dev/zero; echo end"], stdout=write_end) as running:
        os.close(write_end)
        wait_until(lambda: unread(read_end) == PIPE_BYTES, 10, "a full pipe")
        is_same = read_until(read_end, b"end\n") == bytes(1_000_000) + b"end\n"
        assert is_same
        assert running.process.wait(30) == 0
    os.close(read_end)


def test_closed_outputs_do_no_harm(tmp_path):
    """Started with stdout and stderr closed, the output goes nowhere, and least of all into the journal."""
    command = ["sh", "-c", "echo garbage; echo s:1 a:2; exit 4"]
    assert run(tmp_path, command, shell="exec >&- 2>&-")[0] == 4
    recorded = Recorded(tmp_path)
    assert [step.metrics for step in recorded.steps] == [{"a": 2}]
    assert "garbage\n" not in recorded.path.read_text()


def test_inherited_descriptors_are_handed_over(tmp_path):
    """A descriptor that we were started with is the command's, too, as MPI launchers expect."""
    read_end, write_end = os.pipe()
    assert run(tmp_path, ["bash", "-c", f"echo hello >&{write_end}"], pass_fds=[write_end])[0] == 0
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b"hello\n"


def test_the_input_s_writer_sees_that_nobody_reads(tmp_path):
    """Stdin is the command's alone: when the command closes it, who writes there gets a broken pipe."""
    with supervised(tmp_path, ["sh", "-c", "exec <&-; echo closed; sleep 60"]) as running:
        running.expect(b"closed\n")
        poll = select.poll()
        poll.register(running.process.stdin, 0)
        assert poll.poll(10_000) == [(running.process.stdin.fileno(), select.POLLERR)]


def test_what_is_left_behind_does_not_hold_us_up(tmp_path):
    """A process that keeps the output open after the command's end is waited for some seconds, and not for ever."""
    started = time.monotonic()
    with supervised(tmp_path, ["sh", "-c", "sleep 300 & echo done; exit 3"]) as running:
        assert running.end() == (3, b"done\n", b"")
    assert time.monotonic() - started < 20
    assert Recorded(tmp_path).end.exit_code == 3


def test_what_is_left_behind_is_still_heard(tmp_path):
    """What such a process writes soon after the command's end is passed on and recorded."""
    _, out, _ = run(tmp_path, ["sh", "-c", "(sleep 1; echo s:7 loss:2.5) & echo done"])
    assert out == b"done\ns:7 loss:2.5\n"
    assert [(step.step, step.metrics) for step in Recorded(tmp_path).steps] == [(7, {"loss": 2.5})]


def test_a_signal_ends_the_wait_for_what_is_left_behind(tmp_path):
    """Who does not want to wait after the command's end sends a signal; the command's exit code stays ours."""
    with supervised(tmp_path, ["sh", "-c", "sleep 300 & echo $$; exit 3"]) as running:
        pid = int(running.expect(b"\n"))
        wait_until(lambda: not psutil.pid_exists(pid), 10, "the command's end")
        wait_until(lambda: running.process.poll() or running.process.terminate(), 4, "our end")
        assert running.process.returncode == 3
    assert Recorded(tmp_path).end.status == "failed"


def test_silence_costs_nothing(tmp_path):
    """While the command says nothing neither supervisor nor recorder uses the processor."""
    with supervised(tmp_path, ["sh", "-c", "echo s:1 loss:1.5; sleep 60"]) as running:
        wait_until(lambda: Recorded(tmp_path).steps, 10, "the step")
        processes = [psutil.Process(pid) for pid in (running.process.pid, running.recorder_pid())]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        time.sleep(2)
        assert [sum(process.cpu_times()[:2]) for process in processes] == pytest.approx(before, abs=0.03)


# ------------------------------------------------------------------ terminals

LOOK = """
    import os, sys, time
    size = os.get_terminal_size(2)
    print(sys.stdout.isatty(), sys.stderr.isatty(), sys.stdin.isatty(), size.columns, size.lines)
    sys.stderr.write("\\r 50%|#####     |\\x1b[32mgreen\\x1b[0m\\n")
    input("ready? ")
    deadline = time.monotonic() + 10
    while os.get_terminal_size(1).columns != 99 and time.monotonic() < deadline:
        time.sleep(0.01)
    print(*os.get_terminal_size(1))
"""


def test_on_a_terminal_the_command_sees_a_terminal(tmp_path, terminal):
    """On a terminal the command sees one of the same size, and the screen the same bytes as without us."""
    shown = []
    for command in (python(LOOK), [*PROGRAM, "--", *python(LOOK)]):
        fcntl.ioctl(terminal.screen, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
        process = terminal.start(tmp_path, command)
        screen = terminal.expect(b"ready? ")
        fcntl.ioctl(terminal.screen, termios.TIOCSWINSZ, struct.pack("4H", 44, 99, 0, 0))
        terminal.type(b"yes\n")
        screen += terminal.expect(b"99 44\r\n")
        assert process.wait(30) == 0
        shown.append(screen)
    assert shown[1] == shown[0]
    assert shown[0].startswith(b"True True True 77 33\r\n\r 50%|#####     |\x1b[32mgreen")


def test_only_what_is_a_terminal_is_one(tmp_path, terminal):
    """With stdout on a terminal and stderr in a file the command sees just that."""
    script = "import sys; print(sys.stdout.isatty(), sys.stderr.isatty()); print('to the file', file=sys.stderr)"
    with (tmp_path / "log").open("wb") as log:
        process = terminal.start(tmp_path, [*PROGRAM, "--", *python(script)], stderr=log)
        terminal.expect(b"True False\r\n")
        assert process.wait(30) == 0
    assert (tmp_path / "log").read_bytes() == b"to the file\n"


def test_steps_on_a_terminal_are_recorded(tmp_path, terminal):
    """Steps between progress bars are found, and a failure's last lines are what stood on the screen."""
    script = r"""
        import sys
        for step in range(3):
            sys.stderr.write(f"\r {step}%|###   |")
            print(f"\rs:{step} loss:{step}.5")
        sys.exit("that was all")
    """
    process = terminal.start(tmp_path, [*PROGRAM, "--", *python(script)])
    terminal.expect(b"that was all\r\n")
    assert process.wait(30) == 1
    recorded = Recorded(tmp_path)
    assert [(step.step, step.metrics["loss"]) for step in recorded.steps] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    lines = ["s:0 loss:0.5", "s:1 loss:1.5", "s:2 loss:2.5", "that was all"]
    assert recorded.end.reason.splitlines() == ["exit code 1", "last lines of stderr:", *lines]
