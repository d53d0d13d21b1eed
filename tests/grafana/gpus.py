"""A page of GPU metrics, with every metric of the catalog's group, as the exporter of a machine with GPUs shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from exporter.catalog import Metric, default_catalog

_VALUES = {
    "run_gpu_info": 1.0,
    "gpu_utilization_ratio": 0.8,
    "gpu_memory_used_bytes": 60e9,
    "gpu_memory_total_bytes": 80e9,
    "gpu_power_watts": 550.0,
    "gpu_power_limit_watts": 700.0,
    "gpu_temperature_celsius": 64.0,
    "gpu_memory_temperature_celsius": 70.0,
    "gpu_sm_clock_hertz": 1.7e9,
    "gpu_memory_clock_hertz": 2.6e9,
}
_SEVERAL = {"reason": ("none", "sw_power_cap"), "kind": ("corrected", "uncorrected"), "pid": ("4711",)}


class GpuPage:
    """Serves the page; ``owners`` gives the run of each GPU by its index."""

    def __init__(self, owners: Mapping[int, str]) -> None:
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._owners = owners
        self._scrapes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def text(self) -> str:
        """The page, with counters that have grown since the last one."""
        self._scrapes += 1
        lines = []
        for metric in default_catalog().metrics.values():
            if metric.group == "gpu" or metric.name == "run_gpu_info":
                lines += [f"# TYPE {metric.sample_name} {metric.type}", *self._samples(metric)]
        return "\n".join(lines) + "\n"

    def _samples(self, metric: Metric) -> Iterator[str]:
        value = self._scrapes * 100.0 if metric.type == "counter" else _VALUES.get(metric.name, 0.5)
        for gpu, run_id in self._owners.items():
            labels = {"gpu": str(gpu), "uuid": f"GPU-{gpu}a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "name": "NVIDIA H200"}
            if metric.group == "run" or "pid" in metric.labels:
                labels |= {"run_id": run_id, "user_id": ""}
            several = [label for label in metric.labels if label in _SEVERAL]
            for more in [{label: text} for label in several for text in _SEVERAL[label]] or [{}]:
                yield f"{metric.sample_name}{{{_text({**labels, **more})}}} {value}"


def _text(labels: Mapping[str, str]) -> str:
    return ",".join('{}="{}"'.format(name, value.replace('"', r"\"")) for name, value in labels.items())
