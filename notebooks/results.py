# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your runs beside the published ones
#
# Every table and figure here is made of records: one JSON file a run, with its numbers, protocol, configuration and
# origin. Tables show the published records of `data/results`. Your own runs, from `runs/`, get columns of their own
# and replace nothing. Nothing is trained.

# %% tags=["parameters"]
preset = "mini"  # the run whose curves are shown
seed = 0
data_root = ""  # not needed: records hold all that is shown
output = ""  # folder of your runs; empty: runs/ of the project

# %%
from pathlib import Path

from wsss import paths, presets
from wsss.report import evidence, experiments, figures, records, tables

own = Path(output) if output else paths.project_root() / "runs"
published, yours = records.published(), records.find(own)
record = records.one(records.find(own, paths.project_root() / "data" / "results"), presets.get(preset).variant, seed)

# %% [markdown]
# ## The paper, its base, and what was measured
#
# "not run" means that this project has no record of it, and says the command that makes one.

# %%
tables.build("headline", published)

# %% [markdown]
# ## The drawn set
#
# Its classes differ by a small part on a body that they share, so a classifier needs to look at the part only.
# The share of the *rest* that is covered tells how far a CAM reaches beyond it.

# %%
tables.build("mini", published, yours)

# %%
evidence.differences(experiments.get("mini-components"), published)

# %% [markdown]
# *How far each row of the experiment on components lies above the base: one dot per seed, the mean of the paired
# differences and its 95 % interval over seeds.*

# %%
evidence.coverage_bars(experiments.get("mini-components"), published)

# %% [markdown]
# *How much of the distinctive part and of the rest of the objects the CAM covers on the validation list, row by row of
# the experiment on components; one dot per seed.*
#
# ## Photographs

# %%
tables.build("voc-animals", published, yours)

# %% [markdown]
# ## One run
#
# The numbers of the run named by the parameters, with what they were measured on: yours if it is in `runs/`, else the
# published one. Date and device below the table tell which.

# %%
tables.of_run(record)

# %% [markdown]
# Its validation over its progress, and behind it the base's own training logs. Those are of VOC and COCO, other
# data sets than this run's: what compares is *when* a map rises and which layer leads, not how high.

# %%
figures.curves_beside_base(record)

# %% [markdown]
# *In colour this run: validations while it trained, and at the end its record. In grey ToCo's published logs on VOC
# val and on 5,000 images of COCO val, printed by its authors, not measured here and not comparable in level.*
#
# ## Published curves of the base
#
# For comparison, the base's own training logs. They are its authors' numbers; none was measured here.

# %%
figures.published_curves()

# %% [markdown]
# *mIoU of CAM, aux CAM and segmentation over training steps, from ToCo's published logs.*
