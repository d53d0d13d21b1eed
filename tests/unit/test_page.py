"""A page under construction."""

from __future__ import annotations

import pytest

from exporter.exposition import Format, Page
from exporter.records import Family, Sample
from tests.support.journals import judge

A = Family("a", "gauge", "First.")
B = Family("b", "counter", "Second.")


@pytest.mark.parametrize("form", Format)
def test_an_empty_page_is_a_page(form: Format) -> None:
    """Without a sample there is nothing but the format's end."""
    assert Page(form).render() == form.end


@pytest.mark.parametrize("form", Format)
def test_families_and_series_stand_together(form: Format) -> None:
    """However samples come in, each family stands once and in it each series, in order of first appearance."""
    page = Page(form)
    for time_ms in (1000, 2000):
        for run in ("x", "y"):
            page.add([Sample(A, (("run", run),), time_ms, time_ms=time_ms)])
            page.add([Sample(B, (("run", run),), time_ms, time_ms=time_ms)])
    scrape = judge(page.render(), form)
    assert list(scrape.series) == [(name, frozenset({("run", run)})) for name in ("a", "b_total") for run in ("x", "y")]
    assert scrape.points("b_total", run="y") == [(1000, 1000.0), (2000, 2000.0)]


@pytest.mark.parametrize("form", Format)
def test_ready_blocks_and_single_samples_share_a_family(form: Format) -> None:
    """A block of ready lines goes to its family as a sample does."""
    page = Page(form)
    page.add([Sample(A, (("run", "x"),), 1)])
    page.add([Sample(B, (), 1)])
    page.add_block(A, b'a{run="y"} ', b'a{run="y"} 2\n')
    scrape = judge(page.render(), form)
    assert (scrape.value("a", run="x"), scrape.value("a", run="y"), scrape.value("b_total")) == (1, 2, 1)


@pytest.mark.parametrize("form", Format)
def test_what_is_rendered_elsewhere_stands_before_the_end(form: Format) -> None:
    """Ready text comes behind the families, and the closing line stays the last."""
    page = Page(form)
    page.add([Sample(A, (), 1)])
    body = page.render(b"# HELP z Last.\n# TYPE z gauge\nz 3.0\n")
    assert judge(body, form).value("z") == 3
    assert body.endswith(b"z 3.0\n" + form.end)


@pytest.mark.parametrize("form", Format)
def test_buckets_of_a_histogram_stand_together(form: Format) -> None:
    """The samples of two runs' histograms, however mixed, come out run by run with rising bounds."""
    family = Family("h", "histogram", "Third.")
    page = Page(form)
    for suffix, bound in [("_bucket", "1.0"), ("_bucket", "+Inf"), ("_count", ""), ("_sum", "")]:
        for run in ("x", "y"):
            bounds = (("le", bound),) if bound else ()
            page.add([Sample(family, (("run", run), *bounds), 2, suffix)])
    runs = [dict(labels)["run"] for _, labels in judge(page.render(), form).series]
    assert runs == ["x"] * 4 + ["y"] * 4


def test_the_first_help_of_a_family_stands() -> None:
    """Families of one name have one header."""
    page = Page(Format.TEXT)
    page.add([Sample(A, (("k", "1"),), 1), Sample(A._replace(help="Other."), (("k", "2"),), 1)])
    assert judge(page.render(), Format.TEXT).helps == {"a": "First."}
