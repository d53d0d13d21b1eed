"""Lines of JSON: a row, a configuration, or the end of the run each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from exporter.encoding import decode
from exporter.sources.base import HEAD_BYTES, LINES_NAMES, Bad, Ended, Head, Item, LineBlocks, Meta
from exporter.sources.json_rows import CONFIG_KEYS, STEP_KEYS, TIME_KEYS, alike_rows, is_over, row_of
from exporter.sources.objects import object_or_none

__all__ = ["Jsonl"]

_STEP_KINDS = ("step", "metric")
_SINGLE_OBJECT_NAMES = ("trainer_state.json", "wandb-summary.json")
_SINGLE_OBJECT_KEYS = frozenset({"log_history", "_wandb", "_runtime"})
_ROW_KEYS = frozenset({*STEP_KEYS, *TIME_KEYS, "_type", "event", "metric", "metrics"})
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
                yield from self._line_items(line if line.strip() else {})
            return
        for _, group in groupby(objects, tuple):
            alike = [*group]
            rows = alike_rows(alike, self._step)
            if rows is not None:
                self._number += len(rows)
                self._step = rows[-1].step
                yield from rows
            else:
                for fields in alike:
                    yield from self._line_items(fields)

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

    def _line_items(self, line: bytes | dict[str, Any]) -> list[Item]:
        """What one line says, decoded or not."""
        self._number += 1
        try:
            return self._items(decode(line) if isinstance(line, bytes) else line)
        except (ValueError, RecursionError) as error:
            return [Bad(self._number, str(error))]

    def _items(self, fields: Any) -> list[Item]:
        if type(fields) is not dict:
            raise ValueError("not a JSON object")
        kind = fields.get("_type", "step")
        row = row_of(fields, self._step) if kind in _STEP_KINDS else None
        items: list[Item] = [*self._new_config(fields)]
        if row is not None:
            self._step = row.step
            items.append(row)
        elif kind == "run_end":
            items.append(_end(fields))
        if is_over(fields):
            items.append(Ended("finished"))
        return items

    def _new_config(self, fields: Mapping[str, Any]) -> Iterator[Meta]:
        for key in CONFIG_KEYS:
            config = fields.get(key)
            if type(config) is dict and config != self._config:
                self._config = config
                yield Meta(config)


def _objects(block: bytes) -> list[dict[str, Any]] | None:
    """The objects of complete lines, or None where not every line is one; decoded at once in half the time."""
    try:
        found = decode(b"[%b]" % block[:-1].replace(b"\n", b","))
    except ValueError:
        return None
    return found if len(found) == block.count(b"\n") and {*map(type, found)} == {dict} else None


def _end(fields: Mapping[str, Any]) -> Ended:
    if type(fields.get("status")) is not str:
        raise ValueError("run_end record without a status")
    return Ended(fields["status"])


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
