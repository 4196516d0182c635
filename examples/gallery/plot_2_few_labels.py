"""
Few labels, many people without
===============================

Diagnoses are rare and recordings are many. Components are learned from everybody in a training
part, labels of a few; everybody is tested as ever.
"""

import tempfile
from pathlib import Path

import semantoks as sk
from semantoks.benchmark.plan import StudyPlan
from semantoks.benchmark.study import run_study
from semantoks.data.atlas import Atlas
from semantoks.interpretation.figures.scores import LabelAxis, draw_label_curves

folder = Path(tempfile.mkdtemp())
people = sk.simulate_cohort(300, atlas=Atlas.load("cc200"), n_samples=150, style=0.05)
sk.write_cohort(people, folder / "recordings")
sk.prepare(folder / "recordings", folder / "store", atlas=people[0].atlas)

# %%
# The plan, as in a YAML file of ``semantoks evaluate``.
plan = StudyPlan.model_validate(
    {
        "store": folder / "store",
        "targets": ["style"],
        "splits": [{"kind": "random", "repeats": 5, "validation": 0}],
        "labels": [20, 40, 80],
        "baselines": ["connectivity", "log-connectivity", "components", "dummy"],
        "draws": 200,
    }
)
study = run_study(plan, folder / "study")

# %%
rows = study.scores[study.scores["metric"] == "auc"]
figure = draw_label_curves([LabelAxis("style", "area under the ROC curve", rows)])

# %%
rows.pivot(index="method", columns="n_learned", values="value").round(3)
