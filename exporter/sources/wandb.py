"""What W&B leaves in a run's folder: ``wandb-summary.json``, the last values, and ``config.yaml``."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.encoding import decode
from exporter.sources.base import HEAD_BYTES, LINES_NAMES, Bad, Head, Item, Meta, Row, open_log
from exporter.sources.objects import numeric_leaves, object_or_none, step_number, unix_seconds

__all__ = ["Wandb"]

_SUMMARY_NAME = "wandb-summary.json"
_SUMMARY_KEYS = frozenset({"_wandb", "_runtime"})
_CONFIG_MARK = re.compile(rb"^(?:wandb_version|_wandb):", re.M)
_CONFIG_VALUE = re.compile(rb"^\s+value:", re.M)
_NO_CONFIG = ("_wandb", "wandb_version")


class Wandb:
    """Either file; keys that begin with an underscore are W&B's own."""

    name = "wandb"

    def recognises(self, head: Head) -> bool:
        """Whether it holds W&B's own keys; the name decides for a summary too long to be looked at as a whole."""
        if head.data.lstrip().startswith(b"{"):
            return _is_summary(head)
        return bool(_CONFIG_MARK.search(head.data) and _CONFIG_VALUE.search(head.data))

    def read(self, path: Path) -> Iterator[Item | None]:
        """The summary as one row at its step, or the config.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            with open_log(path) as file:
                data = file.read()
            yield from _summary(data) if data.lstrip().startswith(b"{") else _config(data)
        except (ValueError, RecursionError, EOFError, zlib.error) as error:
            yield Bad(1, str(error))


def _is_summary(head: Head) -> bool:
    fields = object_or_none(head.data)
    if fields is None:
        return head.name == _SUMMARY_NAME and len(head.data) >= HEAD_BYTES
    if head.name == _SUMMARY_NAME:
        return True
    return not head.name.endswith(LINES_NAMES) and not _SUMMARY_KEYS.isdisjoint(fields)


def _summary(data: bytes) -> list[Item]:
    fields: Mapping[str, Any] = decode(data)
    metrics = numeric_leaves({key: value for key, value in fields.items() if not key.startswith("_")})
    if not metrics:
        return []
    return [Row(step_number(fields.get("_step")), metrics, unix_seconds(fields.get("_timestamp")))]


def _config(data: bytes) -> list[Item]:
    import yaml

    try:
        entries = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError("no mapping of settings")
    return [Meta({str(key): entry["value"] for key, entry in entries.items() if _is_setting(key, entry)})]


def _is_setting(key: Any, entry: Any) -> bool:
    return key not in _NO_CONFIG and isinstance(entry, dict) and "value" in entry
