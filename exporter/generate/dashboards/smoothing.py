"""Smoothed curves as PromQL: none, simple moving average, exponential moving average, Gaussian.

All of them work on a curve's pixels p(t), the means of the steps in a pixel of length d, and leave out pixels that are
not finite. With a width w:

- SMA: the mean of the pixels in (t - w, t].
- EMA: the mean of the pixels in (t - 5 w, t], weighted with exp(-age / tau), tau = w / 2: an average of span w, as old
  on average as the SMA. tau is at least 1/500 of the time range, which is about a pixel: beyond that weights would
  underflow.
- Gaussian: four means of w / 2 in a row, moved so that they are centred on t. Their standard deviation is that of the
  SMA; by the central limit theorem they are nearly a Gaussian curve. Where w is shorter than four pixels, p(t) itself.

Windows are a millisecond shorter than their name: Prometheus 2 counts both ends of a window, Prometheus 3 one. A curve
that is not chosen matches no series, so that only the chosen one costs anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from exporter.generate.dashboards import promql
from exporter.generate.dashboards.sdk import dashboard, model

__all__ = ["smoothed", "smoothing_variables"]

_METHODS = {"none": "None", "sma": "SMA", "ema": "EMA", "gaussian": "Gaussian"}
_EVERY_RUN = ".+"
_NO_RUN = "-"  # no run's name begins with it

_MINUTE, _HOUR = 60, 3600
_WIDTHS = {
    "10s": 10,
    "30s": 30,
    "1m": _MINUTE,
    "2m": 2 * _MINUTE,
    "5m": 5 * _MINUTE,
    "10m": 10 * _MINUTE,
    "30m": 30 * _MINUTE,
    "1h": _HOUR,
    "3h": 3 * _HOUR,
    "6h": 6 * _HOUR,
    "1d": 24 * _HOUR,
}
_WIDTH = "1m"


def smoothing_variables() -> list[dashboard.CustomVariable]:
    """The method, and the width; their values have the properties that the expressions need."""
    methods = [
        {"text": title, "value": name, **{other: _EVERY_RUN if other == name else _NO_RUN for other in _METHODS}}
        for name, title in _METHODS.items()
    ]
    widths = [_width(name, seconds) for name, seconds in _WIDTHS.items()]
    return [
        _Choice("smoothing", "Smoothing", methods, "None", "none"),
        _Choice("width", "Width", widths, _WIDTH, _WIDTH),
    ]


def smoothed(name: str, labels: Sequence[str]) -> str:
    """The curves of a metric, smoothed as it is chosen."""
    pixels = {method: promql.mean(name, labels, f'run_id=~"${{smoothing.{method}}}"') for method in _METHODS}
    curves = (pixels["none"], _sma(pixels["sma"]), _ema(pixels["ema"]), _gaussian(pixels["gaussian"]))
    return " or ".join(f"({curve})" for curve in curves)


class _Choice(dashboard.CustomVariable):
    """A variable whose values have properties, written as JSON, which the library does not know yet."""

    def __init__(self, name: str, label: str, options: list[dict[str, str]], text: str, value: str) -> None:
        super().__init__(name)
        self.label(label).values(json.dumps(options)).current(model.VariableOption(text=text, value=value))

    def build(self) -> Any:
        return {**super().build().to_json(), "valuesFormat": "json"}


def _width(name: str, seconds: int) -> dict[str, str]:
    return {
        "text": name,
        "value": name,
        "sma": f"{1000 * seconds - 1}ms",
        "ema": f"{5000 * seconds - 1}ms",
        "gaussian": f"{500 * seconds - 1}ms",
        "seconds": str(seconds),
    }


def _sma(pixels: str) -> str:
    return f"avg_over_time(({_finite(pixels)})[${{width.sma}}:$__interval])"


def _ema(pixels: str) -> str:
    tau = "scalar(clamp_min(vector(${width.seconds} / 2), $__range_s / 500))"
    weight = f"2.718281828459045 ^ ((time() - ${{__to:date:seconds}}) / {tau})"
    window = "[${width.ema}:$__interval]"
    curve = _finite(pixels)
    return f"sum_over_time((({curve}) * {weight}){window}) / sum_over_time((({curve}) * 0 + {weight}){window})"


def _gaussian(pixels: str) -> str:
    # A mean of n pixels is (n - 1) / 2 pixels late: four of them are w late, less the two pixels that are added here.
    curve = _finite(pixels)
    for offset in ("", " offset $__interval", " offset $__interval", " offset -${width}"):
        curve = f"avg_over_time(({curve})[${{width.gaussian}}:$__interval]{offset})"
    return f"({curve} and on () vector(${{width.seconds}}) >= 4 * $__interval_ms / 1000) or {pixels}"


def _finite(pixels: str) -> str:
    return f"{pixels} > -Inf < Inf"
