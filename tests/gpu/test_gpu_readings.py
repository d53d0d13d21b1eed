"""What pynvml says, read from a library of NVML's own signatures: units, absence, MIG, GPM, XIDs, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.collectors.gpu_readings import Device, GpuSession, Reading, Xid
from exporter.collectors.nvml import DriverError, GpuLostError
from tests.gpu.fake import H100, Scenario, compile_library, host, mig, uuid

Begin = Callable[[], GpuSession]

# Line of the scenario, and what it means: NVML counts in milliwatts, millijoules, MHz, percent, KB/s and KiB.
MEANINGS = [
    ("power", "gpu_power_watts", 631.95),
    ("power_limit", "gpu_power_limit_watts", 700),
    ("energy", "gpu_energy_joules", 123_456.789),
    ("temperature.0", "gpu_temperature_celsius", 59),
    ("field.82", "gpu_memory_temperature_celsius", 54),
    ("field.138", "gpu_nvlink_transmit_bytes", 2 * 1024 * 1024),
    ("field.139", "gpu_nvlink_receive_bytes", 4 * 1024 * 1024),
    ("clock.1", "gpu_sm_clock_hertz", 1.98e9),
    ("clock.2", "gpu_memory_clock_hertz", 2.619e9),
    ("fan", "gpu_fan_speed_ratio", 0.38),
    ("encoder", "gpu_encoder_utilization_ratio", 0.72),
    ("decoder", "gpu_decoder_utilization_ratio", 0.05),
    ("pstate", "gpu_performance_state", 2),
    ("ecc.0.0", "gpu_ecc_errors{kind=corrected}", 7),
    ("ecc.1.0", "gpu_ecc_errors{kind=uncorrected}", 1),
    ("utilization", "gpu_utilization_ratio", 0.57),
    ("utilization.memory", "gpu_memory_activity_ratio", 0.11),
    ("memory.used", "gpu_memory_used_bytes", 20_780_679_168),
    ("memory.reserved", "gpu_memory_reserved_bytes", 502_267_904),
    ("memory.total", "gpu_memory_total_bytes", 85_520_809_984),
    ("pcie.0", "gpu_pcie_transmit_bytes_per_second", 1.5e6),
    ("pcie.1", "gpu_pcie_receive_bytes_per_second", 2.5e6),
]
# Two calls give several values at once, so without one of them there is none.
RATES = {"utilization": "gpu_utilization_ratio", "utilization.memory": "gpu_memory_activity_ratio"}
MEMORY = {f"memory.{part}": f"gpu_memory_{part}_bytes" for part in ("used", "reserved", "total")}
TOGETHER = {line: set(call.values()) for call in (RATES, MEMORY) for line in call}
REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
NOT_SUPPORTED = "!3"


def named(reading: Reading) -> dict[str, float]:
    """The values of a reading, the label beside the device's in braces; none may stand twice."""
    values = {
        value.metric + "".join(f"{{{name}={text}}}" for name, text in value.labels): value.number
        for value in reading.values
    }
    assert len(values) == len(reading.values)
    return values


def read(session: GpuSession) -> dict[str, float]:
    """The values of the first GPU."""
    return named(session.read(session.gpus[0])[0])


@pytest.mark.parametrize(("line", "series", "number"), MEANINGS)
def test_values_are_in_base_units(session: Begin, line: str, series: str, number: float) -> None:
    """Every answer of the driver is one value in watts, joules, hertz, bytes, degrees or shares."""
    assert read(session())[series] == number


@pytest.mark.parametrize("answer", [None, NOT_SUPPORTED, "!4", "!999", 2**32 - 1, 2**64 - 1])
@pytest.mark.parametrize(("line", "series"), [meaning[:2] for meaning in MEANINGS])
def test_what_the_driver_does_not_give_is_absent(
    scenario: Scenario, session: Begin, line: str, series: str, answer: Any
) -> None:
    """A call that fails in any way, or answers with all-ones, takes its own value away and no other."""
    everything = read(session())
    scenario.set({f"gpu*.{line}": answer})
    missing = {series} if isinstance(answer, int) else TOGETHER.get(line, {series})
    assert read(session()) == {name: number for name, number in everything.items() if name not in missing}


def test_an_unknown_performance_state_is_absent(scenario: Scenario, session: Begin) -> None:
    """State 32 is NVML's word for unknown."""
    scenario.set({"gpu*.pstate": 32})
    assert "gpu_performance_state" not in read(session())


@pytest.mark.parametrize("reason", REASONS)
def test_each_throttle_reason_is_a_series(scenario: Scenario, session: Begin, reason: str) -> None:
    """The bit of a reason sets its series to 1 and all others to 0."""
    scenario.set({"gpu*.reasons": REASONS[reason]})
    values = read(session())
    shown = {name: number for name, number in values.items() if name.startswith("gpu_throttle_reason")}
    assert shown == {f"gpu_throttle_reason{{reason={name}}}": float(name == reason) for name in REASONS}


def test_a_reason_that_a_device_does_not_know_is_absent(scenario: Scenario, session: Begin) -> None:
    """Only supported reasons have a series, and none has if the driver does not say which are."""
    scenario.set({"gpu*.reasons_supported": REASONS["gpu_idle"]})
    reasons = [name for name in read(session()) if name.startswith("gpu_throttle_reason")]
    assert reasons == ["gpu_throttle_reason{reason=gpu_idle}"]
    for line in ("reasons", "reasons_supported"):
        scenario.set({"gpu*.reasons_supported": 0x1FF, f"gpu*.{line}": NOT_SUPPORTED})
        assert not [name for name in read(session()) if name.startswith("gpu_throttle_reason")]


def test_gpus_are_known_by_index_uuid_and_name(scenario: Scenario, session: Begin) -> None:
    """The labels are NVML's index, the UUID that dcgm-exporter shows too, and the product name."""
    scenario.only(host(8))
    gpus = session().gpus
    assert [gpu.labels for gpu in gpus] == [
        {"gpu": str(number), "name": H100["name"], "uuid": uuid(number)} for number in range(8)
    ]


def test_an_older_driver_is_asked_by_its_own_names(tmp_path: Path, scenario: Scenario) -> None:
    """Temperature and throttle reasons are read from a library that does not have their present functions."""
    compile_library(tmp_path, "-DOLD_DRIVER")
    script = (
        "import json\n"
        "from exporter.collectors.gpu_readings import GpuSession\n"
        "session = GpuSession()\n"
        "print(json.dumps([value[:2] for value in session.read(session.gpus[0])[0].values]))"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    values = json.loads(result.stdout)
    assert ["gpu_temperature_celsius", 59] in values
    assert sum(number for name, number in values if name == "gpu_throttle_reason") == 1


@pytest.mark.parametrize("newest", ["nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"])
def test_an_older_pynvml_is_asked_by_its_own_names(
    session: Begin, monkeypatch: pytest.MonkeyPatch, newest: str
) -> None:
    """A pynvml that does not know a present function has its older one called, and what it never had is absent."""
    import pynvml

    everything = read(session())
    monkeypatch.delattr(pynvml, newest)
    assert read(session()) == everything
    monkeypatch.delattr(pynvml, "nvmlDeviceGetFanSpeed")
    assert set(everything) - set(read(session())) == {"gpu_fan_speed_ratio"}


def test_a_device_without_any_field(scenario: Scenario, session: Begin) -> None:
    """Where the call for fields itself fails, only what comes from it is absent."""
    everything = read(session())
    fields = {"field.82": "gpu_memory_temperature_celsius", "field.138": "gpu_nvlink_transmit_bytes"}
    fields["field.139"] = "gpu_nvlink_receive_bytes"
    scenario.set({f"gpu*.{field}": None for field in fields})
    assert set(everything) - set(read(session())) == set(fields.values())


def test_a_device_without_a_uuid_is_not_shown(scenario: Scenario, session: Begin) -> None:
    """Without a UUID its series could not be told from another GPU's."""
    scenario.only({**host(2), "gpu0.uuid": None})
    assert [gpu.gpu for gpu in session().gpus] == [1]


def test_a_mig_instance_is_a_device_of_its_own(scenario: Scenario, session: Begin) -> None:
    """Its labels are dcgm-exporter's, with the GPU's UUID, its id and its profile; memory and processes are its own."""
    scenario.set({**mig(0, 0, 7, compute="11:1000"), **mig(0, 3, 2, "3g.40gb"), "gpu0.compute": "11:1000"})
    scenario.set({"gpu*.utilization": NOT_SUPPORTED})
    first = session()
    whole, small, large = first.read(first.gpus[0])
    gpu = {"gpu": "0", "name": H100["name"], "uuid": uuid(0)}
    assert whole.device.labels == gpu
    assert small.device.labels == {**gpu, "gpu_instance_id": "7", "mig_profile": "1g.10gb"}
    assert large.device.labels == {**gpu, "gpu_instance_id": "2", "mig_profile": "3g.40gb"}
    assert [named(reading)["gpu_memory_used_bytes"] for reading in (small, large)] == [1e9, 4e9]
    assert [reading.processes for reading in (whole, small, large)] == [{}, {11: 1000}, {}]
    for reading in (whole, small, large):
        assert "gpu_utilization_ratio" not in named(reading)


def test_compute_instances_share_their_gpu_instance(scenario: Scenario, session: Begin) -> None:
    """Two MIG devices in one GPU instance are one device with the processes of both."""
    scenario.set({
        **mig(0, 0, 1, "1c.3g.40gb", compute="11:1000"),
        **mig(0, 1, 1, "1c.3g.40gb", uuid="MIG-other", compute="12:2000"),
    })  # fmt: skip
    first = session()
    _, instance = first.read(first.gpus[0])
    assert instance.device.mig_profile == "3g.40gb"
    assert instance.device.mig_uuids == ("MIG-00000001-0000-0000-0000-000000000000", "MIG-other")
    assert instance.processes == {11: 1000, 12: 2000}


def test_instances_come_and_go_within_a_session(scenario: Scenario, session: Begin) -> None:
    """MIG is divided anew without a new session, and samples of instances that are gone are given back."""
    first = session()
    gpu = first.gpus[0]
    scenario.set({**mig(0, 0, 7), "gpu*.gpm": 1, "gpu0.gi7.gpm.1": 50})
    assert len(first.read(gpu)) == 2
    scenario.set(dict.fromkeys(mig(0, 0, 7)))
    assert len(first.read(gpu)) == 1
    assert [device.gpu_instance_id for device in first._windows] == [""]


GPM = [
    (1, 25.0, "gpu_utilization_ratio", 0.25),
    (2, 40.0, "gpu_sm_utilization_ratio", 0.4),
    (3, 12.5, "gpu_sm_occupancy_ratio", 0.125),
    (5, 75.0, "gpu_tensor_utilization_ratio", 0.75),
    (10, 60.0, "gpu_memory_bandwidth_utilization_ratio", 0.6),
    (20, 3.0, "gpu_pcie_transmit_bytes_per_second", 3 * 2**20),
    (21, 5.0, "gpu_pcie_receive_bytes_per_second", 5 * 2**20),
    (60, 8.0, "gpu_nvlink_receive_bytes_per_second", 8 * 2**20),
    (61, 7.0, "gpu_nvlink_transmit_bytes_per_second", 7 * 2**20),
]


def test_mig_instances_are_measured_by_gpm(scenario: Scenario, session: Begin) -> None:
    """From the second look on, an instance has what GPM measured between two looks: percent and MiB/s by nvml.h."""
    counters = {f"gpu0.gi7.gpm.{number}": answer for number, answer, _, _ in GPM}
    scenario.set({**mig(0, 0, 7), "gpu*.gpm": 1, **counters})
    first = session()
    assert set(named(first.read(first.gpus[0])[1])) == {
        "gpu_memory_used_bytes", "gpu_memory_reserved_bytes", "gpu_memory_total_bytes",
    }  # fmt: skip
    for _ in range(3):
        values = named(first.read(first.gpus[0])[1])
        assert {name: values[name] for *_, name, _ in GPM} == {name: number for *_, name, number in GPM}


def test_a_gpm_look_that_fails_begins_anew(scenario: Scenario, session: Begin) -> None:
    """Nothing is measured across a look that failed; the second after it has values again."""
    scenario.set({"gpu*.gpm": 1, "gpu0.gpm.2": 10})
    first = session()
    shown = []
    for state in (1, 1, "!999", 1, 1):
        scenario.set({"gpu*.gpm": state})
        shown.append("gpu_sm_utilization_ratio" in read(first))
    assert shown == [False, True, False, False, True]


def test_gpm_without_its_metrics_is_absent(scenario: Scenario, session: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that nobody can compare give no value, and no other is lost with them."""
    import pynvml

    everything = read(session())
    scenario.set({"gpu*.gpm": 1, "gpu0.gpm.2": 10})
    monkeypatch.delattr(pynvml, "nvmlGpmMetricsGet")
    first = session()
    assert [read(first), read(first)] == [everything, everything]


def test_gpm_measures_from_one_look_to_the_next(scenario: Scenario, session: Begin) -> None:
    """What was measured before the last look no longer counts."""
    scenario.set({"gpu*.gpm": 1, "gpu0.gpm.2": 10})
    first = session()
    first.read(first.gpus[0])
    for percent in (20, 80, 30):
        scenario.set({"gpu0.gpm.2": percent})
        assert read(first)["gpu_sm_utilization_ratio"] == percent / 100


def test_a_gpm_counter_that_is_missing_or_no_number_is_absent(scenario: Scenario, session: Begin) -> None:
    """Each counter fails alone."""
    scenario.set({"gpu*.gpm": 1, "gpu0.gpm.2": 40, "gpu0.gpm.3": "nan"})
    first = session()
    first.read(first.gpus[0])
    values = read(first)
    assert values["gpu_sm_utilization_ratio"] == 0.4
    assert not {"gpu_sm_occupancy_ratio", "gpu_tensor_utilization_ratio"} & set(values)


def test_nvml_utilization_goes_before_that_of_gpm(scenario: Scenario, session: Begin) -> None:
    """Utilisation means the same on every GPU; PCIe traffic is taken from the longer look."""
    scenario.set({"gpu*.gpm": 1, "gpu0.gpm.1": 99, "gpu0.gpm.20": 3})
    first = session()
    assert read(first)["gpu_pcie_transmit_bytes_per_second"] == 1.5e6
    values = read(first)
    assert values["gpu_utilization_ratio"] == 0.57
    assert values["gpu_pcie_transmit_bytes_per_second"] == 3 * 2**20
    assert values["gpu_pcie_receive_bytes_per_second"] == 2.5e6
    scenario.set({"gpu*.utilization": NOT_SUPPORTED})
    assert read(first)["gpu_utilization_ratio"] == 0.99


def test_xids_are_those_since_the_session_began(scenario: Scenario, session: Begin) -> None:
    """Each XID is told once with its GPU; a GPU whose driver reports none is not watched."""
    scenario.only({**host(3), "gpu0.xids": "13", "gpu2.xids": None, "gpu*.xids": None, "gpu1.xids": "-"})
    first = session()
    assert first.watched == [uuid(0), uuid(1)]
    assert list(first.xids()) == []
    scenario.set({"gpu0.xids": "13,79,31", "gpu1.xids": "48"})
    assert list(first.xids()) == [Xid(uuid(0), 79), Xid(uuid(0), 31), Xid(uuid(1), 48)]
    assert list(first.xids()) == []


def test_the_gpu_of_an_xid_is_known_by_its_uuid_too(scenario: Scenario, session: Begin) -> None:
    """An event may come with another handle of the same GPU; one of a GPU that is not watched is nobody's."""
    scenario.set({"gpu0.other_handle": 1, "gpu0.mig7.uuid": uuid(0)})
    first = session()
    scenario.set({"gpu0.xids": "48"})
    assert list(first.xids()) == [Xid(uuid(0), 48)]
    scenario.set({"gpu0.xids": "48,63", "gpu0.mig7.uuid": "GPU-of-another-tenant"})
    assert list(first.xids()) == []


def test_processes_are_those_of_every_list(scenario: Scenario, session: Begin) -> None:
    """A process that stands in two lists counts once, and one whose memory is not told has None."""
    scenario.set({"gpu*.compute": "1:100,2:-,5:500", "gpu*.graphics": "1:100,3:300,4:-,5:-", "gpu*.mps": "4:400"})
    first = session()
    assert first.read(first.gpus[0])[0].processes == {1: 100, 2: None, 3: 300, 4: 400, 5: 500}


def test_a_gpu_that_is_lost_raises_and_the_others_answer(scenario: Scenario, session: Begin) -> None:
    """GPU_IS_LOST concerns one GPU only, also at the begin of a session."""
    scenario.only(host(3))
    first = session()
    scenario.set({"gpu1.lost": 1})
    with pytest.raises(GpuLostError):
        first.read(first.gpus[1])
    assert [len(first.read(gpu)) for gpu in (first.gpus[0], first.gpus[2])] == [1, 1]
    assert [gpu.gpu for gpu in session().gpus] == [0, 2]


@pytest.mark.parametrize("change", [{"driver": 9}, {"driver": 18}, {"reset": 1}])
def test_a_session_without_its_driver_is_over(scenario: Scenario, session: Begin, change: dict[str, int]) -> None:
    """A driver that is unloaded, replaced or reset ends the session whatever is asked, and closing it is quiet."""
    first = session()
    scenario.set(change)
    with pytest.raises(DriverError):
        first.read(first.gpus[0])
    with pytest.raises(DriverError):
        list(first.xids())
    first.close()


def test_a_session_is_closed_once(scenario: Scenario, session: Begin) -> None:
    """Closing again frees nothing again, whatever the session held."""
    scenario.set({"gpu*.gpm": 1})
    first = session()
    first.read(first.gpus[0])
    for _ in range(3):
        first.close()
    assert list(first.xids()) == []


def test_a_name_that_does_not_say_its_profile(scenario: Scenario, session: Begin) -> None:
    """An instance has an empty profile where the driver does not name one."""
    scenario.set(mig(0, 0, 7, name="NVIDIA H100"))
    first = session()
    assert first.read(first.gpus[0])[1].device == Device(
        0, uuid(0), H100["name"], "7", "", ("MIG-00000007-0000-0000-0000-000000000000",)
    )
