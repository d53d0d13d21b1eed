"""The two text formats: classic text 0.0.4 and OpenMetrics 1.0, down to bytes."""

from __future__ import annotations

import enum
import math

from exporter.records import Family, Labels

__all__ = ["Format", "series_prefix", "value_text"]


class Format(enum.Enum):
    """An exposition format; its value is the content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @classmethod
    def negotiate(cls, accept: str) -> Format:
        """The format that an Accept header likes best; classic text where it names neither."""
        quality = {cls.TEXT: 0.0, cls.OPENMETRICS: 0.0}
        for offer in accept.split(","):
            media, _, parameters = offer.partition(";")
            chosen = _MEDIA.get(media.strip().lower())
            if chosen:
                quality[chosen] = max(quality[chosen], _quality(parameters))
        return cls.OPENMETRICS if quality[cls.OPENMETRICS] > quality[cls.TEXT] else cls.TEXT

    def header(self, family: Family) -> bytes:
        """The HELP and TYPE lines."""
        name = family.sample_name if self is Format.TEXT else family.name
        text = _escape(family.help, quotes=self is Format.OPENMETRICS)
        return f"# HELP {name} {text}\n# TYPE {name} {family.type}\n".encode("utf-8", "replace")

    def suffixes(self, times_ms: list[int]) -> list[bytes]:
        """What follows a value: its timestamp and the end of the line."""
        if self is Format.TEXT:
            return [b" %d\n" % ms for ms in times_ms]
        return [b" %d.%03d\n" % divmod(ms, 1000) for ms in times_ms]

    @property
    def end(self) -> bytes:
        """What closes a page."""
        return b"# EOF\n" if self is Format.OPENMETRICS else b""


_MEDIA = {"text/plain": Format.TEXT, "application/openmetrics-text": Format.OPENMETRICS}


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def series_prefix(name: str, labels: Labels) -> bytes:
    """A series as it stands before its value, one space behind it."""
    inner = ",".join(f'{label}="{_escape(value, quotes=True)}"' for label, value in labels if value)
    return f"{name}{{{inner}}} ".encode("utf-8", "replace") if inner else f"{name} ".encode()


def value_text(value: float | str) -> bytes:
    """A value, non-finite ones as Prometheus spells them."""
    number = float(value)
    if math.isfinite(number):
        return repr(number).encode()
    return b"NaN" if math.isnan(number) else b"+Inf" if number > 0 else b"-Inf"


def _escape(text: str, *, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
