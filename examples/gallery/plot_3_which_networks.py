"""
Which networks a score comes from
=================================

In these simulated patients the network *Default* moves otherwise, and takes over less of *Cont*.
``explain`` does not know that.
"""

import tempfile
from pathlib import Path

import semantoks as sk

folder = Path(tempfile.mkdtemp())
people = sk.simulate_cohort(120, seed=7)
sk.write_cohort(people, folder / "recordings")
sk.prepare(folder / "recordings", folder / "store", atlas=people[0].atlas)
store = sk.Store.open(folder / "store")

# %%
# Connectivity is a model, too. A score at chance would be refused here.
found = sk.explain(store, "connectivity", "diagnosis", permutations=50)
found.checks

# %%
# What is lost where a network is hidden, and what it knows alone.
drops = found.plot_networks()

# %%
# How the mean edge of two networks goes with the held-out score.
pairs = found.plot_pairs()

# %%
found.networks.round(3)
