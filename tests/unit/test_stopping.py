"""A signal at any moment stops who waits."""

from __future__ import annotations

import subprocess
import sys
import threading

from exporter.stopping import Stop

SIGNALLED = """
import random, signal
from exporter.stopping import Stop
rng = random.Random(0)
for _ in range(20_000):
    stop = Stop()
    signal.signal(signal.SIGALRM, lambda *_: stop.set())
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 1e-4))
    while not stop.wait(2e-5):
        pass
print("stopped")
"""


def test_a_signal_in_the_midst_of_waiting_stops() -> None:
    """Whenever its handler sets it, the main thread goes on: twenty thousand times, at moments of all kinds."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_everybody_who_waits_is_told() -> None:
    """Several threads that wait without a limit go on, and later ones do not wait at all."""
    stop, told = Stop(), []
    threads = [threading.Thread(target=lambda: told.append(stop.wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.set()
    for thread in threads:
        thread.join(10)
    assert told == [True] * 3
    assert stop.wait()


def test_nobody_waits_for_longer_than_said() -> None:
    """Without a signal the answer is no, at once where no time is left."""
    stop = Stop()
    assert not any(stop.wait(seconds) for seconds in (0.01, 0.0, -1.0))
    assert not stop.is_set()
