"""The whole main job on a simulated cohort."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app, call
from semantoks.errors import InputError
from semantoks.terminal import Output

_LABELS: Final = 40
_SAMPLES: Final = 150
_STYLE: Final = 0.05
_PLAN: Final = "few-labels.yaml"


def run_demo(
    out: Path,
    subjects: int,
    seed: int,
    *,
    call: Callable[[Sequence[str]], int],
    say: Callable[[str], None],
) -> tuple[int, dict[str, Any]]:
    """Simulate a cohort, run every verb on it, and hold the scores against the known answer."""
    from semantoks.data.atlas import Atlas
    from semantoks.data.simulation import simulate_cohort, write_cohort

    if out.exists():
        raise InputError(f"{out} exists; remove it, or name another folder: semantoks demo FOLDER.")
    say(
        f"Simulating {subjects} subjects at 3 sites (seed {seed}), 200 ROIs of atlas cc200, in "
        f"{out / 'recordings'} ..."
    )
    out.mkdir(parents=True)
    recordings = simulate_cohort(
        subjects, atlas=Atlas.load("cc200"), n_samples=_SAMPLES, style=_STYLE, seed=seed
    )
    write_cohort(recordings, out / "recordings")
    (out / _PLAN).write_text(_few_labels(seed), encoding="utf-8")
    commands = _commands(out, seed)
    for command in commands:
        say(f"\n$ semantoks {shlex.join(command)}")
        code = call(command)
        if code != 0:
            return code, {"stopped_at": shlex.join(command)}
    read = {name: _is_read(out / "run" / f"probe-{name}") for name in ("diagnosis", "handedness")}
    say("\nThe known answer: diagnosis was planted, handedness was not.")
    for name, methods in read.items():
        for method, above in methods.items():
            say(f"  {name:<11} {method:<13} {'above chance' if above else 'at chance'}")
    verdicts = _verdicts(out / "few-labels")
    say(
        f"\nWhat learning without labels is for: style from the labels of {_LABELS} people, tested "
        f"on {round(subjects * 0.2)} others, ten times. Planted is one way in which all networks "
        "couple, along which people differ; style says on which side of it somebody is. The "
        f"components of the model, learned from all {subjects} people without labels, hold it in a "
        "few numbers; in connectivity it is spread over 19,900."
    )
    for verdict in verdicts:
        say(f"  {verdict['said']}")
    lines = [shlex.join(command) for command in commands]
    report = str(out / "run" / "report.html")
    answer = {"report": report, "commands": lines, "above_chance": read, "verdicts": verdicts}
    return 0, answer


def _commands(out: Path, seed: int) -> list[list[str]]:
    """List the command lines of the main job."""
    store, run = str(out / "store"), out / "run"
    data = ["--data", store]
    names = ("embeddings", "components", "untrained")
    files = [str(run / f"{name}.parquet") for name in names]
    features = [word for file in files for word in ("--embeddings", file)]
    embed = ["embed", *data, "--model", str(run)]
    probes = [
        ["probe", *data, *features, "--target", name, "--out", str(run / f"probe-{name}")]
        for name in ("diagnosis", "handedness")
    ]
    changes = ["--set", f"seed={seed}", "--set", "model.components=400"]
    return [
        ["prepare", str(out / "recordings"), "--atlas", "cc200", "--out", store],
        ["pretrain", *data, "--recipe", "tiny", *changes, "--out", str(run)],
        [*embed, "--features", "mean+cls", "--out", files[0]],
        [*embed, "--out", files[1]],
        [*embed, "--untrained", "--out", files[2]],
        *probes,
        ["evaluate", str(out / _PLAN), "--out", str(out / "few-labels")],
        ["report", str(run)],
    ]


def _few_labels(seed: int) -> str:
    """Write the plan of the comparison with few labels."""
    return f"""\
store: store
targets: [style]
splits: [{{kind: random, repeats: 10, validation: 0}}]
labels: [{_LABELS}]
models:
  pretrained: {{model: run, features: [components, mean+cls]}}
  untrained: {{model: run, weights: fresh, seed: {seed}}}
baselines: [connectivity, log-connectivity, components, dummy]
seed: {seed}
"""


def _verdicts(study: Path) -> list[dict[str, Any]]:
    """Say in words what pretraining gained where labels are few."""
    from semantoks.benchmark.study import study_differences

    first = "pretrained components, ridge"
    others = ("untrained, ridge", "connectivity", "pretrained mean+cls, ridge")
    pairs = [(first, other) for other in others]
    found = study_differences(study, pairs)
    rows = found[(found["metric"] == "auc") & found["split"].str.endswith("labels")]
    verdicts = []
    for row in rows.to_dict(orient="records"):
        low, high, gain = row["t_low"], row["t_high"], row["difference"]
        word = "better" if low > 0 else "worse" if high < 0 else "not told apart"
        verdicts.append(
            {
                "against": row["reference"],
                "difference": gain,
                "low": low,
                "high": high,
                "verdict": word,
                "said": f"components minus {row['reference'].removesuffix(', ridge')}: {gain:+.3f} "
                f"[{low:+.3f}, {high:+.3f}] of the area under the curve: {word}.",
            }
        )
    return verdicts


def _is_read(probe: Path) -> dict[str, bool]:
    """Say of every method but the dummy whether its interval lies above chance."""
    import pandas as pd

    scores = pd.read_csv(probe / "scores.csv")
    scores = scores[(scores["metric"] == "balanced_accuracy") & (scores["method"] != "dummy")]
    above = (scores["low"] > 0.5).tolist()
    return dict(zip(scores["method"].astype(str), above, strict=True))


@app.command(sort_key=10)
def demo(
    out: Path = Path("demo"),
    *,
    subjects: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=80))] = 300,
    seed: int = 0,
    output: Output = SILENT,
) -> int:
    """Run every step on a simulated cohort, in a few minutes.

    Every command is printed before it runs. The planted phenotype, diagnosis, must be decoded; the
    unplanted one, handedness, must stay at chance. Last it says what pretraining gains where
    labels are few.

    Example: semantoks demo

    Parameters
    ----------
    out : Path
        Folder for everything; it must not exist.
    subjects : int
        Size of the cohort.
    seed : int
        Of the cohort and of the weights.
    output : Output
        What is printed.

    Returns
    -------
    int
        Exit code.
    """
    quiet = () if output.speaks else ("--quiet",)
    code, answer = run_demo(
        out, subjects, seed, call=lambda words: int(call([*words, *quiet]) or 0), say=output.say
    )
    output.result(answer)
    return code
