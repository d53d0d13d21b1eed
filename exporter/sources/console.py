"""What trainers print: Hugging Face, nanoGPT, llm.c, torchtitan, verl, Stable-Baselines3 and CleanRL lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from exporter.sources.base import Head, Item, Row, read_text

__all__ = ["FORMS", "Console", "Form", "LineParser"]

_LONGEST = 1 << 16
"""Longer lines are dumps, no metrics; they would only cost time."""

_NUMBER = (
    r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?))"
)
_KEY = r"[A-Za-z][\w/.@-]*"
_UNIT = r"(?:ms|s|%|[KMGT]i?B)"
_PAIR = rf"({_KEY}):\s*({_NUMBER})({_UNIT})?(?:\(({_NUMBER})%\))?(?=\s|$)"

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_RAY = re.compile(r"^\s*(?:\([^()]*\bpid=\d+[^()]*\)\s?)+")
_PAIRS = re.compile(_PAIR)
_VERL_PAIR = re.compile(rf"(\S.*?):\s*(?:np\.\w+\()?({_NUMBER})\)?")
_DICT_ITEM = re.compile(rf"\s*'(?P<key>[^'\\]+)':\s*(?:'?(?P<number>{_NUMBER})'?|'[^'\\]*'|None|True|False)\s*(?:,|$)")
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
        """The table whose end has not come yet."""

    def parse_line(self, line: str) -> Row | None:
        """The row that this line is or completes."""
        if len(line) > _LONGEST:
            return None
        for part in reversed(_ANSI.sub("", line).rstrip("\r\n").split("\r")):
            text = _RAY.sub("", part)
            for form in FORMS:
                match = form.pattern.search(text)
                if match is not None:
                    return self._counted(form.read(match, self))
        return None

    def _counted(self, row: Row | None) -> Row | None:
        if row is not None:
            self.recognised += 1
            self.step = row.step
        return row


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _pairs(text: str) -> dict[str, float]:
    """Values under their names; a unit becomes a part of the name."""
    metrics: dict[str, float] = {}
    for key, value, unit, percent in _PAIRS.findall(text):
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
        if item["number"]:
            metrics[item["key"]] = _number(item["number"])
        at = item.end()
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
    return Row(int(_number(match[1])), _pairs(match[2]))


def _read_cleanrl(match: re.Match[str], _parser: LineParser) -> Row:
    return Row(int(match[1]), {"episodic_return": _number(match[2])})


def _read_speed(match: re.Match[str], parser: LineParser) -> Row:
    return Row(parser.step, {"SPS": _number(match[1])})


def _read_rule(_match: re.Match[str], parser: LineParser) -> Row | None:
    """A rule of a table: its end if there were values, else its beginning."""
    metrics, parser.table, parser.section = parser.table, {}, ""
    if not metrics:
        return None
    parser.table = None
    step = next((metrics[key] for key in _TABLE_STEPS if key in metrics), parser.step + 1)
    return Row(int(step), {key: value for key, value in metrics.items() if key not in _TABLE_STEPS})


def _read_cell(match: re.Match[str], parser: LineParser) -> None:
    """A section of a table, or a value; an indented name belongs to the section above it."""
    if parser.table is None:
        return
    indent, key, value = match.groups()
    if key.endswith("/") and not value:
        parser.section = key
    elif re.fullmatch(_NUMBER, value):
        parser.table[(parser.section if len(indent) > 1 else "") + key] = _number(value)
        parser.recognised += 1


FORMS = (
    Form("huggingface", re.compile(r"\{(?=')([^{}]*)\}\s*$"), _read_dict),
    Form(
        "nanogpt",
        re.compile(
            rf"^iter (?P<step>\d+): loss (?P<loss>{_NUMBER}), time (?P<time>{_NUMBER})ms"
            rf"(?:, mfu (?P<mfu>{_NUMBER})%)?\s*$"
        ),
        _read_nanogpt,
    ),
    Form("nanogpt_eval", re.compile(rf"^step (\d+): train loss ({_NUMBER}), val loss ({_NUMBER})\s*$"), _read_losses),
    Form("verl", re.compile(rf"(?:^|\s)step:(\d+) - (\S.*?:\s*(?:np\.\w+\()?{_NUMBER}.*)"), _read_verl),
    Form(  # modded-nanogpt, llm.c, torchtitan
        "colons", re.compile(rf"(?:^|\s)(?:step|s):\s*({_NUMBER})(?:/\d+)?((?:\s+{_PAIR})+)\s*$"), _read_colons
    ),
    Form("cleanrl", re.compile(rf"global_step=(\d+), episodic_return=\[?\s*({_NUMBER})\s*\]?"), _read_cleanrl),
    Form("cleanrl_speed", re.compile(rf"^SPS: ({_NUMBER})\s*$"), _read_speed),
    Form("table_rule", re.compile(r"^\s*-{5,}\s*$"), _read_rule),
    Form("table_cell", re.compile(r"^\s*\|( +)([^|\s](?:[^|]*[^|\s])?) *\| *([^|\s]*) *\|\s*$"), _read_cell),
)
"""The kinds of lines, the strictest first; a new one is one entry."""
