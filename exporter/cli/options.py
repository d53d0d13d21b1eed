"""What several commands take in the same form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporter.errors import ConfigError
from exporter.records import is_free_label

__all__ = ["parse_tags"]


def parse_tags(texts: Iterable[str]) -> Mapping[str, str]:
    """KEY=VALUE texts as labels.

    Raises:
        ConfigError: one of them has another form, or its key cannot be a label.
    """
    tags = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not is_free_label(key):
            raise ConfigError(f"--tag {text!r} must be KEY=VALUE, where KEY is a label that is not taken already")
        tags[key] = value
    return tags
