"""Companion of a paper on weakly supervised semantic segmentation: a Vision Transformer learns, from image-level
labels alone, to label every pixel.

Read the method in this order: `config` (every choice), `batch` (the data of a step), `method` (a training step, top to
bottom) and what it calls: `model` and `encoder`, `cam`, `contrast`, `subspace` (Module A), `alignment` (Module B),
`refine`, `energy`, `schedule`. Then `train` with `datasets`, `transforms` and `optim`, and `evaluate` with `tally` and
`metrics`. What else lies here keeps runs safe and comparable: `weights` and `normalisation` (start weights),
`registry`, `presets`, `settings`, `stored` (names), `checkpoint`, `guards`, `finite` (safety), `distributed`, `host`,
`process`, `paths`, `provenance` (the machine), `command`. Beside the method: `data` (readers and preparers),
`inference` (final protocols), `report` (records, tables, figures), `explore` (a page to look into a model), `tools`
(benches, pretraining, checks). The command line is `cli`.

Importing this package is light: torch is loaded by the modules that need it.
"""

__version__ = "0.1.0"
