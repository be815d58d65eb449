"""Metrics: plain numbers where things happen, prometheus_client's families only when somebody asks for them.

Rules. Whoever counts adds to an ``int``, a ``Counter`` or a ``Histogram`` of this module: a fraction of a microsecond,
no lock, no lookup of label values. Every metric is declared once, as a ``Metric``; a collector makes families of the
declared ones. Everything happens on the loop's own thread.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "DURATION_SECONDS", "Family", "Histogram", "Metric", "render"]

#: What ``render`` makes: the text format every scraper reads.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Bounds for what takes from a fraction of a millisecond (a read from memory) to the longest wait of the board.
DURATION_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


#: Samples written between two turns of the loop: about a millisecond.
_PIECE_SAMPLES: Final = 200


class Histogram:
    """Counts of observed values by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = DURATION_SECONDS) -> None:
        assert list(bounds) == sorted(set(bounds)), "bounds go up"
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value`` in the bucket of the smallest bound that is not below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """All observed values together."""
        return self._sum

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound as text with the number of values up to it; the last is ``+Inf``."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


Labelled = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """What is exposed under one name: declared once, documented in docs/reference/metrics.md.

    A counter's name ends with ``_total``; a unit ends the name of what has one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    def value(self, value: float) -> Family:
        """The family of a metric without labels."""
        assert not self.labels, f"{self.name} has labels"
        return self.values([((), value)])

    def values(self, values: Iterable[Labelled]) -> Family:
        """The family of a counter or a gauge; each value comes with those of its labels."""
        family: CounterMetricFamily | GaugeMetricFamily
        if self.kind == "counter":
            assert self.name.endswith("_total"), f"{self.name} does not end with _total"
            family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        else:
            assert self.kind == "gauge", f"{self.name} is a {self.kind}"
            family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in values:
            family.add_metric(labels, value)
        return family

    def histograms(self, histograms: Iterable[tuple[tuple[str, ...], Histogram]]) -> Family:
        """The family of a histogram."""
        assert self.kind == "histogram", f"{self.name} is a {self.kind}"
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, histogram in histograms:
            family.add_metric(labels, histogram.cumulative(), histogram.sum)
        return family


async def render(collectors: Iterable[Collector]) -> bytes:
    """The exposition of ``collectors``, in pieces: a board of thousands of cells must not stop for a scrape.

    Values of one family are of one moment; between two pieces others have their turn.
    """
    parts = []
    for collector in collectors:
        for family in collector.collect():
            samples = family.samples
            for begin in range(0, max(len(samples), 1), _PIECE_SAMPLES):
                family.samples = samples[begin : begin + _PIECE_SAMPLES]
                text = generate_latest(_Alone(family))
                # Only the first piece declares the family, in two lines.
                parts.append(text.split(b"\n", 2)[2] if begin else text)
                await asyncio.sleep(0)
    return b"".join(parts)


class _Alone(Collector):
    """A collector of one family that is there already."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterator[Family]:
        yield self._family
