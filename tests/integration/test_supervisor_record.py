"""``telemetry-exporter run`` records what a command prints and how it ends, and never gets in its way."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from exporter import start_run
from tests.support.servers import free_port, get, wait_until
from tests.support.supervised import PROGRAM, Recorded, python, run, supervised

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes, signals and terminals as Unix has them")

TABLE = """
---------------------------------
| rollout/           |          |
|    ep_rew_mean     | -1.2e+03 |
| time/              |          |
|    total_timesteps | 2048     |
| train/             |          |
|    approx_kl       | 0.0125   |
---------------------------------
"""
TRAINER = f"""
    import sys
    print("loading data ...")
    for step in range(0, 20, 10):
        print(f"iter {{step}}: loss {{2 - step / 16}}, time 100.5ms, mfu -100.00%")
    print({{"loss": 0.5, "grad_norm": 1.25, "learning_rate": 5e-05, "epoch": 0.25}}, file=sys.stderr)
    print({{"loss": "0.375", "grad_norm": "nan", "epoch": "0.5"}}, file=sys.stderr)
    print({TABLE!r})
    print("step: nan loss: 1")
    print("saved.", flush=True)
    sys.stdin.read()
"""


def environ(**variables):
    """Our environment with some variables more, or without those that are None."""
    merged = {**os.environ, **variables}
    return {name: value for name, value in merged.items() if value is not None}


def test_what_trainers_print_becomes_steps(tmp_path):
    """Lines of nanoGPT, Hugging Face and Stable-Baselines3, on either stream, are steps under their native keys."""
    code, _, _ = run(tmp_path, python(TRAINER))
    assert code == 0
    recorded = Recorded(tmp_path)
    rows = {(step.step, step.epoch): step.metrics for step in recorded.steps}
    assert rows == {
        (0, None): {"loss": 2.0, "time_ms": 100.5, "mfu_percent": -100.0},
        (10, None): {"loss": 1.375, "time_ms": 100.5, "mfu_percent": -100.0},
        (1, 0.25): {"loss": 0.5, "grad_norm": 1.25, "learning_rate": 5e-05},
        (2, 0.5): {"loss": 0.375, "grad_norm": "NaN"},
        (2048, None): {"rollout/ep_rew_mean": -1200.0, "train/approx_kl": 0.0125},
    }
    assert recorded.end._replace(time=0) == (0, "finished", "", 0)


def test_a_step_is_there_while_the_command_runs(tmp_path):
    """A Python program need not flush: what it prints is a step at once, with the time when it came."""
    script = "import sys; print('iter 7: loss 1.5, time 3ms'); sys.stdin.readline()"
    with supervised(tmp_path, python(script), env=environ(PYTHONUNBUFFERED=None)) as running:
        wait_until(lambda: Recorded(tmp_path).steps, 10, "the step")
        assert Recorded(tmp_path).ends == []
        running.say("end")
        assert running.end()[0] == 0
    recorded = Recorded(tmp_path)
    assert recorded.starts[0].time <= recorded.steps[0].time <= recorded.end.time


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    """In the next attempt lines that do not say their step go on after the last one."""
    script = "for loss in (1.5, 0.5): print({'loss': loss})"
    for _ in range(2):
        assert run(tmp_path, python(script))[0] == 0
    recorded = Recorded(tmp_path)
    assert [step.step for step in recorded.steps] == [1, 2, 3, 4]
    assert [start.attempt for start in recorded.starts] == [1, 2]


def test_the_options_describe_the_run(tmp_path):
    """Options are settings of the run; they come before TELEMETRY_* variables, which count where none is given."""
    options = ["--user-id", "alice", "--recipe", "ppo", "--tag", "team=nlp", "--tag", "cluster=a=b"]
    variables = {"TELEMETRY_RECIPE": "sft", "TELEMETRY_BASE_MODEL": "tiny", "TELEMETRY_CONFIG": "lr=3e-4"}
    command = [*PROGRAM, *options, "sh", "-c", "echo $TELEMETRY_RECIPE $#", "sh", "--tag", "--"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environ(**variables), capture_output=True, timeout=30, check=True
    )
    assert result.stdout == b"sft 2\n"
    (start,) = Recorded(tmp_path).starts
    assert (start.user_id, start.recipe, start.base_model) == ("alice", "ppo", "tiny")
    assert (start.tags, start.config) == ({"team": "nlp", "cluster": "a=b"}, {"lr": "3e-4"})


def test_the_page_is_served_meanwhile(tmp_path):
    """With a port the run's own /metrics is there while the command runs."""
    port = free_port()
    with supervised(tmp_path, python(TRAINER), env=environ(TELEMETRY_PORT=str(port))):
        page = wait_until(
            lambda: "rl_reward_mean" in (page := get(f"http://127.0.0.1:{port}/metrics")) and page, 20, "it"
        )
    assert 'telemetry_runs{status="running"} 1.0' in page


# ------------------------------------------------------------------ how it ended


def test_the_reason_of_a_failure_has_the_last_lines(tmp_path):
    """The reason has the last lines of stderr, at most 20 and 2 000 characters, as a terminal would show them."""
    script = """
        import sys
        for number in range(30):
            print(f"\\r old {number}\\r\\x1b[31mline {number}\\x1b[0m" + "." * 150, file=sys.stderr)
        sys.exit("RuntimeError: that is why")
    """
    assert run(tmp_path, python(script))[0] == 1
    cause, title, *lines = Recorded(tmp_path).end.reason.split("\n")
    assert (cause, title, lines[-1]) == ("exit code 1", "last lines of stderr:", "RuntimeError: that is why")
    assert lines[-2] == "line 29" + "." * 150
    assert len("\n".join(lines)) == 2000


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "accelerator's memory ran out"),
        ("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory", "accelerator's memory ran out"),
        ("MemoryError", "host's memory ran out"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 TiB", "host's memory ran out"),
    ],
)
def test_lack_of_memory_is_told_from_the_last_lines(tmp_path, said, words):
    """What frameworks say when memory runs out is a part of the reason, on whichever stream they say it."""
    for stream in ("stdout", "stderr"):
        script = f"import sys; print({said!r}, file=sys.{stream}); sys.exit(1)"
        run(tmp_path, python(script))
        reason = Recorded(tmp_path).ends[-1].reason
        assert "OUT OF MEMORY" in reason
        assert words in reason
        assert reason.endswith(said)


def test_a_success_that_once_lacked_memory_is_a_success(tmp_path):
    """A command that recovers from a lack of memory has finished, and nothing else is said."""
    run(tmp_path, ["sh", "-c", "echo CUDA out of memory, retrying >&2"])
    assert (Recorded(tmp_path).end.status, Recorded(tmp_path).end.reason) == ("finished", "")


@pytest.fixture
def small_group():
    """A control group of 256 MiB, of whichever version the machine has."""
    own = next(
        line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line or "0::" in line
    )
    mount, limit = ("memory", "memory.limit_in_bytes") if ":memory:" in own else ("", "memory.max")
    parent = Path("/sys/fs/cgroup", mount, own.split(":")[2].lstrip("/"))
    group = parent / f"telemetry-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(256 << 20))
        yield group
    except OSError as error:
        pytest.skip(f"no control group can be limited here: {error}")
    finally:
        if group.exists():
            wait_until(lambda: group.rmdir() is None, 10, "the end of the group's processes")


def test_the_kernel_s_kill_is_told(tmp_path, small_group):
    """A command that the kernel kills for want of memory is recorded with that reason."""
    script = "blocks = [bytearray(b'x' * (1 << 20)) for _ in range(2048)]"
    code, _, _ = run(tmp_path, python(script), shell=f"echo $$ >{small_group}/cgroup.procs")
    assert code == -9
    reason = Recorded(tmp_path).end.reason
    assert "OUT OF MEMORY: the kernel killed 1 process(es) of this job" in reason


# ------------------------------------------------------------------ never in the way


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_a_rank_above_0_only_runs_the_command(tmp_path, variable):
    """On a rank above 0 the process is the command itself, and nothing is written."""
    with supervised(tmp_path, ["sh", "-c", "echo $$; exit 3"], env=environ(**{variable: "1"})) as running:
        assert running.end() == (3, b"%d\n" % running.process.pid, b"")
    assert not (tmp_path / "runs").exists()


def test_a_command_that_we_become_is_what_it_was(tmp_path):
    """On a rank above 0 a reader that goes away ends the command by SIGPIPE, which Python ignores for itself."""
    with supervised(tmp_path, ["yes"], env=environ(RANK="1")) as running:
        running.expect(b"y\n")
        running.process.stdout.close()
        assert running.process.wait(30) == -signal.SIGPIPE


def test_every_rank_can_have_a_journal(tmp_path):
    """With ranks=all a rank above 0 records its own output in its own journal."""
    variables = environ(RANK="2", WORLD_SIZE="4", TELEMETRY_RANKS="all")
    assert run(tmp_path, ["echo", "s:1 loss:2.5"], env=variables)[0] == 0
    journal = tmp_path / "runs/r/metrics.rank2.jsonl"
    assert '"loss":2.5' in journal.read_text()
    assert '"rank":2,"world_size":4' in journal.read_text()


def test_a_folder_that_cannot_be_written(tmp_path):
    """Without a place for the journal the command runs all the same, and one line on stderr says why."""
    (tmp_path / "runs").write_text("in the way")
    code, out, err = run(tmp_path, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (code, out) == (3, b"out\n")
    said, rest = err.split(b"\n", 1)
    assert said.startswith(b"telemetry: cannot ")
    assert said.endswith(b"; the command runs without telemetry")
    assert rest == b"err\n"


def test_a_run_that_somebody_else_writes(tmp_path):
    """Where another process writes the run's journal the command runs all the same."""
    with start_run("r", directory=tmp_path / "runs"):
        code, out, err = run(tmp_path, ["echo", "hello"])
    assert (code, out) == (0, b"hello\n")
    assert b"is being written by another process" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--run-id", "a/b"], "run_id 'a/b' is not usable"),
        (["--tag", "team"], "--tag 'team' must be NAME=VALUE"),
        (["--tag", "run_id=x"], "tag 'run_id' cannot be a label"),
        (["--port", "70000"], "port=70000 must be"),
        (["--nonsense"], "No such option"),
    ],
)
def test_a_wrong_setting_is_loud_before_the_command_starts(tmp_path, options, words):
    """A mistake in the options is told with exit code 2, and the command was not started."""
    command = [*PROGRAM, *options, "--", "touch", "started"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("no-such-program", 127, "command not found"),
        ("/", 126, "Permission denied"),
        ("./text", 126, "Exec format error"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_command_that_cannot_be_started(tmp_path, program, code, words, rank):
    """What is not found is 127, what cannot be executed 126, as in a shell, with a line that says so."""
    (tmp_path / "text").write_bytes(b"\1\2\3")
    (tmp_path / "text").chmod(0o755)
    assert run(tmp_path, [program], env=environ(RANK=rank)) == (
        code,
        b"",
        f"telemetry-exporter: {program}: {words}\n".encode(),
    )
    if rank == "0":
        end = Recorded(tmp_path).end
        assert (end.status, end.exit_code) == ("failed", code)
        assert end.reason.endswith(f"{program}: {words}")


def test_a_command_that_logs_itself_has_a_run_of_its_own(tmp_path):
    """A command may use start_run beside us; with the very id that we write it gets start_run's error."""
    script = """
        import sys
        from exporter import start_run
        with start_run(sys.argv[1], directory="runs") as run:
            run.log({"loss": 1.5}, step=3)
    """
    assert run(tmp_path, [*python(script), "own"])[0] == 0
    assert [step.metrics for step in Recorded(tmp_path, "own").steps] == [{"loss": 1.5}]
    code, _, err = run(tmp_path, [*python(script), "r"])
    assert code == 1
    assert b"is being written by another process" in err


@pytest.mark.parametrize(("before", "inside"), [(None, "1"), ("", ""), ("x", "x")])
def test_python_is_unbuffered_unless_one_says_otherwise(tmp_path, before, inside):
    """PYTHONUNBUFFERED is set for a command that writes into a pipe; where it is set, also to nothing, it stays."""
    _, out, _ = run(tmp_path, ["sh", "-c", "echo $PYTHONUNBUFFERED"], env=environ(PYTHONUNBUFFERED=before))
    assert out == f"{inside}\n".encode()


def test_nothing_else_of_the_environment_changes(tmp_path):
    """The command has our folder and our environment."""
    script = "import json, os, sys; json.dump([os.getcwd(), dict(os.environ)], sys.stdout)"
    variables = environ(PYTHONUNBUFFERED="1", TELEMETRY_USER_ID="alice")
    plain = subprocess.run(python(script), cwd=tmp_path, env=variables, capture_output=True, check=True).stdout
    assert run(tmp_path, python(script), env=variables) == (0, plain, b"")


def test_without_a_command_the_usage_is_shown(tmp_path):
    """A forgotten command is a mistake in usage."""
    result = subprocess.run(PROGRAM, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, "Missing argument 'COMMAND...'" in result.stderr) == (2, True)
