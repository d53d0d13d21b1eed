"""The collector as a sidecar uses it: samples, a driver that is missing, lost, reset or hanging, and whose GPUs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.collectors.gpu import GpuCollector
from exporter.collectors.nvml import DriverError
from exporter.collectors.processes import RunProcess
from exporter.exposition import Format
from exporter.records import Sample
from exporter.server.client_bridge import render_samples
from tests.gpu.fake import H100, Scenario, host, mig, uuid
from tests.support.journals import CATALOG, judge
from tests.support.promtool import CRITICAL, firing
from tests.support.promtool import Scenario as Scene
from tests.support.servers import require, wait_until

Start = Callable[..., GpuCollector]

RUN = (("run_id", "r1"), ("user_id", "alice"))


def values(collector: GpuCollector, metric: str) -> dict[str, float]:
    """The values of a metric now, by GPU and instance."""
    return {place(sample): sample.value for sample in collector.collect() if sample.family.name == metric}


def place(sample: Sample) -> str:
    """GPU index, with the instance behind a colon."""
    labels = dict(sample.labels)
    return f"{labels['gpu']}:{labels.get('gpu_instance_id', '')}".rstrip(":")


def power_of(collector: GpuCollector) -> Callable[[], bool]:
    """Whether the collector shows a power now; while it fails it shows none."""

    def shown() -> bool:
        try:
            return bool(values(collector, "gpu_power_watts"))
        except DriverError:
            return False

    return shown


def shown_lines(collector: GpuCollector) -> dict[str, str]:
    """Values by series as a page has them, of those about ownership and loss."""
    page = render_samples(collector.collect(), Format.TEXT).decode().splitlines()
    pairs = (line.rpartition(" ") for line in page if line.startswith(("run_gpu_info{", "gpu_up{")))
    return {name: value for name, _, value in pairs}


def failure(collector: GpuCollector) -> str:
    """The message with which collecting fails; empty while it does not."""
    try:
        collector.collect()
    except DriverError as error:
        return str(error)
    return ""


def full_host() -> dict[str, Any]:
    """Eight GPUs, of which the last is divided, and everything that can be read."""
    counters = {f"gpu{gpu}.gpm.{number}": 50 for gpu in range(8) for number in (1, 2, 3, 5, 10, 20, 21, 60, 61)}
    instance = {f"gpu7.gi5.gpm.{number}": 25 for number in (1, 2, 3, 5, 10)}
    processes = {"gpu0.compute": f"{os.getpid()}:1000", "gpu7.mig0.compute": f"{os.getpid()}:2000,1:5"}
    return {**host(8), **mig(7, 0, 5), "gpu*.gpm": 1, "gpu*.xids": "-", **counters, **instance, **processes}


def test_every_series_is_in_the_catalog_with_its_labels(scenario: Scenario, collector: Start) -> None:
    """Each metric of group gpu is shown by a host that has all of it, with no label that the catalog does not name."""
    scenario.only(full_host())
    gpus = collector(runs=lambda: [RunProcess(RUN, os.getpid())])
    wait_until(lambda: "7:5" in values(gpus, "gpu_sm_utilization_ratio"), 10, "a second GPM sample")
    scenario.set({"gpu0.xids": "79"})
    wait_until(lambda: values(gpus, "gpu_last_xid"), 10, "the XID")
    samples = gpus.collect()
    names = {name for name, metric in CATALOG.metrics.items() if metric.group == "gpu"}
    assert {sample.family.name for sample in samples} == names | {"run_gpu_info"}
    of_device = {"gpu", "name", "uuid", "gpu_instance_id", "mig_profile"}
    for sample in samples:
        metric = CATALOG.metrics[sample.family.name]
        labels = {name for name, _ in sample.labels} - {"run_id", "user_id"}
        assert sample.family is metric.family
        assert labels <= (set(metric.labels) or of_device), sample
        assert set(metric.labels) - labels <= {"gpu_instance_id", "mig_profile"}, sample
        assert list(sample.labels) == sorted(sample.labels)


@pytest.mark.parametrize("form", Format)
def test_the_page_is_one_that_prometheus_reads(
    scenario: Scenario, collector: Start, form: Format, tmp_path: Path
) -> None:
    """The reference parsers and promtool find no fault with names, types, units or labels."""
    scenario.only(full_host())
    gpus = collector(runs=lambda: [RunProcess(RUN, os.getpid())])
    wait_until(lambda: "7:5" in values(gpus, "gpu_sm_utilization_ratio"), 10, "a second GPM sample")
    page = render_samples(gpus.collect(), form)
    judge(page + form.end, form)
    if form is Format.TEXT:
        command = [require("promtool"), "check", "metrics"]
        checked = subprocess.run(command, input=page, capture_output=True, timeout=60, check=False)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_without_a_driver_there_is_one_line_and_no_series(
    scenario: Scenario, collector: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host without a GPU is no failure, however often it is asked; the driver is sought at the retry only."""
    scenario.only({"driver": 9})
    begin = time.monotonic()
    gpus = collector(retry_seconds=0.5)
    wait_until(lambda: scenario.initialisations >= 3, 10, "a third try")
    assert gpus.collect() == []
    assert scenario.initialisations <= 1 + (time.monotonic() - begin) / 0.5
    said = capsys.readouterr().err
    assert said == "telemetry: no GPU metrics: Driver Not Loaded; asking again every 0.5 s\n"
    scenario.set({"driver": 0, **host(2)})
    wait_until(lambda: len(values(gpus, "gpu_power_watts")) == 2, 10, "the driver being found")


def test_without_the_library_there_is_one_line(
    scenario: Scenario, collector: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that has no libnvidia-ml is as one whose driver is not loaded."""
    import pynvml

    def refuse(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", refuse)
    gpus = collector()
    said = []
    wait_until(lambda: said.append(capsys.readouterr().err) or any(said), 10, "the line")
    assert gpus.collect() == []
    assert "".join(said).count("\n") == 1
    assert "NVML Shared Library Not Found" in "".join(said)


def test_without_the_package_there_is_one_line(
    scenario: Scenario, collector: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation without nvidia-ml-py says so once and goes on."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = collector()
    said = []
    wait_until(lambda: said.append(capsys.readouterr().err) or any(said), 10, "the line")
    assert gpus.collect() == []
    assert "the package nvidia-ml-py is not installed" in "".join(said)


def test_a_lost_gpu_is_down_and_the_others_go_on(scenario: Scenario, collector: Start) -> None:
    """Its series end, gpu_up says 0, and it is back after the next retry; the session is not begun more often."""
    scenario.only(host(8))
    gpus = collector(retry_seconds=0.5)
    wait_until(lambda: len(values(gpus, "gpu_power_watts")) == 8, 10, "eight GPUs")
    assert set(values(gpus, "gpu_up").values()) == {1}
    scenario.set({"gpu3.lost": 1})
    wait_until(lambda: "3" not in values(gpus, "gpu_power_watts"), 10, "the loss")
    assert values(gpus, "gpu_up") == {str(number): float(number != 3) for number in range(8)}
    assert len(values(gpus, "gpu_power_watts")) == 7
    begin, before = time.monotonic(), scenario.initialisations
    wait_until(lambda: scenario.initialisations >= before + 3, 10, "retries")
    assert scenario.initialisations - before <= 1 + (time.monotonic() - begin) / 0.5
    assert values(gpus, "gpu_up")["3"] == 0
    scenario.set({"gpu3.lost": None})
    wait_until(lambda: "3" in values(gpus, "gpu_power_watts"), 10, "its return")
    assert values(gpus, "gpu_up")["3"] == 1
    settled, begin, watts = scenario.initialisations, time.monotonic(), 1
    while time.monotonic() - begin < 2 * 0.5:
        watts += 1
        scenario.set({"gpu*.power": 1000 * watts})
        wait_until(lambda at=watts: set(values(gpus, "gpu_power_watts").values()) == {at}, 10, "a later sample")
    assert scenario.initialisations == settled


def test_the_run_of_a_lost_gpu_is_alerted(scenario: Scenario, collector: Start, tmp_path: Path) -> None:
    """What the collector shows before and after a loss makes GPULost fire for the run, by number or by memory."""
    by_number = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"}
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, env=by_number, stdin=subprocess.PIPE) as child:
        scenario.only({**host(3), "gpu0.compute": f"{child.pid}:1000", "gpu2.compute": f"{os.getpid()}:1000"})
        runs = [RunProcess((("run_id", "r1"),), child.pid), RunProcess((("run_id", "r2"),), os.getpid())]
        gpus = collector(runs=lambda: runs)
        wait_until(lambda: len(values(gpus, "run_gpu_info")) == 3, 10, "the ownership")
        before = shown_lines(gpus)
        scenario.set({"gpu0.lost": 1, "gpu2.lost": 1})
        wait_until(lambda: values(gpus, "gpu_up") == {"0": 0, "1": 1, "2": 0}, 10, "the loss")
        wait_until(lambda: values(gpus, "gpu_process_memory_used_bytes") == {}, 10, "the end of its figures")
        after = shown_lines(gpus)
        assert after.keys() == before.keys()
        runs.clear()
        wait_until(lambda: values(gpus, "run_gpu_info") == {}, 10, "the end of the runs")
        child.communicate(timeout=30)
    told = Scene().running("r1", "r2")
    for name, value in before.items():
        told.series.append({"series": name, "values": f"{value}+0x24 {after[name]}+0x48"})
    of_gpu = {"name": str(H100["name"])}
    gone = [
        firing("GPULost", CRITICAL, gpu=str(gpu), run_id=run, uuid=uuid(gpu), **of_gpu)
        for run, gpu in (("r1", 0), ("r2", 2))
    ]
    lost = 'ALERTS{alertname="GPULost", alertstate="firing"}'
    told.expect([115], of=lost).expect([300], gone, of=lost)
    told.check(require("promtool"), tmp_path)


def test_a_gpu_that_answers_nothing_is_as_lost(scenario: Scenario, collector: Start) -> None:
    """A device on which every call fails, as in a container that lost access, is down and not silently absent."""
    scenario.only(host(2))
    gpus = collector()
    wait_until(lambda: len(values(gpus, "gpu_power_watts")) == 2, 10, "two GPUs")
    broken = [key.partition(".")[2] for key in host(1) if key.startswith("gpu*.")]
    scenario.set({f"gpu1.{key}": "!999" for key in broken if key != "name"})
    wait_until(lambda: values(gpus, "gpu_up") == {"0": 1, "1": 0}, 10, "the GPU being down")


@pytest.mark.parametrize("away", [{"driver": 9}, {"driver": 18}], ids=["unloaded", "replaced"])
def test_a_driver_that_goes_away_is_a_failure_until_it_is_back(
    scenario: Scenario, collector: Start, away: dict[str, int]
) -> None:
    """Stale figures are not shown: collecting fails, which is telemetry_collector_success 0, and recovers by itself."""
    gpus = collector()
    wait_until(power_of(gpus), 10, "the first sample")
    scenario.set(away)
    wait_until(lambda: failure(gpus), 10, "the failure")
    scenario.set({"driver": 0})
    wait_until(power_of(gpus), 10, "the recovery")
    assert failure(gpus) == ""


def test_after_a_reset_of_the_driver_there_is_a_new_session(scenario: Scenario, collector: Start) -> None:
    """The old session's handles are worth nothing; values go on in a new one, counted XIDs too."""
    scenario.set({"gpu*.xids": "-"})
    gpus = collector()
    wait_until(power_of(gpus), 10, "the first sample")
    scenario.set({"gpu0.xids": "79"})
    wait_until(lambda: values(gpus, "gpu_xid_errors") == {"0": 1}, 10, "the XID")
    before = scenario.initialisations
    scenario.set({"reset": 1, "gpu*.power": 5000})
    wait_until(lambda: power_of(gpus)() and values(gpus, "gpu_power_watts") == {"0": 5}, 10, "a new session")
    assert scenario.initialisations == before + 1
    assert values(gpus, "gpu_xid_errors") == {"0": 1}
    assert values(gpus, "gpu_last_xid") == {"0": 79}


def test_a_first_xid_is_an_increase(scenario: Scenario, collector: Start) -> None:
    """The counter of a watched GPU starts at 0; without reports there is none, and no last code before the first."""
    scenario.only({**host(2), "gpu*.xids": None, "gpu0.xids": "-"})
    gpus = collector()
    wait_until(power_of(gpus), 10, "the first sample")
    assert values(gpus, "gpu_xid_errors") == {"0": 0}
    assert values(gpus, "gpu_last_xid") == {}


def test_a_call_that_hangs_delays_nothing(scenario: Scenario, collector: Start) -> None:
    """Collecting returns at once, ends to show old figures, says why, and recovers when the call returns."""
    scenario.only(host(8))
    gpus = collector(max_age_seconds=1.0)
    wait_until(power_of(gpus), 10, "the first sample")
    threads = threading.active_count()
    scenario.set({"gpu5.power.delay": 600_000})
    slowest = 0.0

    def fails() -> bool:
        nonlocal slowest
        begin = time.perf_counter()
        message = failure(gpus)
        slowest = max(slowest, time.perf_counter() - begin)
        return "hangs" in message

    wait_until(fails, 10, "the failure")
    assert slowest < 0.5
    assert threading.active_count() == threads
    scenario.set({"gpu5.power.delay": None})
    wait_until(power_of(gpus), 10, "the recovery")


def test_a_driver_that_hangs_from_the_start_delays_nothing(scenario: Scenario, collector: Start) -> None:
    """Before the first answer there is nothing to show, and after the greatest age that is a failure."""
    scenario.set({"gpu0.uuid.delay": 600_000})
    begin = time.perf_counter()
    gpus = collector(max_age_seconds=1.0)
    assert gpus.collect() == []
    assert time.perf_counter() - begin < 0.5
    wait_until(lambda: "hangs" in failure(gpus), 10, "the failure")
    scenario.set({"gpu0.uuid.delay": None})
    wait_until(power_of(gpus), 10, "the first sample")


def test_a_slow_driver_is_only_slow(scenario: Scenario, collector: Start) -> None:
    """Calls that take longer than an interval, but not the greatest age, cost no sample."""
    scenario.set({"gpu0.power.delay": 100, "gpu0.fan.delay": 50})
    gpus = collector()
    wait_until(power_of(gpus), 10, "the first sample")
    scenario.set({"gpu*.power": 7000})
    wait_until(lambda: values(gpus, "gpu_power_watts") == {"0": 7}, 10, "a later sample")


def test_a_thread_in_a_hanging_call_lets_the_process_end(library: Path, tmp_path: Path) -> None:
    """A process whose driver hangs collects, exits at once, and is waited for by nobody."""
    hanging = Scenario(tmp_path / "scenario", {**host(1), "gpu0.power.delay": 600_000})
    script = (
        "import time\n"
        "from exporter.catalog import default_catalog\n"
        "from exporter.collectors.gpu import GpuCollector\n"
        "gpus = GpuCollector(default_catalog())\n"
        "print(len(gpus.collect()))\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML_SCENARIO": str(hanging.path)}
    begin = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "0\n"
    assert time.monotonic() - begin < 20


def test_a_mistake_elsewhere_is_a_failure_and_not_the_end(scenario: Scenario, collector: Start) -> None:
    """Runs that cannot be told fail the collector with the reason; once they can, it goes on."""
    broken = True

    def runs() -> list[RunProcess]:
        if broken:
            raise ValueError("a journal of another tool")
        return []

    gpus = collector(runs=runs)
    wait_until(lambda: "a journal of another tool" in failure(gpus), 10, "the failure")
    broken = False
    wait_until(power_of(gpus), 10, "the recovery")


def test_a_closed_collector_has_no_thread_and_no_session(scenario: Scenario, collector: Start) -> None:
    """Closing ends the thread and shuts the library down."""
    gpus = collector()
    wait_until(power_of(gpus), 10, "the first sample")
    gpus.close()
    assert not any(thread.name == "telemetry-gpu" for thread in threading.enumerate())
    assert scenario.log.read_text().split() == ["init", "shutdown"]


def test_a_run_has_the_gpus_that_its_processes_hold(scenario: Scenario, collector: Start) -> None:
    """A child's memory is the run's, by pid; a stranger's is nobody's, and memory that is not told is absent."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        scenario.only({
            **host(3),
            "gpu0.compute": f"{os.getpid()}:1000,1:77",
            "gpu1.compute": f"{child.pid}:-",
            "gpu2.compute": "1:5",
        })  # fmt: skip
        gpus = collector(runs=lambda: [RunProcess(RUN, os.getpid())])
        wait_until(lambda: values(gpus, "run_gpu_info"), 10, "the ownership")
        samples = gpus.collect()
        child.communicate(timeout=30)
    infos = [dict(sample.labels) for sample in samples if sample.family.name == "run_gpu_info"]
    assert [(info["run_id"], info["user_id"], info["uuid"]) for info in infos] == [
        ("r1", "alice", uuid(0)), ("r1", "alice", uuid(1)),
    ]  # fmt: skip
    held = [sample for sample in samples if sample.family.name == "gpu_process_memory_used_bytes"]
    assert [(dict(sample.labels)["pid"], sample.value) for sample in held] == [(str(os.getpid()), 1000)]


def test_ranks_of_a_run_are_one_owner(scenario: Scenario, collector: Start) -> None:
    """Two processes with the same labels on one GPU make one ownership series, two pids two of memory."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as rank:
        scenario.set({"gpu0.compute": f"{os.getpid()}:1000,{rank.pid}:2000"})
        gpus = collector(runs=lambda: [RunProcess(RUN, os.getpid()), RunProcess(RUN, rank.pid)])
        wait_until(lambda: values(gpus, "run_gpu_info"), 10, "the ownership")
        names = [sample.family.name for sample in gpus.collect()]
        rank.communicate(timeout=30)
    assert names.count("run_gpu_info") == 1
    assert names.count("gpu_process_memory_used_bytes") == 2


def test_a_label_of_a_run_never_stands_twice(scenario: Scenario, collector: Start) -> None:
    """Where a run has a tag of a device's label, the device's is shown."""
    scenario.set({"gpu0.compute": f"{os.getpid()}:1000"})
    gpus = collector(runs=lambda: [RunProcess((("name", "mine"), ("run_id", "r1")), os.getpid())])
    wait_until(lambda: values(gpus, "run_gpu_info"), 10, "the ownership")
    (info,) = (sample for sample in gpus.collect() if sample.family.name == "run_gpu_info")
    assert [name for name, _ in info.labels] == ["gpu", "name", "run_id", "uuid"]
    assert dict(info.labels)["name"] == "NVIDIA H100 80GB HBM3"


def test_one_join_gives_gpu_metrics_per_run(scenario: Scenario, collector: Start, tmp_path: Path) -> None:
    """In Prometheus, run_gpu_info times a metric is that of the run's devices, MIG instances and shared ones too."""
    scenario.only({
        **host(3),
        **mig(2, 0, 7), **mig(2, 1, 5),
        "gpu0.utilization": 40, "gpu1.utilization": 60, "gpu2.utilization": "!3",
        "gpu*.gpm": 1, "gpu2.gi7.gpm.1": 80, "gpu2.gi5.gpm.1": 90,
        "gpu0.compute": f"{os.getpid()}:1000", "gpu1.compute": f"{os.getppid()}:1000",
        "gpu2.mig0.compute": f"{os.getpid()}:1000",
    })  # fmt: skip
    runs = [RunProcess((("run_id", "r1"),), os.getpid()), RunProcess((("run_id", "r2"),), os.getpid())]
    gpus = collector(runs=lambda: runs)
    wait_until(lambda: len(values(gpus, "gpu_utilization_ratio")) == 4, 10, "a second GPM sample")
    join = "run_gpu_info * on (uuid, gpu_instance_id) group_left () gpu_utilization_ratio"
    of_run = "".join(
        f'          - {{labels: \'{{run_id="{run}", gpu="{gpu}"}}\', value: {value}}}\n'
        for run in ("r1", "r2")
        for gpu, value in (("0", 0.4), ("2", 0.8))
    )
    series = "".join(
        f"      - series: '{line.rpartition(' ')[0]}'\n        values: '{line.rpartition(' ')[2]}'\n"
        for line in render_samples(gpus.collect(), Format.TEXT).decode().splitlines()
        if line.startswith(("run_gpu_info{", "gpu_utilization_ratio{"))
    )
    test = tmp_path / "join.yml"
    test.write_text(
        f"tests:\n  - interval: 1m\n    input_series:\n{series}    promql_expr_test:\n"
        f"      - expr: sum by (run_id, gpu) ({join})\n        eval_time: 0m\n        exp_samples:\n{of_run}"
    )
    subprocess.run([require("promtool"), "test", "rules", str(test)], timeout=60, check=True)
