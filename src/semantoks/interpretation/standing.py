"""Where features stand against connectivity, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from semantoks.evaluation.metrics import (
    CONNECTIVITY,
    DUMMY,
    LOWER_IS_BETTER,
    METRIC_NAMES,
    SITE,
)
from semantoks.interpretation.figures.scores import ScoreAxis
from semantoks.interpretation.page import Table

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
            if row["method"] in (CONNECTIVITY, SITE, DUMMY) or pd.isna(row["difference_low"]):
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


def score_axes(rows: pd.DataFrame, target: str) -> list[ScoreAxis]:
    """Return one small picture a division and metric of a target."""
    panels = []
    for (division, metric), block in rows.groupby(["division", "metric"], sort=False):
        where = (rows, target, str(division), str(metric))
        panels.append(
            ScoreAxis(
                split=f"{target}, split by {division}",
                metric=METRIC_NAMES.get(str(metric), str(metric)),
                rows=block.sort_values("method", key=_last, kind="stable"),
                reference=reference_score(*where, CONNECTIVITY),
                chance=reference_score(*where, DUMMY),
            )
        )
    return panels


def _last(methods: pd.Series) -> pd.Series:
    """Order methods: features first, then connectivity, the site alone, and guessing."""
    return methods.map({CONNECTIVITY: 1, SITE: 2, DUMMY: 3}).fillna(0)


def _rank(column: pd.Series) -> Callable[[pd.Series], pd.Series]:
    """Order values as they first appear."""
    places = {value: k for k, value in enumerate(column.unique())}
    return lambda values: values.map(places)


def score_table(rows: pd.DataFrame) -> Table:
    """Return all scores as a table."""
    wanted = ("difference", "difference_low", "difference_high", "n_scans", "n_subjects")
    full = rows.assign(**{c: np.nan for c in wanted if c not in rows})
    ranks: dict[str, Callable[[pd.Series], pd.Series]] = {"method": _last}
    for key in ("metric", "division", "target"):
        ranks[key] = _rank(rows[key])
    for key, rank in ranks.items():  # stable, so that the last one counts most
        full = full.sort_values(key, key=rank, kind="stable")
    cells = []
    for _, row in full.iterrows():
        difference = [float(row[c]) for c in ("difference", "difference_low", "difference_high")]
        metric = str(row["metric"])
        cells.append(
            [
                str(row["target"]), str(row["division"]),
                METRIC_NAMES.get(metric, metric).split(" (")[0],
                str(row["method"]),
                with_interval(float(row["value"]), float(row["low"]), float(row["high"])),
                with_interval(*difference) if row["method"] != CONNECTIVITY else "–",
                number(float(row["n_scans"]), 0), number(float(row["n_subjects"]), 0),
            ]
        )  # fmt: skip
    headings = ["target", "split", "metric", "method", "score [95\u00a0%]",
                "minus connectivity [95\u00a0%]", "scans", "subjects"]  # fmt: skip
    return Table(headings, cells, "All scores with 95 % intervals over subjects and splits.")
