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
# # A training run
#
# From photographs and image labels to a record: train, evaluate, look. By default this notebook trains on the *mini*
# set, which the package draws itself. Nothing to download; five to ten minutes on two processor cores.
#
# ```
# papermill notebooks/train_voc.ipynb
# papermill notebooks/train_voc.ipynb out.ipynb -p preset voc -p data_root VOC2012
# ```
#
# A finished run with the same settings is not trained again, and an interrupted one goes on. The time at the top of
# this page is the notebook's own; the run's time is in the last line of its table.

# %% tags=["parameters"]
preset = "mini"  # a row of wsss.presets: smoke, mini, voc-animals, voc, voc-deit, ... and their -toco twins
seed = 0
data_root = ""  # folder that holds JPEGImages; empty: the preset's own place, drawn there if it can be
output = ""  # folder for runs; empty: runs/ of the project

# %%
from wsss import datasets, presets, train
from wsss.report import figures, tables

config = presets.get(preset, seed=seed, data__root=data_root, output=output)
root = datasets.root_of(config.data)
photographs = datasets.Split(root, config.data.train_split)  # looks for every file now, not in the middle of a run
run = train.run_folder(config, root)

# %% [markdown]
# ## What it learns from
#
# Training sees the images and the *names* of what is in them. The masks below are used for evaluation only.

# %%
figures.set_examples(root, config.data.train_split)

# %% [markdown]
# *The first images of the training list and their true masks. White or light grey is not judged.*
#
# ## Training
#
# Classification on two layers comes first. The class activation maps (CAM) that it yields become the targets of the
# contrast terms and of the decoder. The orange areas of the figure below show when each term joins.

# %%
record = train.run(config)

# %%
figures.learning_curves(run / "log.jsonl")

# %% [markdown]
# *Each term of the objective before its weight (blue) and that weight (orange) over the steps, from the run's
# `log.jsonl`. The last panel shows mIoU on the validation list during training.*
#
# ## What came out

# %%
tables.of_run(record)

# %% [markdown]
# All numbers in the table come from the run's record (`SEED.json` beside the run's folder), which also holds the whole
# configuration and a fingerprint of the images.

# %%
figures.cam_rows(figures.load_samples(run / "cams.npz"))

# %% [markdown]
# *Validation images, their CAM at the aux and at the last layer, the labels made of it, the decoder's prediction and
# the truth. The CAMs and the pseudo label know the image labels; the prediction does not.*
