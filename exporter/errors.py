"""The errors a user can meet, as a tree; the command line maps them to exit codes in one place.

TelemetryError               catch this for anything this package raises on purpose
├── ConfigError              a setting, catalog or option is wrong; nothing was started
├── RunError                 a run cannot be started (its journal is taken, its folder is unwritable)
├── MissingDependencyError   an optional package is needed for what was asked
└── ServerError              an HTTP server cannot listen, or a server that is needed is missing

While a run is training nothing is raised: trouble is counted and said once on stderr.
"""

from __future__ import annotations

__all__ = ["ConfigError", "MissingDependencyError", "RunError", "ServerError", "TelemetryError"]


class TelemetryError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(TelemetryError):
    """A setting, a catalog or an option is wrong: the message has the value, the rule and the remedy."""


class RunError(TelemetryError):
    """A run cannot be started."""


class MissingDependencyError(TelemetryError):
    """An optional package is needed for what was asked."""


class ServerError(TelemetryError):
    """An HTTP server cannot listen, or a server that is needed is missing."""
