"""Distillers that take away some of the cross-entropy, and what that cannot stand beside."""

from ml_collections import ConfigDict

from jax_irkd.errors import UserError


def check(config: ConfigDict) -> None:
    """Raises UserError where distillers take away another cross-entropy than the one added.

    They know the plain one of the pairs. Of one that is otherwise, class by class or clip by clip,
    a negative part can be left: the student would be trained to be wrong.
    """
    distillers, training = config.get("distillers", {}), config.get("student_training", {})
    usual = {"st": ("cross_entropy_weight", 1.0), "ccskd": ("schedule", "constant")}
    changed = {
        f"distillers.{name}.{field}": (distillers[name][field], value)
        for name, (field, value) in usual.items()
        if name in distillers and distillers[name].get(field, value) != value
    }
    if not changed:
        return
    said = " and ".join(f"{path}={held}" for path, (held, _) in changed.items())
    back = " ".join(f"--config.{path}={value}" for path, (_, value) in changed.items())
    for name, plain in (("class_weights", "none"), ("extra_clips", 0)):
        if training.get(name, plain) != plain:
            raise UserError(
                f"student_training.{name} is {training[name]}, but {said} takes away from the "
                "plain cross-entropy of the pairs: some clips would be learnt wrongly; give "
                f"--config.student_training.{name}={plain}, or {back}"
            )
    # A schedule begins with none of it; two that take it away leave less than nothing.
    taken = sum(1.0 if isinstance(held, str) else 1.0 - held for held, _ in changed.values())
    smoothing = training.get("label_smoothing", 0.0)
    if taken > 1 - smoothing + 1e-9:
        smooth = f", smoothed by student_training.label_smoothing={smoothing}" if smoothing else ""
        raise UserError(
            f"{said} takes away more of the cross-entropy than there is{smooth}: labels would be "
            f"learnt wrongly; give {back}{' or no label_smoothing' if smoothing else ''}"
        )
