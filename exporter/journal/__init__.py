"""The journal of a run: append-only lines of JSON, one writer, any number of readers."""

from exporter.journal.layout import (
    TARGETS_FOLDER,
    find_journals,
    journal_name,
    journal_rank,
    validate_run_id,
)
from exporter.journal.reader import (
    START,
    BadLine,
    Chunk,
    Position,
    Stamped,
    identity,
    is_journal,
    read_chunk,
    read_chunks,
)
from exporter.journal.writer import JournalWriter

__all__ = [
    "START",
    "TARGETS_FOLDER",
    "BadLine",
    "Chunk",
    "JournalWriter",
    "Position",
    "Stamped",
    "find_journals",
    "identity",
    "is_journal",
    "journal_name",
    "journal_rank",
    "read_chunk",
    "read_chunks",
    "validate_run_id",
]
