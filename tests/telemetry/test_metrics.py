"""Plain counts become what a scraper reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bulletin.telemetry.metrics import DURATION_SECONDS, Family, Histogram, Metric, render

TASKS = Metric("b_tasks_total", "counter", "Tasks.", ("cell_id",))
OPEN = Metric("b_open", "gauge", "Open.")
LATENCY = Metric("b_latency_seconds", "histogram", "Latency.", ("route",))


class Given(Collector):
    def __init__(self, *families: Family) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families


async def parse(*families: Family):
    text = (await render([Given(*families)])).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(family: Family) -> dict[tuple, float]:
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in family.samples}


async def test_counters_and_gauges_are_read_back():
    families = await parse(TASKS.values([(("c1",), 3), (('c"2\n',), 4)]), OPEN.value(1.5))
    assert families["b_tasks"].type == "counter"
    assert families["b_tasks"].documentation == "Tasks."
    assert samples(families["b_tasks"]) == {
        ("b_tasks_total", ("cell_id", "c1")): 3.0,
        ("b_tasks_total", ("cell_id", 'c"2\n')): 4.0,
    }
    assert families["b_open"].type == "gauge"
    assert samples(families["b_open"]) == {("b_open",): 1.5}


async def test_a_family_of_many_values_is_one_family():
    many = {f"c{number}": float(number) for number in range(1001)}
    text = (await render([Given(TASKS.values(((cell_id,), value) for cell_id, value in many.items()))])).decode()
    assert text.count("# TYPE") == text.count("# HELP") == 1
    (family,) = text_string_to_metric_families(text)
    assert {sample.labels["cell_id"]: sample.value for sample in family.samples} == many


async def test_a_metric_without_values_is_declared():
    assert set(await parse(TASKS.values([]))) == {"b_tasks"}


@given(st.lists(st.floats(0, 100, allow_nan=False)))
def test_a_histogram_counts_each_value_up_to_its_bound(values):
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    expected = {str(bound): float(sum(value <= bound for value in values)) for bound in DURATION_SECONDS}
    assert dict(histogram.cumulative()) == {**expected, "+Inf": float(len(values))}
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))


async def test_a_histogram_is_read_back():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    families = await parse(LATENCY.histograms([(("Ping",), histogram)]))
    ping = ("route", "Ping")
    assert samples(families["b_latency_seconds"]) == {
        ("b_latency_seconds_bucket", ("le", "1.0"), ping): 2.0,
        ("b_latency_seconds_bucket", ("le", "2.0"), ping): 3.0,
        ("b_latency_seconds_bucket", ("le", "+Inf"), ping): 4.0,
        ("b_latency_seconds_count", ping): 4.0,
        ("b_latency_seconds_sum", ping): 12.0,
    }


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (1.0, 1.0)])
def test_bounds_go_up(bounds):
    with pytest.raises(AssertionError):
        Histogram(bounds)


def test_a_declaration_is_kept():
    with pytest.raises(AssertionError):
        TASKS.value(1)
    with pytest.raises(AssertionError):
        Metric("b_tasks", "counter", "No suffix.").value(1)
    with pytest.raises(AssertionError):
        LATENCY.values([])
    with pytest.raises(AssertionError):
        OPEN.histograms([])


async def test_others_have_their_turn_between_two_families():
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await render([Given(*[OPEN.value(1)] * 10)])
    counting.cancel()
    assert turns >= 9
