"""Whether the run makes progress, and whether the exporter sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.promtool import CRITICAL, INFO, WARNING, Case

__all__ = ["PROGRESS"]

STEPS, QUEUE = "training_steps_total", "performance_queue_depth"
RATIO, WAITED = "performance_data_wait_ratio", "performance_data_wait_duration_seconds_sum"
STALLED, CRASHED, FAILED, RUNNING = (
    f'run_status{{run_id="r", status="{status}"}}' for status in ("stalled", "crashed", "failed", "running")
)
LAST, START, END = (f"run_{event}_timestamp_seconds" for event in ("last_step", "start", "end"))
CHECK = 'run_check_status{run_id="r", check="nccl"}'
ERROR, INFORMATION = (
    f'run_event{{run_id="r", alert_type="{kind}", title="NCCL timeout"}}' for kind in ("error", "info")
)
HOST = 'run_info{host="h"}'
UP = 'up{instance="h:1", job="telemetry"}'
LOST = 'telemetry_lost_records_total{reason="disk_full"}'
REFUSED = 'telemetry_series_refused_total{reason="run"}'


def count(*rates: tuple[int, float]) -> list[float]:
    """A counter that grows by a number per value, for so many values."""
    values = [0.0]
    for length, rate in rates:
        values += [values[-1] + rate * (number + 1) for number in range(length)]
    return values


def increases(series: str, severity: str) -> list[Case]:
    """A counter that is 0 in a healthy run and fires when it grows."""
    return [
        Case("it grows", {series: [0] * 300 + [1] * 600}, {1495: "", 1500: severity, 2390: severity, 2415: ""}),
        Case("it does not", {series: "7+0x300"}, {1000: "", 1400: ""}),
        Case("a run that ended", {series: "0+1x100", RUNNING: "0+0x100"}, {300: ""}),
    ]


def appears(series: str, severity: str) -> list[Case]:
    """A counter that begins with its first increase."""
    return [
        *increases(series, severity),
        Case(
            "it begins with its first increase", {series: [None] * 60 + [3] * 600}, {295: "", 300: severity, 1215: ""}
        ),
        Case("it begins again after a restart", {series: [3] * 200 + [None] * 40 + [3] * 60}, {1200: "", 1400: ""}),
    ]


def many(series: str) -> list[Case]:
    """A counter of which a few are worth a look, and many a warning."""
    return [
        Case("a few", {series: [0] * 60 + [2] * 100}, {295: "", 300: INFO, 700: INFO}),
        Case("many", {series: [0] * 60 + [50] * 100}, {295: "", 300: WARNING, 700: WARNING}),
        Case("none any more", {series: "50+0x300"}, {300: "", 1200: ""}),
    ]


PROGRESS: Mapping[str, Sequence[Case]] = {
    "ThroughputDropped": [
        Case(
            "less than half of the hour before",
            {STEPS: count((140, 30), (30, 10))},
            {8400: "", 9000: WARNING, 9300: WARNING},
            60,
        ),
        Case(
            "it does not end because the hour before follows",
            {STEPS: count((140, 30), (170, 9))},
            {8400: "", 9000: WARNING, **dict.fromkeys(range(9300, 15_600, 300), WARNING)},
            60,
        ),
        Case(
            "it ends when the run is as fast as before",
            {STEPS: count((140, 30), (60, 9), (100, 30))},
            {9000: WARNING, 11_700: WARNING, **dict.fromkeys(range(12_660, 17_900, 300), "")},
            60,
        ),
        Case("less than four fifths", {STEPS: count((140, 30), (30, 22))}, {8400: "", 9000: INFO, 9300: INFO}, 60),
        Case("nine tenths are usual", {STEPS: count((140, 30), (30, 27))}, {8400: "", 9300: ""}, 60),
        Case(
            "a counter that began again is no drop",
            {STEPS: [*count((140, 30)), *count((30, 30))]},
            {8460: "", 9300: ""},
            60,
        ),
        Case(
            "a run that was resumed is not compared with the attempt before",
            {STEPS: count((140, 30), (30, 10)), "run_attempts": "1+0x139 2+0x100"},
            {9300: ""},
            60,
        ),
        Case("a run with few steps is too uneven", {STEPS: count((140, 0.2), (30, 0.02))}, {9300: ""}, 60),
        Case("a young run", {STEPS: count((12, 30), (20, 25))}, {1320: "", 1800: ""}, 60),
    ],
    "QueueGrowing": [
        Case("more than doubled", {QUEUE: [20] * 200 + [60] * 60}, {5970: "", 6240: WARNING, 6600: WARNING}, 30),
        Case("a short queue may double", {QUEUE: [2] * 200 + [9] * 60}, {6240: "", 6600: ""}, 30),
        Case("a long queue that stays", {QUEUE: [400] * 260}, {6240: "", 7500: ""}, 30),
        Case("a run that has only begun fills its queue", {QUEUE: [20] * 20 + [60] * 20}, {900: "", 1170: ""}, 30),
    ],
    "DataWaitHigh": [
        Case("a tenth of the time", {RATIO: "0.2+0x60"}, {60: INFO, 295: INFO}),
        Case("half of it", {RATIO: "0.6+0x60"}, {60: WARNING, 295: WARNING}),
        Case("less than a tenth", {RATIO: "0.1+0x60"}, {60: "", 295: ""}),
    ],
    "DataWaitTimeHigh": [
        Case("a tenth of the time", {WAITED: count((200, 1))}, {900: INFO}),
        Case("half of it", {WAITED: count((200, 3))}, {900: WARNING}),
        Case("less than a tenth", {WAITED: count((200, 0.4))}, {900: ""}),
        Case(
            "rank 0 of several",
            {'performance_data_wait_duration_seconds_sum{rank="0", run_id="r"}': count((200, 3))},
            {900: WARNING},
        ),
    ],
    "RunStalled": [
        Case(
            "the exporter says stalled",
            {STALLED: "0+0x29 1+0x300", LAST: "0+0x400", HOST: "1+0x400"},
            {140: "", 150: WARNING, 600: WARNING, 605: CRITICAL, 1200: CRITICAL},
        ),
        Case("a run that steps", {STALLED: "0+0x300", LAST: "0+5x300"}, {600: "", 1200: ""}),
        Case(
            "a run that was resumed takes a quarter of an hour to load",
            {STALLED: "0+0x29 1+0x300", LAST: "0+0x400", "run_attempts": "1+0x10 2+0x400"},
            {600: "", 900: "", 1200: CRITICAL},
        ),
        Case(
            "a log without a process may just be over",
            {STALLED: "1+0x300", LAST: "0+0x300", "run_info": "1+0x300"},
            {600: "", 1200: ""},
        ),
        Case(
            "a process of some host",
            {STALLED: "1+0x300", LAST: "0+0x300", 'run_info{host="h"}': "1+0x300"},
            {600: WARNING, 1200: CRITICAL},
        ),
        Case("a run that crashed", {STALLED: "1+0x300", LAST: "0+0x300", RUNNING: "0+0x300"}, {600: "", 1200: ""}),
    ],
    "RunSilent": [
        Case("a log without a process", {STALLED: "1+0x300", LAST: "0+0x300", "run_info": "1+0x300"}, {600: INFO}),
        Case(
            "a run with a process has another rule",
            {STALLED: "1+0x300", LAST: "0+0x300", 'run_info{host="h"}': "1+0x300"},
            {600: "", 1200: ""},
        ),
    ],
    "RunWithoutSteps": [
        Case("half an hour after its start", {START: "0+0x40"}, {1800: "", 1860: WARNING}, 60),
        Case("a run that has made a step", {START: "0+0x40", LAST: "9+0x40"}, {1860: "", 2100: ""}, 60),
    ],
    "RunCrashed": [
        Case(
            "it was running, and is told for an hour",
            {RUNNING: "1+0x9 0+0x100", CRASHED: "0+0x9 1+0x100", HOST: "1+0x200"},
            {540: "", 600: CRITICAL, 4080: CRITICAL, 4200: ""},
            60,
        ),
        Case(
            "a run that crashed before this server looked",
            {RUNNING: "0+0x100", CRASHED: "1+0x100"},
            {600: "", 4080: ""},
            60,
        ),
        Case(
            "with its host, whose exporter was away for longer than an hour",
            {
                RUNNING: "1+0x30 _x70 0+0x100",
                CRASHED: "0+0x30 _x70 1+0x100",
                LAST: "0+60x30 _x70 1800+0x100",
                START: "0+0x30 _x70 0+0x100",
            },
            {1800: "", 5940: "", 6060: CRITICAL, 9480: CRITICAL, 9780: ""},
            60,
        ),
        Case(
            "between two scrapes, without a step",
            {CRASHED: "_x5 1+0x100", RUNNING: "_x5 0+0x100", START: "_x5 270+0x100"},
            {300: CRITICAL, 3600: CRITICAL, 3960: ""},
            60,
        ),
        Case(
            "a run of last week that is imported",
            {
                CRASHED: "_x1500 1+0x100",
                RUNNING: "_x1500 0+0x100",
                LAST: "_x1500 1800+0x100",
                START: "_x1500 0+0x100",
            },
            {90_000: "", 93_600: ""},
            60,
        ),
        Case(
            "again after it was resumed within the hour",
            {RUNNING: "1+0x9 0+0x9 1+0x30 0+0x60", CRASHED: "0+0x9 1+0x9 0+0x30 1+0x60"},
            {660: CRITICAL, 1500: "", 3060: CRITICAL, 4500: CRITICAL},
            60,
        ),
        Case(
            "a run that finished",
            {
                RUNNING: "1+0x9 0+0x100",
                CRASHED: "0+0x100",
                'run_status{run_id="r", status="finished"}': "0+0x9 1+0x100",
            },
            {600: "", 900: ""},
            60,
        ),
        Case(
            "until it is resumed",
            {RUNNING: "1+0x9 0+0x9 1+0x100", CRASHED: "0+0x9 1+0x9 0+0x100"},
            {660: CRITICAL, 1200: "", 1500: ""},
            60,
        ),
    ],
    "RunFailed": [
        Case(
            "it was running, and is told for an hour",
            {RUNNING: "1+0x9 0+0x100", FAILED: "0+0x9 1+0x100", HOST: "1+0x200"},
            {540: "", 600: WARNING, 4080: WARNING, 4200: ""},
            60,
        ),
        Case(
            "between two scrapes",
            {FAILED: "_x5 1+0x100", RUNNING: "_x5 0+0x100", END: "_x5 290+0x100"},
            {300: WARNING, 3600: WARNING, 3960: ""},
            60,
        ),
        Case(
            "a run of last week that is imported",
            {FAILED: "_x1500 1+0x100", RUNNING: "_x1500 0+0x100", END: "_x1500 1800+0x100"},
            {90_000: "", 93_600: ""},
            60,
        ),
        Case("a run that finished", {RUNNING: "1+0x9 0+0x100", FAILED: "0+0x100"}, {600: "", 900: ""}, 60),
    ],
    "CheckCritical": [
        Case(
            "while it is critical",
            {CHECK: [0] * 10 + [2] * 10 + [0] * 10},
            {45: "", 50: CRITICAL, 95: CRITICAL, 100: ""},
        ),
        Case(
            "at the end of a run for a quarter of an hour",
            {CHECK: [None] * 10 + [2] * 20, RUNNING: "1+0x9 0+0x20", END: [None] * 10 + [600] * 20},
            {540: "", 600: CRITICAL, 1380: CRITICAL, 1560: ""},
            60,
        ),
        Case(
            "of a run that no scrape saw running",
            {CHECK: [None] * 10 + [2] * 20, RUNNING: "_x10 0+0x20", END: [None] * 10 + [590] * 20},
            {540: "", 600: CRITICAL, 1380: CRITICAL, 1560: ""},
            60,
        ),
        Case(
            "unless the script says OK before the end",
            {CHECK: [0] * 5 + [2] * 3 + [0] * 20, RUNNING: "1+0x9 0+0x20", END: [None] * 10 + [600] * 20},
            {300: CRITICAL, 480: "", 600: "", 900: ""},
            60,
        ),
        Case("a warning", {CHECK: "1+0x100"}, {300: ""}),
        Case("an unknown status", {CHECK: "3+0x100"}, {300: ""}),
        Case("a run that ended", {CHECK: "2+0x100", RUNNING: "0+0x100"}, {300: ""}),
    ],
    "ErrorEvent": [
        Case(
            "an error, for a quarter of an hour",
            {ERROR: [None] * 10 + [1] + [None] * 300},
            {45: "", 50: WARNING, 900: WARNING, 960: ""},
        ),
        Case("an error just before the end", {ERROR: "1 _x100", RUNNING: "1 0+0x100"}, {60: WARNING}),
        Case("something worth a mark", {INFORMATION: "1+0x10"}, {10: "", 300: ""}),
    ],
    "TelemetryLosingData": appears(LOST, WARNING),
    "TelemetrySeriesRefused": appears(REFUSED, WARNING),
    "TelemetryBadLines": many("telemetry_bad_lines_total"),
    "TelemetryBadLogLines": many("telemetry_log_bad_lines_total"),
    "TelemetryKeysCollide": [
        Case("two keys for one series", {"telemetry_key_collisions_total": [0] * 60 + [1] * 100}, {295: "", 300: INFO}),
        Case("none", {"telemetry_key_collisions_total": "0+0x200"}, {300: "", 900: ""}),
    ],
    "TelemetryReadErrors": [
        Case(
            "a journal cannot be read",
            {'telemetry_read_errors_total{instance="h:1"}': [0] * 60 + [1] * 100},
            {295: "", 300: WARNING},
        ),
        Case(
            "an exporter that was restarted counts from 0",
            {'telemetry_read_errors_total{instance="h:1"}': "9+0x20 0+0x90"},
            {90: "", 300: ""},
        ),
    ],
    "TelemetryExporterDown": [
        Case("a minute without an answer", {UP: "1+0x9 0+0x100"}, {45: "", 105: "", 110: CRITICAL, 400: CRITICAL}),
        Case("one scrape that failed", {UP: "1+0x9 0 1+0x100"}, {50: "", 120: ""}),
        Case("other jobs are others' business", {'up{instance="h:1", job="node"}': "0+0x100"}, {120: "", 400: ""}),
        Case("a target that is gone", {UP: "0+0x9 stale"}, {120: ""}),
    ],
    "TelemetryScraperAbsent": [
        Case(
            "it came and does not come any more",
            {'telemetry_scrapes_total{instance="h:1", scraper="other"}': [*range(400), *[399] * 200]},
            {1995: "", 2280: "", 2310: WARNING, 2900: WARNING},
        ),
        Case(
            "that came once a minute",
            {'telemetry_scrapes_total{instance="h:1", scraper="other"}': [*range(121), *[120] * 60]},
            {7200: "", 7380: "", 7620: WARNING, 9000: WARNING},
            60,
        ),
        Case("it comes", {'telemetry_scrapes_total{instance="h:1", scraper="other"}': "0+1x600"}, {1995: "", 2900: ""}),
        Case(
            "somebody looked once",
            {'telemetry_scrapes_total{instance="h:1", scraper="curl"}': [0, 1, *[1] * 200]},
            {900: ""},
        ),
    ],
}
