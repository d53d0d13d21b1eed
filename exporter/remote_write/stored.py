"""What a server has stored of a run: exact samples, counts, and whether there is anything at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.encoding import decode
from exporter.errors import ServerError
from exporter.records import Labels
from exporter.remote_write.endpoint import Endpoint

__all__ = ["StoredRun"]


class StoredRun:
    """The series of one run and rank on one server."""

    def __init__(self, endpoint: Endpoint, run_id: str, rank: str) -> None:
        """``rank`` is empty for rank 0, some of whose series have a label for it where there are several ranks."""
        self._endpoint = endpoint
        self._matchers = f"run_id={_quoted(run_id)},rank=~{_quoted(rank or '0?')}"

    def exists(self, first_ms: int, last_ms: int) -> bool:
        """Whether there may be samples between these times; where not, there are none.

        Raises:
            ServerError: the server cannot be asked.
        """
        # A server's index is kept by the hour or the day, so a wider look costs nothing.
        span: dict[str, str | int] = {"start": first_ms // 1000 - 1, "end": last_ms // 1000 + 1}
        return bool(self._ask("series", {"match[]": f"{{{self._matchers}}}", **span}))

    def count(self, name: str, first_ms: int, last_ms: int) -> dict[Labels, int]:
        """How many samples the series of a name have between these times, both included.

        Prometheus 2 also counts a sample one millisecond earlier.

        Raises:
            ServerError: the server cannot be asked.
        """
        selector = f"count_over_time({{__name__={_quoted(name)},{self._matchers}}}[{last_ms - first_ms + 1}ms])"
        result = self._query(selector, last_ms)
        return {_labels({**item["metric"], "__name__": name}): int(item["value"][1]) for item in result}

    def samples(self, first_ms: int, last_ms: int) -> dict[Labels, dict[int, float]]:
        """Every sample between these times, both included: value by milliseconds.

        Raises:
            ServerError: the server cannot be asked.
        """
        result = self._query(f"{{{self._matchers}}}[{last_ms - first_ms + 1}ms]", last_ms)
        return {
            _labels(item["metric"]): {round(seconds * 1000): float(value) for seconds, value in item["values"]}
            for item in result
        }

    def _query(self, expression: str, time_ms: int) -> list[dict[str, Any]]:
        # VictoriaMetrics would remember for a while that there was nothing.
        data = self._ask("query", {"query": expression, "time": f"{time_ms / 1000:.3f}", "nocache": 1})
        return list(data["result"])

    def _ask(self, path: str, parameters: Mapping[str, str | int]) -> Any:
        reply = self._endpoint.api(path, parameters)
        try:
            return decode(reply.body)["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(reply.complaint) from error


def _labels(metric: dict[str, str]) -> Labels:
    return tuple(sorted(metric.items()))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
