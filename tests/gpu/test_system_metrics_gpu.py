"""GPUs in the record of system metrics, through the real pynvml."""

from __future__ import annotations

import pytest

from exporter.collectors.system import SystemSampler
from tests.gpu.fake import Scenario, host


def test_gpus_are_told_as_nvml_knows_them(scenario: Scenario) -> None:
    """Percent, bytes, degrees and watts of each GPU, what one does not give is null, and their mean utilisation."""
    scenario.only({**host(2), "gpu1.utilization": "!3", "gpu1.power": "!3"})
    sampler = SystemSampler()
    record = sampler.sample()
    sampler.close()
    known = {"mem_used": 20_780_679_168, "mem_total": 85_520_809_984, "temp_c": 59}
    assert record["gpus"] == [
        {"index": 0, "util": 57, "power_w": pytest.approx(631.95), **known},
        {"index": 1, "util": None, "power_w": None, **known},
    ]
    assert (record["gpu_count"], record["gpu_util_mean"]) == (2, 57)


def test_without_a_driver_there_is_no_word_of_gpus(scenario: Scenario) -> None:
    """A library whose driver is not loaded leaves the rest of the record as it is."""
    scenario.only({"driver": 9})
    record = SystemSampler().sample()
    assert record["memory"]["total"] > 0
    assert {"gpu_count", "gpus", "gpu_util_mean"}.isdisjoint(record)
