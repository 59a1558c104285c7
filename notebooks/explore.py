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
# What three models see in the same images: plain classification, the base, and the base with both modules. On this
# page everything works without a kernel; run as a notebook, the same pictures answer with refinement and CRF as well.

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
# A run that is finished is not trained again, one that was interrupted goes on.

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
# *Images of the validation list. CAM: the largest value over the classes that are present, dark 0,
# bright 1, of the aux and of the last layer. Pseudo label: what the decoder learns from (grey: ignored). Plain
# classification trains no decoder.*
#
# ## To play with
#
# Choose a class, a layer, a threshold. The white line is where the map crosses the threshold. *CAM at the
# threshold*: the label of the largest map above it. *Pseudo label*: what the decoder learns from the map of the last
# layer. Its own answer, the *segmentation*, does not know the image labels.
#
# Click on a picture, or move the two sliders below it, to choose a patch: the small pictures show how alike all other
# patches are to it, by their tokens, by their codes in each subspace (Module A) and by the CAM of each layer (the
# affinity that Module B aligns). Dark is 0 or less, bright is 1.

# %%
live

# %% [markdown]
# *Six images of the validation list, evenly spaced. Maps are kept on a grid of patches (those of several scales three
# times as fine) in 255 steps and enlarged by the browser, so numbers may differ a little from those of the records;
# cosines are kept to two hundredths.*
#
# ## Photographs
#
# The model that comes with the package, trained on photographs of animals, on three photographs that come with
# scikit-image and are in the public domain. Their truth was never drawn, so nothing is compared. The probabilities in
# the list of classes are the model's.

# %%
shipped, names = sources.of_runs([])
photographs = widget.Explorer(sources.public_domain(), shipped, names)
pictures.comparison(photographs.scenes)

# %% [markdown]
# *Image, CAM of the aux and of the last layer for the predicted classes, pseudo label, prediction. There is no truth to
# show.*

# %%
photographs

# %% [markdown]
# *The model is small; what to expect of it is on the page Results, under Photographs, in the column `voc-animals`, and
# where it comes from in its card in `data/weights`.*
#
# ## Your own
#
# `wsss explore FOLDER` writes such a page of your own photographs, one file without any other, and opens it. Nothing is
# trained: the model that comes with the package looks at them. It learnt from photographs of cats, cows, dogs, horses
# and sheep, and of what else was in them, people above all; of VOC's other classes it has seen little. With
# `--run RUN ...` models of your own look. Live, in a
# notebook with a kernel, two more buttons refine the map at the chosen threshold by the photograph's colours (PAR) and
# pass the segmentation through the dense CRF; and every choice can be read and set from Python:
#
# ```
# live = widget.Explorer(sources.of_folder(Path("FOLDER"), 8), *sources.of_runs([Path("runs/mini/mini/0")]))
# live                    # shows it
# live.threshold          # what the slider says; live.threshold = 0.3 moves it
# live.labels()           # the label map that a button computed last
# ```
