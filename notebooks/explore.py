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
# # Explore the maps
#
# What do three models see in the same images? Plain classification, the base, and the base with both modules.
# Everything on this page works without a kernel. In a notebook of your own the explorer also refines a map (PAR),
# applies the dense CRF and takes photographs that you drop on it.

# %% tags=["parameters"]
preset = "mini"  # held against PRESET-base and PRESET-plain
seed = 0
data_root = ""  # folder that holds JPEGImages; empty: the preset's own place, drawn there if it can be
output = ""  # folder for runs; empty: runs/ of the project

# %%
from wsss import datasets, presets, train
from wsss.explore import pictures, sources, widget

twins = ("-plain", "-base", "")
configs = [presets.get(f"{preset}{twin}", seed=seed, data__root=data_root, output=output) for twin in twins]
root = datasets.root_of(configs[0].data)
split = configs[0].data.val_split

# %% [markdown]
# A finished run is not trained again; an interrupted one goes on.

# %%
records = [train.run(config) for config in configs]
seers, classes = sources.of_runs([train.run_folder(config, root) for config in configs])

# %% [markdown]
# ## Side by side

# %%
images = sources.of_set(root, split, classes, 6)
live = widget.Explorer(images, seers, classes)
pictures.comparison(live.scenes[:5])

# %% [markdown]
# *Images of the validation list. CAM: the largest value over the classes present, dark 0, bright 1, of the aux and of
# the last layer. Pseudo label: what the decoder learns from (grey: ignored). Plain classification trains no decoder.*
#
# ## Try it
#
# Choose a photograph, a model and a class. Then choose what to draw over the photograph:
#
# * *CAM*: bright where the class has its evidence; the white line is where the map crosses the threshold.
# * *CAM at the threshold*: every pixel gets the class of the largest map above it.
# * *Pseudo label*: what the decoder learns from, refined by the photograph's colours.
# * *Segmentation*: the decoder's own answer. It is not told which classes are in the image.
# * *Patches alike*: point at a patch, or press the arrow keys on the picture. Bright patches resemble it: by their
#   tokens, in a subspace (Module A), or by the CAM of a layer (Module B aligns this).
#
# *Compare with* draws a second view right of a line: the other layer, another model, the truth. Does the base cover
# the same patches as the base with both modules? Move the line and see.

# %%
live

# %% [markdown]
# *Six images of the validation list, evenly spaced. Maps are kept on a grid of patches in 255 steps and enlarged by
# the browser, so numbers may differ a little from those of the records.*
#
# ## Photographs
#
# The model that comes with the package learnt from photographs of animals. Here it looks at three photographs in the
# public domain that come with scikit-image. Nobody outlined the objects in them, so nothing is compared. The model is
# small: it often takes one animal for another, and it outlines them poorly.

# %%
shipped, names = sources.of_runs([])
photographs = widget.Explorer(sources.public_domain(), shipped, names)
pictures.comparison(photographs.scenes)

# %% [markdown]
# *Image, CAM of the aux and of the last layer for the predicted classes, pseudo label, prediction.*

# %%
photographs

# %% [markdown]
# ## Your own
#
# `wsss explore FOLDER` writes such a page of your photographs, as one file, and opens it. The model that comes with the
# package looks at them; `--run RUN ...` takes your own models, side by side. In a notebook, Python reads and sets every
# choice:
#
# ```
# live = widget.Explorer(sources.of_folder(Path("FOLDER"), 8), *sources.of_runs([Path("runs/mini/mini/0")]))
# live                    # shows it
# live.threshold          # what the slider says; live.threshold = 0.3 moves it
# live.labels()           # the label map that a button computed last
# ```
