"""Performance and GPUs: how fast the steps are, what they wait for, which rank, which device."""

from __future__ import annotations

from exporter.catalog import Catalog
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.board import Section, board
from exporter.generate.dashboards.catalog_panels import more, panel_rows
from exporter.generate.dashboards.explain import described, no_value
from exporter.generate.dashboards.machine_panels import gpu_line, instance_line, process_line, together
from exporter.generate.dashboards.panels import Column, Line, graph, listing
from exporter.generate.dashboards.run_panels import DASHED, RATE, legend
from exporter.generate.dashboards.sdk import common, common_model, dashboard, table, timeseries

__all__ = ["performance"]

_PHASES = "performance_phase_duration_seconds"
_FORWARD_BACKWARD = "performance_forward_backward_duration_seconds"
_MEMORY = ("run_process_resident_memory_bytes", "run_cgroup_memory_used_bytes", "run_cgroup_memory_limit_bytes")
_WAITING = "data.*"
"""Phases in which a rank waits for its data; all others are its own work."""


def performance(catalog: Catalog) -> dashboard.Dashboard:
    """The dashboard."""
    sections = [
        Section("", [[_step_time(catalog), _phases(catalog)], *_speed(catalog)]),
        Section("Ranks", [[_by_rank("Own work by rank", _work()), _by_rank("Data wait by rank", _wait()), _slowest()]]),
        Section("", [[_places()]]),
        Section("", [[_straggling(catalog)], *_counted(catalog)]),
        Section("GPUs of the chosen runs", _gpus(catalog)),
        Section("Processes of the chosen runs", _processes(catalog)),
        Section("Hosts", _hosts(catalog)),
    ]
    sections += more("More", catalog, ("performance", "gpu", "host"), sections)
    return board("performance", "Performance & GPU", sections)


def _speed(catalog: Catalog) -> list[list[timeseries.Panel]]:
    return panel_rows(
        catalog,
        (_FORWARD_BACKWARD, "performance_optim_step_duration_seconds", _PHASES),
        ("performance_tokens_per_second", "performance_env_steps_per_second", "performance_mfu_ratio"),
        ("performance_queue_depth", "performance_data_wait_ratio", "performance_data_wait_duration_seconds"),
    )


def _step_time(catalog: Catalog) -> timeseries.Panel:
    """As the trainer measures it; between the logged steps where it does not."""
    metric = catalog.metrics["performance_step_seconds"]
    steps = f"{promql.of_runs(metric.name, promql.MAIN_RANK)}[$__rate_interval]"
    lines = [
        Line(name, f"max by (run_id) (quantile_over_time({share}, {steps}))", legend((), name))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
    pace = promql.per_second("training_steps_total", (), promql.MAIN_RANK)
    lines.append(Line("mean", f"1 / ({pace} > 0)", legend((), "between steps")))
    panel = described(graph("Step time (p50, p99, mean time between steps)", lines, "s", RATE), metric, catalog)
    return panel.override_by_query("p99", DASHED).no_value("No step in this time range")


def _phases(catalog: Catalog) -> timeseries.Panel:
    """Seconds per second, which are shares of the time, on average over the ranks of the chosen runs.

    A run that times operations instead of phases is shown by these, whatever their names.
    """
    phases = promql.per_second(f"{_PHASES}_sum", ("rank", "phase"))
    name = "performance_(.+)_duration_seconds_sum"
    timed = f'{{__name__=~"{name}", __name__!="{_PHASES}_sum", {promql.CHOSEN}}}'
    named = f'label_replace({timed}, "phase", "$1", "__name__", "{name}")'
    operations = f"sum by (run_id, rank, phase) (rate({named}[$__rate_interval:{RATE}]))"
    ranks = f'count by (run_id, rank) (last_over_time({{__name__=~"{name}", {promql.CHOSEN}}}[$__rate_interval]))'
    every = f"{phases} or ({operations} unless on (run_id) {phases})"
    share = f"sum by (phase) ({every}) / on () group_left () count({ranks})"
    panel = graph("Share of the time by phase", [Line("phase", share, "{{phase}}")], "percentunit", RATE)
    stacked = common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A")
    described(panel, catalog.metrics[_PHASES], catalog).stacking(stacked).fill_opacity(40)
    return panel.no_value(no_value(catalog.metrics[_PHASES]))


def _work() -> str:
    """Share of the time that a rank works itself; under an all-reduce the slowest has the largest."""
    phases = promql.per_second(f"{_PHASES}_sum", ("rank",), f'phase!~"{_WAITING}"')
    return f"{phases} or on (run_id) {promql.per_second(f'{_FORWARD_BACKWARD}_sum', ('rank',))}"


def _wait() -> str:
    """Share of the time that a rank waits for its data."""
    told = f"max by (run_id, rank) (avg_over_time({promql.of_runs('performance_data_wait_ratio')}[$__rate_interval]))"
    phases = promql.per_second(f"{_PHASES}_sum", ("rank",), f'phase=~"{_WAITING}"')
    timed = promql.per_second("performance_data_wait_duration_seconds_sum", ("rank",))
    return f"{told} or on (run_id) {phases} or on (run_id) {timed}"


def _by_rank(name: str, share: str) -> timeseries.Panel:
    panel = graph(name, [Line("rank", share, legend(["rank"]))], "percentunit", RATE)
    panel.description(
        "Share of the time, on each rank. Where ranks wait for each other in every step, all steps take equally long: "
        "the rank that holds up the others has the largest share of own work, or of waiting for data."
    )
    return panel.no_value('No times by phase in this time range: use run.phase("forward"), run.phase("data"), ...')


def _slowest() -> timeseries.Panel:
    work = _work()
    line = Line("ratio", f"max by (run_id) ({work}) / quantile by (run_id) (0.5, {work})", legend())
    panel = graph("Own work of the slowest rank, relative to the median", [line], "none", RATE).axis_soft_min(1)
    panel.description("1 where all ranks are alike, or there is one only. Above 1.25 one rank holds up the others.")
    return panel.no_value('No times by phase in this time range: use run.phase("forward"), run.phase("data"), ...')


def _straggling(catalog: Catalog) -> timeseries.Panel:
    """Which rank takes longer than the others, and in which phase."""
    metric = catalog.metrics["run_straggler_ratio"]
    labels = ("rank", "phase")
    slower = f"max by (run_id, rank, phase) ({promql.of_runs(metric.name)} > 1.25)"
    panel = graph("Ranks slower than the median by a quarter", [Line("ratio", slower, legend(labels))], "none", RATE)
    return described(panel, metric, catalog).axis_soft_min(1).no_value("No rank takes a quarter longer than the others")


def _counted(catalog: Catalog) -> list[list[timeseries.Panel]]:
    counters = ("training_tokens", "training_samples", "training_env_steps")
    return panel_rows(catalog, (*counters, "performance_estimated_mfu_ratio"))


def _places() -> table.Panel:
    """In which phase each rank of a running run is: where it hangs, if it does."""
    step = f"last_over_time({promql.of_runs('training_step')}[$__range])"
    stepped = f"time() - {promql.of_runs('run_last_step_timestamp_seconds')}"
    phase = f"time() - {promql.of_runs('run_phase_start_timestamp_seconds')}"
    columns = [
        Column("Step", _of_running_ranks(step)),
        Column("Last step ago", _of_running_ranks(stepped), {"unit": "s"}),
        Column("In the phase for", _of_running_ranks(phase, "phase"), {"unit": "s"}),
    ]
    labels = {"run_id": "Run", "rank": "Rank", "phase": "Phase"}
    return listing("Where each rank of the running runs is", columns, labels, "None of these runs is running")


def _of_running_ranks(series: str, *labels: str) -> str:
    """By run and rank; a rank is not said where there is one only."""
    running = 'on (run_id) run_status{status="running"} == 1'
    ranked = f'label_replace({series}, "rank", "0", "rank", "")'
    return f"max by ({', '.join(('run_id', 'rank', *labels))}) ({ranked}) and {running}"


def _gpus(catalog: Catalog) -> list[list[timeseries.Panel]]:
    [utilisation] = panel_rows(catalog, ("gpu_utilization_ratio", "gpu_sm_utilization_ratio", "gpu_throttle_reason"))
    pairs = {
        "GPU memory": ("gpu_memory_used_bytes", "gpu_memory_total_bytes"),
        "GPU power": ("gpu_power_watts", "gpu_power_limit_watts"),
        "GPU temperature": ("gpu_temperature_celsius", "gpu_memory_temperature_celsius"),
        "GPU clocks": ("gpu_sm_clock_hertz", "gpu_memory_clock_hertz"),
    }
    panels = []
    for name, (first, second) in pairs.items():
        panel = together(name, (catalog.metrics[first], catalog.metrics[second]), gpu_line)
        panels.append(panel.override_by_query(second, DASHED))
    return [utilisation, panels[:2], panels[2:]]


def _processes(catalog: Catalog) -> list[list[timeseries.Panel]]:
    shown = {
        "CPUs in use, and limit": ("run_cgroup_cpu_limit_cpus", "run_process_cpu_seconds"),
        "Memory of processes and container": _MEMORY,
        "Storage traffic": ("run_process_read_bytes", "run_process_written_bytes"),
        "Processes, threads, open files": ("run_processes", "run_process_threads", "run_process_open_fds"),
        "Processes killed for want of memory, per second": ("run_cgroup_oom_kills",),
    }
    panels = [
        together(title, [catalog.metrics[name] for name in names], process_line) for title, names in shown.items()
    ]
    return [panels[:3], panels[3:]]


def _hosts(catalog: Catalog) -> list[list[timeseries.Panel]]:
    shown = {
        "CPU": ("host_cpu_utilization_ratio",),
        "Memory": ("host_memory_available_bytes", "host_memory_total_bytes", "host_swap_used_bytes"),
        "Load": ("host_load1", "host_load5", "host_load15", "host_cpus"),
        "Disk space": ("host_disk_free_bytes", "host_disk_size_bytes"),
        "Disk traffic": ("host_disk_read_bytes", "host_disk_written_bytes"),
        "Network traffic": ("host_network_received_bytes", "host_network_sent_bytes"),
        "Pressure": ("host_pressure_waiting_seconds", "host_pressure_stalled_seconds"),
    }
    panels = [
        together(title, [catalog.metrics[name] for name in names], instance_line) for title, names in shown.items()
    ]
    return [panels[:3], panels[3:6], panels[6:]]
