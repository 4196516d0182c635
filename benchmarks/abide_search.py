"""What makes frozen features better: variants scored on validation parts, one of them tested.

    python benchmarks/abide_search.py abide.store search            # pretrain, read out, validate
    python benchmarks/abide_search.py abide.store search --test     # test what was chosen

Ten random divisions of the people into training (60 %), validation (20 %) and test (20 %) parts,
stratified by the target: those that `semantoks evaluate` makes by default, written down with a hash
(splits-TARGET.json). Every variant is scored on the validation parts: ridge regression fitted
on the training parts, its penalty chosen inside them. `--test` fits on training and validation
parts together, and scores on the test parts no more than

- the variant with the best mean validation score of the target ("chosen"),
- in every division the variant that is best in *that* validation part ("chosen anew"): the mean
  over divisions of validation scores has seen every person once or more, this choice has not seen
  those that it is tested on,
- connectivity, the read-out that was chosen of the same encoder untrained, and the reference.

Everything that was done stays in the folder, so that a run that was stopped goes on: models
(runs/), features (features/), scores (scores.csv: a row a variant, target, part and division) and
tables (table.csv and table.md: a row a variant, target and part; table.md also has the recipes, as
w8-long, beside the plain one, w8). Pretraining sees all scans,
without labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from semantoks.benchmark.baselines import connectivity_features
from semantoks.benchmark.tasks import kept_scans
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.metrics import balanced_accuracy, r2
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.readout import correlation, encode_scans, feature_names, log_of, scans_of
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.split_files import read_record, splits_record, splits_table, write_splits
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import RandomSubjectSplits
from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.config import configure, paper
from semantoks.training.plan import make_model
from semantoks.training.pretraining import pretrain

SEEDS: Final = range(10)
TARGETS: Final = {"diagnosis": "classification", "sex": "classification", "age": "regression"}
METRIC: Final = {"classification": "balanced accuracy", "regression": "r2"}
SMALL: Final[dict[str, Any]] = {
    "precision": "bf16",
    "model.dim": 128,
    "model.depth": 2,
    "model.projection_hidden_dim": 512,
    "optimization.batch_size": 64,
    "optimization.epochs": 20,
    "optimization.warmup_epochs": 2,
    "optimization.learning_rate": 4e-3,
    "optimization.teacher_momentum": 0.95,  # few steps: the paper's teacher would not follow
    "logging.health_epochs": 5,
    "logging.checkpoint_epochs": 1000,
}
REFERENCE: Final[dict[str, Any]] = SMALL | {
    "precision": "auto",
    "model.dim": 192,
    "model.depth": 4,
    "model.projection_hidden_dim": 1024,
    "optimization.epochs": 60,
    "optimization.warmup_epochs": 3,
    "optimization.learning_rate": 7e-4,
    "optimization.teacher_momentum": 0.99,
}


def courses(count: int, **changes: Any) -> dict[str, Any]:
    """Give the small model time courses."""
    own = {"model.time_courses": count, "model.time_course_start": "principal"}
    return SMALL | own | {key.replace("__", "."): value for key, value in changes.items()}


WINDOW: Final = {"model__time_course_span": "window"}
STRONG: Final = {
    "views__roi_dropout": 0.3, "views__time_dropout": 0.5, "views__gain": 0.4, "views__noise": 0.3
}  # fmt: skip
PLAIN: Final = {"views__roi_dropout": 0.0, "views__time_dropout": 0.0, "views__gain": 0.0}
MODELS: Final[dict[str, Mapping[str, Any]]] = {
    "reference": REFERENCE,
    "small": SMALL,
    "w8": courses(8, **WINDOW),
    "w16": courses(16, **WINDOW),
    "p8": courses(8),
    "w32": courses(32, optimization__epochs=10, **WINDOW),
    "w8-short-patches": courses(8, model__patch=10, optimization__epochs=10, **WINDOW),
    "w8-plain-views": courses(8, views__noise=0.0, **PLAIN, **WINDOW),
    "w8-strong-views": courses(8, **STRONG, **WINDOW),
    "w8-fewer-masked": courses(8, masks__low=0.3, masks__high=0.5, **WINDOW),
    "w8-always-masked": courses(8, masks__probability=1.0, **WINDOW),
    "w8-long": courses(8, optimization__epochs=60, **WINDOW),
    "w8-long-patches": courses(8, model__patch=50, **WINDOW),
    "w8-wide": courses(8, model__dim=256, **WINDOW),
    "w8-deep": courses(8, model__depth=4, **WINDOW),
    "w16-always-masked": courses(16, masks__probability=1.0, **WINDOW),
    "w16-always-masked-long": courses(
        16, masks__probability=1.0, optimization__epochs=60, **WINDOW
    ),
    "w16-together": courses(  # everything that helped alone
        16, masks__probability=1.0, optimization__epochs=60, model__dim=256, **WINDOW
    ),
    "w8-again": courses(8, seed=1, **WINDOW),
    "w8-always-masked-again": courses(8, seed=1, masks__probability=1.0, **WINDOW),
    "w16-always-masked-strong": courses(16, masks__probability=1.0, **STRONG, **WINDOW),
    # untrained only
    "w4": courses(4, **WINDOW),
    "r4": courses(4, model__time_course_start="random", **WINDOW),
    "r8": courses(8, model__time_course_start="random", **WINDOW),
    "r16": courses(16, model__time_course_start="random", **WINDOW),
}
TOKENS: Final = ("mean+cls", "networks", "network-statistics", "second-order")
COURSES: Final = ("synchrony", "log-synchrony")
JOINED: Final = ("networks+log-synchrony", "mean+cls+log-synchrony")
MORE: Final = (
    "networks+second-order",
    "network-statistics+second-order",
    "networks+synchrony",
)
READ_OUTS: Final[dict[str, tuple[str, ...]]] = {
    "reference": ("mean+cls", "networks"),
    "small": ("mean+cls", "networks"),
    "w8": (*TOKENS, *COURSES, *JOINED, *MORE),
    "w16": ("mean+cls", "networks", *COURSES, *JOINED),
    "w16-together": ("mean+cls", "networks", *COURSES, *JOINED),
    "w32": ("mean+cls", "networks", *COURSES, *JOINED),
}
"""What is read out of a model; "mean+cls" and time courses of the others."""
UNTRAINED: Final = ("w4", "r4", "r8", "r16")


class Variant(NamedTuple):
    """A description of scans: "connectivity", or a model, whether it is trained, and a read-out."""

    model: str
    trained: bool
    features: str
    windows: int = 8

    @property
    def name(self) -> str:
        """What it is called in tables."""
        if not self.features:
            return self.model
        state = "" if self.trained else " untrained"
        windows = "" if self.windows == 8 else f" ({self.windows} windows)"
        return f"{self.model}{state}: {self.features}{windows}"


def variants(models: list[str]) -> Iterator[Variant]:
    """List everything that is tried."""
    yield Variant("connectivity", True, "")
    yield Variant("log-connectivity", True, "")
    for model in models:
        own: tuple[str, ...] = COURSES if model in UNTRAINED else ("mean+cls", *COURSES)
        for trained in (False,) if model in UNTRAINED else (False, True):
            for features in READ_OUTS.get(model, own):
                yield Variant(model, trained, features)
    if "w16" in models:
        yield Variant("w16", True, "log-synchrony", 24)


class Search:
    """The folder of a search.

    Parameters
    ----------
    store : Store
        The cohort.
    folder : Path
        Where everything goes.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        for part in ("runs", "features"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def encoder(self, model: str, *, trained: bool) -> SemantoksEncoder:
        """Load a model, pretrain it if it is not there, or make it as it was at first."""
        configuration = configure(paper(), dict(MODELS[model]))
        if not trained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(configuration.seed)
                return make_model(self.store, configuration).student.encoder.eval()
        run = self.folder / "runs" / model
        if not (run / "model").exists():
            print(f"pretraining {model}", flush=True)
            pretrain(self.store, run, configuration, resume=run.exists())
        return load_encoder(run)

    def file(self, variant: Variant, part: str) -> Path:
        """Name the file of a part of a description."""
        state = "trained" if variant.trained else "untrained"
        name = f"{variant.model}-{state}-{part}-{variant.windows}.npy"
        return self.folder / "features" / name

    def read(self, variant: Variant) -> None:
        """Read parts that are not there yet; those of tokens together, as they cost no more."""
        parts = variant.features.split("+")
        if all(self.file(variant, part).exists() for part in parts):
            return
        encoder = self.encoder(variant.model, trained=variant.trained)
        if any(part not in COURSES for part in parts):
            wanted = (*READ_OUTS.get(variant.model, ("mean+cls",)), *parts)
            parts = [p for p in dict.fromkeys("+".join(wanted).split("+")) if p not in COURSES]
        parts = [part for part in parts if not self.file(variant, part).exists()]
        rows = encode_scans(
            encoder,
            scans_of(self.store, encoder),
            features="+".join(parts),
            windows=variant.windows,
            precision="bf16",
        )
        ends = np.cumsum([len(feature_names(encoder, part)) for part in parts])[:-1]
        for part, columns in zip(parts, np.split(rows, ends, axis=1), strict=True):
            np.save(self.file(variant, part), columns)

    def features(self, variant: Variant) -> NDArray[np.float32]:
        """Compute or load the features of a variant."""
        if variant.model == "connectivity":
            return connectivity_features(self.store)
        if variant.model == "log-connectivity":
            series = (self.store.series(scan) for scan in range(len(self.store)))
            return np.array([log_of(correlation(x)[None]) for x in series], dtype=np.float32)
        parts = variant.features.split("+")
        for kind in (COURSES, tuple(p for p in parts if p not in COURSES)):
            own = [part for part in parts if part in kind]
            if own:
                self.read(variant._replace(features="+".join(own)))
        return np.hstack([np.load(self.file(variant, part)) for part in parts])


class Task(NamedTuple):
    """What is predicted, of whom, and from whom."""

    target: str
    kind: str
    rows: NDArray[np.intp]
    truth: NDArray[Any]
    subjects: NDArray[Any]
    divisions: list[Split]

    def score(self, features: NDArray[np.float32], seed: int, part: str) -> float:
        """Score one division: fitted on training parts, or on those and validation parts."""
        own = self.divisions[seed]
        both = np.sort(np.concatenate([own.train, own.validation]))
        learn, asked = (own.train, own.validation) if part == "validation" else (both, own.test)
        split = Split(part, seed, "0", learn, asked)
        (fold,) = cross_validated_predictions(
            features[self.rows], self.truth, [split], kind=self.kind, subjects=self.subjects
        )  # fmt: skip
        metric = balanced_accuracy if self.kind == "classification" else r2
        return float(metric(self.truth[split.test], fold.prediction, None))


def make_task(store: Store, target: str, left_out: list[str], folder: Path) -> Task:
    """Divide the people of a target ten times, as a study does by default, and write it down."""
    kind, scans = TARGETS[target], store.scans
    known = scans[target].notna() & (scans[target].astype(str) != "")
    rows = np.flatnonzero(known & kept_scans(store, left_out))
    scans = scans.iloc[rows].reset_index(drop=True)
    check_people(store, list(scans["scan"]))
    truth = scans[target].to_numpy(np.float64 if kind == "regression" else str)
    divisions = RandomSubjectSplits(repeats=len(SEEDS)).splits(scans, truth, kind=kind)
    path = folder / f"splits-{target}.json"
    own = splits_record(splits_table(divisions, list(scans["scan"])), scans)["sha256"]
    if path.exists() and read_record(path)["sha256"] != own:
        raise InputError(
            f"{path} holds other divisions, and the scores in {folder} are of them. Take a new "
            "folder (its runs and features may be moved there), or leave the same scans out."
        )
    write_splits(divisions, scans, path)
    if kind == "classification":
        truth = np.unique(truth, return_inverse=True)[1]
    return Task(target, kind, rows, truth, scans["subject"].to_numpy(str), divisions)


class Scores:
    """A table of scores that grows: a row a variant, target, part and division."""

    COLUMNS = ("variant", "target", "part", "seed", "score", "n_features", "seconds")

    def __init__(self, file: Path) -> None:
        self.file = file
        self.table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=self.COLUMNS)

    def of(self, variant: str, target: str, part: str) -> dict[int, float]:
        """Return the scores of a variant by division."""
        t = self.table
        own = t[(t["variant"] == variant) & (t["target"] == target) & (t["part"] == part)]
        return dict(zip(own["seed"].astype(int), own["score"].astype(float), strict=True))

    def add(self, rows: list[tuple[Any, ...]]) -> None:
        """Write rows down."""
        new = pd.DataFrame(rows, columns=self.COLUMNS)
        self.table = new if self.table.empty else pd.concat([self.table, new], ignore_index=True)
        self.table.to_csv(self.file, index=False)


def interval(values: list[float], share: float) -> tuple[float, float, float]:
    """Average over divisions, with a 95 % interval that knows that they share people.

    The variance is that of Nadeau and Bengio: (1 / n + tested / learned) times that of the values.
    """
    n, mean = len(values), float(np.mean(values))
    half = student.ppf(0.975, n - 1) * np.sqrt((1 / n + share) * np.var(values, ddof=1))
    return mean, mean - float(half), mean + float(half)


def tabulate(scores: Scores, everything: list[Variant]) -> pd.DataFrame:
    """Summarise scores: a row a variant, target and part, with differences."""
    known = {v.name: v for v in everything}
    rows = []
    for (target, part, name), own in scores.table.groupby(["target", "part", "variant"]):
        share = 1 / 3 if part == "validation" else 1 / 4
        mine, variant = scores.of(name, target, part), known.get(name)
        row = {"target": target, "part": part, "variant": name, "metric": METRIC[TARGETS[target]]}
        row |= {"splits": len(mine), "n_features": int(own["n_features"].max())}
        row |= dict(
            zip(("score", "low", "high"), interval(list(mine.values()), share), strict=True)
        )
        rivals = {"connectivity": "connectivity"}
        if variant is not None and variant.features and variant.trained:
            rivals["untrained"] = variant._replace(trained=False).name
            rivals["plain"] = variant._replace(model=variant.model.split("-")[0]).name
        for rival, of in rivals.items():
            theirs = scores.of(of, target, part)
            if of != name and theirs.keys() >= mine.keys():
                found = interval([mine[s] - theirs[s] for s in mine], share)
                keys = (f"versus_{rival}", f"versus_{rival}_low", f"versus_{rival}_high")
                row |= dict(zip(keys, found, strict=True))
        rows.append(row | {"seconds": round(float(own["seconds"].sum()), 1)})
    table = pd.DataFrame(rows).sort_values(
        ["target", "part", "score"], ascending=[True, False, False]
    )
    return table.round(4)


def with_interval(row: Mapping[str, Any], key: str, sign: str) -> str:
    """Write a score or a difference with its interval; * if that of a difference excludes zero."""
    if pd.isna(row.get(key)):
        return ""
    low, high = (row[f"{key}_{edge}".replace("score_", "")] for edge in ("low", "high"))
    mark = " *" if sign and (low > 0 or high < 0) else ""
    return f"{row[key]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]{mark}"


def as_markdown(table: pd.DataFrame, part: str) -> str:
    """Write one part of the table as Markdown, a section a target."""
    text = []
    for target in (t for t in TARGETS if t in set(table["target"])):
        own = table[(table["target"] == target) & (table["part"] == part)]
        if own.empty:
            continue
        metric = own["metric"].iloc[0]
        text += [f"**{target}, {part} parts** ({metric})", ""]
        text += ["| what | numbers | score | against connectivity | against untrained |"]
        text += ["|---|---|---|---|---|"]
        for row in own.to_dict("records"):
            cells = [row["variant"], f"{row['n_features']:,}", with_interval(row, "score", "")]
            cells += [with_interval(row, f"versus_{x}", "+") for x in ("connectivity", "untrained")]
            text.append("| " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join(text)


def recipes(table: pd.DataFrame) -> str:
    """Write how recipes score beside the plain one of the same time courses, as Markdown."""
    read = table[(table["part"] == "validation") & table["variant"].str.endswith(": mean+cls")]
    rows = {(row["variant"], row["target"]): row for row in read.to_dict("records")}
    models = [model for model in MODELS if any((f"{model}: mean+cls", t) in rows for t in TARGETS)]
    plain = [model for model in models if any(m.startswith(f"{model}-") for m in models)]
    text = ["| recipe |" + "".join(f" {target} | minus plain |" for target in TARGETS)]
    text += ["|" + "---|" * (1 + 2 * len(TARGETS))]
    for first in plain:
        for model in [m for m in models if m.split("-")[0] == first]:
            cells = [model]
            for target in TARGETS:
                row = rows.get((f"{model}: mean+cls", target), {})
                cells += [with_interval(row, "score", ""), with_interval(row, "versus_plain", "+")]
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join([*text, ""])


def validate(search: Search, scores: Scores, tasks: list[Task], tried: list[Variant]) -> None:
    """Score every variant on the validation parts."""
    for variant in tried:
        missing = [t for t in tasks if not scores.of(variant.name, t.target, "validation")]
        if not missing:
            continue
        began = time.perf_counter()
        features = search.features(variant)
        made = time.perf_counter() - began
        for task in missing:
            began = time.perf_counter()
            found = [task.score(features, seed, "validation") for seed in SEEDS]
            seconds = (time.perf_counter() - began + made) / len(SEEDS)
            width, made = features.shape[1], 0.0
            scores.add(
                [
                    (variant.name, task.target, "validation", seed, score, width, seconds)
                    for seed, score in zip(SEEDS, found, strict=True)
                ]
            )
            print(f"{variant.name:48s} {task.target:10s} {np.mean(found):.4f}", flush=True)


def test(search: Search, scores: Scores, tasks: list[Task], tried: list[Variant]) -> None:
    """Score what was chosen on validation parts, and what it is held against, on test parts."""
    known = {v.name: v for v in tried}
    for task in tasks:
        # A control is no description of an encoder.
        names = [v.name for v in tried if v.features]
        found = {name: scores.of(name, task.target, "validation") for name in names}
        found = {name: by_seed for name, by_seed in found.items() if by_seed}
        chosen = known[max(found, key=lambda name: float(np.mean(list(found[name].values()))))]
        anew = [max(found, key=lambda name, s=s: found[name][s]) for s in SEEDS]
        asked: dict[str, dict[int, Variant]] = {
            v.name: dict.fromkeys(SEEDS, v)
            for v in (
                known["connectivity"],
                known["log-connectivity"],
                Variant("reference", True, "mean+cls"),
                chosen,
                chosen._replace(trained=False),
            )
        }
        asked["chosen anew"] = {seed: known[name] for seed, name in zip(SEEDS, anew, strict=True)}
        print(f"{task.target}: chosen {chosen.name}; anew: {', '.join(anew)}", flush=True)
        for name, by_seed in asked.items():
            if scores.of(name, task.target, "test"):
                continue
            rows, loaded = [], {}
            for seed, variant in by_seed.items():
                if variant not in loaded:
                    loaded = {variant: search.features(variant)}
                began = time.perf_counter()
                score = task.score(loaded[variant], seed, "test")
                seconds = time.perf_counter() - began
                width = loaded[variant].shape[1]
                rows.append((name, task.target, "test", seed, score, width, seconds))
            scores.add(rows)


def main() -> None:
    """Search, or test what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--features", nargs="+", help="only these read-outs")
    parser.add_argument("--leave-out", nargs="+", default=[], help="scans that take no part")
    parser.add_argument("--untrained", action="store_true", help="only what needs no pretraining")
    parser.add_argument("--test", action="store_true", help="score what was chosen on test parts")
    given = parser.parse_args()
    store = Store.open(given.store)
    search, scores = Search(store, given.folder), Scores(given.folder / "scores.csv")
    tasks = [make_task(store, target, given.leave_out, given.folder) for target in given.targets]
    tried = list(variants(given.models))
    if given.untrained:
        tried = [variant for variant in tried if not variant.features or not variant.trained]
    if given.features:
        tried = [variant for variant in tried if variant.features in ("", *given.features)]
    if given.test:
        test(search, scores, tasks, tried)
    else:
        validate(search, scores, tasks, tried)
    table = tabulate(scores, list(variants(list(MODELS))))
    table.to_csv(given.folder / "table.csv", index=False)
    parts = [as_markdown(table, part) for part in ("test", "validation")]
    text = "\n".join([parts[0], recipes(table), parts[1]])
    (given.folder / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
