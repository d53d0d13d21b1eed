"""Starting and resuming a run: rank gate, attempts, the in-process server and its target file."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

import pytest

from exporter import ConfigError, RunError, __version__, start_run
from exporter.errors import ServerError
from exporter.pid_namespace import pid_namespace
from exporter.records import RunEnd, RunStart, Step
from exporter.run import start as start_module
from exporter.run.ranks import detect_rank
from tests.support.servers import free_port


@pytest.fixture
def runs(tmp_path):
    """The runs folder; it does not exist yet."""
    return tmp_path / "runs"


def starts(records, run):
    """The run_start records of a run's journal."""
    return [record for record in records(run.path) if isinstance(record, RunStart)]


def steps(records, run):
    """The steps in a run's journal."""
    return [record.step for record in records(run.path) if isinstance(record, Step)]


# ---------------------------------------------------------------------------------------------- the journal


def test_a_run_has_a_folder_and_a_start_line(start, runs, lines):
    """The journal lies in the run's folder and begins with everything the run was started with."""
    run = start(
        "r 1",
        user_id="u",
        recipe="ppo",
        base_model="m",
        framework="trl",
        tags={"n": 5},
        config={"lr": 0.1, "p": {1: float("inf")}},
    )
    assert run.path == runs / "r 1" / "metrics.jsonl"
    (line,) = lines(run.path)
    assert type(line.pop("time")) is float
    assert line == {
        "_type": "run_start",
        "run_id": "r 1",
        "user_id": "u",
        "recipe": "ppo",
        "base_model": "m",
        "framework": "trl",
        "tags": {"n": "5"},
        "config": {"lr": 0.1, "p": {"1": "Infinity"}},
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_namespace": pid_namespace(),
        "rank": 0,
        "world_size": 1,
        "version": __version__,
        "attempt": 1,
    }
    assert (run.run_id, run.url) == ("r 1", None)


def test_settings_come_from_variables_and_file(start, runs, tmp_path, monkeypatch, records):
    """What is not given as an argument comes from a variable, then from the settings file."""
    (tmp_path / "s.yaml").write_text("run_id: file\nuser_id: file\nrecipe: file")
    monkeypatch.setenv("TELEMETRY_USER_ID", "variable")
    monkeypatch.setenv("TELEMETRY_DIRECTORY", str(runs))
    run = start(None, directory=None, settings=tmp_path / "s.yaml", recipe="argument")
    (first,) = starts(records, run)
    assert (first.run_id, first.user_id, first.recipe) == ("file", "variable", "argument")
    assert run.path == runs / "file" / "metrics.jsonl"


@pytest.mark.parametrize("run_id", ["../x", "a/b", ".hidden", "x" * 200, "x" * 129, "a\n", "/tmp/x"])
def test_a_run_id_never_leaves_its_folder(runs, run_id):
    """An id that is no plain folder name is an error, and nothing is made."""
    with pytest.raises(ConfigError, match="run_id"):
        start_run(run_id, directory=runs)
    assert not runs.exists()


@pytest.mark.parametrize("run_id", ["", None])
def test_without_an_id_one_is_made(start, runs, run_id):
    """An empty id is none given: a new one is made from recipe and time."""
    run = start(run_id, recipe="ppo")
    assert re.fullmatch(r"ppo-\d{8}-\d{6}-[0-9a-f]{4}", run.run_id)
    assert run.path == runs / run.run_id / "metrics.jsonl"


def test_a_wrong_setting_starts_nothing(runs, monkeypatch):
    """A wrong setting is an exception before a folder is made."""
    monkeypatch.setenv("TELEMETRY_TAG", "x=1")
    with pytest.raises(ConfigError, match="unknown variable TELEMETRY_TAG"):
        start_run("r", directory=runs)
    assert not runs.exists()


def test_resuming_continues_attempt_and_step(start, records):
    """A run started again appends to its journal: next attempt, next step."""
    first = start()
    first.log({"a": 1}, step=7)
    first.finish()
    second = start()
    second.log({"a": 2})
    second.finish()
    third = start()
    third.log({"a": 3}, step=3)
    third.finish()
    fourth = start()
    fourth.log({"a": 4})
    assert steps(records, fourth) == [7, 8, 3, 4]
    assert [record.attempt for record in starts(records, fourth)] == [1, 2, 3, 4]
    assert [record.status for record in records(fourth.path) if isinstance(record, RunEnd)] == 3 * ["finished"]


def test_a_script_may_change_its_directory(tmp_path, monkeypatch, records):
    """A relative directory is that of the start: the journal goes on, and the target file is taken away at the end."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = start_run("r", directory="runs", port=0)
    target = tmp_path / "runs" / ".targets" / "r.json"
    assert target.exists()
    monkeypatch.chdir("elsewhere")
    for _ in range(3):
        run.log({"loss": 1.0})
    run.finish()
    assert run.path == tmp_path / "runs" / "r" / "metrics.jsonl"
    assert steps(records, run) == [0, 1, 2]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not target.exists()


def test_a_run_knows_where_grafana_shows_it(start, lines, monkeypatch):
    """The link selects the run in Compare from its first attempt on; without Grafana's address there is none."""
    assert start("without").training_monitoring_link is None
    first = start("a b", grafana_url="http://grafana.example.com")
    first.finish()
    monkeypatch.setenv("TELEMETRY_GRAFANA_URL", "http://grafana.example.com/")
    again = start("a b")
    begin = int(1000 * lines(again.path)[0]["time"])
    expected = f"http://grafana.example.com/d/telemetry-compare?var-run=a+b&from={begin}&to=now"
    assert again.training_monitoring_link == expected
    assert first.training_monitoring_link.startswith("http://grafana.example.com/d/telemetry-compare?var-run=a+b&from=")


def test_resuming_after_a_kill_ends_the_torn_line(start, records, runs):
    """A journal whose last line is torn, as a killed host leaves it, is continued behind it."""
    first = start()
    first.log({"a": 1}, step=7)
    first.finish()
    with first.path.open("ab") as file:
        file.write(b'{"_type": "step", "ti')
    second = start()
    second.log({"a": 2})
    content = first.path.read_bytes()
    assert b'\n{"_type": "step", "ti\n{"_type":"run_start"' in content
    assert b'"step":8,' in content


def test_resuming_reads_a_long_journal_in_pieces(start, records, monkeypatch):
    """However long the journal, attempts and steps are counted over all of it."""
    monkeypatch.setattr(start_module, "_SCAN_BYTES", 100)
    for _ in range(3):
        run = start()
        for _ in range(5):
            run.log({"a": 1})
        run.finish()
    assert steps(records, run) == list(range(15))
    assert starts(records, run)[-1].attempt == 3


def test_a_run_that_is_running_is_refused(start):
    """Two processes, or one twice, cannot write one run at a time."""
    start()
    with pytest.raises(RunError, match="is being written by another process"):
        start()


def test_a_compressed_run_is_closed_for_good(start, runs):
    """A run whose journal was compressed cannot go on, because its history would be in two files."""
    (runs / "r1").mkdir(parents=True)
    (runs / "r1/metrics.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(RunError, match=r"metrics\.jsonl\.gz exists: .* use another run_id"):
        start()


def test_a_folder_that_cannot_be_made_is_an_error(start, runs):
    """Where the runs folder is a file, the error says what cannot be read or written."""
    runs.write_text("a file")
    with pytest.raises(RunError, match=r"r1/metrics\.jsonl: Not a directory; choose another directory= or run_id="):
        start()


def test_a_folder_that_may_not_be_read_is_an_error(start, monkeypatch):
    """A folder without permission is a RunError, not an OSError from somewhere inside."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(start_module.Path, "exists", refuse)
    with pytest.raises(RunError, match=r"cannot read .*: Permission denied"):
        start()


# ---------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "LOCAL_RANK": "1"}, (5, 16)),
        ({"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_SIZE": "8"}, (6, 8)),
        ({"PMI_RANK": "7", "PMI_SIZE": "9", "LOCAL_RANK": "1"}, (7, 9)),
        ({"LOCAL_RANK": "2"}, (2, 1)),
        ({"LOCAL_RANK": "2", "WORLD_SIZE": "8"}, (2, 8)),
        ({"RANK": "", "SLURM_PROCID": "4"}, (4, 1)),
        ({"RANK": "-1", "WORLD_SIZE": "many"}, (0, 1)),
    ],
)
def test_rank_detection(environ, expected):
    """The global rank counts where it is known, else the local one; what is no number is not set."""
    assert detect_rank(environ, {}) == expected


MPIRUN_IN_A_BATCH_STEP = [
    {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"},
    {"PMI_RANK": "3", "PMI_SIZE": "4"},
]


@pytest.mark.parametrize("mpi", MPIRUN_IN_A_BATCH_STEP)
def test_what_mpirun_starts_in_a_batch_step_has_ranks(mpi):
    """All of it inherits the batch step's SLURM_PROCID=0, and the job's number of tasks may be another."""
    assert detect_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", **mpi}, {}) == (3, 4)


def test_srun_with_an_mpi_gives_both_and_they_agree():
    """Where Slurm itself speaks PMI, a rank has both numbers, and whichever is taken is right."""
    pmi = {"PMI_RANK": "5", "PMI_SIZE": "16"}
    assert detect_rank({"SLURM_PROCID": "5", "SLURM_NTASKS": "16", **pmi}, {}) == (5, 16)


def test_rank_and_world_size_are_one_launcher_s():
    """The number of another launcher's tasks says nothing of this one's."""
    assert detect_rank({"RANK": "1", "SLURM_NTASKS": "16", "OMPI_COMM_WORLD_SIZE": "4"}, {}) == (1, 1)


def distributed(rank, world_size, *, is_initialized=True):
    """What is asked of torch.distributed."""
    return SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: is_initialized,
        get_rank=lambda: rank,
        get_world_size=lambda: world_size,
    )


def ray_train(rank, world_size):
    """What is asked of ray.train."""
    context = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: world_size)
    return SimpleNamespace(get_context=lambda: context)


def no_worker():
    """What ray.train raises outside of a worker."""
    raise RuntimeError("get_context() has been called outside the training function")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ({"torch.distributed": distributed(5, 16)}, (5, 16)),
        ({"torch.distributed": distributed(5, 16, is_initialized=False)}, (3, 8)),
        ({"torch.distributed": SimpleNamespace(is_available=lambda: False)}, (3, 8)),
        ({"torch.distributed": distributed(-1, -1)}, (3, 8)),
        ({"torch.distributed": None}, (3, 8)),
        ({"ray.train": ray_train(6, 12)}, (6, 12)),
        ({"ray.train": ray_train(None, None)}, (3, 8)),
        ({"ray.train": SimpleNamespace(get_context=no_worker)}, (3, 8)),
        ({"torch.distributed": distributed(5, 16), "ray.train": ray_train(6, 12)}, (5, 16)),
        ({"torch.distributed": distributed(5, 16, is_initialized=False), "ray.train": ray_train(6, 12)}, (6, 12)),
    ],
)
def test_a_library_that_knows_the_rank_comes_before_the_variables(modules, expected):
    """What torch.distributed or Ray Train say counts, where they are imported and this is a worker of theirs."""
    assert detect_rank({"RANK": "3", "WORLD_SIZE": "8"}, modules) == expected


def test_another_rank_than_0_may_speak_for_the_run(start, runs, records, monkeypatch):
    """With ranks="3" rank 3 has the journal and the series of rank 0, and all others are silent, rank 0 too."""
    for rank in ("0", "3", "4"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "8")
        run = start(ranks="3")
        assert (run.path is not None) == (rank == "3")
        if run.path:
            (first,) = starts(records, run)
            assert (first.rank, first.world_size) == (0, 8)
    assert [path.name for path in (runs / "r1").glob("*.jsonl")] == ["metrics.jsonl"]


def test_other_ranks_are_silent(runs, monkeypatch):
    """Unless asked for, a rank above 0 makes no file and no server, and takes every call."""
    monkeypatch.setenv("RANK", "1")
    with start_run("r1", directory=runs, port=0) as run:
        run.log({"a": 1})
    assert (run.run_id, run.path, run.url) == ("r1", None, None)
    assert not runs.exists()


def test_all_ranks_have_their_own_journal(start, runs, records, monkeypatch):
    """With ranks="all" each rank writes a journal of its own, and only rank 0 serves."""
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        run = start(ranks="all", port=0)
        run.log({"a": 1})
        assert (run.url is None) == (rank == "1")
        (first,) = starts(records, run)
        assert (first.rank, first.world_size) == (int(rank), 2)
    assert sorted(path.name for path in (runs / "r1").glob("*.jsonl")) == ["metrics.jsonl", "metrics.rank1.jsonl"]


# ---------------------------------------------------------------------------------------------- the server


def get(url):
    """The body at a URL."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_port_0_serves_and_registers_until_the_end(start, runs):
    """With port=0 the run is on /metrics at once and in a target file; both are gone when it has finished."""
    run = start(port=0)
    run.log({"train/loss": 0.5})
    target = runs / ".targets" / "r1.json"
    (entry,) = json.loads(target.read_text())
    assert entry["targets"] == [run.url.removeprefix("http://")]
    assert entry["labels"] == {
        "__telemetry_pid": str(os.getpid()),
        "__telemetry_pid_namespace": pid_namespace(),
        "__telemetry_host": socket.gethostname(),
    }
    assert os.listdir(target.parent) == ["r1.json"]
    assert get(f"{run.url}/-/ready") == "ready\n"
    assert 'training_loss{run_id="r1"} 0.5' in get(f"{run.url}/metrics")
    run.finish()
    assert not target.exists()
    with pytest.raises(OSError, match="refused"):
        get(f"{run.url}/metrics")


def test_without_a_port_nothing_listens(start, runs):
    """A run without a port has no server and no target file."""
    assert start().url is None
    assert not (runs / ".targets").exists()


def test_a_free_port_is_taken_as_asked(start):
    """A port that is free is the one that is served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert start(port=port).url == f"http://127.0.0.1:{port}"


def test_a_busy_port_is_no_reason_not_to_train(start, capsys):
    """Where the port is taken the run serves on another one, and says so in one line."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        run = start(port=port)
    assert run.url != f"http://127.0.0.1:{port}"
    assert get(f"{run.url}/-/healthy") == "healthy\n"
    said = capsys.readouterr().err
    assert said.startswith(f"telemetry: cannot listen on 127.0.0.1:{port}: ")
    assert said.endswith(f" - serving on {run.url} instead\n")
    assert said.count("\n") == 1


def test_a_target_file_that_cannot_be_written_is_no_reason_not_to_train(start, runs, records):
    """Without the folder for target files the run serves all the same, and ends without an error."""
    runs.mkdir()
    (runs / ".targets").write_text("in the way")
    run = start(port=0)
    assert get(f"{run.url}/-/healthy") == "healthy\n"
    run.finish()
    assert records(run.path)[-1].status == "finished"


def test_a_removed_folder_does_not_break_the_end(start, runs):
    """A run whose folder is gone still stops its server and raises nothing."""
    run = start(port=0)
    shutil.rmtree(runs)
    run.finish()
    with pytest.raises(OSError, match="refused"):
        get(run.url)


def test_a_server_that_cannot_be_is_an_error(start, monkeypatch):
    """Where no port at all can be had, starting says so."""
    import exporter.server

    def refuse(*args):
        raise ServerError("cannot listen on any port")

    monkeypatch.setattr(exporter.server, "MetricsServer", refuse)
    with pytest.raises(ServerError, match="any port"):
        start(port=0)
    assert start().is_open, "a start that failed leaves the journal to the next one"


def test_a_start_that_fails_late_serves_nothing(start, runs, monkeypatch):
    """Whatever fails once the server runs, it is stopped again, and the journal is free."""
    addresses = []

    def fail(*args):
        addresses.extend(json.loads((runs / ".targets" / "r1.json").read_text())[0]["targets"])
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(start_module, "system_metrics_logger", fail)
        with pytest.raises(RuntimeError, match="a mistake"):
            start(port=0)
    with pytest.raises(OSError, match="refused"):
        get(f"http://{addresses[0]}")
    assert not (runs / ".targets" / "r1.json").exists()
    assert start().is_open


KILLED = """
import os, signal, sys
from exporter import start_run
run = start_run("r1", directory=sys.argv[1], port=int(sys.argv[2]))
run.log({"a": 1})
if os.fork() == 0:
    run.log({"a": 2}, step=2)
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_worker_of_a_killed_trainer_does_not_keep_its_run(start, runs, records):
    """While a forked worker of a trainer that was killed lives on, the run is started again, on the same port."""
    port = free_port()
    command = [sys.executable, "-c", KILLED, str(runs), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout.readline() == b"forked\n"
        trainer.kill()
        trainer.wait(30)
        run = start(port=port)
        assert run.url == f"http://127.0.0.1:{port}"
        assert get(f"{run.url}/-/healthy") == "healthy\n"
        run.log({"a": 3})
        trainer.stdin.close()
        assert trainer.stdout.read() == b""
    assert steps(records, run) == [0, 2, 3]
