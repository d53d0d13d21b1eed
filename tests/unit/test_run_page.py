"""The series of a run beside its steps: counters, histograms, status, summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.exposition import (
    STATUSES,
    Format,
    Page,
    RunState,
    add_latest,
    add_steps,
    counter_samples,
    gauge_samples,
)
from tests.support.journals import CATALOG, Journal, Scrape, judge

FORMATS = list(Format)
NAN = float("nan")


def latest(state: RunState, form: Format = Format.OPENMETRICS) -> Scrape:
    """The page of latest values."""
    page = Page(form)
    add_latest(page, state, CATALOG)
    return judge(page.render(), form)


def counters(state: RunState, time_ms: int | None = None, *, zeros_after_ms: float = float("inf")) -> Scrape:
    """The page of counters and histograms."""
    page = Page(Format.OPENMETRICS)
    page.add(counter_samples(state, CATALOG, time_ms, zeros_after_ms))
    return judge(page.render(), Format.OPENMETRICS)


def gauges(state: RunState, statuses: set[str], form: Format = Format.OPENMETRICS) -> Scrape:
    """The page of what the run is."""
    page = Page(form)
    page.add(gauge_samples(state, CATALOG, statuses))
    return judge(page.render(), form)


# ------------------------------------------------------------------ latest values


@pytest.mark.parametrize("form", FORMATS)
def test_latest_values_are_in_canonical_units_and_have_no_time(tmp_path: Path, form: Format) -> None:
    """The plain page shows each series' last value as Prometheus would scrape it from any other program."""
    journal = Journal(tmp_path).start(user_id="u")
    journal.log(1, {"train/loss": 1, "train/entropy_loss": -2.0, "flag": True}, epoch=0.5).log(2, {"train/loss": NAN})
    scrape = latest(journal.state(), form)
    assert scrape.points("rl_entropy", run_id="r1", user_id="u") == [(None, 2)]
    assert scrape.points("custom_flag") == [(None, 1)]
    assert str(scrape.value("training_loss")) == "nan"
    assert scrape.value("training_step") == 2
    assert scrape.points("training_epoch") == []


def test_the_latest_epoch_is_that_of_the_latest_step(tmp_path: Path) -> None:
    """A step that says its epoch shows it."""
    assert latest(Journal(tmp_path).start().step(1, epoch=0.25).state()).value("training_epoch") == 0.25


def test_a_run_without_a_step_has_no_latest_values(tmp_path: Path) -> None:
    """Before the first step there is nothing to show."""
    assert latest(Journal(tmp_path).start().state()).series == {}


# ------------------------------------------------------------------ counters


def test_counters_count_what_the_journal_holds(tmp_path: Path) -> None:
    """Steps, NaN, bad lines, unknown records, losses and refusals are the numbers of the journal, from 0 on."""
    journal = Journal(tmp_path).start()
    assert counters(journal.state()).value("training_steps_total") == 0
    journal.log(0, {"train/loss": NAN, "loss": 1}).log(1, {"train/loss": NAN}).log(2, {"a": 1})
    journal.raw(b"torn\n").other("what").other("lost", reason="disk_full", count=7)
    scrape = counters(journal.state())
    assert scrape.value("training_steps_total", run_id="r1") == 3
    assert scrape.value("training_nonfinite_total", metric="training_loss") == 2
    assert scrape.value("telemetry_bad_lines_total") == 1
    assert scrape.value("telemetry_unknown_records_total") == 1
    assert scrape.value("telemetry_lost_records_total", reason="disk_full") == 7
    assert scrape.value("telemetry_key_collisions_total") == 1
    assert scrape.label_sets("telemetry_series_refused_total") == []
    assert {time for points in scrape.series.values() for time, _ in points} == {None}


def test_refusals_for_want_of_room_are_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys beyond the run's budget show up under their reason, collisions apart from them."""
    monkeypatch.setattr("exporter.exposition.series.MAX_SERIES_PER_RUN", 1)
    scrape = counters(Journal(tmp_path).start().log(0, {"train/loss": 1, "loss": 1, "a": 1, "b": 1}).state())
    assert scrape.value("telemetry_series_refused_total", reason="run_budget") == 2
    assert scrape.value("telemetry_key_collisions_total") == 1


def test_counters_carry_the_time_they_are_given(tmp_path: Path) -> None:
    """On the page of every step all counters and histograms have the journal's time."""
    journal = Journal(tmp_path).start().log(0, {"train/loss": NAN}).other("timing", name="x", seconds=1.0)
    scrape = counters(journal.state(), 5000)
    assert {time for points in scrape.series.values() for time, _ in points} == {5000}
    assert scrape.value("performance_x_duration_seconds_count") == 1


def test_a_non_finite_counter_starts_with_a_zero_that_is_news(tmp_path: Path) -> None:
    """A counter that the scraper has not seen begins with 0 just before its first step, so that 1 is an increase."""
    journal = Journal(tmp_path).start().log(5, {"a": 1}).log(10, {"train/loss": NAN}).log(20, {"train/loss": NAN})
    state, (_, (first, _), (last, _)) = journal.state(), journal.expected_steps()
    points = counters(state, last, zeros_after_ms=first - 1).points("training_nonfinite_total")
    assert points == [(first - 1, 0), (last, 2)]
    assert counters(state, last, zeros_after_ms=first).points("training_nonfinite_total") == [(last, 2)]


def test_a_metric_that_is_a_number_counts_zero(tmp_path: Path) -> None:
    """Every metric of the catalog has its counter from its first value on, so that the first NaN is an increase."""
    journal = Journal(tmp_path).start().log(0, {"train/loss": 1.0}).log(9, {"train/loss": 2.0})
    state, ((first, _), (last, _)) = journal.state(), journal.expected_steps()
    points = counters(state, last, zeros_after_ms=0).points("training_nonfinite_total", metric="training_loss")
    assert points == [(first - 1, 0), (last, 0)]


# ------------------------------------------------------------------ gauges


@pytest.mark.parametrize("statuses", [{"running"}, {"running", "stalled"}, {"finished"}, {"failed"}, {"crashed"}])
@pytest.mark.parametrize("form", FORMATS)
def test_status_is_one_series_per_status(tmp_path: Path, form: Format, statuses: set[str]) -> None:
    """Every status is there, 1 for those that hold and 0 for the others, so that none lingers."""
    scrape = gauges(Journal(tmp_path).start().state(), statuses, form)
    assert {status: scrape.value("run_status", status=status) for status in STATUSES} == {
        status: float(status in statuses) for status in ("running", "stalled", "finished", "failed", "crashed")
    }


def test_info_is_what_the_start_says(tmp_path: Path) -> None:
    """Recipe, model, host, world size and version are labels of one series that is 1."""
    fields = {"recipe": "ppo", "base_model": "m", "framework": "trl", "host": "h", "world_size": 8, "version": "1.2"}
    scrape = gauges(Journal(tmp_path).start(**fields, tags={"team": "a"}).state(), set())
    labels = {**fields, "world_size": "8", "team": "a", "run_id": "r1"}
    assert scrape.label_sets("run_info") == [labels]
    assert scrape.value("run_info") == 1


def test_a_tag_does_not_hide_what_the_run_is(tmp_path: Path) -> None:
    """A tag called as a label of ours stands beside it under another name."""
    scrape = gauges(Journal(tmp_path).start(host="h", tags={"host": "other"}).state(), set())
    assert scrape.label_sets("run_info") == [{"run_id": "r1", "host": "h", "tag_host": "other", "world_size": "1"}]


def test_a_journal_without_a_start_has_no_info(tmp_path: Path) -> None:
    """What nobody said is not shown; such a run is its first attempt all the same."""
    scrape = gauges(Journal(tmp_path).step(0, a=1).state(), {"running"})
    assert scrape.label_sets("run_info") == []
    assert scrape.value("run_attempts") == 1


def config_of(folder: Path, config: object) -> dict[str, str]:
    """The configuration that is shown, by key."""
    sets = gauges(Journal(folder).start(config=config).state(), set()).label_sets("run_config_info")
    return {labels["key"]: labels.get("value", "") for labels in sets}


def test_configuration_is_flat(tmp_path: Path) -> None:
    """Nested keys are joined with dots, every value is its text."""
    config = {"lr": 0.1, "net": {"width": 64, "act": {"name": "relu"}}, "seeds": [1, 2], "none": None, "empty": ""}
    assert config_of(tmp_path, config) == {
        "lr": "0.1", "net.width": "64", "net.act.name": "relu", "seeds": "[1, 2]", "none": "None", "empty": ""
    }  # fmt: skip


def test_configuration_has_a_limit(tmp_path: Path) -> None:
    """At most 200 keys, in alphabetical order, and 200 characters of key and value are shown."""
    config = {f"k{number:03}": number for number in range(300)}
    assert config_of(tmp_path, config) == {f"k{number:03}": str(number) for number in range(200)}
    assert config_of(tmp_path / "2", {"k" * 300: "v" * 300}) == {"k" * 200: "v" * 200}


@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
def test_configuration_without_a_bottom_costs_no_page(tmp_path: Path, opening: str, closing: str) -> None:
    """A configuration nested a thousand times is not shown; the run is."""
    journal = Journal(tmp_path)
    config = f'{{"a":{opening * 1000}1{closing * 1000}}}'
    journal.raw(f'{{"_type":"run_start","time":{journal.begin},"run_id":"r1","config":{config}}}\n'.encode())
    scrape = gauges(journal.state(), {"running"})
    assert (scrape.label_sets("run_config_info"), scrape.value("run_info")) == ([], 1)


def test_a_value_that_is_configured_twice_is_shown_once(tmp_path: Path) -> None:
    """Two ways to write one key with one value are one series, not a page with a sample twice."""
    assert config_of(tmp_path, {"a": {"b": 1}, "a.b": 1}) == {"a.b": "1"}


def test_times_are_those_of_the_journal(tmp_path: Path) -> None:
    """Start, last step and end are shown in seconds, each once it has happened."""
    journal = Journal(tmp_path).start(1)
    names = ("run_start_timestamp_seconds", "run_last_step_timestamp_seconds", "run_end_timestamp_seconds")
    assert [gauges(journal.state(), set()).values(name) for name in names] == [[journal.begin + 1], [], []]
    journal.step(1, 2.0, a=1).end(3).start(4).step(2, 5.0, a=1).end(6)
    scrape = gauges(journal.state(), set())
    assert [scrape.value(name) for name in names] == [journal.begin + after for after in (1, 5, 6)]
    assert scrape.value("run_attempts") == 2


def test_a_summary_of_the_headline_metrics_stays(tmp_path: Path) -> None:
    """Last and best value and its step are shown for each headline metric, in canonical units."""
    journal = Journal(tmp_path).start()
    for number, (loss, reward) in enumerate([(3.0, 1.0), (1.0, 5.0), (2.0, NAN)]):
        journal.log(number, {"train/loss": loss, "rollout/ep_rew_mean": reward})
    scrape = gauges(journal.state(), {"finished"})
    loss, reward = {"metric": "training_loss"}, {"metric": "rl_reward_mean"}
    assert [scrape.value(f"run_{name}", **loss) for name in ("last_value", "best_value", "best_step")] == [2, 1, 1]
    assert [scrape.value(f"run_{name}", **reward) for name in ("best_value", "best_step")] == [5, 1]
    assert str(scrape.value("run_last_value", **reward)) == "nan"


# ------------------------------------------------------------------ together


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("order", [1, -1])
def test_a_name_that_is_a_gauge_here_and_a_histogram_there_spoils_no_page(
    tmp_path: Path, form: Format, order: int
) -> None:
    """One run times an operation that another logs as a metric of the same name: the page is still valid."""
    timed = Journal(tmp_path, "timed").start().step(0, a=1).other("timing", name="foo", seconds=1.0)
    logged = Journal(tmp_path, "logged").start().log(0, {"performance/foo_duration_seconds": 1.0})
    page = Page(form)
    for journal in [timed, logged][::order]:
        state = journal.state()
        add_steps(page, journal.chunk().records, state.series, CATALOG)
        page.add(counter_samples(state, CATALOG, state.latest_ms, 0))
    judge(page.render(), form)


def test_text_of_users_is_data(tmp_path: Path) -> None:
    """Quotes, line breaks, braces and other scripts in any text of a run come back as they were."""
    text = 'a"b\\n\n{x="1"} 5 # \U0001f600'
    state = Journal(tmp_path).start(user_id=text, recipe=text, config={text: text}).log(0, {text: 1.0}).state()
    for form in FORMATS:
        page = Page(form)
        add_latest(page, state, CATALOG)
        page.add(gauge_samples(state, CATALOG, {"running"}))
        scrape = judge(page.render(), form)
        assert scrape.label_sets("run_info")[0]["recipe"] == text
        assert scrape.label_sets("run_config_info")[0]["value"] == text
        assert scrape.label_sets("training_step")[0]["user_id"] == text
