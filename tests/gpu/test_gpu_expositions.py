"""The same figures as nvidia-smi gave on real GPUs: names, labels, units, and what is not there.

Each exposition is told to the fake library in NVML's own units, and the collector must say what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.collectors.gpu_readings import GpuSession
from tests.gpu.fake import Scenario
from tests.gpu.test_gpu_readings import named

FOLDER = Path(__file__).resolve().parents[3] / "shared/data/nvidia_gpu_exporter"
EXPOSITIONS = sorted(FOLDER.glob("*__*__*.metrics"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="expositions of real GPUs are not in this checkout")


class Same(NamedTuple):
    """A series of nvidia_gpu_exporter, ours, and the scenario's line with NVML's unit in theirs."""

    theirs: str
    ours: str
    line: str
    unit: float


SAME = [
    Same("power_draw_watts", "gpu_power_watts", "power", 1e-3),
    Same("enforced_power_limit_watts", "gpu_power_limit_watts", "power_limit", 1e-3),
    Same("temperature_gpu", "gpu_temperature_celsius", "temperature.0", 1),
    Same("temperature_memory", "gpu_memory_temperature_celsius", "field.82", 1),
    Same("clocks_current_sm_clock_hz", "gpu_sm_clock_hertz", "clock.1", 1e6),
    Same("clocks_current_memory_clock_hz", "gpu_memory_clock_hertz", "clock.2", 1e6),
    Same("fan_speed_ratio", "gpu_fan_speed_ratio", "fan", 1e-2),
    Same("utilization_gpu_ratio", "gpu_utilization_ratio", "utilization", 1e-2),
    Same("utilization_memory_ratio", "gpu_memory_activity_ratio", "utilization.memory", 1e-2),
    Same("utilization_encoder_ratio", "gpu_encoder_utilization_ratio", "encoder", 1e-2),
    Same("utilization_decoder_ratio", "gpu_decoder_utilization_ratio", "decoder", 1e-2),
    Same("memory_total_bytes", "gpu_memory_total_bytes", "memory.total", 1),
    Same("memory_reserved_bytes", "gpu_memory_reserved_bytes", "memory.reserved", 1),
    Same("memory_used_bytes", "gpu_memory_used_bytes", "memory.used", 1),
    Same("pstate", "gpu_performance_state", "pstate", 1),
    Same("ecc_errors_corrected_volatile_total", "gpu_ecc_errors{kind=corrected}", "ecc.0.0", 1),
    Same("ecc_errors_uncorrected_volatile_total", "gpu_ecc_errors{kind=uncorrected}", "ecc.1.0", 1),
]
REASON_BITS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
}
"""The reasons that nvidia-smi shows, and NVML's bits."""


LABELS = {"gpu": "index", "name": "name", "uuid": "uuid"}
"""Our labels, and theirs of nvidia_smi_gpu_info."""


class Exposition:
    """What nvidia_gpu_exporter said of one GPU."""

    def __init__(self, path: Path) -> None:
        families = text_string_to_metric_families(path.read_text())
        samples = [sample for family in families for sample in family.samples]
        self.values = {sample.name.removeprefix("nvidia_smi_"): sample.value for sample in samples}
        self.info = next(sample.labels for sample in samples if sample.name == "nvidia_smi_gpu_info")
        self.processes = {
            int(sample.labels["pid"]): int(sample.value)
            for sample in samples
            if sample.name == "nvidia_smi_compute_app_used_memory_bytes"
        }

    def scenario(self) -> dict[str, Any]:
        """The same in NVML's units; what it does not have is not supported."""
        active = sum(bit for name, bit in REASON_BITS.items() if self.values[f"clocks_event_reasons_{name}"])
        card = {same.line: round(self.values[same.theirs] / same.unit) for same in SAME if same.theirs in self.values}
        card |= {
            "uuid": self.info["uuid"],
            "name": self.info["name"],
            "reasons": active,
            "reasons_supported": sum(REASON_BITS.values()),
            "compute": ",".join(f"{pid}:{memory}" for pid, memory in self.processes.items()) or None,
        }
        return {"gpus": 1, **{f"gpu0.{key}": value for key, value in card.items()}}


@pytest.mark.parametrize("path", EXPOSITIONS, ids=lambda path: path.stem)
def test_a_real_gpu_is_shown_as_nvidia_smi_shows_it(
    scenario: Scenario, session: Callable[[], GpuSession], path: Path
) -> None:
    """Every figure both know is equal, and what nvidia-smi calls N/A is absent here, not 0."""
    exposition = Exposition(path)
    scenario.only(exposition.scenario())
    first = session()
    (reading,) = first.read(first.gpus[0])
    expected = {same.ours: exposition.values[same.theirs] for same in SAME if same.theirs in exposition.values}
    expected |= {
        f"gpu_throttle_reason{{reason={name}}}": exposition.values[f"clocks_event_reasons_{name}"]
        for name in REASON_BITS
    }
    assert named(reading) == pytest.approx(expected, rel=1e-12)
    assert reading.device.labels == {label: exposition.info[key] for label, key in LABELS.items()}
    assert reading.processes == exposition.processes


def test_the_expositions_cover_what_gpus_lack() -> None:
    """Among them are GPUs with and without utilisation, a fan, ECC and memory temperature."""
    seen = [Exposition(path).values for path in EXPOSITIONS]
    assert len(seen) >= 20
    ecc = "ecc_errors_corrected_volatile_total"
    for name in ("utilization_gpu_ratio", "fan_speed_ratio", "temperature_memory", ecc):
        assert {name in values for values in seen} == {True, False}, name
