"""W&B's files: the summary is one row, the config is what the run was started with."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from exporter.sources.base import HEAD_BYTES, Bad, Head, Meta, read_all, read_head
from exporter.sources.jsonl import Jsonl
from exporter.sources.wandb import Wandb

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SUMMARY = {
    "loss": 0.5,
    "nested": {"a": 1, "flag": True, "deep": {"b": "NaN"}},
    "table": {"_type": "table-file", "nrows": 3},
    "text": "x",
    "_step": 0,
    "_timestamp": 1.7e9,
    "_runtime": 7,
    "_wandb": {"runtime": 7},
}
CONFIG = """wandb_version: 1

lr:
  desc: null
  value: 0.1
layers:
  value: [1, 2]
nothing:
  value: null
odd: 5
_wandb:
  value:
    cli_version: 0.15
"""


@pytest.fixture
def read(tmp_path):
    """Read bytes as a file: every item."""

    def read_bytes(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        return list(read_all(Wandb(), path))

    return read_bytes


@pytest.mark.parametrize("indent", [None, 4])
def test_summary_is_one_row(read, indent):
    """The numbers of a summary are one row at its step, 0 included; media and W&B's own keys are none of them."""
    [row] = read(json.dumps(SUMMARY, indent=indent).encode())
    assert row[0::2] == (0, 1.7e9)
    assert row.metrics.keys() == {"loss", "nested/a", "nested/deep/b"}
    assert row.metrics["nested/a"] == 1
    assert math.isnan(row.metrics["nested/deep/b"])


def test_summary_without_metrics(read):
    """A summary of a run that logged nothing gives nothing."""
    assert read(b'{"_wandb":{"runtime":3}}') == []


def test_config(read):
    """A config is the values of its settings, null and lists included, without W&B's own entries."""
    assert read(CONFIG.encode()) == [Meta({"lr": 0.1, "layers": [1, 2], "nothing": None})]
    assert read(gzip.compress(CONFIG.encode())) == read(CONFIG.encode())


def test_nothing_is_evaluated(read):
    """A config that asks for Python objects is refused, and none is made."""
    [item] = read(b"_wandb:\n  value: 1\na:\n  value: !!python/object/apply:os.system ['exit 1']\n")
    assert isinstance(item, Bad)
    assert "python" in item.reason


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"loss":1}',
        b'{"loss":1,"_step":"x"}',
        b"- 1",
        b"text",
        b"a: [",
        b"a: 2024-99-99",
        b"\xff\xfe\x00",
        b"[" * 5000,
        gzip.compress(json.dumps(SUMMARY).encode())[:-10],
    ],
)
def test_bad_files(read, data):
    """A file that is neither, or not whole, is one bad item."""
    [item] = read(data)
    assert isinstance(item, Bad)


def test_missing_file(tmp_path):
    """A file that is not there is an error of the system, not a bad item."""
    with pytest.raises(FileNotFoundError):
        list(read_all(Wandb(), tmp_path / "none"))


LONG = (b'{"_step":1,"a":"' + b"x" * HEAD_BYTES)[:HEAD_BYTES]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x", json.dumps(SUMMARY).encode()),
        ("x", json.dumps(SUMMARY, indent=2).encode() + b"\n"),
        ("wandb-summary.json", b'{"loss":1,"_step":1}'),
        ("wandb-summary.json", LONG),
        ("x", CONFIG.encode()),
        ("x", b"_wandb:\n    value:\n        m: []\nlr:\n    value: 1\n"),
    ],
)
def test_recognised(name, data):
    """W&B's own keys tell its files, the name where they cannot be seen; no such file is taken for lines of JSON."""
    assert Wandb().recognises(Head(name, data))
    assert not Jsonl().recognises(Head(name, data))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wandb-summary.json", b""),
        ("wandb-summary.json", b"<html>"),
        ("wandb-summary.json", b'{"half'),
        ("config.yaml", b"lr:\n  value: 1\n"),
        ("config.yaml", b"wandb_version: 1\n"),
        ("x", LONG),
        ("x", b"\x89PNG\r\n\x1a\n"),
        ("x", b'{"_step":1,"_runtime":2}\n{"_step":2,"_runtime":3}\n'),
        ("history.jsonl", b'{"_step":1,"_runtime":2}\n'),
        ("wandb-metadata.json", b'{"os":"Linux","state":"running"}'),
    ],
)
def test_not_recognised(name, data):
    """Other documents, torn ones and a history of several rows are not W&B's two files."""
    assert not Wandb().recognises(Head(name, data))


def test_yaml_is_loaded_when_needed():
    """To read a summary needs no YAML."""
    code = "import sys, exporter.sources.wandb; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def real():
    """The files that W&B wrote for others, or skip."""
    if not DATA.is_dir():
        pytest.skip("shared/data is not here")
    return [path for name in ("conceptppo", "jaxmarl", "avatarl-sac") for path in sorted((DATA / name).rglob("*"))]


def test_real_summaries(real):
    """Real summaries give each top-level number at the step and time that they say."""
    paths = [path for path in real if path.name == "wandb-summary.json"]
    assert len(paths) == 4
    for path in paths:
        fields = json.loads(path.read_text())
        [row] = read_all(Wandb(), path)
        assert (row.step, row.time) == (fields["_step"], fields["_timestamp"])
        top = {key for key, value in fields.items() if isinstance(value, (int, float)) and key[0] != "_"}
        nested = row.metrics.keys() - top
        assert all(row.metrics[key] == fields[key] for key in top)
        assert all(isinstance(fields[key.split("/")[0]], dict) for key in nested)
        assert not any(key.endswith(("/nrows", "/size")) for key in row.metrics)
        assert Wandb().recognises(read_head(path))


def test_real_configs(real):
    """Real configs give every setting of the run and nothing of W&B's own."""
    paths = [path for path in real if path.name == "config.yaml"]
    assert len(paths) == 3
    for path in paths:
        entries = yaml.safe_load(path.read_text())
        [meta] = read_all(Wandb(), path)
        assert meta.config == {key: entries[key]["value"] for key in entries if key not in ("_wandb", "wandb_version")}
        assert len(meta.config) > 20
        assert Wandb().recognises(read_head(path))


def test_real_other_files(real):
    """The rest of a run's folder is not recognised."""
    others = [path for path in real if path.is_file() and path.name not in ("config.yaml", "wandb-summary.json")]
    assert others
    assert not any(Wandb().recognises(read_head(path)) for path in others)
