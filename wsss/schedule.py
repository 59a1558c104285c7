"""Weight of every term at every step, from the table `TERMS` of wsss.config. Imports no torch."""

from wsss.config import TERMS, Config


def direction_weights(progress: float, direction: str, crossing: float, ramp: float = 0.1) -> tuple[float, float]:
    """Return the weights 1 - u and u of the two directions of alignment (B6).

    With the first, the last layer learns from the aux layer; with the second, the aux layer learns from the last.
    `progress` is step / steps. `scheduled` goes linearly from (1, 0) to (0, 1) over `ramp` of the run, centred at
    `crossing`, where the last layer's CAM overtakes the aux layer's. `crossing` 0 means that the last layer's CAM leads
    from the start: (0, 1) throughout. The three other directions are constant.
    """
    # Weight of the direction in which the aux layer learns.
    constant = {"aux_to_last": 0.0, "last_to_aux": 1.0, "both": 0.5}
    if direction in constant:
        later = constant[direction]
    elif crossing == 0:
        later = 1.0
    elif ramp == 0:  # a step; the line below would divide by 0
        later = float(progress >= crossing)
    else:
        later = min(max((progress - crossing) / ramp + 0.5, 0.0), 1.0)
    return 1 - later, later


def term_weights(step: int, config: Config) -> dict[str, float]:
    """Return the weight of every term at `step`, counted from 0: the factors lambda of the objective (eq. 10)."""
    csa = config.csa
    to_last, to_aux = direction_weights(step / config.optim.steps, csa.direction, csa.crossing, csa.ramp)
    shares = {"last": to_last, "aux": to_aux}
    return {
        name: term.weight(config) * _has_joined(term.start_of(config), step, config) * shares.get(term.learner, 1.0)
        for name, term in TERMS.items()
    }


def classification_only(step: int, config: Config) -> bool:
    """Return whether only classification has a weight at `step`; its main pass is then the whole step."""
    return not any(weight and TERMS[name].needs for name, weight in term_weights(step, config).items())


def classification_steps(config: Config) -> int:
    """Count the steps at the start of a run in which only classification has a weight."""
    starts = [term.start_of(config) for term in TERMS.values() if term.needs and term.weight(config)]
    if not starts:
        return config.optim.steps
    # A term joins at the first step n > start * steps, or at once where its start is 0.
    return int(min(starts) * config.optim.steps) + 1 if min(starts) else 0


def uses_aux_labels(step: int, config: Config) -> bool:
    """Return whether segmentation still learns from the aux CAM at `step` (the second phase of COCO)."""
    return not _has_joined(config.schedule.final_cam_start, step, config)


def _has_joined(start: float, step: int, config: Config) -> bool:
    return start == 0 or step > start * config.optim.steps
