"""Foreign logs become journals, so that nothing behind them knows the difference."""

from exporter.importer.importer import Importer, ImportOptions, journals_below, journals_of

__all__ = ["ImportOptions", "Importer", "journals_below", "journals_of"]
