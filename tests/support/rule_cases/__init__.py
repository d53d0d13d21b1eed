"""For every alert the situations in which it must fire and those in which it must not, by alert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.promtool import Case
from tests.support.rule_cases.learning import LEARNING
from tests.support.rule_cases.machine import MACHINE
from tests.support.rule_cases.policy import POLICY
from tests.support.rule_cases.progress import PROGRESS
from tests.support.rule_cases.ranks import RANKS
from tests.support.rule_cases.training import TRAINING

__all__ = ["CASES"]

CASES: Mapping[str, Sequence[Case]] = {**TRAINING, **POLICY, **LEARNING, **PROGRESS, **RANKS, **MACHINE}
