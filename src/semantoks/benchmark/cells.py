"""Cells of a study: keys, preparation of features, computing and storing."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote
from zipfile import BadZipFile

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

import semantoks
from semantoks.benchmark.methods import Cohort, Method, Question, methods_of, permute, predict
from semantoks.benchmark.plan import ModelPlan, StudyPlan
from semantoks.benchmark.tasks import Task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.confounds import as_text, confound_columns, find_confounds, is_number
from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
from semantoks.evaluation.linear import FoldPrediction, learning_from_both
from semantoks.evaluation.probe import Preparation
from semantoks.evaluation.readout import feature_names
from semantoks.evaluation.shared_encoding import weights_digest
from semantoks.evaluation.significance import permute_labels
from semantoks.evaluation.splits import Split, subjects_of, text_of
from semantoks.evaluation.splitters import LeaveOneSiteOut, SiteStratifiedFolds
from semantoks.evaluation.supervised_peers import SUPERVISED
from semantoks.files import replacing
from semantoks.model.checkpoint import load_model
from semantoks.model.components import MOST

PREPARED: Final = frozenset(
    {"ridge", "logistic", "connectivity", "log-connectivity", "partial", "temporal"}
)
"""Ways to predict whose features are prepared: linear models of one row of features a scan."""
WITHOUT_FEATURES: Final = frozenset({"dummy", "site", "confounds"})
"""Ways to predict that have no features to prepare."""


def preparation_of(plan: StudyPlan, task: Task, scans: pd.DataFrame) -> Preparation | None:
    """Make what the plan does to features."""
    if plan.prepare == "none":
        return None
    if plan.prepare == "regress-confounds":
        columns = confound_columns(scans, task.target, task.truth, plan.confounds or None)
        return ConfoundRegression(columns.used)
    site = find_confounds(scans).get("site")
    if site is None:
        raise InputError(
            "prepare: combat needs the site of every scan, but the table of scans has no column "
            "of sites (site, site_id or scan_site). Bring it with a table when preparing."
        )
    return ComBat(site)


def cannot_prepare(
    prepare: Preparation | None, scans: pd.DataFrame, splits: Sequence[Split]
) -> str:
    """Say why features cannot be prepared in some split, by rehearsing it on noise."""
    if prepare is None:
        return ""
    noise = np.random.default_rng(0).standard_normal((len(scans), 3))
    for split in splits:
        train = learning_from_both(split).train
        try:
            fitted = clone(prepare).fit(noise[train], scans=scans.iloc[train])
            fitted.transform(noise[split.test], scans=scans.iloc[split.test])
        except InputError as error:
            return f"{split}: {error}"
    return ""


def columns_read(
    how: str, plan: StudyPlan, scans: pd.DataFrame, prepare: Preparation | None
) -> tuple[str, ...]:
    """Name the columns of the table of scans that a way to predict reads beside the target."""
    read: Sequence[str] = ()
    if how == "confounds":
        read = plan.confounds or tuple(find_confounds(scans).values())
    elif how in ("site", "site-centred-components"):
        read = tuple(name for role, name in find_confounds(scans).items() if role == "site")
    elif how in PREPARED and isinstance(prepare, ConfoundRegression):
        read = prepare.columns
    elif how in PREPARED and isinstance(prepare, ComBat):
        read = (prepare.site_column, *prepare.preserved)
    return tuple(column for column in read if column in scans.columns)


def values_of(scans: pd.DataFrame, columns: Sequence[str]) -> dict[str, list[str]]:
    """Write the values of columns down, for a digest."""
    values = {}
    for column in columns:
        if is_number(scans[column]):
            numbers = scans[column].to_numpy(dtype=np.float64, na_value=np.nan)
            values[column] = [repr(number) for number in numbers.tolist()]
        else:
            values[column] = as_text(scans[column]).tolist()
    return values


_IN_FILES: Final = " !#$&'()+,;=@[]^{}`"
"""Signs that the names of files may have everywhere; the others of a column are written as %2F."""


class Cell(NamedTuple):
    """One target, one way of splitting, one method."""

    target: str
    split: str
    method: Method
    key: str
    divided: str = ""


def cells_of(
    plan: StudyPlan, store: Store, questions: Mapping[tuple[str, str], Question]
) -> Iterator[Cell]:
    """Name every cell by a digest of all that it depends on."""
    weights = {name: _digest_of_weights(name, model) for name, model in plan.models.items()}
    methods = methods_of(plan)
    for (target, split), question in questions.items():
        parts = [
            [part.tolist() for part in (s.train, s.validation, s.test)] for s in question.splits
        ]
        divided = _divided(plan, question)
        for method in methods:
            model = method.model
            about = {
                "store": store.fingerprint,
                "rows": question.task.rows.tolist(),
                "truth": [str(value) for value in question.task.truth],
                "kind": question.task.kind,
                "splits": parts,
                "how": method.how,
                "features": method.features,
                "model": None
                if model is None
                else model.model_dump(exclude={"model", "probes", "features"}),
                "weights": next((weights[n] for n, m in plan.models.items() if m is model), None),
                "settings": _settings(plan, method.how),
                "semantoks": semantoks.__version__,
            }
            if question.splitter.family_column is not None:
                about["families"] = question.units.tolist()
            if question.pools and method.how.endswith("components"):
                about["pools"] = [[p.train.tolist(), p.validation.tolist()] for p in question.pools]
            if question.prepare is not None and method.how in PREPARED:
                about["prepare"] = repr(question.prepare)
            read = columns_read(method.how, plan, question.scans, question.prepare)
            if read:  # the fingerprint of the store is of its series, not of what is said of them
                about["table"] = values_of(question.scans, read)
            yield Cell(target, split, method, _digest(about)[:24], divided)


def splits_file(folder: Path, target: str, split: str) -> Path:
    """Name the file of the splits of a question; a column may be called what no file can be."""
    return folder / "splits" / f"{quote(target, safe=_IN_FILES)}-{split}.json"


def _divided(plan: StudyPlan, question: Question) -> str:
    """Return a digest of the columns that permuted labels, and splits anew, follow from."""
    splitter = question.splitter
    columns = [splitter.family_column] if splitter.family_column is not None else []
    if isinstance(splitter, SiteStratifiedFolds):
        columns.append(splitter.site_column)
    within = [] if plan.permute_within is None else [plan.permute_within]
    read = [values_of(question.scans, names) for names in (columns, within)]
    return _digest(read)[:8] if columns or within else ""


def _digest(content: Any) -> str:
    """Return the hash of plain values."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(plan: StudyPlan, how: str) -> Any:
    """Return the settings that a way to predict depends on."""
    if how in ("linear", "attention"):
        return [plan.probe.model_dump(), plan.seed]
    if how in ("finetune", "mlp"):
        weighted = plan.probe.class_weight != "none"
        # Named only where it decides something, so that cells without patience keep their key.
        unset = {"patience"} if how == "mlp" or plan.finetuning.patience is None else set()
        tuned = plan.finetuning.model_dump(exclude=unset)
        return [tuned, plan.seed, *[plan.probe.class_weight] * weighted]
    if how in SUPERVISED:
        epochs = next((n for family, n in plan.peers.items() if family == how), None)
        return [epochs, plan.finetuning.splits, plan.seed]
    if how.endswith("components") and plan.components != MOST:
        return plan.components
    return list(plan.confounds) if how == "confounds" else None


def _digest_of_weights(name: str, model: ModelPlan) -> str:
    """Return the arguments and a digest of the weights of a model; refuse features it has not."""
    encoder = load_model(model.model).encoder
    for features in model.features:
        try:
            feature_names(encoder, features)
        except ConfigurationError as error:
            raise ConfigurationError(f"model {name!r} ({model.model}): {error}") from error
    return f"{json.dumps(encoder.arguments, sort_keys=True, default=str)} {weights_digest(encoder)}"


def impossible(cell: Cell, question: Question) -> str:
    """Say why a cell cannot be computed."""
    if question.prepare is not None and cell.method.how not in PREPARED | WITHOUT_FEATURES:
        return f"features are prepared for {', '.join(sorted(PREPARED))} only"
    if cell.method.how.startswith("site") and question.sites is None:
        return "the table of scans tells no two sites, or they are the target"
    if cell.method.how == "logistic" and question.task.kind == "regression":
        return "logistic regression predicts classes"
    needs = cell.method.how in ("linear", "attention", "finetune", "mlp", *SUPERVISED)
    if needs and not all(len(split.validation) for split in question.splits):
        return "it needs validation parts; give the splits a share for validation"
    return ""


def blocks_of(plan: StudyPlan, scans: pd.DataFrame) -> NDArray[np.str_] | None:
    """Return within what permuted labels stay."""
    if plan.permute_within is None:
        return None
    blocks = text_of(scans, plan.permute_within)
    nameless = np.flatnonzero(blocks == "")
    if len(nameless):
        raise InputError(
            f"permute_within: {len(nameless)} scan(s) have no {plan.permute_within!r}, the first "
            f"is {scans['scan'].iloc[nameless[0]]!r}, so that it is not known where their labels "
            "may move. Fill the column in, or leave these scans out."
        )
    return blocks


def check_blocks(plan: StudyPlan, question: Question) -> None:
    """Refuse labels that cannot move as the plan says, before anything is computed."""
    blocks = blocks_of(plan, question.scans)
    if blocks is not None:
        random, subjects = np.random.default_rng(0), subjects_of(question.scans)
        permute_labels(question.task.truth, subjects, random, blocks, question.units)


def classes_of_one_site(question: Question, split: str) -> Iterator[str]:
    """Name the classes that exist only at the left-out site."""
    task = question.task
    if not isinstance(question.splitter, LeaveOneSiteOut) or task.kind != "classification":
        return
    for made in question.splits:
        learned = np.concatenate([made.train, made.validation])
        for code in np.setdiff1d(task.truth[made.test], task.truth[learned]):
            n = int(np.sum(task.truth == code))
            yield (
                f"{task.target}, {split}: class {task.classes[code]!r} exists only at site "
                f"{made.fold!r} ({n} scan(s)). Where this site is left out nothing can learn it, "
                "so that its recall of 0 counts in the balanced accuracy of every method"
            )


Say = Callable[[str], None]
Failed = Mapping[Cell, str]
"""Cells that could not be computed, and why."""
_PARTS: Final = ("prediction", "score")
"""What is kept of the test part of a split."""


def compute(
    cells: Sequence[Cell],
    questions: Mapping[tuple[str, str], Question],
    cohort: Cohort,
    out: Path,
    workers: int,
    say: Say,
) -> Failed:
    """Compute the cells that are not there, and write each as soon as it is.

    A cell whose method refuses what it is given does not stop the others.
    """
    plan = cohort.plan
    missing = [cell for cell in cells if not _is_there(out, cell, plan)]
    for cell in cells:  # what is damaged is better found now than after hours
        if cell_file(out, cell.key).exists():
            read_cell(out, cell, questions[cell.target, cell.split])
        if cell not in missing:
            read_permutations(out, cell, plan)
    failed: dict[Cell, str] = {}
    say(f"{len(cells)} cells, {len(cells) - len(missing)} of them are there already")
    if workers == 1:
        for number, cell in enumerate(missing):
            say(f"[{number + 1}/{len(missing)}] {cell.target}, {cell.split}: {cell.method.name}")
            failed[cell] = _one(cell, questions[cell.target, cell.split], cohort, out)
        return {cell: reason for cell, reason in failed.items() if reason}
    done = 0
    jobs = (
        joblib.delayed(_group)(group, _asked(group, questions), cohort.store, plan, out)
        for group in _grouped(missing)
    )
    for finished in joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs):
        done += len(finished)
        failed |= finished
        for cell in finished:
            say(f"[{done}/{len(missing)}] {cell.target}, {cell.split}: {cell.method.name}")
    return {cell: failed[cell] for cell in missing if failed[cell]}


def _grouped(cells: list[Cell]) -> list[list[Cell]]:
    """Put cells that need the same features together, so that one process computes them once."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        method = cell.method
        groups.setdefault((method.model, method.features, method.how), []).append(cell)
    return list(groups.values())


def _asked(
    cells: list[Cell], questions: Mapping[tuple[str, str], Question]
) -> dict[tuple[str, str], Question]:
    """Return the questions of some cells."""
    return {key: questions[key] for key in {(cell.target, cell.split) for cell in cells}}


def _group(
    cells: list[Cell],
    questions: Mapping[tuple[str, str], Question],
    store: Store,
    plan: StudyPlan,
    out: Path,
) -> dict[Cell, str]:
    """Compute the cells of a method in a process of its own, by one thread; say which failed."""
    import torch

    torch.set_num_threads(1)
    cohort = Cohort(store, plan)
    return {cell: _one(cell, questions[cell.target, cell.split], cohort, out) for cell in cells}


def _one(cell: Cell, question: Question, cohort: Cohort, out: Path) -> str:
    """Compute a cell; say why its method cannot, nothing if it can."""
    try:
        _write(cell, question, cohort, out)
    except InputError as error:
        return str(error)
    return ""


def _write(cell: Cell, question: Question, cohort: Cohort, out: Path) -> None:
    """Compute what is missing of a cell and write it."""
    path = cell_file(out, cell.key)
    if not path.exists():
        folds = predict(cell.method, question, cohort)
        content: dict[str, Any] = {}
        for number, fold in enumerate(folds):
            content[f"test{number}"] = fold.split.test
            for part in _PARTS:
                content[f"{part}{number}"] = getattr(fold, part)
        with replacing(path) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, **content)
    if not _is_there(out, cell, cohort.plan):
        blocks = blocks_of(cohort.plan, question.scans)
        found = permute(cell.method, question, cohort, blocks)
        text = json.dumps({"p": found.p, "value": found.value, "null": found.null.tolist()})
        with replacing(_permuted(out, cell, cohort.plan)) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def read_cell(out: Path, cell: Cell, question: Question) -> tuple[FoldPrediction, ...]:
    """Read a cell; methods that were given fewer splits predicted the first of them."""
    return read_predictions(cell_file(out, cell.key), question.splits, _what(cell))


def read_predictions(path: Path, splits: Sequence[Split], what: str) -> tuple[FoldPrediction, ...]:
    """Read the file of a cell."""
    try:
        with path.open("rb") as stream, np.load(stream) as opened:
            content = {name: opened[name] for name in opened.files}
        n = sum(name.startswith("test") for name in content)
        found = [[content[f"{part}{k}"] for part in ("test", *_PARTS)] for k in range(n)]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}, which held {what}, is gone. Run evaluate again: it computes what is missing."
        ) from error
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise _damaged(path, what) from error
    if not found:
        raise _damaged(path, what)
    folds = []
    for split, (test, prediction, score) in zip(splits, found, strict=False):
        if not np.array_equal(test, split.test):
            raise InputError(f"{path} does not fit the splits; remove it and run again.")
        folds.append(FoldPrediction(split, prediction, score))
    return tuple(folds)


def _what(cell: Cell) -> str:
    """Say what a cell holds."""
    return f"{cell.method.name} of {cell.target}, {cell.split}"


def _damaged(path: Path, what: str) -> InputError:
    """Say that a file of a cell cannot be read."""
    return InputError(
        f"{path}, which holds {what}, is damaged and cannot be read. Remove this file and run "
        "again: it is computed anew, and nothing else is."
    )


def read_permutations(out: Path, cell: Cell, plan: StudyPlan) -> float:
    """Read the p of a cell by permuted labels."""
    if not plan.permutations or cell.method.how not in PREPARED:
        return float("nan")
    path = _permuted(out, cell, plan)
    if not path.exists():
        return float("nan")
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["p"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, _what(cell)) from error


def _is_there(out: Path, cell: Cell, plan: StudyPlan) -> bool:
    """Say whether a cell is there, with its permutations if the plan has some."""
    if not cell_file(out, cell.key).exists():
        return False
    wanted = plan.permutations and cell.method.how in PREPARED
    return not wanted or _permuted(out, cell, plan).exists()


def cell_file(out: Path, key: str) -> Path:
    """Name the file of a cell."""
    return out / "cells" / f"{key}.npz"


def _permuted(out: Path, cell: Cell, plan: StudyPlan) -> Path:
    """Return the file of the permutations of a cell."""
    divided = f"-{cell.divided}" if cell.divided else ""
    return out / "cells" / f"{cell.key}-{plan.permutations}-permutations-{plan.seed}{divided}.json"
