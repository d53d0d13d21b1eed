"""The fake libnvidia-ml.so.1 and its scenarios: what the driver says, in NVML's units."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.servers import require

SOURCE = Path(__file__).with_name("fake_nvml.c")
SONAME = "libnvidia-ml.so.1"

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "power": 631_950,
    "power_limit": 700_000,
    "energy": 123_456_789,
    "temperature.0": 59,
    "field.82": 54,
    "field.138": 2_048,
    "field.139": 4_096,
    "clock.1": 1_980,
    "clock.2": 2_619,
    "fan": 38,
    "encoder": 72,
    "decoder": 5,
    "pstate": 2,
    "ecc.0.0": 7,
    "ecc.1.0": 1,
    "utilization": 57,
    "utilization.memory": 11,
    "memory.total": 85_520_809_984,
    "memory.reserved": 502_267_904,
    "memory.used": 20_780_679_168,
    "pcie.0": 1_500,
    "pcie.1": 2_500,
    "reasons": 0x4,
    "reasons_supported": 0x1FF,
    "xids": "-",
}
"""A GPU that has an answer to every call; the keys are those of fake_nvml.c."""


def compile_library(folder: Path, *options: str) -> Path:
    """The fake library in a folder, under the name by which the loader finds it."""
    library = folder / SONAME
    command = [require("cc"), "-shared", "-fPIC", "-O1", f"-Wl,-soname,{SONAME}", *options]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
    return library


def uuid(gpu: int) -> str:
    """The UUID of a GPU in the scenarios."""
    return f"GPU-{gpu:08d}-0000-0000-0000-000000000000"


def host(gpus: int, card: Mapping[str, Any] = H100) -> dict[str, Any]:
    """A host of GPUs of one kind."""
    lines: dict[str, Any] = {"gpus": gpus, **{f"gpu*.{key}": value for key, value in card.items()}}
    return {**lines, **{f"gpu{number}.uuid": uuid(number) for number in range(gpus)}}


def mig(gpu: int, place: int, instance: int, profile: str = "1g.10gb", **more: Any) -> dict[str, Any]:
    """One MIG device of a GPU."""
    device = {
        "uuid": f"MIG-{gpu}{place}{instance:06d}-0000-0000-0000-000000000000",
        "name": f"NVIDIA H100 80GB HBM3 MIG {profile}",
        "gi": instance,
        "memory.total": 10_000_000_000,
        "memory.reserved": 1_000_000,
        "memory.used": (place + 1) * 1_000_000_000,
        **more,
    }
    return {f"gpu{gpu}.mig_count": 7, **{f"gpu{gpu}.mig{place}.{key}": value for key, value in device.items()}}


class Scenario:
    """The scenario file, replaced whole at each change."""

    _versions = itertools.count(1)  # the next test's file may have the inode of this one's

    def __init__(self, path: Path, lines: Mapping[str, Any]) -> None:
        self.path = path
        self.log = path.with_suffix(".log")
        self._lines: dict[str, Any] = {"log": self.log, **lines}
        self.set({})

    def set(self, lines: Mapping[str, Any]) -> None:
        """Change lines; None removes one."""
        self._lines = {key: value for key, value in {**self._lines, **lines}.items() if value is not None}
        version = next(self._versions)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(f"{key} {value}\n" for key, value in self._lines.items()))
        # The library notices by the time of the change, and a file system may count that in coarse ticks.
        os.utime(temporary, ns=(version, version))
        temporary.replace(self.path)

    def only(self, lines: Mapping[str, Any]) -> None:
        """Begin anew with these lines."""
        self.set({**dict.fromkeys(self._lines), "log": self.log, **lines})

    @property
    def initialisations(self) -> int:
        """How often NVML was initialised."""
        return self.log.read_text().split().count("init") if self.log.exists() else 0
