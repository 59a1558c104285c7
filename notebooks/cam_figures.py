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
# # Class activation maps of a run
#
# Pictures of one finished run, from the arrays it kept (`cams.npz`). Nothing is trained here. No run yet?
# `wsss train mini --seed 0` makes one.

# %% tags=["parameters"]
preset = "mini"
seed = 0
data_root = ""  # not needed: the run kept its pictures
output = ""  # folder of your runs; empty: runs/ of the project

# %%
from pathlib import Path

from wsss import paths, presets
from wsss.report import figures, records, tables

own = Path(output) if output else paths.project_root() / "runs"
known = records.find(own, paths.project_root() / "data" / "results")
record = records.one(known, presets.get(preset).variant, seed)
run = Path(record["path"]).with_suffix("")

# %% [markdown]
# ## Maps, labels, prediction

# %%
figures.cam_rows(figures.load_samples(run / "cams.npz"), rows=8)

# %% [markdown]
# *Evenly spaced validation images. CAM: the largest value over the classes present, dark 0, bright 1, at several
# scales. Pseudo label: sure background, sure foreground, the rest ignored. Prediction: by the decoder, which sees the
# image only.*
#
# ## How they came about

# %%
figures.learning_curves(run / "log.jsonl")

# %% [markdown]
# *Terms of the objective and validation mIoU over steps, from the run's `log.jsonl`.*

# %%
tables.of_run(record)

# %% [markdown]
# *The run's numbers on the whole validation list, from its record.*
