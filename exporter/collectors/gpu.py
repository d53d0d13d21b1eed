"""GPUs and their MIG instances by NVML, and which run has which of them.

A thread of its own asks the driver, because any call into it may hang; a scrape gets the last answer.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from exporter.catalog import Catalog, peak_flops
from exporter.collectors.gpu_owners import holdings, owners
from exporter.collectors.gpu_readings import Device, GpuSession, Reading
from exporter.collectors.nvml import DriverError, GpuLostError
from exporter.collectors.processes import Processes, RunProcess
from exporter.records import Labels, Sample

__all__ = ["GpuCollector"]


class _Answer(NamedTuple):
    """What the last round gave, when (monotonic seconds), and what kept it from giving more."""

    at: float
    samples: list[Sample]
    problem: str = ""


class GpuCollector:
    """Samples the GPUs from its construction on; a host without a driver has no series and one line on stderr."""

    name = "gpu"

    def __init__(
        self,
        catalog: Catalog,
        runs: Callable[[], Iterable[RunProcess]] = tuple,
        *,
        interval_seconds: float = 5.0,
        max_age_seconds: float = 15.0,
        retry_seconds: float = 60.0,
    ) -> None:
        """Start sampling; ``runs`` is called in the sampling thread for the runs' processes on this host.

        Samples that are older than ``max_age_seconds`` are not shown. A driver that is missing or was reset, and
        a GPU that was lost, are tried again every ``retry_seconds``.
        """
        self._catalog = catalog
        self._runs = runs
        self._interval = interval_seconds
        self._max_age = max_age_seconds
        self._retry = retry_seconds
        self._processes = Processes()
        self._session: GpuSession | None = None
        self._next_try = 0.0
        self._known: dict[str, Device] = {}
        self._lost: set[str] = set()
        self._last_readings: dict[str, list[Reading]] = {}
        self._xids: Counter[str] = Counter()
        self._last_xid: dict[str, int] = {}
        self._problem = ""
        self._said = False
        self._answer = _Answer(time.monotonic(), [])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-gpu", daemon=True)
        self._thread.start()

    def collect(self) -> list[Sample]:
        """The last samples.

        Raises:
            DriverError: a call hangs, the driver that was there is gone, or its answers make no sense.
        """
        answer = self._answer
        if time.monotonic() - answer.at > self._max_age:
            raise DriverError(f"no sample for {self._max_age:g} s: a call into the driver hangs")
        if answer.problem:
            raise DriverError(answer.problem)
        return answer.samples

    def close(self) -> None:
        """Stop sampling; a thread that hangs in the driver is left behind."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            samples = self._round()
            self._answer = _Answer(time.monotonic(), samples, self._problem)
            self._stop.wait(self._interval)
        self._end_session()

    def _round(self) -> list[Sample]:
        try:
            session = self._open()
            if session is None:
                return []
            samples = list(self._samples(session))
        except DriverError as error:
            self._end_session()
            self._report(str(error))
        except Exception as error:  # noqa: BLE001 - the thread lives on whatever a driver or a journal holds
            self._problem = repr(error)
        else:
            self._problem = ""
            return samples
        return []

    def _open(self) -> GpuSession | None:
        """The session; a new one where there is none, or a GPU was lost, and the last try is long enough ago."""
        now = time.monotonic()
        if now >= self._next_try and (self._session is None or self._lost):
            self._end_session()
            self._next_try = now + self._retry
            self._session = GpuSession()
            self._known.update({gpu.uuid: gpu for gpu in self._session.gpus})
            self._xids.update(dict.fromkeys(self._session.watched, 0))
        return self._session

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _report(self, problem: str) -> None:
        """A driver that goes away is a failure of this collector; one that was never there is one line."""
        if self._known:
            self._problem = problem
        elif not self._said:
            self._said = True
            print(f"telemetry: no GPU metrics: {problem}; asking again every {self._retry:g} s", file=sys.stderr)

    def _samples(self, session: GpuSession) -> Iterator[Sample]:
        readings = list(self._readings(session))
        answered = {reading.device.uuid for reading in readings if reading.values}
        self._lost = set(self._known) - answered
        for uuid, gpu in self._known.items():
            if uuid in answered:
                self._last_readings[uuid] = [reading for reading in readings if reading.device.uuid == uuid]
            yield self._sample("gpu_up", uuid in answered, gpu.labels)
            if peak := peak_flops(gpu.name):
                yield self._sample("gpu_peak_flops", peak, gpu.labels)
        for reading in readings:
            for metric, number, labels in reading.values:
                yield self._sample(metric, number, reading.device.labels, labels)
        yield from self._xid_samples(session)
        yield from self._run_samples()

    def _readings(self, session: GpuSession) -> Iterator[Reading]:
        for gpu in session.gpus:
            with contextlib.suppress(GpuLostError):
                yield from session.read(gpu)

    def _xid_samples(self, session: GpuSession) -> Iterator[Sample]:
        with contextlib.suppress(GpuLostError):
            for uuid, code in session.xids():
                self._xids[uuid] += 1
                self._last_xid[uuid] = code
        for uuid, count in self._xids.items():
            yield self._sample("gpu_xid_errors", count, self._known[uuid].labels)
        for uuid, code in self._last_xid.items():
            yield self._sample("gpu_last_xid", code, self._known[uuid].labels)

    def _run_samples(self) -> Iterator[Sample]:
        """Whose the devices are, and what the runs' processes hold on them.

        A lost GPU stays with whom it was: its run is the one to be told.
        """
        runs = list(self._runs())
        readings = [reading for of_gpu in self._last_readings.values() for reading in of_gpu]
        held = holdings(readings, runs, self._processes)
        for labels, device in owners(runs, held, [reading.device for reading in readings], self._processes):
            yield self._sample("run_gpu_info", 1, {**dict(labels), **device.labels})
        for labels, device, pid, memory in held:
            if memory is not None and device.uuid not in self._lost:
                of_process = {**dict(labels), **device.labels, "pid": str(pid)}
                yield self._sample("gpu_process_memory_used_bytes", memory, of_process)

    def _sample(self, metric: str, number: float, labels: dict[str, str], more: Labels = ()) -> Sample:
        merged = tuple(sorted({**labels, **dict(more)}.items()))
        return Sample(self._catalog.family(metric), merged, float(number))
