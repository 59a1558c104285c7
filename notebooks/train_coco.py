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
# # COCO: from json to a record
#
# COCO 2014 comes as json files of polygons and run lengths. Here they become masks and image labels, and a run goes
# through the three phases of the COCO schedule. By default the json is an export of the drawn set and the run takes a
# minute: a **smoke test**, whose numbers are no results.
#
# For COCO itself, prepare the set once (`wsss data prepare coco`), then
#
# ```
# papermill notebooks/train_coco.ipynb out.ipynb -p preset coco -p data_root COCO2014
# ```

# %% tags=["parameters"]
preset = "mini-coco"  # or coco, coco-deit and their -toco twins
seed = 0
data_root = ""  # a prepared COCO; empty: the drawn set by way of COCO json
output = ""  # folder for runs; empty: runs/ of the project

# %%
import pandas

from wsss import datasets, presets, schedule, train
from wsss.report import figures, tables

config = presets.get(preset, seed=seed, data__root=data_root, output=output)
root = datasets.root_of(config.data)
photographs = datasets.Split(root, config.data.train_split)  # looks for every file now, not in the middle of a run
run = train.run_folder(config, root)

# %% [markdown]
# ## Masks from polygons

# %%
figures.set_examples(root, config.data.train_split)

# %% [markdown]
# *Training images and the masks that the rasteriser made of their polygons: crowds first, then larger objects
# before smaller ones.*
#
# ## Three phases
#
# Classification alone; then segmentation joins, with labels from the **aux** CAM; then the contrast terms, and
# labels from the final CAM. The table holds the weight of each term at a step of each phase.

# %%
phases = [round(part * config.optim.steps) for part in (0.05, 0.125, 0.5)]
pandas.DataFrame({f"step {step}": schedule.term_weights(step, config) for step in phases})

# %% [markdown]
# ## The run

# %%
record = train.run(config)

# %%
figures.learning_curves(run / "log.jsonl")

# %% [markdown]
# *Terms of the objective over steps: each line starts where its phase does. From the run's `log.jsonl`.*

# %%
tables.of_run(record)

# %% [markdown]
# *By the COCO protocol of evaluation in training, background where the CAM is at most
# `protocol.background` of the record.*

# %%
figures.cam_rows(figures.load_samples(run / "cams.npz"))

# %% [markdown]
# *Validation images, CAM at two layers, labels, prediction, truth.*
