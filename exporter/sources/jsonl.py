"""Lines of JSON, whoever wrote them: our own journal, RLlib, verl, levanter, prime-rl, SB3, flat and nested rows.

A line is, in this order, a pair of a name and a value, an object of metrics, or a row whose numbers are
the metrics. What places a row - step, time, epoch - is no metric of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.encoding import decode
from exporter.journal.decode import decode_record
from exporter.records import RunEnd, RunStart
from exporter.sources.base import HEAD_BYTES, LINES_NAMES, Bad, Ended, Head, Item, LineBlocks, Meta, Row
from exporter.sources.objects import PLAIN, numeric_leaves, object_or_none, step_number, unix_seconds

__all__ = ["Jsonl"]

_STEPS = ("step", "global_step", "_step", "iteration", "training_iteration")
_STEP_KEYS = (*_STEPS, "timesteps_total", "time/total_timesteps")
"""Where the step is, the first that is there. RLlib counts iterations and SB3 environment steps only;
environment steps are a metric where something else is the step."""

_TIME_KEYS = ("time", "timestamp", "_timestamp", "ts", "time_us")
_CONFIG_KEYS = ("config", "hparams")
_NO_METRICS = frozenset({*_STEPS, *_TIME_KEYS, *_CONFIG_KEYS, "epoch", "_runtime", "pid"})

_STEP_KINDS = ("step", "metric")
_VERL = {"step", "data"}


_SINGLE_OBJECT_NAMES = ("trainer_state.json", "wandb-summary.json")
_SINGLE_OBJECT_KEYS = frozenset({"log_history", "_wandb", "_runtime"})
_ROW_KEYS = frozenset({*_STEP_KEYS, *_TIME_KEYS, "_type", "event", "metric", "metrics"})
_LINES_LOOKED_AT = 20
_LONG_ROW = re.compile(rb'\s*\{.*?"(?:%s)"\s*:' % b"|".join(re.escape(key.encode()) for key in sorted(_ROW_KEYS)), re.S)


class Jsonl:
    """Any file of one JSON object a line."""

    name = "jsonl"

    def recognises(self, head: Head) -> bool:
        """Whether most of the first lines are objects; a lone one must look like a row, not like a whole document."""
        lines = head.data.split(b"\n", _LINES_LOOKED_AT)
        found = [object_or_none(line) for line in lines[:-1] if line.strip()]
        last = object_or_none(lines[-1]) if len(lines) <= _LINES_LOOKED_AT else None
        if last is not None:
            found.append(last)
        objects = [fields for fields in found if fields is not None]
        if len(objects) == 1 == len(found):
            return _is_row(head.name, objects[0])
        if not found and len(head.data) >= HEAD_BYTES:
            return _begins_long_row(head)
        return 2 * len(objects) > len(found)

    def read(self, path: Path) -> Iterator[Item | None]:
        """Everything in the complete lines; an unfinished last line counts at once where it is a complete object.

        Raises:
            OSError: the file cannot be read.
        """
        blocks, lines = LineBlocks(path), _Lines()
        for block in blocks:
            if isinstance(block, bytes):
                yield from lines.items(block)
            else:
                yield from lines.early_items(blocks.unfinished)
                yield block
        yield from lines.early_items(blocks.unfinished)


class _Lines:
    """What earlier lines mean for later ones: the last step and the last config."""

    def __init__(self) -> None:
        self._number = 0
        self._early = b""
        """The unfinished line that has been counted already."""
        self._step = -1
        self._config: Any = None

    def items(self, block: bytes) -> Iterator[Item]:
        """What complete lines say; nothing where one is blank or was counted when it was unfinished."""
        lines = block.split(b"\n")[:-1]
        if self._early and not lines[0][len(self._early) :].strip():
            lines[0] = b""
        self._early = b""
        for line in lines:
            self._number += 1
            try:
                yield from self._items(line)
            except (ValueError, RecursionError) as error:
                if line.strip():
                    yield Bad(self._number, str(error))

    def early_items(self, line: bytes) -> list[Item]:
        """What an unfinished line says if it is a complete object; its end may still come."""
        if self._early or not line.rstrip().endswith(b"}"):
            return []
        try:
            items = self._items(line)
        except (ValueError, RecursionError):
            return []
        self._early = line
        return items

    def _items(self, line: bytes) -> list[Item]:
        fields = decode(line)
        if type(fields) is not dict:
            raise ValueError("not a JSON object")
        kind = fields.get("_type", "step")
        if kind in ("run_start", "run_end"):
            return _start_or_end(line)
        items: list[Item] = []
        self._add_config(fields, items)
        if kind in _STEP_KINDS:
            self._add_row(fields, items)
        if _is_over(fields):
            items.append(Ended("finished"))
        return items

    def _add_config(self, fields: Mapping[str, Any], items: list[Item]) -> None:
        for key in _CONFIG_KEYS:
            config = fields.get(key)
            if type(config) is dict and config != self._config:
                self._config = config
                items.append(Meta(config))

    def _add_row(self, fields: Mapping[str, Any], items: list[Item]) -> None:
        step_key = _step_key(fields)
        metrics = _metrics(fields, step_key)
        if metrics:
            self._step = self._step + 1 if step_key is None else step_number(fields[step_key])
            epoch = fields.get("epoch")
            items.append(Row(self._step, metrics, _time(fields), epoch if type(epoch) in PLAIN else None))


def _start_or_end(line: bytes) -> list[Item]:
    record = decode_record(line)
    if isinstance(record, RunStart):
        return [Meta(record.config)]
    return [Ended(record.status)] if isinstance(record, RunEnd) else []


def _is_over(fields: Mapping[str, Any]) -> bool:
    """RLlib's last result or levanter's last line; ``done`` alone may be the end of an episode."""
    if fields.get("done") is True:
        return "training_iteration" in fields
    return fields.get("event") == "finish" and "tracker" in fields


def _step_key(fields: Mapping[str, Any]) -> str | None:
    for key in _STEP_KEYS:
        value = fields.get(key)
        if value is not None and type(value) is not dict:
            return key
    return None


def _metrics(fields: Mapping[str, Any], step_key: str | None) -> Mapping[str, float]:
    name = fields.get("metric", fields.get("log_type_name"))
    if type(name) is str and "value" in fields:
        return _pair(name, fields["value"])
    metrics = fields.get("metrics")
    if type(metrics) is dict and metrics:
        return numeric_leaves(metrics, flags=True)
    if type(fields.get("data")) is dict and fields.keys() == _VERL:
        return numeric_leaves(fields["data"], flags=True)
    if type(fields.get("event")) is str:
        return {}
    return _flat(fields, step_key)


def _flat(fields: Mapping[str, Any], step_key: str | None) -> Mapping[str, float]:
    """The metrics of a row without what places it; under a name like ``time`` an object is metrics all the same."""
    rest = {key: value for key, value in fields.items() if key not in _NO_METRICS or _is_group(key, value)}
    if step_key is not None:
        rest.pop(step_key, None)
    return numeric_leaves(rest)


def _is_group(key: str, value: Any) -> bool:
    return type(value) is dict and key not in _CONFIG_KEYS


def _pair(name: str, value: Any) -> Mapping[str, float]:
    try:
        return {name: value if type(value) in PLAIN else float(value)}
    except (TypeError, ValueError):
        return {}


def _time(fields: Mapping[str, Any]) -> float | None:
    for key in _TIME_KEYS:
        value = fields.get(key)
        if value is None:
            continue
        if key == "time_us" and type(value) in PLAIN:
            value /= 1e6
        seconds = unix_seconds(value)
        if seconds is not None:
            return seconds
    return None


def _is_row(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether the only object of a file is a row: not another format's document, nor a file of settings."""
    if name.endswith(LINES_NAMES):
        return True
    if name in _SINGLE_OBJECT_NAMES or not _SINGLE_OBJECT_KEYS.isdisjoint(fields):
        return False
    return not _ROW_KEYS.isdisjoint(fields)


def _begins_long_row(head: Head) -> bool:
    """Whether a file without any complete line begins like a row, such as one of RLlib's with its whole config."""
    if head.name in _SINGLE_OBJECT_NAMES or any(b'"%s"' % key.encode() in head.data for key in _SINGLE_OBJECT_KEYS):
        return False
    return _LONG_ROW.match(head.data) is not None
