"""Where features stand against connectivity, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from semantoks.evaluation.metrics import (
    CONNECTIVITY,
    DUMMY,
    LOWER_IS_BETTER,
    METRIC_NAMES,
)

_CHANCE = {"auc": 0.5, "r2": 0.0}

Verdict = Literal["above", "below", "open"]


@dataclass(frozen=True)
class Standing:
    """One method held against connectivity on one target."""

    method: str
    target: str
    division: str
    metric: str
    value: float
    low: float
    high: float
    reference: float
    chance: float
    difference: float
    difference_low: float
    difference_high: float

    @property
    def verdict(self) -> Verdict:
        """Better than connectivity, worse, or open: the interval holds zero, or both guess."""
        low, high = self._ends
        if low > 0:
            return "open" if self.at_chance else "above"
        return "below" if high < 0 else "open"

    @property
    def at_chance(self) -> bool:
        """Whether the method cannot be told from guessing: its interval reaches chance."""
        if self.metric in LOWER_IS_BETTER:
            return self.high >= self.chance
        return self.low <= self.chance

    @property
    def verdict_words(self) -> str:
        """The verdict as a person would say it."""
        if self.verdict == "open" and self._ends[0] > 0:
            return "open, above connectivity but not distinguishable from guessing"
        words = {
            "above": "above connectivity",
            "below": "below connectivity",
            "open": "not distinguishable from connectivity",
        }
        return words[self.verdict]

    @property
    def _ends(self) -> tuple[float, float]:
        """Low and high end of the advantage over connectivity."""
        sign = -1 if self.metric in LOWER_IS_BETTER else 1
        low, high = sorted((sign * self.difference_low, sign * self.difference_high))
        return low, high


def summaries(scores: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of a table of scores that sum up all folds.

    Examples
    --------
    >>> row = {"method": "a", "target": "t", "split": "s", "metric": "auc", "value": 0.5}
    >>> both = pd.DataFrame([{**row, "low": 0.4, "high": 0.6}, {**row, "low": None, "high": None}])
    >>> len(summaries(both))
    1
    """
    known = scores[scores["low"].notna()]
    rows = known if len(known) else scores
    if "comparison" not in rows:
        rows = rows.assign(comparison="")
    keys = ["comparison", "target", "split", "metric", "method"]
    rows = rows.drop_duplicates(subset=keys, keep="last", ignore_index=True)
    split, name = rows["split"].astype(str), rows["comparison"].astype(str)
    several = rows.groupby(["target", "split"])["comparison"].transform("nunique") > 1
    return rows.assign(division=split.mask(several, split + ", " + name))


def standings(scores: pd.DataFrame) -> list[Standing]:
    """Hold every method against connectivity, on the deciding metric of each target."""
    rows = summaries(scores)
    if not {"difference", "difference_low", "difference_high"} <= set(rows.columns):
        return []
    found = []
    for (target, division), block in rows.groupby(["target", "division"], sort=False):
        metrics = block["metric"].astype(str)
        metric = next((m for m in METRIC_NAMES if (metrics == m).any()), metrics.iloc[0])
        for _, row in block[block["metric"] == metric].iterrows():
            if row["method"] in (CONNECTIVITY, DUMMY) or pd.isna(row["difference_low"]):
                continue
            where = (rows, str(target), str(division), metric)
            found.append(
                Standing(
                    str(row["method"]), str(target), str(division), metric,
                    row["value"], row["low"], row["high"], reference_score(*where, CONNECTIVITY),
                    reference_score(*where, DUMMY), row["difference"], row["difference_low"],
                    row["difference_high"],
                )
            )  # fmt: skip
    return found


def bottom_lines(found: Sequence[Standing]) -> list[tuple[str, str, Verdict]]:
    """Say in a sentence a method and verdict where it stands against connectivity."""
    lines: list[tuple[str, str, Verdict]] = []
    order: tuple[Verdict, ...] = ("above", "below", "open")
    for method in dict.fromkeys(standing.method for standing in found):
        of_method = [standing for standing in found if standing.method == method]
        for words in sorted(
            dict.fromkeys(standing.verdict_words for standing in of_method),
            key=lambda words: next(
                order.index(x.verdict) for x in of_method if x.verdict_words == words
            ),
        ):
            chosen = [standing for standing in of_method if standing.verdict_words == words]
            differences = "; ".join(
                f"{x.target} split by {x.division} ("
                f"{with_interval(x.difference, x.difference_low, x.difference_high)}"
                f"{', the method itself at chance' * x.at_chance})"
                for x in chosen
            )
            count = f"{len(chosen)} of {len(of_method)} comparisons"
            head = f"{method}: {words} in {count}"
            lines.append((head, f"{differences}.", chosen[0].verdict))
    return lines


def reference_score(
    rows: pd.DataFrame, target: str, division: str, metric: str, method: str
) -> float:
    """Return the score of one method, or what guessing must score where nobody guessed."""
    keys = {"target": target, "division": division, "metric": metric, "method": method}
    chosen = np.logical_and.reduce([rows[key].astype(str) == value for key, value in keys.items()])
    values = rows.loc[chosen, "value"].to_numpy(dtype=np.float64)
    if len(values):
        return float(values[0])
    return _CHANCE.get(metric, float("nan")) if method == DUMMY else float("nan")


def number(value: float, digits: int = 3) -> str:
    """Write a number with a true minus sign, or a dash if it is unknown.

    Examples
    --------
    >>> number(-0.25), number(float("nan"))
    ('−0.250', '–')
    """
    return f"{value:.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"


def with_interval(value: float, low: float, high: float) -> str:
    """Write a number with its interval, if it has one.

    Examples
    --------
    >>> with_interval(0.5, 0.4, 0.6)
    '0.500 [0.400, 0.600]'
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def duration(seconds: float) -> str:
    """Write a time as a person would say it.

    Examples
    --------
    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
