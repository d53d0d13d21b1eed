"""How long work takes on the GPU, by CUDA events: the host goes on meanwhile, and nobody waits for the device."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["CudaTimer"]

_MAX_PENDING = 1000
_FINISH_SECONDS = 1.0
_POLL_SECONDS = 0.01


class _Pending(NamedTuple):
    """A block that the host has left, and the GPU perhaps not."""

    name: str
    begin: Any
    end: Any
    host_seconds: float


class CudaTimer:
    """Times blocks between two events in the current CUDA stream of torch, if that is imported and in use.

    Elsewhere, and while a CUDA graph is captured, the host's clock tells. An event is asked whether it has happened
    when a later block begins or ends, and for at most a second at the end.
    """

    def __init__(self, record: Callable[[str, float], None]) -> None:
        """Give names and seconds to ``record``."""
        self._record = record
        self._pending: deque[_Pending] = deque()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time a block; it is recorded also when the block raises."""
        self._resolve()
        begin, started = self._mark(), time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            end = None if begin is None else self._mark()
            if end is None:
                self._record(name, seconds)
            else:
                self._pending.append(_Pending(name, begin, end, seconds))

    def finish(self) -> None:
        """Record what the GPU still has to do, as far as it is done within a second."""
        deadline = time.monotonic() + _FINISH_SECONDS
        self._resolve()
        while self._pending and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._resolve()
        self._pending.clear()

    def _mark(self) -> Any:
        """An event in the current stream; None where there can be none."""
        if len(self._pending) < _MAX_PENDING:
            with contextlib.suppress(Exception):  # whatever a CUDA that has failed raises: the training will say so
                cuda = _cuda()
                if cuda is not None:
                    event = cuda.Event(enable_timing=True)
                    event.record()
                    return event
        return None

    def _resolve(self) -> None:
        """Record every block that the GPU has left, up to the first that it has not."""
        try:
            while self._pending and _cuda() is not None and self._pending[0].end.query():
                name, begin, end, host_seconds = self._pending.popleft()
                seconds = host_seconds
                with contextlib.suppress(Exception):  # a block that changed the device has no time between its events
                    seconds = begin.elapsed_time(end) / 1000
                self._record(name, seconds)
        except Exception:  # noqa: BLE001 - CUDA has failed: there will be no more answers
            self._pending.clear()


def _cuda() -> Any:
    """torch.cuda if it is in use, and may be asked now: a question would break the capture of a graph."""
    cuda = sys.modules.get("torch.cuda")
    if cuda is None or not cuda.is_initialized() or cuda.is_current_stream_capturing():
        return None
    return cuda
