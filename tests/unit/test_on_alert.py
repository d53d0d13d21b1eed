"""``start_run(on_alert=)``: when a script is called back, with what, and that this cannot break the training."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import ConfigError, Run, RunAlert, start_run
from exporter.integrations.base import TrainerRun
from tests.support.journals import CATALOG
from tests.support.promtool import CRITICAL, WARNING

KL, VARIANCE, LOSS = "train/approx_kl", "train/explained_variance", "train/loss"
VALUE_LOSS = "train/value_loss"
WARM_UP = 50
Start = Callable[..., Run]
Alerts = list[RunAlert]


def alerts_of(start: Start, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Alerts:
    """What a script is told that logs these rows."""
    alerts: Alerts = []
    run = start(on_alert=alerts.append, **settings)
    for row in rows:
        run.log(row)
    return alerts


def column(key: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of one metric."""
    return [{key: value} for value in values]


def told(alerts: Alerts) -> list[tuple[str, int]]:
    """Severity and step."""
    return [(alert.severity, alert.step) for alert in alerts]


@pytest.mark.parametrize(
    ("value", "severity"),
    [(0.049, ""), (0.05, ""), (0.0501, WARNING), (0.1, WARNING), (0.1001, CRITICAL), (-0.07, WARNING), (-3, CRITICAL)],
)
def test_the_bounds_are_the_catalogs(start: Start, value: float, severity: str) -> None:
    """A KL that stays at a value begins the severity of its band at its first step, once."""
    assert told(alerts_of(start, column(KL, [value] * 30))) == ([(severity, 0)] if severity else [])


def test_an_alert_says_what_there_is_to_know(start: Start) -> None:
    """The callback gets the rule with its texts, the series, and the value and the step at which it began."""
    rows = [{"loss": 1.0, KL: kl} for kl in (0.01, 0.01, 0.3, 0.4)]
    (alert,) = alerts_of(start, rows)
    (rule,) = (one for one in CATALOG.alerts if (one.name, one.severity) == ("KLDivergenceHigh", CRITICAL))
    assert alert == RunAlert(
        rule="KLDivergenceHigh",
        severity=CRITICAL,
        metric="rl_kl_divergence",
        labels={"kind": "update"},
        value=0.4,
        bound=0.1,
        step=3,
        meaning=" ".join(rule.meaning.split()),
        action=" ".join(rule.action.split()),
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        alert.step = 0  # type: ignore[misc]


def test_one_bad_update_among_good_ones_is_told_nobody(start: Start) -> None:
    """Of three successive updates two must be bad."""
    assert alerts_of(start, column(KL, [0.01, 0.01, 9.0, 0.01, 0.01, 9.0, 0.01, 0.01])) == []
    assert told(alerts_of(start, column(KL, [0.01, 0.01, 9.0, 0.01, 9.0]), run_id="r2")) == [(CRITICAL, 4)]


@pytest.mark.parametrize("bad", [0.2, -0.2])
def test_a_long_calm_hides_nothing(start: Start, bad: float) -> None:
    """After many good updates two bad ones of either sign begin the alert as ever."""
    assert told(alerts_of(start, column(KL, [0.01] * 50 + [bad] * 2))) == [(CRITICAL, 51)]


def test_it_is_told_once_and_again_only_after_it_ended(start: Start) -> None:
    """An alert ends with three good updates in a row, not with two, and can begin anew after that."""
    bad, good = [0.2] * 3, [0.01]
    assert told(alerts_of(start, column(KL, [*bad, *good * 2, *bad]))) == [(CRITICAL, 0)]
    assert told(alerts_of(start, column(KL, [*bad, *good * 3, *bad]), run_id="r2")) == [(CRITICAL, 0), (CRITICAL, 7)]


def test_what_becomes_worse_is_told_and_what_becomes_better_is_not(start: Start) -> None:
    """A warning that becomes critical is told as critical; the way back is told nobody."""
    values = [0.07] * 5 + [0.2] * 5 + [0.07] * 5
    assert told(alerts_of(start, column(KL, values))) == [(WARNING, 0), (CRITICAL, 6)]


def test_nan_is_told_at_once_and_is_beyond_no_other_bound(start: Start) -> None:
    """A loss that is NaN or infinite begins its alert at once; three finite ones end it."""
    values = [1.0, 1.0, math.nan, math.inf, 1.0, 1.0, math.nan, 1.0, 1.0, 1.0, -math.inf]
    alerts = alerts_of(start, [{LOSS: value, VARIANCE: math.nan} for value in values])
    assert [(alert.rule, alert.metric, alert.severity, alert.step) for alert in alerts] == [
        ("TrainingNonFinite", "training_loss", CRITICAL, 2),
        ("TrainingNonFinite", "training_loss", CRITICAL, 10),
    ]
    assert math.isnan(alerts[0].value)


def test_the_warm_up_counts_logged_steps(start: Start) -> None:
    """A poor value function is told by the first three steps after the warm-up, whatever steps are called."""
    alerts: Alerts = []
    run = start(on_alert=alerts.append)
    for number in range(2 * WARM_UP):
        run.log({VARIANCE: -1.0}, step=1000 + 10 * number)
    assert told(alerts) == [(CRITICAL, 1000 + 10 * (WARM_UP + 1))]


def test_a_value_function_is_not_blamed_where_returns_no_longer_vary(start: Start) -> None:
    """While the value loss is below 3 % of its highest a poor explained variance is told nobody; above it is."""
    variance = [0.9] * (WARM_UP + 9) + [-1.0] * 9
    for loss, expected in ((2.0, []), (4.0, [(CRITICAL, WARM_UP + 10)])):
        rows = [{VARIANCE: value, VALUE_LOSS: 100.0 if step < 9 else loss} for step, value in enumerate(variance)]
        assert told(alerts_of(start, rows, run_id=f"loss-{loss}")) == expected


def test_an_early_spike_of_the_value_loss_excuses_no_bad_value_function(start: Start) -> None:
    """One that never explained anything is told after the warm-up, however high the value loss once was."""
    rows = [{VARIANCE: -0.5, VALUE_LOSS: 1000.0 if step < 9 else 20.0} for step in range(2 * WARM_UP)]
    assert told(alerts_of(start, rows)) == [(CRITICAL, WARM_UP + 1)]


def test_what_is_long_ago_excuses_nothing(start: Start) -> None:
    """Some thousand updates later a value loss of old does not count any more, nor a good explained variance."""
    rows = [{VARIANCE: 0.9, VALUE_LOSS: 1000.0}] * 9 + [{VARIANCE: 0.9, VALUE_LOSS: 5.0}] * 2000
    rows += [{VARIANCE: -1.0, VALUE_LOSS: 20.0}] * 9
    assert told(alerts_of(start, rows)) == [(CRITICAL, 2010)]


def test_the_end_of_the_warm_up_accuses_no_good_update(start: Start) -> None:
    """A rule that begins to apply while the last update is good waits for a bad one, also after a long calm."""
    values = [0.9] * (WARM_UP - 3) + [-1.0, -1.0, 0.9, 0.9, 0.9] + [0.9] * 20 + [-1.0, -1.0]
    assert told(alerts_of(start, column(VARIANCE, values))) == [(CRITICAL, len(values) - 1)]


def test_the_scale_of_a_trainer_is_applied(start: Start) -> None:
    """A share in percent is judged as a share: of 60 % data wait the value is 0.6, and 9 % are below the bound 0.1."""
    alerts = alerts_of(start, column("time_metrics/data_loading(%)", [9.0] * 5 + [60.0] * 3))
    assert [(alert.metric, alert.severity, alert.step) for alert in alerts] == [
        ("performance_data_wait_ratio", WARNING, 6)
    ]
    assert alerts[0].value == pytest.approx(0.6)


def test_the_first_key_of_a_series_has_it(start: Start) -> None:
    """Two keys with one meaning are one series, as on the pages: that of the key that came first."""
    assert alerts_of(start, [{"rl/approx_kl": 0.01, KL: 0.2}] * 5) == []


class Scalar:
    """A number as numpy and torch have them."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        """The number."""
        return self.value


@pytest.mark.parametrize("kind", [float, Scalar, str], ids=["float", "scalar", "text"])
def test_every_number_that_log_takes_is_judged(start: Start, kind: Callable[[float], Any]) -> None:
    """A scalar of another library counts as its number; a text is none."""
    expected = [] if kind is str else [(CRITICAL, 0)]
    assert told(alerts_of(start, column(KL, [kind(0.2)] * 3))) == expected
    assert told(alerts_of(start, column(KL, [2, 2, True, None]), run_id="r2")) == [(CRITICAL, 0)]


def test_calling_the_run_is_logging(start: Start) -> None:
    """``run(metrics)`` is judged like ``run.log(metrics)``."""
    alerts: Alerts = []
    start(on_alert=alerts.append)({KL: 0.2}, step=7)
    assert told(alerts) == [(CRITICAL, 7)]


def test_it_is_called_after_the_step_is_stored_in_the_thread_that_logs(start: Start, lines: Any) -> None:
    """When the script is told, the step is in the journal already, and nothing else has run in between."""
    seen: list[tuple[int, int]] = []

    def look(alert: RunAlert) -> None:
        seen.append((threading.get_ident(), lines(run.path)[-1]["step"]))

    run = start(on_alert=look)
    run.log({KL: 0.2}, step=3)
    assert seen == [(threading.get_ident(), 3)]


# ------------------------------------------------------------------ stopping, and what goes wrong


def test_a_script_stops_itself_by_a_flag(start: Start) -> None:
    """The loop looks at what the callback noted, and ends with the step that was bad."""
    critical: Alerts = []
    with start(on_alert=lambda alert: critical.append(alert) if alert.severity == CRITICAL else None) as run:
        for step in range(100):
            run.log({KL: 0.01 if step < 40 else 0.5}, step=step)
            if critical:
                break
    assert step == 41


def test_a_script_stops_itself_by_exit(start: Start, lines: Any) -> None:
    """sys.exit in the callback comes through, and the run has failed for that reason."""
    with pytest.raises(SystemExit, match="KLDivergenceHigh"), start(on_alert=lambda one: sys.exit(one.rule)) as run:
        run.log({KL: 0.5})
    assert lines(run.path)[-1]["status"] == "failed"
    assert "KLDivergenceHigh" in lines(run.path)[-1]["reason"]


def test_an_exception_of_the_callback_is_said_once(
    start: Start, lines: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on, every step is stored, later alerts are told, and stderr has one line."""
    called: Alerts = []

    def broken(alert: RunAlert) -> None:
        called.append(alert)
        raise ValueError("no such pager")

    run = start(on_alert=broken)
    for value in [0.2] * 3 + [0.01] * 3 + [0.2] * 3:
        run.log({KL: value})
    assert len(called) == 2
    assert [one["metrics"][KL] for one in lines(run.path) if one["_type"] == "step"] == [0.2] * 3 + [0.01] * 3 + [
        0.2
    ] * 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "on_alert raised ValueError('no such pager')" in errors[0]


def test_what_cannot_be_logged_cannot_break_it(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls that log nothing raise nothing, and what comes after them is judged."""
    alerts: Alerts = []
    run = start(on_alert=alerts.append)
    for nonsense in (None, 3, [], {KL: object()}, {KL: [1, 2]}, {3: 0.2}):
        run.log(nonsense)  # type: ignore[arg-type]
    run.log({KL: 0.2}, step=9)
    assert told(alerts) == [(CRITICAL, 9)]
    assert capsys.readouterr().err.count("on_alert") <= 1


class Metric:
    """A key as an enumeration of metrics would be."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


def test_a_key_that_is_no_text_is_judged_as_what_it_is_stored(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a number as key the others of the call are judged, and a key that is a metric's name when written is."""
    assert told(alerts_of(start, [{1: 2.0, KL: 0.2}] * 3)) == [(CRITICAL, 0)]
    metric = Metric(KL)
    rows: list[Any] = [{metric: kl} for kl in (0.01, 0.2, 0.2)]
    assert told(alerts_of(start, rows, run_id="r2")) == [(CRITICAL, 1)]
    assert "on_alert" not in capsys.readouterr().err


def test_a_finished_run_tells_nothing(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """What is logged after the end is neither stored nor judged."""
    alerts: Alerts = []
    run = start(on_alert=alerts.append)
    run.finish()
    run.log({KL: 0.2})
    assert alerts == []
    assert "is finished" in capsys.readouterr().err


def test_a_rank_that_does_not_log_is_not_watched(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 speaks for the run: the others are told nothing."""
    monkeypatch.setenv("RANK", "1")
    assert alerts_of(start, column(KL, [0.2] * 3)) == []


def test_what_cannot_be_called_is_refused(tmp_path: Path) -> None:
    """A callback that is none is an error at the start, before anything is written."""
    with pytest.raises(ConfigError, match="on_alert='print'"):
        start_run("r1", directory=tmp_path, on_alert="print")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_callbacks_of_trainers_take_it(tmp_path: Path) -> None:
    """Where a trainer's callback starts the run, on_alert is one of the settings that it passes on."""
    alerts: Alerts = []
    trainer = TrainerRun(None, {"run_id": "r1", "directory": tmp_path, "on_alert": alerts.append})
    trainer.open("sb3").log({KL: 0.2}, step=4)
    trainer.end()
    assert told(alerts) == [(CRITICAL, 4)]


# ------------------------------------------------------------------ laws, and what it costs


@given(st.lists(st.sampled_from([0.01, 0.05, 0.07, 0.1, 0.2, -0.2, math.nan]), max_size=60))
def test_nothing_is_told_that_is_not_beyond_its_bound(values: list[float]) -> None:
    """Each alert has a value beyond its bound, at the step at which it was logged, and none comes twice in a row."""
    alerts = _in_memory(column(KL, values))
    levels = [alert for alert in alerts if alert.rule == "KLDivergenceHigh"]
    assert all(abs(values[alert.step]) > alert.bound for alert in levels)
    for first, second in pairwise(levels):
        between = [value for value in values[first.step + 1 : second.step] if math.isfinite(value)]
        ended = any(all(abs(v) <= 0.05 for v in between[i : i + 3]) for i in range(len(between) - 2))
        assert ended or (first.severity, second.severity) == (WARNING, CRITICAL)


def expected(values: Sequence[float]) -> list[tuple[str, int]]:
    """By the definition, with all of the past at hand: which severities of the KL's rule begin when."""
    begun, told, finite = [], 0, []
    for step, value in enumerate(values):
        if not math.isfinite(value):
            continue
        finite.append((abs(value) > 0.05) + (abs(value) > 0.1))
        recent = finite[-3:]
        told = 0 if recent == [0, 0, 0] else told
        lasts = recent[-1] if len(recent) < 3 else max(n for n in (0, 1, 2) if sum(one >= n for one in recent) >= 2)
        if min(lasts, recent[-1]) > told:
            told = min(lasts, recent[-1])
            begun.append(((WARNING, CRITICAL)[told - 1], step))
    return begun


@given(st.lists(st.sampled_from([0.0, 0.01, -0.01, 0.01, 0.05, 0.07, -0.07, 0.2, -0.2, math.nan]), max_size=60))
def test_what_is_told_follows_from_the_definition(values: list[float]) -> None:
    """Whatever is logged, the alerts are those that the whole history of the metric defines."""
    alerts = [alert for alert in _in_memory(column(KL, values)) if alert.rule == "KLDivergenceHigh"]
    assert told(alerts) == expected(values)


@given(st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=40))
def test_healthy_values_are_told_nobody(values: list[float]) -> None:
    """However long a run goes on within the bounds, nothing is told."""
    assert _in_memory(column(KL, values)) == []


def _in_memory(rows: Sequence[Mapping[str, Any]]) -> Alerts:
    """What a run without a file tells."""
    from exporter.run.watched import _Watcher

    watcher = _Watcher(CATALOG)
    return [alert for step, row in enumerate(rows) for alert in watcher.add(row, step)]


SCRIPT = """
import json, sys, tempfile
from exporter import start_run
run = start_run("r1", directory=tempfile.mkdtemp(){})
run.log({{"train/loss": 1.0}})
run.finish()
print(json.dumps([type(run).__name__, sorted(sys.modules)]))
"""


def test_without_a_callback_nothing_is_loaded_and_nothing_is_in_the_way() -> None:
    """A run without a callback is a plain Run whose process never loads the catalog or YAML; one with it does."""

    def started(settings: str) -> tuple[str, set[str]]:
        command = [sys.executable, "-c", SCRIPT.format(settings)]
        name, modules = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return name, set(modules)

    plain, modules = started("")
    assert plain == "Run"
    assert not {"exporter.run.watched", "exporter.catalog", "yaml"} & modules
    watched, modules = started(", on_alert=print")
    assert watched == "WatchedRun"
    assert {"exporter.run.watched", "exporter.catalog"} <= modules
