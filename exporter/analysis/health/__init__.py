"""What the alert rules have to say about a log, offline.

A finding tells how many single updates lay beyond a bound; its severity is decided by whether that lasted:

- A **threshold** speaks where two of three successive updates are beyond it (of a log with fewer updates, one). Then
  every update beyond it is counted, in the worst severity that lasted, so that no update counts twice. Where none
  lasted, a spike rule tells the single updates as ``info``.
- **Warm-up** decides whether a rule speaks, not what it counts: it takes one bad stretch after the warm-up.
- An update outside the metric's **healthy range** that no alert counts is told as ``info`` (``OutsideHealthyRange``).
- Rules that **compare with the time before** look at windows of time, as in Prometheus. In a log without times they
  find nothing to compare. What makes them fire is counted, not how long they would be held up after that.
- **NaN and infinities** are counted by the rule about them only, at once, and by no other.

Left out is what a log cannot tell: rules about GPU, host and exporter, about histograms, and those that are PromQL.
"""

from exporter.analysis.health.findings import OUTSIDE_HEALTHY, Finding, find, judged_metrics
from exporter.analysis.health.log import LoggedRun, read_run

__all__ = ["OUTSIDE_HEALTHY", "Finding", "LoggedRun", "find", "judged_metrics", "read_run"]
