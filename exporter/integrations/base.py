"""What the integrations share: the run behind a callback, hooks that cannot break a training, missing packages."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from exporter.errors import ConfigError, MissingDependencyError
from exporter.run import Run, start_run
from exporter.run.settings import Settings, resolve_settings

__all__ = ["TrainerRun", "needs", "never_raises", "say_once"]

P = ParamSpec("P")
T = TypeVar("T")

_MAX_TEXT = 256
_said: set[str] = set()


@contextlib.contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Import a trainer's package in this block.

    Raises:
        MissingDependencyError: the package is missing or broken; the message says what to install.
    """
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"{package} cannot be imported ({error}); install it with: pip install 'telemetry-exporter[{extra}]'"
        ) from error


def never_raises(hook: Callable[P, T]) -> Callable[P, T | None]:
    """A hook that a trainer calls while it trains: what goes wrong in it is said once, and training goes on."""

    @functools.wraps(hook)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - telemetry never breaks training
            kind = f"{hook.__qualname__}: {type(error).__name__}"
            say_once(kind, f"{kind}: {error}")
            return None

    return guarded


def say_once(kind: str, message: str) -> None:
    """One line on stderr per kind of trouble."""
    if kind not in _said:
        _said.add(kind)
        with contextlib.suppress(Exception):  # stderr may be closed
            print(f"telemetry: {message:.1000}", file=sys.stderr)


class TrainerRun:
    """The run behind one callback: the user's, which the user ends, or its own, which ends with the training.

    Its own is opened again, as the next attempt of the same run, where more comes after its end: a test after the
    training, or another training.
    """

    def __init__(self, run: Run | None, settings: Mapping[str, Any]) -> None:
        """Log to ``run``, or to one that is started with ``settings``, those of ``start_run``, when it is opened.

        Raises:
            ConfigError: both are given, or a setting is unknown or not usable.
        """
        if run is not None and settings:
            raise ConfigError(
                f"run= has been started, so it cannot take {', '.join(settings)} any more: give one of both"
            )
        self._is_own = run is None
        self._arguments = {**settings}
        self._given = Settings(run.run_id) if run else _resolve(**settings)
        self._config: dict[str, Any] = {}
        self.run = run
        """The run while it is open."""
        self.run_id = self._given.run_id
        """The run's id, also before it is opened."""
        self.has_begun = run is not None
        """Whether it was opened once."""
        self.is_training = False
        """Whether a training has begun and not ended."""

    def add_config(self, config: Mapping[str, Any]) -> None:
        """Keep hyper-parameters with the run, now or when it starts."""
        if self.run is not None and not config.items() <= self._config.items():
            self.run.add_config(config)
        self._config.update(config)

    def open(self, framework: str, recipe: str = "", base_model: str = "") -> Run:
        """The run, started where it is not open; what the user says about it goes before what the trainer says.

        Raises:
            ConfigError: a setting is not usable.
            RunError: the journal cannot be written, or another process writes it.
        """
        if self.run is None:
            derived = {"framework": framework, "recipe": recipe, "base_model": base_model}
            texts = {name: getattr(self._given, name) or text[:_MAX_TEXT] for name, text in derived.items()}
            config = {**self._config, **self._given.config}
            self.run = start_run(**{**self._arguments, **texts, "run_id": self.run_id, "config": config})
            self.has_begun = True
        return self.run

    def begin_training(self) -> None:
        """From now on, a process that ends before the training does leaves a failed run."""
        self.is_training = True
        if self._is_own:
            atexit.register(self._fail)

    def end(self, status: str = "finished", reason: str = "") -> None:
        """What the trainer did has ended; a run of the user's goes on."""
        self.is_training = False
        if self._is_own and self.run is not None:
            atexit.unregister(self._fail)
            self.run.finish(status, reason)
            self.run = None

    def _fail(self) -> None:
        error = getattr(sys, "last_value", None)  # the exception that ends the process
        self.end("failed", f"{type(error).__name__}: {error}" if error else "the training did not reach its end")


def _resolve(settings: Any = None, directory: Any = None, on_alert: Any = None, **others: Any) -> Settings:  # noqa: ARG001
    """The settings that ``start_run`` makes of these arguments."""
    folder = None if directory is None else os.fspath(directory)
    return resolve_settings({**others, "directory": folder}, os.environ, settings)
