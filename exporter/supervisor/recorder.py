"""The recorder: reads along, writes the journal, and says at the end why the command ended.

It is a process of its own, so that a line that takes long to parse, a full disk or a server that hangs never
holds up the command's output.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Callable, Iterable
from typing import Any

from exporter.run import Run, SystemMetricsLogger
from exporter.sources.console import LineParser
from exporter.supervisor.ending import Ending, exit_code, explain, status
from exporter.supervisor.lines import Lines
from exporter.supervisor.memory import count_oom_kills

__all__ = ["Recorder"]

_PIECE_BYTES = 64 * 1024


class Recorder:
    """Logs to one run what comes from the taps, and ends it with what the supervisor says at the end."""

    def __init__(self, run: Run, system_metrics: Callable[[int], SystemMetricsLogger | None] = lambda _: None) -> None:
        """Record to a run; ``system_metrics`` gives the logger for the command's process, if there is to be one."""
        self._run = run
        self._make_logger = system_metrics
        self._logger: SystemMetricsLogger | None = None
        self._ending: Ending | None = None
        self._oom_kills_before = count_oom_kills()

    def follow(self, taps: Iterable[int], control: socket.socket) -> None:
        """Read until the supervisor has said how the command ended, and what came before that; then end the run."""
        readers: dict[int, Callable[[str], None]] = {tap: self._make_reader() for tap in taps}
        readers[control.fileno()] = self._obey
        with selectors.DefaultSelector() as selector:
            for fd in readers:
                selector.register(fd, selectors.EVENT_READ, Lines())
            is_over = False
            while (ready := selector.select(0 if is_over else None)) or not is_over:
                for key, _ in ready:
                    piece = os.read(key.fd, _PIECE_BYTES)
                    if not piece:
                        selector.unregister(key.fd)
                        is_over = is_over or key.fd == control.fileno()
                    for line in key.data.feed(piece):
                        readers[key.fd](line)
        self._finish()

    def _make_reader(self) -> Callable[[str], None]:
        """What to do with a line of an output that has a parser of its own."""
        parser = LineParser()
        parser.step = max(self._run.get_state()["step"] - 1, 0)  # a resumed run's lines may not say their steps

        def read(line: str) -> None:
            with contextlib.suppress(Exception):  # a line that the parser stumbles over costs no more than itself
                row = parser.parse_line(line)
                if row is not None:
                    self._run.log(row.metrics, step=row.step, epoch=row.epoch)

        return read

    def _obey(self, line: str) -> None:
        message: dict[str, Any] = json.loads(line)
        if "signal" in message:
            self._run.event(message["signal"], "came for the command", "warning")
        elif "pid" in message:
            self._logger = self._make_logger(message["pid"])
            if self._logger:
                self._logger.start()
        else:
            self._ending = Ending(**message)

    def _finish(self) -> None:
        if self._logger:
            self._logger.stop()
        ending = self._ending
        if ending is None:
            self._run.finish("crashed", "the supervisor was killed; the command may go on without telemetry")
            return
        if ending.skipped_bytes:
            text = f"{ending.skipped_bytes} bytes of output came too fast to be read for metrics"
            self._run.event("output skipped", text, "warning")
        reason = explain(ending, count_oom_kills().since(self._oom_kills_before))
        self._run.finish(status(ending), reason, exit_code(ending.returncode))
