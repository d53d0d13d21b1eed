"""What a run is started with: who wins, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from exporter.catalog import default_catalog
from exporter.errors import ConfigError
from exporter.run.settings import Settings, resolve_settings


def resolve(environ=None, file=None, **arguments):
    """Settings from an environment, a file and arguments."""
    return resolve_settings(arguments, environ or {}, file)


@pytest.fixture
def settings_file(tmp_path):
    """Writes a settings file; gives its path."""

    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_defaults():
    """Without any setting a run has the documented defaults and a new id."""
    settings = resolve()
    assert re.fullmatch(r"run-\d{8}-\d{6}-[0-9a-f]{4}", settings.run_id)
    assert dataclasses.replace(settings, run_id="") == Settings()
    assert (settings.directory, settings.port, settings.ranks) == ("runs", None, "main")


def test_two_new_runs_have_two_ids():
    """A made-up id is new each time, also within a second."""
    assert len({resolve().run_id for _ in range(5)}) > 1


@pytest.mark.parametrize(
    ("recipe", "prefix"),
    [
        ("ppo", "ppo-"),
        ("my recipe/v2", "my-recipe-v2-"),
        ("../..", "run-"),
        ("é", "run-"),
        ("-x", "x-"),
        ("r" * 200, "r" * 64 + "-"),
    ],
)
def test_a_new_id_begins_with_the_recipe(recipe, prefix):
    """A made-up id is usable and tells the recipe, whatever that contains."""
    run_id = resolve(recipe=recipe).run_id
    assert re.fullmatch(rf"{re.escape(prefix)}\d{{8}}-\d{{6}}-[0-9a-f]{{4}}", run_id)


def test_argument_beats_variable_beats_file_beats_default(settings_file):
    """Each source overrides the next one, setting by setting; None counts as not given."""
    path = settings_file("run_id: file\nuser_id: file\nrecipe: file\nport: 1")
    environ = {"TELEMETRY_RUN_ID": "env", "TELEMETRY_USER_ID": "env", "TELEMETRY_BASE_MODEL": ""}
    settings = resolve(environ, path, run_id="argument", user_id=None, port=None)
    assert settings == Settings(run_id="argument", user_id="env", recipe="file", port=1)


def test_the_file_may_be_named_by_a_variable(settings_file, tmp_path):
    """TELEMETRY_SETTINGS names the file; an argument that names another one wins."""
    environ = {"TELEMETRY_SETTINGS": str(settings_file("user_id: variable"))}
    assert resolve(environ).user_id == "variable"
    other = tmp_path / "other.yaml"
    other.write_text("user_id: argument")
    assert resolve(environ, other).user_id == "argument"


def test_every_setting_from_variables():
    """Every setting has a variable; numbers and mappings are read from its text."""
    environ = {
        "TELEMETRY_RUN_ID": "r",
        "TELEMETRY_USER_ID": "u",
        "TELEMETRY_RECIPE": "ppo",
        "TELEMETRY_BASE_MODEL": "m",
        "TELEMETRY_FRAMEWORK": "trl",
        "TELEMETRY_DIRECTORY": "/data",
        "TELEMETRY_PORT": "0",
        "TELEMETRY_RANKS": "all",
        "TELEMETRY_TAGS": "env=prod, team = ml ",
        "TELEMETRY_CONFIG": "lr=1e-4,url=a=b",
        "TELEMETRY_SYSTEM_METRICS": "AUTO",
        "TELEMETRY_SYSTEM_METRICS_INTERVAL": "0.5",
        "TELEMETRY_GRAFANA_URL": "http://g",
        "PATH": "/bin",
        "telemetry_port": "x",
    }
    assert resolve(environ) == Settings(
        *("r", "u", "ppo", "m", "trl", "/data", 0, "all"),
        *({"env": "prod", "team": "ml"}, {"lr": "1e-4", "url": "a=b"}, "AUTO", 0.5, "http://g"),
    )


def test_every_setting_from_a_file(settings_file):
    """A file may hold every setting, with YAML's own types."""
    path = settings_file(
        "{run_id: r, user_id: u, recipe: ppo, base_model: m, framework: trl, directory: /data, port: 9,"
        " ranks: all, tags: {a: b}, config: {x: {y: 1}}, system_metrics: s.jsonl, system_metrics_interval: 2,"
        " grafana_url: 'http://g'}"
    )
    assert resolve(file=path) == Settings(
        *("r", "u", "ppo", "m", "trl", "/data", 9, "all"), {"a": "b"}, {"x": {"y": 1}}, "s.jsonl", 2, "http://g"
    )


def test_an_empty_file_sets_nothing(settings_file):
    """An empty file is a file without settings."""
    assert resolve(file=settings_file("# nothing\n"), run_id="r") == Settings(run_id="r")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TELEMETRY_PROT": "1"}, ["unknown variable TELEMETRY_PROT", "TELEMETRY_PORT", "TELEMETRY_SETTINGS"]),
        ({"TELEMETRY_port": "no"}, ["TELEMETRY_port='no' must be a port number"]),
        ({"TELEMETRY_PORT": "-1"}, ["TELEMETRY_PORT='-1' must be a port number"]),
        ({"TELEMETRY_PORT": "70000"}, ["port=70000 must be None", "65535"]),
        ({"TELEMETRY_TAGS": "a"}, ["TELEMETRY_TAGS='a' must be KEY=VALUE,KEY=VALUE"]),
        ({"TELEMETRY_CONFIG": "a=1,,b=2"}, ["TELEMETRY_CONFIG='a=1,,b=2' must be KEY=VALUE"]),
        ({"TELEMETRY_TAGS": "=1"}, ["tag '' cannot be a label"]),
        ({"TELEMETRY_RANKS": "some"}, ["ranks='some' must be 'main'", "'all'", "the number of the one that logs"]),
        ({"TELEMETRY_RANKS": "-1"}, ["ranks='-1' must be 'main'"]),
        ({"TELEMETRY_GRAFANA_URL": "grafana:3000"}, ["grafana_url='grafana:3000' must be an address such as https://"]),
        ({"TELEMETRY_RUN_ID": "../x"}, ["run_id '../x' is not usable"]),
        ({"TELEMETRY_SETTINGS": "/no/such.yaml"}, ["settings file /no/such.yaml: ", "No such file"]),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(environ, words):
    """An unknown or unusable variable is an error with its name, its value and the rule."""
    with pytest.raises(ConfigError) as caught:
        resolve(environ)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 1", ["unknown setting 'prot'", "run_id, user_id", "port"]),
        ("1: x", ["unknown setting 1"]),
        ("- run_id", ["must hold a mapping"]),
        ("run_id: [", ["while parsing"]),
        ("port: '9'", ["port='9' must be"]),
        ("port: true", ["port=True must be"]),
        ("port: 1.5", ["port=1.5 must be"]),
        ("run_id: 5", ["run_id=5 must be a text"]),
        ("user_id:", ["user_id=None must be a text"]),
        ("tags: [a]", ["tags=['a'] must be a mapping"]),
        ("config: lr", ["config='lr' must be a mapping"]),
        ("tags: {1: x}", ["tag 1 cannot be a label"]),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(settings_file, text, words):
    """An unknown key or unusable value of a settings file is an error with its name and the rule."""
    with pytest.raises(ConfigError) as caught:
        resolve(file=settings_file(text))
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    """Bytes that are no UTF-8 are an error that names the file."""
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"settings file .*s\.yaml"):
        resolve(file=path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"colour": "red"}, ["unknown setting 'colour'"]),
        ({"run_id": "a/b"}, ["run_id 'a/b' is not usable"]),
        ({"run_id": "x" * 200}, ["run_id 'xxx"]),
        ({"run_id": "x" * 300}, ["run_id='xxx", "at most 256"]),
        ({"run_id": 0}, ["run_id=0 must be a text"]),
        ({"run_id": Path("r")}, ["run_id=", "must be a text"]),
        ({"recipe": 5}, ["recipe=5 must be a text"]),
        ({"user_id": "u" * 257}, ["user_id='uuu", "at most 256"]),
        ({"base_model": b"m"}, ["base_model=b'm' must be a text"]),
        ({"directory": b"x"}, ["directory=b'x' must be the path of a folder, such as 'runs'"]),
        ({"ranks": 0}, ["ranks=0 must be a text"]),
        ({"port": -1}, ["port=-1"]),
        ({"port": 65536}, ["port=65536"]),
        ({"port": "9090"}, ["port='9090'"]),
        ({"port": True}, ["port=True"]),
        ({"tags": ["a"]}, ["tags=['a'] must be a mapping"]),
        ({"config": 5}, ["config=5 must be a mapping"]),
        ({"tags": {f"t{n}": "x" for n in range(11)}}, ["11 tags: at most 10", "config="]),
        ({"tags": {"a": "v" * 257}}, ["tag 'a'", "more than 256"]),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(arguments, words):
    """An unusable argument is an error with its name, its value and the rule, before anything is made."""
    with pytest.raises(ConfigError) as caught:
        resolve(**arguments)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("port", [None, 0, 1, 65535])
def test_usable_ports(port):
    """No server, any free port, and every real port are settings."""
    assert resolve(port=port).port == port


def test_a_long_directory_is_fine():
    """A path may be longer than a label."""
    assert resolve(directory="/" + "d" * 300).directory == "/" + "d" * 300


@pytest.mark.parametrize(
    "label", ["", "9a", "a-b", "a b", "é", "__name__", "__x", "a\n", "x" * 65, "run_id", "user_id", "rank", "le", "job"]
)
def test_a_tag_that_cannot_be_a_label(label):
    """A tag whose name Prometheus reserves, refuses, or that the exporter uses, is an error that shows it."""
    with pytest.raises(ConfigError, match=re.escape(f"tag {label!r} cannot be a label")):
        resolve(tags={label: "x"})


RUN_GROUPS = ("training", "validation", "rl", "performance", "gpu", "run")
RUN_LABELS = {
    label
    for metric in default_catalog().metrics.values()
    if metric.group in RUN_GROUPS or metric.name in ("telemetry_lost_records", "telemetry_series_refused")
    for label in metric.labels
}


@pytest.mark.parametrize("label", sorted(RUN_LABELS))
def test_a_tag_never_clashes_with_a_label_of_the_catalog(label):
    """A label that a series of a run has by itself cannot be a tag: one series cannot have it twice."""
    with pytest.raises(ConfigError, match=f"tag '{label}' cannot be a label"):
        resolve(tags={label: "x"})


@pytest.mark.parametrize("label", ["env", "Team", "_x", "a1", "x" * 64])
def test_usable_tags(label):
    """Any other label name of up to 64 characters is a tag, ten of them at most, with values of up to 256."""
    tags = {label: "v" * 256, **{f"t{n}": 5 for n in range(9)}}
    assert resolve(tags=tags).tags == tags


def test_ranks_that_all_log_need_a_common_name() -> None:
    """Without a run_id each rank would make up another run, so asking for all ranks without one is an error."""
    with pytest.raises(ConfigError, match="TELEMETRY_RUN_ID"):
        resolve_settings({"ranks": "all"}, {}, None)
    assert resolve_settings({"ranks": "all", "run_id": "r"}, {}, None).run_id == "r"
