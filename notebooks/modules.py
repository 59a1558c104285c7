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
# # The modules at work
#
# What Module A does to the codes of patches and Module B to the maps of two layers, in pictures: plain classification,
# the base, and the base with both modules, on the same images. The explorer shows more of them, to play with.

# %% tags=["parameters"]
preset = "mini"  # held against PRESET-base and PRESET-plain
seed = 0
data_root = ""  # folder that holds JPEGImages; empty: the preset's own place, drawn there if it can be
output = ""  # folder for runs; empty: runs/ of the project

# %%
from wsss import datasets, presets, train
from wsss.explore import pictures, scene, sources

twins = ("-plain", "-base", "")
configs = [presets.get(f"{preset}{twin}", seed=seed, data__root=data_root, output=output) for twin in twins]
root = datasets.root_of(configs[0].data)

# %%
records = [train.run(config) for config in configs]
seers, classes = sources.of_runs([train.run_folder(config, root) for config in configs])
images = sources.of_set(root, configs[0].data.val_split, classes, 8)
seen = [scene.scene(image, seers) for image in images]

# %% [markdown]
# ## Module A: patches and subspaces

# %%
pictures.like_a_patch(seen[1])

# %% [markdown]
# *The marked patch and how alike all others are to it (cosine; dark 0 or less, bright 1): by the tokens of each model,
# and by the codes in each subspace where a model has them.*

# %%
start = [sources.before_training(seers[-1]), seers[-1]]
pictures.gram([scene.scene(image, start) for image in images])

# %% [markdown]
# *Absolute correlation between the dimensions of all subspaces, over the patches of eight validation images, each code
# centred by the mean of its label. What lies outside the blocks of the diagonal is what the subspaces share; its mean
# square is the redundancy that decoupling lowers.*
#
# ## Module B: maps of two layers

# %%
pictures.layers(seen[1])

# %% [markdown]
# *CAM of the aux and of the last layer, their difference, and the affinity of all pairs of patches by each CAM, patches
# of the object first.*

# %%
pictures.layers(seen[4])

# %% [markdown]
# *The same for another image.*
