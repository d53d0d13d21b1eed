"""One rank among many: the one that holds up the others, and the one for which the others wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.promtool import INFO, WARNING, Case

__all__ = ["RANKS"]

RUN = 'run_id="r"'
_PHASE_SUM = "performance_phase_duration_seconds_sum"


def spent(phase: str, *shares: float, name: str = _PHASE_SUM) -> dict[str, str]:
    """Ranks that spend these shares of the time in a phase, told every 5 s for 20 minutes."""
    named = f', phase="{phase}"' if phase else ""
    return {f'{name}{{rank="{rank}", run_id="r"{named}}}': f"0+{5 * share:g}x240" for rank, share in enumerate(shares)}


def of_rank(rank: int, name: str, *labels: str) -> str:
    """A series of a rank, of which rank 0 speaks for the run and is not named."""
    ranked = [f'rank="{rank}"'] if rank else []
    return f"{name}{{{', '.join([*labels, *ranked])}, {RUN}}}" if labels or ranked else f"{name}{{{RUN}}}"


def standing(phases: Sequence[str], steps: Sequence[int], stalled: Sequence[int]) -> dict[str, str]:
    """Ranks that made their last step, and began their last phase, at second 0; some stall from second 120 on."""
    series = {}
    for rank, (phase, step) in enumerate(zip(phases, steps, strict=True)):
        series |= {
            of_rank(rank, "run_status", 'status="running"'): "1+0x100",
            of_rank(rank, "run_status", 'status="stalled"'): "0+0x11 1+0x88" if rank in stalled else "0+0x100",
            of_rank(rank, "run_last_step_timestamp_seconds"): "0+0x100" if rank in stalled else "0+10x100",
            of_rank(rank, "training_step"): f"{step} stale",
        }
        if phase:
            began = f'run_phase_start_timestamp_seconds{{phase="{phase}", rank="{rank}", run_id="r"}}'
            series[began] = "0+0x100" if rank in stalled else "0+10x100"
    return series


RANKS: Mapping[str, Sequence[Case]] = {
    "RankStraggling": [
        Case(
            "one of four waits for its data half of the time",
            {
                **spent("data", 0.1, 0.1, 0.6, 0.1),
                **spent("forward", 0.4, 0.4, 0.4, 0.4),
                of_rank(2, "run_info", 'host="node7"'): "1+0x240",
                of_rank(2, "run_gpu_info", 'gpu="3"', 'uuid="GPU-3"'): "1+0x240",
            },
            {60: "", 90: INFO, 600: WARNING, 1195: WARNING},
        ),
        Case("a tenth of the time is lost", spent("forward", 0.3, 0.4, 0.3, 0.3), {600: INFO, 1195: INFO}),
        Case(
            "data waits that are timed as an operation",
            spent("", 0.1, 0.1, 0.6, name="performance_data_wait_duration_seconds_sum"),
            {600: WARNING},
        ),
        Case("less than a quarter above the others", spent("forward", 0.6, 0.5, 0.5, 0.5), {600: "", 1195: ""}),
        Case("many times nothing is next to nothing", spent("data", 0.04, 0.001, 0.001), {600: "", 1195: ""}),
        Case("the others wait for it", spent("backward", 0.5, 0.5, 0.0, 0.5), {600: "", 1195: ""}),
        Case("a phase in which ranks wait for each other", spent("sync", 0.5, 0, 0, 0), {600: "", 1195: ""}),
        Case("rank 0 saves for all", spent("checkpoint", 0.3, 0, 0, 0), {600: "", 1195: ""}),
        Case("rank 0 evaluates for all", spent("evaluation", 0.3, 0, 0, 0), {600: "", 1195: ""}),
        Case("of two neither is usual", spent("data", 0.6, 0.1), {600: "", 1195: ""}),
        Case(
            "a run that ended",
            {**spent("data", 0.1, 0.1, 0.6), 'run_status{run_id="r", status="running"}': "1+0x10 0+0x300"},
            {600: "", 1195: ""},
        ),
    ],
    "RankHanging": [
        Case(
            "the others wait for the one that is elsewhere",
            {
                **standing(["data", "sync", "sync", "sync"], [7, 7, 7, 7], [0, 1, 2, 3]),
                of_rank(0, "run_info", 'host="node7"'): "1+0x100",
            },
            {120: "", 140: "", 170: WARNING, 600: WARNING},
            10,
        ),
        Case("any rank", standing(["sync", "sync", "data"], [7, 7, 7], [0, 1, 2]), {120: "", 170: WARNING}, 10),
        Case(
            "one is stopped, and nobody waits for it",
            standing(["data", "data", "data", "data"], [7, 9, 9, 9], [0]),
            {170: WARNING},
            10,
        ),
        Case(
            "all are in one phase, and one is a step behind",
            standing(["sync", "sync", "sync"], [7, 7, 6], [0, 1, 2]),
            {170: WARNING},
            10,
        ),
        Case("no phases, and one is a step behind", standing(["", "", ""], [7, 6, 7], [0, 1, 2]), {170: WARNING}, 10),
        Case("all are in one phase", standing(["sync"] * 4, [7] * 4, [0, 1, 2, 3]), {170: "", 600: ""}, 10),
        Case("of two ranks neither", standing(["sync", "data"], [7, 7], [0, 1]), {170: "", 600: ""}, 10),
        Case("a run of one process", standing(["data"], [7], [0]), {170: "", 600: ""}, 10),
        Case("ranks that step", standing(["data", "sync", "sync"], [7, 7, 7], []), {170: "", 600: ""}, 10),
    ],
}
