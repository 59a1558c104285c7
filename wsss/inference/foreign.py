"""`wsss evaluate --checkpoint FILE`: turn weights trained elsewhere, such as the base's released ones, into a run."""

from collections import Counter
from pathlib import Path

from wsss import checkpoint, presets, train, weights
from wsss import config as configuration
from wsss.data import sets
from wsss.model import build
from wsss.paths import UserError, note, sha256, write_json
from wsss.settings import override


def adopt(file: Path, preset: str, output: Path, data_root: str = "") -> Path:
    """Turn the weights of `file` into the run OUTPUT/DATASET/PRESET-foreign-DIGEST/0, and return its folder.

    `file` holds a whole model under the base's names. Every command that takes a RUN takes this folder. `preset` gives
    the network and the way of evaluation; every tensor must fit. The variant's name and "weights" in the records mark
    these weights as foreign, so that no table takes them for a run of the preset. Notes on stderr say which tensors
    were taken and which were left out. Raises UserError.
    """
    if not file.is_file():
        raise UserError(f"the checkpoint {file} does not exist; check --checkpoint")
    config = presets.get(preset, **{"model.checkpoint": str(file), "model.pretrained": False, "data.root": data_root})
    tensors, digest = weights.read(file), sha256(file)
    if not weights.is_whole(tensors) or "decoder.conv8.weight" not in tensors:
        raise UserError(
            f"{file} holds no whole model, perhaps only a backbone; start a run from it with --model.checkpoint"
        )
    model = build(config, len(tensors["decoder.conv8.weight"]) - 1)  # conv8 has an output for the background, too
    model.start = {"sha256": digest, "source": f"{file.name}, trained elsewhere", "foreign": True}
    parts = Counter(name.partition(".")[0] for name in tensors)
    note(f"{file}: took {', '.join(f'{count} tensors of {part}' for part, count in parts.items())}")
    changes = {"variant": f"{preset}-foreign-{digest[:8]}", "output": str(output), "model.checkpoint": file.name}
    config = override(config, changes)
    folder = train.run_folder(config, sets.locate(config.data))
    checkpoint.save(folder, config.optim.steps, model, {"foreign": True})
    write_json(folder / "config.json", configuration.to_dict(config))
    return folder
