"""A page under construction: blocks of ready bytes by family, in the order the families first appear."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from exporter.exposition.formats import Format, series_prefix, value_text
from exporter.records import Family, Sample

__all__ = ["Page"]


class Page:
    """Collects the samples of one scrape.

    All samples of a family stand together, and in it all samples of a series, as the formats demand.
    """

    def __init__(self, form: Format) -> None:
        self.format = form
        self._families: dict[str, tuple[bytes, dict[Hashable, list[bytes]]]] = {}

    def __contains__(self, family: str) -> bool:
        """Whether a family of this name stands on the page."""
        return family in self._families

    def add_block(self, family: Family, series: Hashable, block: bytes) -> None:
        """Add ready sample lines of one series of a family."""
        entry = self._families.get(family.name)
        if entry is None:
            entry = self._families[family.name] = (self.format.header(family), {})
        entry[1].setdefault(series, []).append(block)

    def add(self, samples: Iterable[Sample]) -> None:
        """Add single samples; those of one histogram must come with its labels in the same order."""
        for sample in samples:
            time = b"\n" if sample.time_ms is None else self.format.suffixes([sample.time_ms])[0]
            prefix = series_prefix(sample.name, sample.labels)
            group = tuple(label for label in sample.labels if label[0] != "le")
            self.add_block(sample.family, group, prefix + value_text(sample.value) + time)

    def render(self, rest: bytes = b"") -> bytes:
        """The page, with ready text behind it and its closing line."""
        parts: list[bytes] = []
        for header, series in self._families.values():
            parts.append(header)
            for blocks in series.values():
                parts += blocks
        return b"".join([*parts, rest, self.format.end])
