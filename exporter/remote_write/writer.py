"""Sends samples: finds out which protocol a server speaks, tries again what may succeed, says what was refused."""

from __future__ import annotations

import contextlib
import email.utils
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from exporter.errors import ServerError
from exporter.remote_write.endpoint import Endpoint, Reply, UnreachableError
from exporter.remote_write.protobuf import TimeSeries, encode_v1, encode_v2
from exporter.remote_write.snappy import compress

__all__ = ["Prepared", "RemoteWriter", "Written"]

_MAX_ATTEMPTS = 8
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0

_REFUSALS = (400, 409, 413, 422)
"""What a server answers to samples that it does not want, rather than to the sender."""

_NOT_UNDERSTOOD = (400, 415)
"""What a server answers to a protocol that it does not speak."""

_COUNT_HEADER = "X-Prometheus-Remote-Write-Samples-Written"


class _Protocol(NamedTuple):
    version: str
    content_type: str
    encode: Callable[[Sequence[TimeSeries]], bytes]

    @property
    def headers(self) -> Mapping[str, str]:
        return {
            "Content-Encoding": "snappy",
            "Content-Type": self.content_type,
            "X-Prometheus-Remote-Write-Version": self.version,
        }


_V1 = _Protocol("0.1.0", "application/x-protobuf", encode_v1)
_V2 = _Protocol("2.0.0", "application/x-protobuf;proto=io.prometheus.write.v2.Request", encode_v2)


class Written(NamedTuple):
    """What became of samples."""

    accepted: int
    """How many the server says it took; that it keeps them, only a query can tell."""
    refusals: tuple[str, ...] = ()
    """What it said about the others."""


class Prepared(NamedTuple):
    """A request that is ready to be sent."""

    series: Sequence[TimeSeries]
    protocol: _Protocol
    body: bytes


class RemoteWriter:
    """Writes to one server, one request at a time; the next one may be prepared by another thread meanwhile."""

    def __init__(self, endpoint: Endpoint, sleep: Callable[[float], object] | None = None) -> None:
        """``sleep`` waits for seconds between two attempts; by default ``stop`` ends the wait."""
        self._endpoint = endpoint
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._protocol = _V2

    @property
    def version(self) -> str:
        """The protocol in use: 2.0 until a server turns out not to speak it."""
        return "2.0" if self._protocol is _V2 else "1.0"

    def stop(self) -> None:
        """Try a request that is failing once more at most; may be called from any thread."""
        self._stopped.set()

    def write(self, series: Sequence[TimeSeries]) -> Written:
        """Send samples in one request, more where the server refuses some of them.

        Raises:
            ServerError: the server does not answer, fails again and again, or refuses this sender.
            MissingDependencyError: the compression is not installed.
        """
        return self.send(self.prepare(series))

    def prepare(self, series: Sequence[TimeSeries]) -> Prepared:
        """Encode and compress samples.

        Raises:
            MissingDependencyError: the compression is not installed.
        """
        protocol = self._protocol
        return Prepared(series, protocol, compress(protocol.encode(series)))

    def send(self, request: Prepared) -> Written:
        """Send a request, more where the server refuses some of its samples.

        Raises:
            ServerError: the server does not answer, fails again and again, or refuses this sender.
        """
        if request.protocol is not self._protocol:
            request = self.prepare(request.series)
        reply = self._post(request)
        if request.protocol is _V2 and _is_foreign(reply):
            self._protocol = _V1
            return self.send(request)
        if reply.is_ok:
            return Written(_count(reply, sum(len(one.values) for one in request.series)))
        if reply.status not in _REFUSALS:
            raise ServerError(reply.complaint)
        if request.protocol is _V2 or len(request.series) == 1:
            return Written(_count(reply, 0), (reply.message,))
        return self._write_halves(request.series)

    def _write_halves(self, series: Sequence[TimeSeries]) -> Written:
        """Protocol 1.0 does not say which samples were refused, and may have stored none of the others."""
        middle = len(series) // 2
        first, second = self.write(series[:middle]), self.write(series[middle:])
        return Written(first.accepted + second.accepted, first.refusals + second.refusals)

    def _post(self, request: Prepared) -> Reply:
        """Send a request, again and again while the server cannot take it now."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            pause = _FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 - spreads senders
            try:
                reply = self._endpoint.write(request.body, request.protocol.headers)
            except UnreachableError as error:
                trouble = str(error)
            else:
                if reply.status != 429 and reply.status < 500:
                    return reply
                trouble = reply.complaint
                pause = max(pause, _retry_after(reply))
            if attempt == _MAX_ATTEMPTS or self._stopped.is_set():
                break
            self._sleep(min(pause, _LONGEST_PAUSE_SECONDS))
        raise ServerError(f"gave up after {attempt} attempts: {trouble}")


def _is_foreign(reply: Reply) -> bool:
    """Whether a server does not speak 2.0: it may answer 204 all the same, and has stored nothing."""
    return _COUNT_HEADER not in reply.headers and (reply.is_ok or reply.status in _NOT_UNDERSTOOD)


def _count(reply: Reply, otherwise: int) -> int:
    with contextlib.suppress(KeyError, ValueError):
        return int(reply.headers[_COUNT_HEADER])
    return otherwise


def _retry_after(reply: Reply) -> float:
    """Seconds that the server asks to wait: it says so as a number or as a date."""
    text = reply.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return float(text)
    with contextlib.suppress(ValueError, TypeError):
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return 0.0
