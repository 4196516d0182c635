"""
From arrays to features
=======================

Series of ROIs go in, numbers that a linear model can use come out. Here the model is the closed
form that ``pretrain --recipe components`` learns in seconds; a pretrained encoder is used in the
same way.
"""

import tempfile
from pathlib import Path

import semantoks as sk
from semantoks.data.atlas import Atlas
from semantoks.training.config import components

# %%
# Two hundred simulated people in the 200 ROIs of atlas cc200 stand for your recordings. They differ
# in one way in which their networks couple.
folder = Path(tempfile.mkdtemp())
people = sk.simulate_cohort(200, atlas=Atlas.load("cc200"), n_samples=150, style=0.05)
sk.write_cohort(people, folder / "recordings")
sk.prepare(folder / "recordings", folder / "store", atlas=people[0].atlas)
store = sk.Store.open(folder / "store")
store

# %%
# The model: nothing is trained, components are learned without labels.
run = sk.pretrain(store, folder / "run", components())
features = sk.embed(store, run.folder)
features

# %%
# New arrays need no store. They are resampled, filtered and z-scored as the model expects; the
# repetition time is never guessed.
model = sk.SemantoksFeatures(run.folder / "model", t_r=2.0)
model.fit_transform([person.series for person in people[:3]]).shape

# %%
# A probe beside connectivity, on the same folds of people, with intervals.
found = sk.compare(store, {"components": features}, "style", repeats=2)
shown = found.table[found.table["metric"] == "auc"]
shown[["method", "value", "low", "high", "difference"]].round(3)
