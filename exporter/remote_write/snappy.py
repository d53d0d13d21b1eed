"""The compression that remote write demands: snappy's block format."""

from __future__ import annotations

from exporter.errors import MissingDependencyError

__all__ = ["compress"]


def compress(data: bytes) -> bytes:
    """One snappy block.

    Raises:
        MissingDependencyError: cramjam is not installed.
    """
    try:
        import cramjam
    except ImportError as error:
        raise MissingDependencyError(
            "remote write needs cramjam: python -m pip install 'telemetry-exporter[remote-write]'"
        ) from error
    return bytes(cramjam.snappy.compress_raw(data))
