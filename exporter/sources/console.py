"""What trainers print: one entry of ``FORMS`` for each kind of line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from exporter.encoding import decode
from exporter.sources.base import Head, Item, Row, read_text
from exporter.sources.json_rows import STEP_KEYS, row_of
from exporter.sources.objects import step_number

__all__ = ["FORMS", "Console", "Form", "LineParser"]

_LONGEST = 1 << 16
"""Longer texts are dumps, no metrics; they would only cost time."""

_NUMBER = (
    r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?))"
)
_KEY = r"[A-Za-z][\w/.@-]*"
_UNIT = r"(?:ms|s|%|[KMGT]i?B)"
_PAIR = rf"({_KEY}):\s*(?:({_NUMBER})({_UNIT})?(?:\(({_NUMBER})%\))?|(?:N/A|--)\S*)(?=\s|$)"
_NUMPY = rf"(?:np\.\w+\()?({_NUMBER})\)?"

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_PREFIX = re.compile(r"^\s*(?:(?:\((?:[^()]|\([^()]*\))*?\bpid=\d+[^()]*\)|\[(?:rank|default)\d+\]:|\d+:(?=\s))\s?)+")
"""Who printed the line: Ray, torchrun, srun."""

_REPEATED = re.compile(r"\[repeated \d+x across cluster\].*$")
_PAIRS = re.compile(_PAIR)
_VERL_PAIR = re.compile(rf"(\S.*?):\s*{_NUMPY}")
_DICT_ITEM = re.compile(rf"\s*'(?P<key>[^'\\]+)':\s*(?:'?{_NUMPY}'?|'[^'\\]*'|None|True|False)\s*(?:,|$)")
_EQUAL_PAIRS = re.compile(rf"(\w+)=({_NUMBER})(GB)?")
_UNIT_NAMES = {"%": "percent"}
_TABLE_STEPS = ("time/total_timesteps", "total_timesteps")


class Form(NamedTuple):
    """One kind of line: how it looks and what it says; None for a line that is a part of a row, or none at all."""

    name: str
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], LineParser], Row | None]


class Console:
    """A log of a trainer's output; most of its lines are prose, so a line that matches nothing is no fault."""

    name = "console"

    def recognises(self, head: Head) -> bool:
        """Two lines or more that hold metrics."""
        if b"\0" in head.data:
            return False
        parser = LineParser()
        for line in head.data.decode("utf-8", "replace").split("\n")[:-1]:
            parser.parse_line(line)
        return parser.recognised > 1

    def read(self, path: Path) -> Iterator[Item | None]:
        """A row for every line, or table, of metrics."""
        parser = LineParser()
        for block in read_text(path):
            if isinstance(block, str):
                yield from filter(None, map(parser.parse_line, block.split("\n")[:-1]))
            else:
                yield block


class LineParser:
    """Reads an output line by line, as it is printed; remembers what a line alone does not say."""

    def __init__(self) -> None:
        self.recognised = 0
        """How many lines held metrics."""
        self.step = 0
        """The step that the output said last; where it says none, how many rows there were."""
        self.section = ""
        self.table: dict[str, float] | None = None
        """The table, or the printed dict of several lines, whose end has not come yet."""
        self.table_step: int | None = None
        """The step that was printed above a dict of several lines."""

    def parse_line(self, line: str) -> Row | None:
        """The row that this line is or completes; of texts that overwrite each other the last that says one."""
        for part in reversed(line.rstrip("\r\n").split("\r")):
            if len(part) <= _LONGEST:
                text = _REPEATED.sub("", _PREFIX.sub("", _ANSI.sub("", part)))
                for form in FORMS:
                    match = form.pattern.search(text)
                    if match is not None:
                        return self._row(form, match)
        return None

    def _row(self, form: Form, match: re.Match[str]) -> Row | None:
        try:
            row = form.read(match, self)
            if row is not None:
                self.step = step_number(row.step)
                self.recognised += 1
        except (ValueError, OverflowError):  # a step that is no whole number
            return None
        return row


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _pairs(text: str) -> dict[str, float]:
    """Values under their names; a unit becomes a part of the name."""
    metrics: dict[str, float] = {}
    for key, value, unit, percent in _PAIRS.findall(text):
        if value:
            metrics[f"{key}_{_UNIT_NAMES.get(unit, unit.lower())}" if unit else key] = _number(value)
        if percent:
            metrics[f"{key}_percent"] = _number(percent)
    return metrics


def _read_dict(match: re.Match[str], parser: LineParser) -> Row | None:
    """A printed dict of plain items; without a loss or an epoch it is something else than a log line."""
    metrics: dict[str, float] = {}
    text, at = match[1], 0
    while at < len(text):
        item = _DICT_ITEM.match(text, at)
        if item is None:
            return None
        if item[2]:
            metrics[item["key"]] = _number(item[2])
        at = item.end()
    if parser.table_step is not None:
        return _end_of_dict(parser, metrics)
    if not any(key == "epoch" or key.endswith("loss") for key in metrics):
        return None
    step = metrics.pop("step", parser.step + 1.0)
    return Row(int(step), metrics, epoch=metrics.pop("epoch", None))


def _read_nanogpt(match: re.Match[str], _parser: LineParser) -> Row:
    values = {"loss": match["loss"], "time_ms": match["time"], "mfu_percent": match["mfu"]}
    return Row(int(match["step"]), {key: _number(text) for key, text in values.items() if text})


def _read_losses(match: re.Match[str], _parser: LineParser) -> Row:
    return Row(int(match[1]), {"train/loss": _number(match[2]), "val/loss": _number(match[3])})


def _read_verl(match: re.Match[str], _parser: LineParser) -> Row:
    pairs = (_VERL_PAIR.fullmatch(item.strip()) for item in match[2].split(" - "))
    return Row(int(match[1]), {pair[1]: _number(pair[2]) for pair in pairs if pair})


def _read_colons(match: re.Match[str], _parser: LineParser) -> Row:
    """Pairs of a step; what torchtitan prints while it validates has the names of training."""
    prefix = "validation_metrics/" if match[1] else ""
    return Row(int(_number(match[2])), {prefix + key: value for key, value in _pairs(match[3]).items()})


def _read_json(match: re.Match[str], parser: LineParser) -> Row | None:
    """An object behind a logger's prefix, such as levanter's; without a step it may be anything."""
    try:
        fields = decode(match[1].encode())
        return None if not any(key in fields for key in STEP_KEYS) else row_of(fields, parser.step)
    except (ValueError, RecursionError):
        return None


def _read_deepspeed(match: re.Match[str], _parser: LineParser) -> Row:
    values = {"skipped": match[2], "lr": match[3]}
    return Row(int(match[1]), {key: float(text) for key, text in values.items() if text})


def _read_deepspeed_speed(match: re.Match[str], _parser: LineParser) -> Row:
    pairs = _EQUAL_PAIRS.findall(match[3])
    metrics = {f"{key}_{unit.lower()}" if unit else key: float(text) for key, text, unit in pairs}
    return Row(int(match[2]), metrics, epoch=float(match[1]))


def _read_composer(match: re.Match[str], _parser: LineParser) -> Row:
    return Row(int(match[1]), {match[2]: _number(match[3])})


def _read_skyrl_step(match: re.Match[str], parser: LineParser) -> None:
    parser.table, parser.table_step = {}, int(match[1])


def _read_skyrl_item(match: re.Match[str], parser: LineParser) -> Row | None:
    """An item of a dict that is printed below its step, a line each; its brace ends the row."""
    if parser.table is None or parser.table_step is None:
        return None
    if match[2]:
        parser.table[match[1]] = _number(match[2])
    return _end_of_dict(parser, parser.table) if match[3] == "}" else None


def _end_of_dict(parser: LineParser, metrics: dict[str, float]) -> Row | None:
    step, parser.table, parser.table_step = parser.table_step, None, None
    return Row(step, metrics) if metrics and step is not None else None


def _read_cleanrl(match: re.Match[str], _parser: LineParser) -> Row:
    return Row(int(match[1]), {"episodic_return": _number(match[2])})


def _read_speed(match: re.Match[str], parser: LineParser) -> Row:
    return Row(parser.step, {"SPS": _number(match[1])})


def _read_rule(_match: re.Match[str], parser: LineParser) -> Row | None:
    """A rule of a table: its end if there were values, else its beginning."""
    metrics, parser.table, parser.section, parser.table_step = parser.table, {}, "", None
    if not metrics:
        return None
    parser.table = None
    step = next((metrics[key] for key in _TABLE_STEPS if key in metrics), parser.step + 1)
    return Row(int(step), {key: value for key, value in metrics.items() if key not in _TABLE_STEPS})


def _read_cell(match: re.Match[str], parser: LineParser) -> None:
    """A section of a table, or a value; an indented name belongs to the section above it."""
    if parser.table is None or parser.table_step is not None:
        return
    indent, key, value = match.groups()
    if key.endswith("/") and not value:
        parser.section = key
    elif re.fullmatch(_NUMBER, value):
        parser.table[(parser.section if len(indent) > 1 else "") + key] = _number(value)
        parser.recognised += 1


FORMS = (
    Form("huggingface", re.compile(r"\{(?=')([^{}]*)\}\s*$"), _read_dict),
    Form("json", re.compile(r"^(?:[^{]*\s)?(\{\s*\".*\})\s*$"), _read_json),
    Form(
        "nanogpt",
        re.compile(
            rf"(?:^|\s)iter (?P<step>\d+): loss (?P<loss>{_NUMBER}), time (?P<time>{_NUMBER})ms"
            rf"(?:, mfu (?P<mfu>{_NUMBER})%)?\s*$"
        ),
        _read_nanogpt,
    ),
    Form(
        "nanogpt_eval",
        re.compile(rf"(?:^|\s)step (\d+): train loss ({_NUMBER}), val loss ({_NUMBER})\s*$"),
        _read_losses,
    ),
    Form("verl", re.compile(rf"(?:^|\s)step:(\d+) - (\S.*?:\s*(?:np\.\w+\()?{_NUMBER}.*)"), _read_verl),
    Form(  # modded-nanogpt, llm.c, torchtitan
        "colons",
        re.compile(rf"(?:^|\s)(validate )?(?:step|s):\s*({_NUMBER})(?:/\d+)?((?:\s+{_PAIR})+)\s*$"),
        _read_colons,
    ),
    Form("cleanrl", re.compile(rf"global_step=(\d+), episodic_return=\[?\s*({_NUMBER})\s*\]?"), _read_cleanrl),
    Form("cleanrl_speed", re.compile(rf"(?:^|\s)SPS: ({_NUMBER})\s*$"), _read_speed),
    Form("deepspeed", re.compile(rf"\bstep=(\d+), skipped=(\d+), lr=\[({_NUMBER})?"), _read_deepspeed),
    Form(
        "deepspeed_speed",
        re.compile(r"\bepoch=(\d+)/micro_step=\d+/global_step=(\d+), (RunningAvgSamplesPerSec=.*)"),
        _read_deepspeed_speed,
    ),
    Form("composer", re.compile(rf"^\[metric\]\[batch=(\d+)\]: (\S+): ({_NUMBER})\s*$"), _read_composer),
    Form("skyrl_step", re.compile(r"(?:^|\s)Step (\d+):\s*$"), _read_skyrl_step),
    Form("skyrl_item", re.compile(rf"^\s*\{{?'([^'\\]+)':\s*(?:'?({_NUMBER})'?|.*?)([,}}])\s*$"), _read_skyrl_item),
    Form("table_rule", re.compile(r"^\s*-{5,}\s*$"), _read_rule),
    Form("table_cell", re.compile(r"^\s*\|( +)([^|\s](?:[^|]*[^|\s])?) *\| *([^|\s]*) *\|\s*$"), _read_cell),
)
"""The kinds of lines, the strictest first; a new one is one entry."""
