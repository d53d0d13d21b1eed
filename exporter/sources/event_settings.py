"""The settings of a run in an event file: what CleanRL and Hugging Face write as text, and TensorBoard's HParams."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from exporter.sources.objects import object_or_none
from exporter.sources.protobuf import fields, text_field

__all__ = ["settings"]

_TABLES = frozenset({"hyperparameters", "hyperparameters/text_summary"})
_OBJECTS = frozenset({"args", "args/text_summary"})
_SESSION_START_FIELD = 3


def settings(tag: str, plugin: str, text: bytes, content: bytes) -> Mapping[str, Any] | None:
    """What a value says about the run, or None.

    Args:
        tag: The value's tag.
        plugin: Which of TensorBoard's plug-ins it is for.
        text: Its text, if it is one.
        content: What it holds for the plug-in.

    Raises:
        ValueError: what it holds is no message.
        IndexError: it is cut.
    """
    if tag in _TABLES:
        return _table(text.decode("utf-8", "replace")) or None
    if tag in _OBJECTS:
        return object_or_none(text)
    if plugin == "hparams":
        return _hparams(text_field(content, _SESSION_START_FIELD)) or None
    return None


def _table(text: str) -> dict[str, str]:
    """The rows of CleanRL's table in Markdown."""
    rows = (line.strip().strip("|").partition("|") for line in text.splitlines())
    pairs = {key.strip(): value.strip() for key, bar, value in rows if bar and not set(key) <= set("-: ")}
    pairs.pop("param", None)
    return pairs


def _hparams(session: bytes) -> dict[str, Any]:
    """The hyper-parameters at the start of a session: Lightning's, Stable-Baselines3's, torch's."""
    entries = [session[start:stop] for field, wire, start, stop in fields(session) if (field, wire) == (1, 2)]
    return {text_field(entry, 1).decode("utf-8", "replace"): _value(text_field(entry, 2)) for entry in entries}


def _value(value: bytes) -> Any:
    """A number, a text, a flag, or None."""
    for field, wire, start, stop in fields(value):
        if (field, wire) == (2, 1):
            return struct.unpack_from("<d", value, start)[0]
        if (field, wire) == (3, 2):
            return value[start:stop].decode("utf-8", "replace")
        if (field, wire) == (4, 0):
            return bool(value[start])
    return None
