"""A file that appears when it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from exporter.errors import ConfigError

__all__ = ["new_file"]


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name; it gets its own at the end, and is removed where something fails.

    Raises:
        ConfigError: there is something at ``path`` already.
        OSError: the file cannot be written.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already and is not overwritten; remove it or choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
