"""What was decoded, as a table for the terminal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from semantoks.benchmark.decoding import Decoding


def decoding_table(decoding: Decoding) -> Table:
    """Lay out how well blocks were told apart."""
    settings = decoding.settings
    classes = ", ".join(f"{name} {count}" for name, count in settings["classes"].items())
    left_out = "; ".join(f"{count} {why}" for why, count in settings["left_out"].items())
    shown = Table(
        title=escape(f"{classes} (windows of {settings['window_seconds']:g} s)"),
        caption=escape(
            f"{settings['n_scans']} windows of {settings['n_subjects']} subjects, "
            f"{settings['delay']:g} s after onset."
            + (f" Events left out: {left_out}." if left_out else "")
            + "\nIn brackets: 95 % interval over subjects and splits. *: zero is outside."
        ),
    )
    shown.add_column("", overflow="fold")
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("minus connectivity", justify="right", no_wrap=True)
    for metric, rows in decoding.table.groupby("metric", sort=False):
        shown.add_row(str(metric).replace("_", " "), style="bold")
        numbers = rows[["value", "low", "high"]].to_numpy(np.float64)
        differences = rows[["difference", "difference_low", "difference_high"]].to_numpy(np.float64)
        for method, number, difference in zip(rows["method"], numbers, differences, strict=True):
            against = _interval(difference, "{:+.3f}")
            clear = difference[1] > 0 or difference[2] < 0
            shown.add_row(
                f"  {method}", _interval(number, "{:.3f}"), against + (" *" if clear else "  ")
            )
        shown.add_section()
    return shown


def _interval(numbers: NDArray[np.float64], form: str) -> str:
    """Write a value with its interval; nothing if there is none."""
    if np.isnan(numbers[0]):
        return ""
    value, low, high = (form.format(number) for number in numbers)
    return escape(f"{value} [{low}, {high}]")
