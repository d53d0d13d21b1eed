"""Alert rules and their runbook, from the catalog.

Every step is stored, so a rule sees all updates of its window: the median decides, and one bad update
among good ones pages nobody. Where updates are rarer than the window, a longer one or the last update decides.
"""

from exporter.generate.alerts.promql import condition, expression
from exporter.generate.alerts.rules import alert_rules
from exporter.generate.alerts.runbook import runbook

__all__ = ["alert_rules", "condition", "expression", "runbook"]
