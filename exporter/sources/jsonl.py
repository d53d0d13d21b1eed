"""Lines of JSON, whoever wrote them: our own journal, RLlib, verl, levanter, prime-rl, SB3, flat and nested rows.

A line is, in this order, a pair of a name and a value, an object of metrics, or a row whose numbers are
the metrics. What places a row - step, time, epoch - is no metric of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from exporter.encoding import decode
from exporter.journal.decode import END_OF_TIME
from exporter.sources.base import HEAD_BYTES, LINES_NAMES, Bad, Ended, Head, Item, LineBlocks, Meta, Row, make_row
from exporter.sources.objects import PLAIN, WHOLE_LIMIT, numeric_leaves, object_or_none, step_number, unix_seconds

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
        if self._early:
            block = self._without_early(block)
        objects = _objects(block)
        if objects is None:
            for line in block.split(b"\n")[:-1]:
                yield from self._line_items(line)
            return
        for names, group in groupby(objects, tuple):
            alike = [*group]
            rows = _plain_rows(alike, _places(names), self._step + 1)
            if rows is not None:
                self._number += len(rows)
                self._step = rows[-1].step
                yield from rows
            else:
                for fields in alike:
                    yield from self._object_items(fields)

    def early_items(self, line: bytes) -> list[Item]:
        """What an unfinished line says if it is a complete object; its end may still come."""
        if self._early or not line.rstrip().endswith(b"}"):
            return []
        try:
            items = self._items(decode(line))
        except (ValueError, RecursionError):
            return []
        self._early = line
        return items

    def _without_early(self, block: bytes) -> bytes:
        """Blank out a first line to which only its end was added; with more behind it, it is no object any more."""
        first, end, rest = block.partition(b"\n")
        early, self._early = self._early, b""
        return block if first[len(early) :].strip() else end + rest

    def _line_items(self, line: bytes) -> list[Item]:
        if not line.strip():
            self._number += 1
            return []
        try:
            fields = decode(line)
        except ValueError as error:
            self._number += 1
            return [Bad(self._number, str(error))]
        return self._object_items(fields)

    def _object_items(self, fields: Any) -> list[Item]:
        self._number += 1
        try:
            return self._items(fields)
        except (ValueError, RecursionError) as error:
            return [Bad(self._number, str(error))]

    def _items(self, fields: Any) -> list[Item]:
        if type(fields) is not dict:
            raise ValueError("not a JSON object")
        kind = fields.get("_type", "step")
        items: list[Item] = []
        self._add_config(fields, items)
        if kind in _STEP_KINDS:
            self._add_row(fields, items)
        elif kind == "run_end":
            items.append(_end(fields))
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


def _objects(block: bytes) -> list[dict[str, Any]] | None:
    """The objects of complete lines, or None where not every line is one; decoded at once in half the time."""
    try:
        found = decode(b"[%b]" % block[:-1].replace(b"\n", b","))
    except ValueError:
        return None
    return found if len(found) == block.count(b"\n") and {*map(type, found)} == {dict} else None


class _Places(NamedTuple):
    """Keys that place a row and are no metrics."""

    step: str | None
    time: str | None
    epoch: str | None
    others: Sequence[str]


@lru_cache(maxsize=256)
def _places(names: tuple[str, ...]) -> _Places | None:
    """What places rows of these keys; None where their values have to be looked at one by one."""
    step, *_ = [*filter(names.__contains__, _STEP_KEYS), None]
    time, *more_times = [*filter(names.__contains__, _TIME_KEYS), None]
    epoch = "epoch" if "epoch" in names else None
    others = [name for name in names if name in _NO_METRICS and name not in (step, time, epoch)]
    placing = {step, time, epoch, *others}
    if len(more_times) > 1 or time == "time_us" or "_type" in names or placing.issuperset(names):
        return None
    return _Places(step, time, epoch, others)


def _plain_rows(alike: list[dict[str, Any]], places: _Places | None, first_step: int) -> list[Row] | None:
    """Rows of objects with the same keys, a column at a time; None where not all is numbers and whole steps.

    It says what ``_Lines`` says of them one by one, in a fifth of the time. The objects become the metrics.
    """
    if places is None or not PLAIN.issuperset(map(type, chain.from_iterable(map(dict.values, alike)))):
        return None
    steps: Sequence[int] = range(first_step, first_step + len(alike))
    if places.step is not None:
        steps = [fields[places.step] for fields in alike]
        if {*map(type, steps)} != {int} or not -WHOLE_LIMIT <= min(steps) <= max(steps) < WHOLE_LIMIT:
            return None
    times = [time if 0 <= time < END_OF_TIME else None for time in _column(alike, places.time, -1)]
    epochs = _column(alike, places.epoch, None)
    for name in filter(None, [places.step, *places.others]):
        _column(alike, name, None)
    return [*map(make_row, zip(steps, alike, times, epochs, strict=True))]


def _column(alike: list[dict[str, Any]], name: str | None, missing: Any) -> list[Any]:
    """Take a key out of objects that have it."""
    return [missing] * len(alike) if name is None else [fields.pop(name) for fields in alike]


def _end(fields: Mapping[str, Any]) -> Ended:
    if type(fields.get("status")) is not str:
        raise ValueError("run_end record without a status")
    return Ended(fields["status"])


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
