"""Histograms of durations, against counting by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition import Format, Page
from exporter.exposition.histogram import BUCKETS, Histogram
from exporter.records import Family
from tests.support.journals import Scrape, judge

FAMILY = Family("wait_seconds", "histogram", "Waiting.")


def scrape(values: list[float], time_ms: int | None = None) -> Scrape:
    """What a page says about some observations."""
    histogram = Histogram(FAMILY)
    for value in values:
        histogram.observe(value)
    page = Page(Format.OPENMETRICS)
    page.add(histogram.samples((("run", "x"),), time_ms))
    return judge(page.render(), Format.OPENMETRICS)


@given(st.lists(st.floats(0, 1000) | st.sampled_from(BUCKETS), max_size=30))
def test_buckets_count_what_is_at_most_their_bound(values: list[float]) -> None:
    """Every bucket holds the number of observations up to and with its bound; count and sum are over all."""
    page = scrape(values)
    for bound in (*BUCKETS, math.inf):
        text = "+Inf" if math.isinf(bound) else repr(bound)
        assert page.value("wait_seconds_bucket", le=text) == sum(value <= bound for value in values)
    assert page.value("wait_seconds_count") == len(values)
    assert page.value("wait_seconds_sum") == pytest.approx(math.fsum(values))


def test_bounds_increase() -> None:
    """Bounds are positive, finite and strictly increasing, as a histogram's must be."""
    assert all(0 < low < high < math.inf for low, high in pairwise(BUCKETS))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001])
def test_what_is_no_duration_is_left_out(value: float) -> None:
    """NaN and infinities would spoil the sum for ever, a negative one would let it fall: they are not counted."""
    assert scrape([0.3, value]).series == scrape([0.3]).series


def test_a_time_stands_on_every_series() -> None:
    """All series of a histogram carry the given timestamp."""
    assert {time for points in scrape([0.3], 5000).series.values() for time, _ in points} == {5000}
