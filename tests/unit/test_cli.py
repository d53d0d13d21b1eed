"""The command line: what it says, and what its exit code tells a shell."""

from __future__ import annotations

import gzip
import importlib.util
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from exporter import __version__
from exporter.cli import main
from exporter.cli.main import cli
from exporter.errors import ConfigError, MissingDependencyError, RunError, ServerError, TelemetryError
from exporter.generate import GENERATORS
from tests.support.journals import CATALOG, Journal
from tests.support.servers import REPOSITORY


class Result:
    """Exit code and what was said."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return Result(caught.value.code, *capsys.readouterr())

    return call


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command's signal handlers go with its test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


Run = Callable[..., Result]

# ------------------------------------------------------------------ exit codes


def test_help_and_version_are_good_ends(run: Run) -> None:
    """Asking for help or the version is no mistake."""
    assert run("--help").code == run("-h").code == 0
    version = run("--version")
    assert (version.code, __version__ in version.out) == (0, True)


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["--nonsense"], ["check"], ["check", "/no/such/path"], ["serve"], ["explain"],
                  ["generate", "nonsense"], ["explain", "a", "b"], ["demo", "--seconds", "1"]]
)  # fmt: skip
def test_wrong_usage_is_2(run: Run, arguments: list[str]) -> None:
    """What cannot be understood is said on stderr."""
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("why"), 2),
        (RunError("why"), 2),
        (TelemetryError("why"), 2),
        (ServerError("why"), 3),
        (MissingDependencyError("why"), 4),
        (PermissionError(13, "why"), 2),
    ],
)
def test_an_error_is_one_line_and_its_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """Every error of ours, and of the file system, is told without a traceback."""

    def fail() -> None:
        raise error

    monkeypatch.setitem(cli.commands, "fail", click.Command("fail", callback=fail))
    result = run("fail")
    assert result.code == code
    assert re.fullmatch(r"telemetry-exporter: .*why\n", result.err)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_130(run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Ctrl-C is what the shell calls it."""

    def fail() -> None:
        raise error

    monkeypatch.setitem(cli.commands, "fail", click.Command("fail", callback=fail))
    assert run("fail").code == 130


def test_a_command_that_returns_is_a_good_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an exit code of its own a command has ended well; a number is its code."""
    monkeypatch.setitem(cli.commands, "good", click.Command("good", callback=lambda: None))
    monkeypatch.setitem(cli.commands, "seven", click.Command("seven", callback=lambda: 7))
    assert (run("good").code, run("seven").code) == (0, 7)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_an_example(run: Run, name: str) -> None:
    """The help of each command shows a call of it that can be copied, and each option says what it does."""
    help_text = run(name, "--help").out
    assert re.search(rf"Example: telemetry-exporter {name}\b", help_text)
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help


def test_the_module_is_the_command() -> None:
    """``python -m exporter`` does the same."""
    answer = subprocess.run([sys.executable, "-m", "exporter", "--version"], capture_output=True, text=True, check=True)
    assert __version__ in answer.stdout


# ------------------------------------------------------------------ check


def test_a_good_journal_has_no_finding(run: Run, tmp_path: Path) -> None:
    """All that is logged is exported: exit 0, one line per journal."""
    Journal(tmp_path, "a").start().log(0, {"train/loss": 1.0, "x": 2}).start(1).log(1, {"x": 1})
    Journal(tmp_path, "b").start()
    result = run("check", tmp_path)
    assert result.code == 0
    assert result.out.splitlines() == [
        f"{tmp_path}/a/metrics.jsonl: 2 steps, 2 attempt(s), 0 finding(s)",
        f"{tmp_path}/b/metrics.jsonl: 0 steps, 1 attempt(s), 0 finding(s)",
    ]


def test_what_is_not_exported_is_named(run: Run, tmp_path: Path) -> None:
    """Refused keys with their owner, bad lines with their number, and losses with their reason: exit 1."""
    journal = Journal(tmp_path).start().log(0, {"train/loss": 1.0, "loss": 2.0}).raw(b"not json\n\n")
    journal.raw(b'{"_type":"step","time":"late","step":1}\n').other("lost", reason="disk_full", count=5)
    result = run("check", journal.path)
    assert result.code == 1
    first, *rest = result.out.splitlines()
    assert first.endswith("1 steps, 1 attempt(s), 4 finding(s)")
    assert [text.strip().partition(":")[0] for text in rest[:2]] == ["line 3", "line 5"]
    assert rest[2:] == [
        "  key 'loss' is not exported: 'train/loss' has the same series",
        "  5 value(s) or record(s) could not be stored: disk_full",
    ]


def test_what_the_run_said_of_a_trouble_is_shown(run: Run, tmp_path: Path) -> None:
    """Checks that are not OK, errors and the reason of a bad end stand there, each on one line, and are no finding."""
    journal = Journal(tmp_path).start().other("check", name="disk", status="OK").other("event", title="Epoch", text="1")
    journal.other("check", name="nccl", status="CRITICAL", message="ring\nbroken")
    journal.other("event", title="Timeout", alert_type="error").other("run_end", status="failed", reason="boom")
    result = run("check", tmp_path)
    assert result.code == 0
    assert result.out.splitlines()[1:] == [
        "  said: check nccl is CRITICAL: ring broken",
        "  said: error Timeout",
        "  said: failed: boom",
    ]


def test_too_many_keys_are_counted(run: Run, tmp_path: Path) -> None:
    """Of 10 000 keys 8000 find no room: the first are named with the reason, the others are numbers."""
    journal = Journal(tmp_path).start().log(0, {f"key_{number}": 1 for number in range(10_000)})
    result = run("check", journal.path)
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[1] == "  key 'key_2000' is not exported: too many series (run_budget)"
    assert lines[-1] == "  and 981 more"
    assert len(lines) == 1 + 20 + 1


def test_keys_that_are_not_remembered_are_counted(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals beyond those that are kept by name are one line with their number."""
    monkeypatch.setattr("exporter.exposition.series._REMEMBERED_REFUSALS", 2)
    Journal(tmp_path).start().log(0, {"loss": 1, "train/loss": 1, "train_loss": 1, "loss/mean": 1, "losses/loss": 1})
    result = run("check", tmp_path)
    assert result.out.splitlines()[-1] == "  2 more keys are not exported"


def test_a_journal_that_cannot_be_read_is_a_finding(run: Run, tmp_path: Path) -> None:
    """A damaged file is told with the place, and the others are checked."""
    good = Journal(tmp_path, "b").start().step(0, a=1)
    bad = tmp_path / "a" / "metrics.jsonl.gz"
    bad.parent.mkdir()
    bad.write_bytes(gzip.compress(good.path.read_bytes())[:-10])
    result = run("check", tmp_path)
    assert result.code == 1
    assert "cannot be read beyond line 0: " in result.out
    assert f"{good.path}: 1 steps, 1 attempt(s), 0 finding(s)" in result.out


def test_a_folder_without_journals_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    """Nothing to check is a mistake, not a good end."""
    result = run("check", tmp_path)
    assert result.code == 2
    assert str(tmp_path) in result.err


# ------------------------------------------------------------------ explain


def test_an_alias_is_explained(run: Run) -> None:
    """A framework's key is told with its series, healthy range, alerts and the other keys of the same meaning."""
    result = run("explain", "train/approx_kl")
    assert result.code == 0
    first, second, *rest = result.out.splitlines()
    assert first == 'train/approx_kl is exported as rl_kl_divergence{kind="update"}'
    assert second.startswith("rl_kl_divergence (gauge): KL divergence")
    assert "healthy: below 0.05" in rest
    assert [text.partition(":")[0] for text in rest if text.startswith("alert")] == [
        "alert KLDivergenceHigh (warning)", "alert KLDivergenceHigh (critical)", "alert KLDivergenceSpike (info)"
    ]  # fmt: skip
    assert "actor/ppo_kl" in rest[-1]


def test_a_change_of_sign_is_explained(run: Run) -> None:
    """A key whose values are not taken as they are says the factor."""
    assert "train/entropy_loss is exported as rl_entropy, multiplied by -1" in run("explain", "train/entropy_loss").out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rl_clip_fraction", "healthy: above 0.1 and below 0.3"),
        ("training_nonfinite", "training_nonfinite_total (counter)"),
        ("training_nonfinite_total", "training_nonfinite_total (counter)"),
        ("host_cpus", "host_cpus (gauge): Logical CPUs"),
    ],
)
def test_a_canonical_name_is_explained(run: Run, name: str, text: str) -> None:
    """A metric's own name, with a counter's suffix or without, is known as well as its native keys."""
    result = run("explain", name)
    assert result.code == 0
    assert text in result.out
    assert "is exported as" not in result.out


def test_an_unknown_key_is_told_with_similar_ones(run: Run) -> None:
    """A slip of the pen finds the keys that were perhaps meant."""
    out = run("explain", "train/aprox_kl").out
    assert "train/aprox_kl is exported as training_aprox_kl" in out
    assert "nothing watches it; similar keys that it knows: train/approx_kl" in out
    assert run("explain", "zzzzqqqq").out.splitlines()[-1].endswith("nothing watches it.")


@pytest.mark.parametrize("name", sorted(CATALOG.metrics))
def test_every_metric_can_be_explained(run: Run, name: str) -> None:
    """Each metric of the catalog is told with its help, and each of its alerts with what to do."""
    out = run("explain", name).out
    assert CATALOG.metrics[name].help in out
    assert out.count("What to do:") == sum(alert.condition.metric == name for alert in CATALOG.alerts)
    assert "{bound" not in out


# ------------------------------------------------------------------ generate


def test_what_is_generated_is_up_to_date(run: Run, tmp_path: Path) -> None:
    """--check finds missing files, writes nothing, and is content after they were written; a change is found."""
    files = {f"docs/{name}" for name in ("metrics.md",)} | {"alerts/training.rules.yml", "alerts/RUNBOOK.md"}
    first = run("generate", "--check", "-o", tmp_path)
    assert first.code == 1
    assert {text.removeprefix("differs: ") for text in first.out.splitlines()} >= files
    assert list(tmp_path.iterdir()) == []
    written = run("generate", "-o", tmp_path)
    assert written.code == 0
    assert all((tmp_path / name).is_file() for name in files)
    assert (run("generate", "-o", tmp_path).out, run("generate", "--check", "-o", tmp_path).code) == ("", 0)
    (tmp_path / "docs/metrics.md").write_text("edited by hand")
    changed = run("generate", "all", "--check", "-o", tmp_path)
    assert (changed.code, changed.out) == (1, "differs: docs/metrics.md\n")
    assert run("generate", "alerts", "--check", "-o", tmp_path).code == 0
    assert run("generate", "reference", "-o", tmp_path).out == "wrote: docs/metrics.md\n"


@pytest.mark.parametrize("what", ["alerts", "reference"])
def test_committed_files_are_those_of_the_catalog(run: Run, what: str) -> None:
    """The repository holds what its catalog gives."""
    result = run("generate", what, "--check", "-o", REPOSITORY)
    assert (result.code, result.out) == (0, "")


def test_another_catalog_gives_other_files(run: Run, tmp_path: Path) -> None:
    """A user's own catalog file adds to the shipped one, and its mistakes are told with their place."""
    catalog = tmp_path / "mine.yaml"
    catalog.write_text("groups: {a: {title: A}}\nmetrics: {a_b: {type: gauge, group: a, help: My metric.}}\n")
    assert run("generate", "reference", "--catalog", catalog, "-o", tmp_path).code == 0
    assert "My metric." in (tmp_path / "docs/metrics.md").read_text()
    catalog.write_text("groups: {}\nmetrics: {a_b: {type: gauge, group: a, help: x}}\n")
    result = run("generate", "reference", "--catalog", catalog, "-o", tmp_path)
    assert (result.code, "a_b" in result.err) == (2, True)
    assert run("generate", "--catalog", tmp_path / "missing.yaml").code == 2


def test_a_place_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    """An impossible output folder is one line, not a traceback."""
    (tmp_path / "file").write_text("")
    result = run("generate", "reference", "-o", tmp_path / "file")
    assert result.code == 2
    assert re.fullmatch(r"telemetry-exporter: .*\n", result.err)


def test_each_kind_can_be_generated_alone(run: Run, tmp_path: Path) -> None:
    """The names on the command line are those of the generators; dashboards need their library."""
    can_draw = importlib.util.find_spec("grafana_foundation_sdk") is not None
    for what in [name for name in GENERATORS if can_draw or name != "dashboards"]:
        assert run("generate", what, "-o", tmp_path / what).code == 0


# ------------------------------------------------------------------ serve and doctor


def test_a_busy_port_is_3(run: Run, tmp_path: Path) -> None:
    """The command ``serve`` on a port that is taken tells so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.code == 3
    assert "cannot listen" in result.err


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999"])
def test_a_bad_address_is_2(run: Run, tmp_path: Path, listen: str) -> None:
    """The command ``serve`` with an address that is none tells the form."""
    result = run("serve", tmp_path, "--listen", listen)
    assert (result.code, "HOST:PORT" in result.err) == (2, True)


def test_doctor_finds_what_is_missing(run: Run, tmp_path: Path) -> None:
    """Problems are marked and make the exit code 1; what is well is marked too."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    result = run("doctor", "--runs", tmp_path, "--exporter", f"http://127.0.0.1:{port}")
    assert result.code == 1
    assert result.out.splitlines()[0].startswith(f"ok       runs folder {tmp_path}")
    assert result.out.splitlines()[1].startswith("PROBLEM  exporter: ")
