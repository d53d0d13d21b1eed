"""A run as the training script holds it: every call is one line in the journal, and none of them raises."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from exporter.encoding import APPEND_NEWLINE, clean, decode, encode, encode_line
from exporter.journal import JournalWriter
from exporter.records import ALERT_TYPES, PHASE_PREFIX
from exporter.run.cuda_timer import CudaTimer
from exporter.run.scalars import sort_values, to_scalar
from exporter.run.table import Table

__all__ = ["Run"]

_REPORT_SECONDS = 1.0
_MAX_STEP = 2**63
_CHECK_STATUSES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_END_STATUSES = ("finished", "failed", "crashed")


class Run:
    """One run; made by :func:`exporter.start_run`.

    Calling the run is the same as calling :meth:`log`. As a context manager it ends as ``finished``, or
    as ``failed`` when the block raises.
    """

    def __init__(
        self,
        run_id: str,
        writer: JournalWriter | None,
        first_step: int = 0,
        on_finish: Callable[[], None] = lambda: None,
        url: str | None = None,
        training_monitoring_link: str | None = None,
    ) -> None:
        """Log through a writer; without one (a rank that does not log) every call does nothing."""
        self.run_id = run_id
        self.url = url
        """Address of the in-process server, or None without one."""
        self.training_monitoring_link = training_monitoring_link
        """Where Grafana shows the run, or None without the setting ``grafana_url``."""
        self._writer = writer
        self._is_open = writer is not None
        self._append = writer.append if writer else _ignore
        self._next_step = first_step
        self._on_finish = on_finish
        self._cuda_timer = CudaTimer(self._write_phase_end)
        self._pid = os.getpid()
        self._refused: Counter[str] = Counter()
        self._report_at = 0.0
        self._said: set[str] = set()

    @property
    def path(self) -> Path | None:
        """The journal's file, or None on a rank that does not log."""
        return self._writer.path if self._writer else None

    @property
    def is_open(self) -> bool:
        """Whether what is logged now is stored."""
        return self._is_open

    @property
    def lost(self) -> Mapping[str, int]:
        """Records that could not be stored so far, by reason."""
        return dict(self._writer.lost) if self._writer else {}

    def log(self, metrics: Mapping[str, Any], step: int | None = None, epoch: float | None = None) -> None:
        """Log the values of one step.

        Numbers (Python's, and scalars with ``item()`` such as numpy's and torch's) become series, strings
        properties of the run, tables rows to look at; None is left out. Without ``step`` the step is one
        more than the last call's.
        """
        now = time.time()
        if step is None:
            step = self._next_step
        try:
            # One sum tells whether anything is no number, or is NaN or infinite: then look closer.
            if type(step) is int and -math.inf < sum(metrics.values()) < math.inf and self._is_open:
                record = {"_type": "step", "time": now, "step": step, "metrics": metrics}
                if epoch is not None:
                    record["epoch"] = float(epoch)
                line = encode(record, to_scalar, APPEND_NEWLINE)
                self._next_step = step + 1
                self._append(line, now)
                return
        except Exception:  # noqa: BLE001, S110 - whatever it was, the closer look finds and counts it
            pass
        self._log_closely(metrics, step, epoch, now)

    __call__ = log

    @contextmanager
    def time_operation(self, name: str) -> Iterator[None]:
        """Time a block with a monotonic clock; it is recorded also when the block raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._write("timing", name=name, seconds=time.perf_counter() - started)

    @contextmanager
    def phase(self, name: str, *, cuda: bool = False) -> Iterator[None]:
        """Time a phase of the training step: data, forward, backward, optimizer, generate, reward, or the like.

        Unlike an operation it is also recorded when it begins, so that a run that hangs shows where. With ``cuda``
        its duration is that of the work which torch was given in it for the GPU, and not that of handing it over;
        nothing waits for the GPU, so it is recorded later. Where torch does not use CUDA that makes no difference.
        """
        self._write("phase", name=name)
        with self._cuda_timer.time(name) if cuda else self.time_operation(f"{PHASE_PREFIX}{name}"):
            yield

    def event(self, title: str, text: str = "", alert_type: str = "info", tags: Sequence[str] = ()) -> None:
        """Record something worth a mark on a time line; alert_type is info, warning, error or success."""
        alert_type = self._one_of(alert_type, ALERT_TYPES, "info")
        several = list(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else [tags]
        self._write("event", title=title, text=text, alert_type=alert_type, tags=[] if tags is None else several)

    def check(self, name: str, status: str, message: str = "") -> None:
        """Record the status of a check: OK, WARNING, CRITICAL or UNKNOWN."""
        status = self._one_of(status, _CHECK_STATUSES, "UNKNOWN")
        self._write("check", name=name, status=status, message=message)

    def checkpoint(
        self, path: str | os.PathLike[str], step: int | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Record a saved checkpoint; without ``step`` it is that of the last logged step."""
        self._write("checkpoint", step=self._last_step(step), path=str(path), metrics=metrics or {})

    def epoch_end(self, epoch: float, summary: Mapping[str, Any] | None = None) -> None:
        """Record the end of an epoch with its summary."""
        self._write("epoch_end", epoch=epoch, step=self._last_step(None), summary=summary or {})

    def add_config(self, config: Mapping[str, Any]) -> None:
        """Add to the run's configuration what became known after its start."""
        if not (self._is_open and self._writer):
            return
        try:
            start = decode(self._writer.header)
            start["config"] = {**start["config"], **clean(dict(config))}
            start["time"] = now = time.time()
            self._writer.header = encode_line(start)
            self._append(self._writer.header, now)
        except Exception as error:  # noqa: BLE001 - telemetry never breaks training
            self._refuse(f"configuration cannot be stored: {error!r:.200}", "not_encodable", 1)

    def get_state(self) -> dict[str, int]:
        """What to save with a checkpoint, so that a resumed run continues the step axis."""
        return {"step": self._next_step}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continue the step axis from a saved state."""
        self._next_step = int(state["step"])

    def finish(self, status: str = "finished", reason: str = "", exit_code: int | None = None) -> None:
        """End the run as finished, failed or crashed; later calls do nothing."""
        if not self._is_open or os.getpid() != self._pid:
            return
        status = self._one_of(status, _END_STATUSES, "failed")
        self._report_refused(math.inf)
        self._cuda_timer.finish()
        self._write("run_end", status=status, reason=reason, exit_code=exit_code)
        self._is_open = False
        if self._writer:
            self._writer.close()
        self._on_finish()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.finish()
        else:
            self.finish("failed", f"{type(error).__name__}: {error}")

    def _log_closely(self, metrics: Any, step: Any, epoch: Any, now: float) -> None:
        """The same for calls that need a closer look: strings, tables, NaN, other kinds of numbers, mistakes."""
        if not self._is_open:
            if self._writer:
                self._say(f"run {self.run_id} is finished; what is logged now is ignored")
            return
        try:
            step = self._valid_step(step, self._next_step)
            self._next_step = step + 1
            values = sort_values(metrics)
            record: dict[str, Any] = {"_type": "step", "time": now, "step": step, "metrics": values.metrics}
            if epoch is not None:
                record["epoch"] = clean(epoch)
            if values.properties:
                record["properties"] = values.properties
            self._append(encode_line(record), now)
            for name, table in values.tables.items():
                self._write_table(name, table, step)
            if values.refused:
                self._refuse(f"no number: {', '.join(values.refused)[:200]}", "not_a_number", len(values.refused))
        except Exception as error:  # noqa: BLE001 - telemetry never breaks training
            self._refuse(
                f"log() got {type(metrics).__name__}, which it cannot store: {error!r:.200}", "not_a_mapping", 1
            )
        self._report_refused(now)

    def _valid_step(self, step: Any, default: int) -> int:
        try:
            if -_MAX_STEP < (number := int(step)) < _MAX_STEP:
                return number
        except Exception:  # noqa: BLE001, S110 - whatever a stranger's int() raises
            pass
        self._refuse(f"step {type(step).__name__} {clean(step)!r:.80} is no whole number of 64 bits", "bad_step", 1)
        return default

    def _last_step(self, step: int | None) -> int:
        last = max(self._next_step - 1, 0)
        return last if step is None else self._valid_step(step, last)

    def _write_table(self, name: str, table: Table, step: int) -> None:
        self._write("table", name=name, step=step, columns=table.columns, rows=table.rows)

    def _write_phase_end(self, name: str, seconds: float) -> None:
        self._write("timing", name=f"{PHASE_PREFIX}{name}", seconds=seconds)

    def _write(self, kind: str, **fields: Any) -> None:
        if not self._is_open:
            return
        now = time.time()
        try:
            self._append(encode_line({"_type": kind, "time": now, **clean(fields)}), now)
        except Exception as error:  # noqa: BLE001 - telemetry never breaks training
            self._refuse(f"{kind} cannot be stored: {error!r:.200}", "not_encodable", 1)

    def _refuse(self, message: str, reason: str, count: int) -> None:
        self._refused[reason] += count
        self._say(message, reason)

    def _report_refused(self, now: float) -> None:
        """Refused values go into the journal at most once a second, so that readers can count them."""
        if self._refused and now >= self._report_at:
            self._report_at = now + _REPORT_SECONDS
            refused, self._refused = self._refused, Counter()
            for reason, count in refused.items():
                self._write("lost", reason=reason, count=count)

    def _one_of(self, value: str, allowed: tuple[str, ...], default: str) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        self._say(f"{value!r:.80} is none of {', '.join(allowed)}; recorded as {default}", f"none of {allowed}")
        return default

    def _say(self, message: str, kind: str = "") -> None:
        """One line on stderr per kind of trouble."""
        if (kind or message) not in self._said:
            self._said.add(kind or message)
            with contextlib.suppress(Exception):  # stderr may lie on a full disk, or be closed
                print(f"telemetry: {message}", file=sys.stderr)


def _ignore(line: bytes, now: float) -> None:
    """A rank that does not log."""
