"""Sizes of the images that a run encodes, against the patch of its network."""

from wsss import evaluate, settings
from wsss.config import Config
from wsss.paths import UserError, note


def check(config: Config, patch: int) -> None:
    """Check every image size of a run against the patch of its network.

    UserError where an image is smaller than one patch, or the crop is no whole number of patches. Local crops that are
    no whole number of patches get a warning on stderr: only their class token is used.
    """
    least = min(1.0, *config.cam.scales)
    squashed = evaluate.evaluation_size(config)
    sides = {"augment.crop": config.augment.crop * least, "augment.evaluation_size": squashed * least}
    if "views" in config.needs:
        sides["augment.local_size"] = config.augment.local_size
    for path, side in sides.items():
        if side < patch:
            raise UserError(f"an image of {side:g} pixels is smaller than one patch of {patch}; raise --{path}")
    for path in [path for path in sides if path != "augment.evaluation_size"]:
        if rest := settings.get(config, path) % patch:
            size = settings.get(config, path)
            sentence = (
                f"{path} is {size}, no multiple of the patch of {patch} pixels, so that {rest} are dropped from every "
                f"crop; choose {size - rest} or {size - rest + patch} for --{path}"
            )
            if path == "augment.crop":
                raise UserError(sentence)
            note(f"warning: {sentence}")
