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
# What does Module A do to the vectors of patches, and Module B to the maps of two layers? The same images, seen by
# the base and by the base with one of the modules.

# %% tags=["parameters"]
preset = "mini"  # its twins PRESET-base, PRESET-msc and PRESET-csa are what is shown
seed = 0
data_root = ""  # folder that holds JPEGImages; empty: the preset's own place, drawn there if it can be
output = ""  # folder for runs; empty: runs/ of the project

# %%
from wsss import datasets, presets, train
from wsss.explore import pictures, scene, sources

twins = ("-base", "-msc", "-csa")
configs = [presets.get(f"{preset}{twin}", seed=seed, data__root=data_root, output=output) for twin in twins]
root = datasets.root_of(configs[0].data)

# %% [markdown]
# A finished run is not trained again; an interrupted one goes on.

# %%
records = [train.run(config) for config in configs]
(base, msc, csa), classes = sources.of_runs([train.run_folder(config, root) for config in configs])
images = sources.of_set(root, configs[0].data.val_split, classes, 8)

# %% [markdown]
# ## Module A: patches and subspaces

# %%
pictures.like_a_patch(scene.scene(images[1], [base]))

# %% [markdown]
# *The base has one vector a patch, which has to say everything. The marked patch, and how similar all others are to
# it: the cosine of these vectors, dark 0 or less, bright 1.*

# %%
pictures.like_a_patch(scene.scene(images[1], [base, msc]))

# %% [markdown]
# *The same with Module A: by the tokens, and in each subspace.*

# %%
start = sources.before_training(msc)
pictures.gram([scene.scene(image, [start, msc]) for image in images])

# %% [markdown]
# *Absolute correlation between the dimensions of all subspaces, over the patches of eight validation images, centred
# by label. What lies outside the blocks of the diagonal is shared between subspaces. Its mean square is the
# redundancy that the penalties of Module A lower.*

# %%
pictures.comparison([scene.scene(image, [base, msc]) for image in images[1:5]])

# %% [markdown]
# *CAM, pseudo label and prediction without and with Module A.*
#
# ## Module B: maps of two layers

# %%
pictures.layers(scene.scene(images[1], [base]))

# %% [markdown]
# *CAM of the aux and of the last layer of the base, their difference, and for each CAM the affinity of all pairs of
# patches, patches of the object first.*

# %%
pictures.layers(scene.scene(images[1], [base, csa]))

# %% [markdown]
# *The same without and with Module B.*

# %%
pictures.comparison([scene.scene(image, [base, csa]) for image in images[1:5]])

# %% [markdown]
# *CAM of both layers, pseudo label and prediction without and with Module B.*
