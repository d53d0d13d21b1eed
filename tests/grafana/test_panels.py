"""What every panel is given to draw, by Grafana's own code: no error, nothing missing, the right kinds of fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from exporter.catalog import default_catalog
from tests.grafana import foreign_logs, trainer
from tests.grafana.bench import DASHBOARDS, NAMES, Answer, ask, job, panel
from tests.grafana.conftest import SELECTIONS, SMOOTHINGS
from tests.grafana.laboratory import DIVERGING, LONG, RESUMED, RUNS, STEADY, Laboratory

Answers = dict[tuple[str, str, str], Answer]

CATALOG = default_catalog()
HELPERS = {
    "training_step",
    "run_start_timestamp_seconds",
    "run_resume_step",
    "run_status",
    "run_gpu_info",
    "telemetry_build_info",
}
"""Metrics that a query uses beside the ones that it shows."""
MAY_BE_EMPTY = {"Configuration: what differs", "So far, by run"}
"""Tables of what only some runs have: nothing differs, nothing was lost."""


def every_panel(answers: Answers) -> Iterator[tuple[str, Answer, Answer]]:
    """Each panel of each answer, with a name for it."""
    for key, answer in answers.items():
        for each in answer["panels"]:
            yield f"{each['title']} in {' '.join(key)}", each, answer


def sources(name: str) -> dict[int, dict[str, Any]]:
    """The panels of a dashboard's file by their number, those of closed rows too."""
    board = json.loads((DASHBOARDS / f"{name}.json").read_text("utf-8"))
    return {each["id"]: each for outer in board["panels"] for each in [outer, *outer.get("panels", [])]}


def test_only_compare_depends_on_the_smoothing() -> None:
    """No other dashboard names the variable, so one smoothing stands for all there."""
    assert [name for name in NAMES if "${smoothing" in (DASHBOARDS / f"{name}.json").read_text("utf-8")] == ["compare"]


def test_no_query_fails(answers: Answers) -> None:
    """Prometheus answers every query of every panel and annotation, whatever is selected."""
    assert [(key, query) for key, answer in answers.items() for query in answer["queries"] if query["error"]] == []
    assert [name for name, each, _ in every_panel(answers) if each["state"] != "Done" or each["error"]] == []


def test_every_transformation_is_known(answers: Answers) -> None:
    """Grafana passes over a transformation that it does not know without a word; there is none."""
    assert [name for name, each, _ in every_panel(answers) if each["unknownTransformations"]] == []


def test_nothing_is_empty_where_there_is_data(answers: Answers, lab: Laboratory) -> None:
    """A panel has frames with values if any metric that it shows has samples of the selected runs."""
    for name, each, answer in every_panel(answers):
        values = [value for frame in each["frames"] for field in frame["fields"] for value in field["values"]]
        if each["title"] not in MAY_BE_EMPTY and not any(value is not None for value in values):
            assert stored_metrics(each, answer, lab) == set(), name


def stored_metrics(each: Answer, answer: Answer, lab: Laboratory) -> set[str]:
    """Those metrics of a panel that have samples of the selected runs, or of no run."""
    source = sources(answer["dashboard"].rpartition("/")[2].removesuffix(".json"))[each["id"]]
    text = " ".join(target["expr"] for target in source["targets"]).replace("${metric}", "training_loss")
    names = {metric.sample_name for metric in CATALOG.metrics.values()} | {"ALERTS"}
    shown = {name for name in names - HELPERS if re.search(rf"\b{name}(_bucket|_sum|_count)?\b", text)}
    selected = answer["variables"]["run"]["value"]
    runs = {"", *(RUNS if selected == ["$__all"] else selected)}
    return {name for name in shown if runs_with(name, lab) & runs}


def runs_with(name: str, lab: Laboratory) -> set[str]:
    """The runs that have samples of a metric in the time range; an empty name stands for samples of no run."""
    stored = f'last_over_time({{__name__=~"{name}(_bucket)?"}}[1h])'
    series = lab.prometheus.query(f"count by (run_id) ({stored})", time=lab.now)
    return {item["metric"].get("run_id", "") for item in series}


def test_fields_are_of_the_right_kind(answers: Answers) -> None:
    """A graph has a time or its number first and numbers behind it; only tables have texts."""
    for name, each, _ in every_panel(answers):
        for frame in each["frames"]:
            kinds = [field["type"] for field in frame["fields"]]
            if each["type"] == "table":
                assert set(kinds) <= {"string", "number"}, name
            else:
                assert kinds[0] == ("number" if each["type"] == "trend" else "time"), name
                assert set(kinds[1:]) == {"number"}, name
            for field in frame["fields"]:
                numbers = [value for value in field["values"] if value not in (None, "NaN", "Infinity", "-Infinity")]
                assert field["type"] == "string" or all(isinstance(value, int | float) for value in numbers), name


def test_units_are_those_of_the_file(answers: Answers) -> None:
    """Each value of a graph has the unit that its dashboard gives it, and the number it is drawn over has its own."""
    for name, each, answer in every_panel(answers):
        source = sources(answer["dashboard"].rpartition("/")[2].removesuffix(".json"))[each["id"]]
        for frame in each["frames"] if each["type"] != "table" else []:
            assert {field["unit"] for field in frame["fields"][1:]} == {source["fieldConfig"]["defaults"]["unit"]}, name
            if each["type"] == "trend":
                assert frame["fields"][0]["unit"] == {"step": "none"}.get(source["options"]["xField"], "dthms"), name


def test_every_override_matches_a_field(answers: Answers) -> None:
    """An override of a query with an answer, or of a column, has something to override."""
    for name, each, answer in every_panel(answers):
        source = sources(answer["dashboard"].rpartition("/")[2].removesuffix(".json"))[each["id"]]
        expressions = {target["refId"]: target["expr"] for target in source["targets"]}
        present = {frame["refId"] for frame in each["frames"]}
        for matcher in each["idleOverrides"]:
            if matcher["id"] == "byFrameRefID":
                assert matcher["options"] in set(expressions) - present, name
            elif each["frames"]:
                assert (name.split(" in ")[0], matcher["options"]) in ABSENT_COLUMNS, name


ABSENT_COLUMNS = {("Runs", "Progress"), ("Runs", "ETA")}
"""Columns that are there only if any run says how many steps it is going to take."""


def test_numbers_on_the_x_axis_ascend(answers: Answers) -> None:
    """What is drawn over a number is one frame with that number in front, ascending strictly."""
    for name, each, answer in every_panel(answers):
        if each["type"] == "trend" and each["frames"]:
            source = sources(answer["dashboard"].rpartition("/")[2].removesuffix(".json"))[each["id"]]
            [frame] = each["frames"]
            assert frame["fields"][0]["name"] == source["options"]["xField"], name
            numbers = frame["fields"][0]["values"]
            assert all(earlier < later for earlier, later in pairwise(numbers)), name


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_three_views_show_the_same_curves(answers: Answers, selection: str, smoothing: str) -> None:
    """By time, by time since start and by step there are the same curves in the same order, so in the same colours."""
    answer = answers["compare", selection, smoothing]
    views = [panel(answer, f"$metric by {what}") for what in ("step", "time since start", "time")]
    names = [[field["name"] for field in each["frames"][0]["fields"][1:]] for each in views]
    assert names[0] == names[1] == names[2]
    smooth = [name for name in names[0] if not name.endswith(" raw")]
    assert names[0] == [*smooth, *(f"{name} raw" for name in smooth)]
    assert set(smooth) == (set(RUNS) if selection == "all" else set(SELECTIONS[selection]))


def test_raw_curves_are_faint_and_in_no_colour_of_a_run(answers: Answers) -> None:
    """A raw curve is thin, grey, and neither in the legend nor in the tooltip; a smooth one is in its run's colour."""
    [frame] = panel(answers["compare", "all", "ema"], "$metric by step")["frames"]
    for field in frame["fields"][1:]:
        is_raw = field["name"].endswith(" raw")
        assert (field["custom"]["lineWidth"] < 1) == is_raw
        assert field["color"]["mode"] == ("fixed" if is_raw else "palette-colorblind")
        assert field["custom"].get("hideFrom", {}).get("legend", False) == is_raw


def test_runs_are_listed_with_their_status(answers: Answers) -> None:
    """Every run is one row, with how it stands, who runs what, its progress and its headline metric."""
    [frame] = panel(answers["runs", "all", "none"], "Runs")["frames"]
    texts = {field["name"]: field["texts"] for field in frame["fields"]}
    rows = {run: {name: column[index] for name, column in texts.items()} for index, run in enumerate(texts["Run"])}
    assert {run: row["Status"] for run, row in rows.items()} == RUNS
    assert [rows[trainer.FINE_TUNING][name] for name in ("User", "Recipe", "Base model", "Framework")] == [
        *("alice", "sft", "llama-7b", "trl")
    ]
    assert [rows[LONG][name] for name in ("Duration", "Step", "Progress", "ETA")] == ["00:40:00", "1199", "99.9%", ""]
    assert [rows[LONG][name] for name in ("Headline", "At step", "Best")] == ["validation_loss", "899", "0.609"]
    assert rows[foreign_logs.SB3]["Headline"] == "rl_reward_mean"
    assert rows[STEADY]["Progress"] == rows[STEADY]["ETA"] == ""
    assert re.fullmatch(r"00:\d\d:\d\d", rows[trainer.FINE_TUNING]["ETA"])
    assert int(rows[DIVERGING]["Alerts"]) >= 1


def test_a_run_that_ended_before_the_time_range_is_told_in_full(bench: None, lab: Laboratory) -> None:
    """It has its step, and the link leads to the time in which it made its steps."""
    [answer] = ask(lab.prometheus.url, [job("runs", lab.now, 120)])
    [frame] = panel(answer, "Runs")["frames"]
    fields = {field["name"]: field for field in frame["fields"]}
    row = fields["Run"]["values"].index(LONG)
    assert fields["Step"]["texts"][row] == "1199"
    span = parse_qs(urlsplit(fields["Run"]["links"][row]).query)
    times = samples(lab, "training_step", LONG)
    assert int(span["from"][0]) <= min(times) < max(times) <= int(span["to"][0])
    assert int(span["to"][0]) - int(span["from"][0]) == pytest.approx(2400_000, abs=5000)


def test_only_the_chosen_users_runs_are_listed(bench: None, lab: Laboratory) -> None:
    """Neither the runs nor the alerts of another user are in any table."""
    [answer] = ask(lab.prometheus.url, [job("runs", lab.now, user=["bob"])])
    shown = {
        run
        for each in answer["panels"]
        for frame in each["frames"]
        for field in frame["fields"]
        for run in (field["values"] if field["name"] == "Run" else [])
    }
    assert shown == {RESUMED, trainer.DIVERGED}


def test_a_click_on_a_run_opens_it_in_compare(answers: Answers) -> None:
    """The link has the run, whatever is in its name, and the time range."""
    [frame] = panel(answers["runs", "all", "none"], "Runs")["frames"]
    [runs] = [field for field in frame["fields"] if field["name"] == "Run"]
    for run, link in zip(runs["values"], runs["links"], strict=True):
        parts = urlsplit(link)
        assert parts.path == "/d/telemetry-compare"
        assert parse_qs(parts.query)["var-run"] == [run]
        assert {"from", "to"} <= set(parse_qs(parts.query))


def test_configurations_differ_where_they_differ(answers: Answers) -> None:
    """Only keys that are not the same in all runs, one column a run, and what a run lacks is called absent."""
    [frame] = panel(answers["compare", "several", "none"], "Configuration: what differs")["frames"]
    texts = {field["name"]: field["texts"] for field in frame["fields"]}
    assert set(texts) == {"Key", *SELECTIONS["several"]}
    rows = {key: {run: texts[run][index] for run in texts} for index, key in enumerate(texts["Key"])}
    assert rows["learning_rate"] == {
        "Key": "learning_rate",
        **dict.fromkeys(SELECTIONS["several"], "absent"),
        STEADY: "0.01",
        trainer.DIVERGED: "0.1",
    }
    assert {run: rows["(any)"][run] for run in (STEADY, foreign_logs.SB3)} == {STEADY: "yes", foreign_logs.SB3: "no"}
    assert rows["gamma"][foreign_logs.RLLIB] == "0.99"
    assert "seed" in rows, "a run without the key differs from those with it"


def test_checkpoints_and_events_are_marks_at_their_time(answers: Answers, lab: Laboratory) -> None:
    """Each checkpoint of a run that saves one in a hundred seconds is marked when it was saved, and so are events."""
    marks = {each["name"]: each["marks"] for each in answers["compare", "all", "none"]["annotations"]}
    steps = {mark["title"]: mark["time"] for mark in marks["Checkpoints"] if mark["text"] == LONG}
    expected = {
        f"Checkpoint at step {value:.0f}": time for time, value in samples(lab, "run_checkpoint_step", LONG).items()
    }
    assert steps == expected
    assert len(steps) == 24
    events = {mark["title"]: (mark["text"], mark["tags"]) for mark in marks["Events"]}
    assert events["data loader restarted"] == (LONG, ["error"])
    assert events["schedule changed"] == (LONG, ["warning"])


def samples(lab: Laboratory, metric: str, run: str) -> dict[int, float]:
    """The stored samples of a run's series; milliseconds to value."""
    [series] = lab.prometheus.query(f'{metric}{{run_id="{run}"}}[2h]', time=lab.now)
    return {round(time * 1000): float(value) for time, value in series["values"]}


def test_gpus_are_shown_by_run(answers: Answers) -> None:
    """A GPU's values stand under the run that has it; another run's GPU is not shown."""
    power = panel(answers["performance", "one", "none"], "GPU power")["frames"]
    assert {frame["fields"][1]["labels"]["run_id"] for frame in power} == {trainer.FINE_TUNING}
    assert {frame["fields"][1]["labels"]["device"] for frame in power} == {"1a1b2c3d"}


BY_RANK = ("Own work by rank", "Data wait by rank")


def shares_by_rank(answer: Answer, title: str) -> dict[str, float]:
    """The last value of each rank."""
    fields = [frame["fields"][1] for frame in panel(answer, title)["frames"]]
    return {field["labels"]["rank"]: field["values"][-1] for field in fields}


def test_the_slow_rank_is_named(answers: Answers) -> None:
    """The rank that waits for its data has the largest share of waiting, the other one of own work."""
    shares = {title: shares_by_rank(answers["performance", "one", "none"], title) for title in BY_RANK}
    assert shares["Data wait by rank"]["1"] > 2 * shares["Data wait by rank"]["0"]
    assert shares["Own work by rank"]["0"] > shares["Own work by rank"]["1"]


def test_slowest_queries_are_fast(answers: Answers) -> None:
    """No query hangs, however busy this machine is; `make benchmark-dashboards` prints times at twenty long runs."""
    slowest = max((query["ms"], key, query["expr"]) for key, answer in answers.items() for query in answer["queries"])
    assert slowest[0] < 5000, slowest
