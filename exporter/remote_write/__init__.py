"""Remote write: samples with their own timestamps to a server that cannot scrape them, protocol 2.0 or 1.0."""

from exporter.remote_write.endpoint import Endpoint, Reply, UnreachableError
from exporter.remote_write.limits import FUTURE_SECONDS, Limits, read_limits
from exporter.remote_write.protobuf import TimeSeries, encode_v1, encode_v2
from exporter.remote_write.stored import StoredRun
from exporter.remote_write.writer import Prepared, RemoteWriter, Written

__all__ = [
    "FUTURE_SECONDS",
    "Endpoint",
    "Limits",
    "Prepared",
    "RemoteWriter",
    "Reply",
    "StoredRun",
    "TimeSeries",
    "UnreachableError",
    "Written",
    "encode_v1",
    "encode_v2",
    "read_limits",
]
