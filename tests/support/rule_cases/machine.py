"""GPUs and hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.promtool import CRITICAL, INFO, WARNING, Case

__all__ = ["MACHINE"]

GPU = 'gpu="0", instance="h:1", name="H200", uuid="GPU-1"'
INFO_OF_RUN = {'run_gpu_info{gpu="0", name="H200", run_id="r", uuid="GPU-1"}': "1+0x400"}
HOST, DISK = 'instance="h:1", job="telemetry"', 'instance="h:1", job="telemetry", path="/runs"'
BUSY = {f'telemetry_runs{{{HOST}, status="running"}}': "2+0x400"}
MIG = ", ".join(
    ('gpu="0"', 'gpu_instance_id="{}"', 'instance="h:1"', 'mig_profile="3g.71gb"', 'name="H200"', 'uuid="GPU-1"')
)


def gpu(metric: str, value: object, extra: str = "") -> dict[str, str]:
    """A metric of the run's GPU that stays at a value, and whose it is."""
    return {f"{metric}{{{GPU}{extra}}}": f"{value}+0x400", **INFO_OF_RUN}


def memory(used: float) -> dict[str, str]:
    """Memory in use of 100 bytes."""
    return {**gpu("gpu_memory_used_bytes", used), **gpu("gpu_memory_total_bytes", 100)}


def host(left: float) -> dict[str, str]:
    """Memory left of 100 bytes on a host with running runs."""
    return {f"host_memory_available_bytes{{{HOST}}}": f"{left}+0x60", f"host_memory_total_bytes{{{HOST}}}": "100+0x60"}


def disk(left: float) -> dict[str, str]:
    """Space left of 100 bytes on a host with running runs."""
    return {f"host_disk_free_bytes{{{DISK}}}": f"{left}+0x60", f"host_disk_size_bytes{{{DISK}}}": "100+0x60"}


def container(used: float) -> dict[str, str]:
    """Memory in use of the 100 bytes that a run's container may have."""
    series = {"run_cgroup_memory_used_bytes": used, "run_cgroup_memory_limit_bytes": 100}
    return {f'{name}{{run_id="r"}}': f"{value}+0x60" for name, value in series.items()}


MACHINE: Mapping[str, Sequence[Case]] = {
    "GPUIdle": [
        Case(
            "a quarter of an hour below 5 %", gpu("gpu_utilization_ratio", 0.01), {895: "", 900: WARNING, 1900: WARNING}
        ),
        Case("a GPU that works", gpu("gpu_utilization_ratio", 0.9), {900: "", 1900: ""}),
        Case(
            "a GPU that works now and then",
            {f"gpu_utilization_ratio{{{GPU}}}": [0.9, *[0.0] * 119] * 4, **INFO_OF_RUN},
            {900: "", 1900: ""},
        ),
        Case("a GPU that no run has", {f"gpu_utilization_ratio{{{GPU}}}": "0+0x400"}, {900: "", 1900: ""}),
        Case(
            "a run that ended",
            {**gpu("gpu_utilization_ratio", 0.01), 'run_status{run_id="r", status="running"}': "1+0x100 0+0x300"},
            {900: "", 1900: ""},
        ),
        Case("as a trainer logs it", {'gpu_utilization_ratio{run_id="r"}': "0.01+0x400"}, {895: "", 900: WARNING}),
        Case(
            "of a divided GPU the run's own instance counts",
            {
                f"gpu_utilization_ratio{{{MIG.format(1)}}}": "0.9+0x400",
                f"gpu_utilization_ratio{{{MIG.format(2)}}}": "0+0x400",
                'run_gpu_info{gpu="0", gpu_instance_id="1", name="H200", run_id="r", uuid="GPU-1"}': "1+0x400",
            },
            {900: "", 1900: ""},
        ),
    ],
    "GPUMemoryNearlyFull": [
        Case("95 % are worth a look above", memory(96), {295: INFO, 900: INFO}),
        Case("98.5 % are a warning above", memory(99), {295: WARNING, 900: WARNING}),
        Case("what engines take on purpose", memory(92), {295: "", 900: ""}),
    ],
    "GPUThrottled": [
        Case(
            "most of ten minutes because of heat",
            gpu("gpu_throttle_reason", 1, ', reason="hw_thermal_slowdown"'),
            {60: WARNING, 900: WARNING},
        ),
        Case(
            "at its power cap a GPU is busy",
            gpu("gpu_throttle_reason", 1, ', reason="sw_power_cap"'),
            {60: "", 900: ""},
        ),
        Case(
            "now and then",
            {f'gpu_throttle_reason{{{GPU}, reason="hw_slowdown"}}': [0, 0, 0, 1] * 100, **INFO_OF_RUN},
            {300: "", 900: ""},
        ),
    ],
    "GPULost": [
        Case(
            "it does not answer any more",
            {f"gpu_up{{{GPU}}}": "1+0x50 0+0x50", **INFO_OF_RUN},
            {250: "", 300: CRITICAL},
        ),
        Case("it answers", gpu("gpu_up", 1), {60: "", 900: ""}),
    ],
    "GPUErrors": [
        Case(
            "the driver reports one",
            {f"gpu_xid_errors_total{{{GPU}}}": [0] * 60 + [1] * 300, **INFO_OF_RUN},
            {295: "", 300: WARNING, 1190: WARNING, 1215: ""},
        ),
        Case("none since", gpu("gpu_xid_errors_total", 3), {60: "", 900: ""}),
    ],
    "HostMemoryLow": [
        Case("below 5 %", {**host(4), **BUSY}, {60: WARNING, 295: WARNING}),
        Case("below 2 %", {**host(1), **BUSY}, {60: CRITICAL, 295: CRITICAL}),
        Case("enough", {**host(5), **BUSY}, {60: "", 295: ""}),
        Case(
            "no run on the host",
            {**host(1), f'telemetry_runs{{{HOST}, status="finished"}}': "2+0x60"},
            {60: "", 295: ""},
        ),
    ],
    "ContainerMemoryNearlyFull": [
        Case("above 95 % of the limit", container(96), {60: WARNING, 295: WARNING}),
        Case("above 98 % of the limit", container(99), {60: CRITICAL, 295: CRITICAL}),
        Case("enough", container(95), {60: "", 295: ""}),
        Case("no limit", {'run_cgroup_oom_kills_total{run_id="r"}': "0+0x60"}, {60: "", 295: ""}),
        Case(
            "a run that ended",
            {**container(99), 'run_status{run_id="r", status="running"}': "0+0x60"},
            {60: "", 295: ""},
        ),
    ],
    "ContainerOOMKill": [
        Case(
            "a process is killed",
            {'run_cgroup_oom_kills_total{run_id="r"}': [0] * 60 + [1] * 300},
            {295: "", 300: WARNING, 1190: WARNING, 1215: ""},
        ),
        Case(
            "the trainer is killed, and told of for some minutes",
            {
                'run_cgroup_oom_kills_total{run_id="r"}': [0] * 60 + [1] * 60 + ["stale"],
                'run_status{run_id="r", status="running"}': "1+0x59 0+0x300",
            },
            {295: "", 300: WARNING, 900: WARNING, 1215: ""},
        ),
        Case(
            "the next attempt is told for the old one's kill no more",
            {
                'run_cgroup_oom_kills_total{run_id="r"}': [0] * 60 + [1] * 300,
                'run_attempts{run_id="r"}': [1] * 90 + [2] * 300,
            },
            {440: WARNING, 600: "", 900: ""},
        ),
        Case("none since the run began", {'run_cgroup_oom_kills_total{run_id="r"}': "3+0x200"}, {60: "", 900: ""}),
    ],
    "DiskNearlyFull": [
        Case("below 5 %", {**disk(4), **BUSY}, {60: WARNING, 295: WARNING}),
        Case("below 1 %", {**disk(0.5), **BUSY}, {60: CRITICAL, 295: CRITICAL}),
        Case("enough", {**disk(5), **BUSY}, {60: "", 295: ""}),
        Case("no run on the host", disk(0.5), {60: "", 295: ""}),
        Case(
            "that of the checkpoints alone",
            {**disk(50), **{name.replace("/runs", "/checkpoints"): value for name, value in disk(4).items()}, **BUSY},
            {60: WARNING, 295: WARNING},
        ),
    ],
}
