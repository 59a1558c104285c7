"""Companion of a paper on weakly supervised semantic segmentation: a Vision Transformer learns to label every pixel
from image-level labels alone.

Read the method in this order: `config` (every choice), `batch` (the data of a step), `method` (a training step, top to
bottom). `method` calls `model` and `encoder`, `cam`, `contrast`, `subspace` (Module A), `alignment` (Module B),
`refine`, `energy` and `schedule`. Then read `train` with `datasets`, `transforms` and `optim`, and `evaluate` with
`tally` and `metrics`. The other modules keep runs safe and comparable: `weights` and `normalisation` (start weights),
`registry`, `presets`, `settings`, `stored` (names), `checkpoint`, `guards`, `finite` (safety), `distributed`, `host`,
`process`, `paths`, `provenance` (the machine), `command`. The subpackages are `data` (readers and preparers),
`inference` (final protocols), `report` (records, tables, figures), `explore` (a page to look into a model) and `tools`
(benches, pretraining, checks). The command line is `cli`.

Importing this package is light: only the modules that need torch load it.
"""

__version__ = "0.1.0"
