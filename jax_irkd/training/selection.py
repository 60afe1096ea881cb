"""Which clips of a data set train, validate and test: splits, subjects kept aside, single films.

Clips of one modality alone lie in splits of their own: `train_infrared` beside `train`. A network
that reads one modality takes its own beside the pairs when it trains and validates. It is tested on
pairs, so that teacher and student are tested on the same clips, and on others only without pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.groups import grouped, kept_aside
from jax_irkd.data.spec import CHANNELS, background_of
from jax_irkd.errors import UserError


class Selection(NamedTuple):
    """The dataset's splits, one after the other, and which of their clips: None means all."""

    splits: tuple[str, ...]
    places: list[int] | None = None

    def records(self, dataset: loading.Dataset) -> Sequence:
        records = dataset.records(self.splits)
        return records if self.places is None else loading.Chosen(records, self.places)

    def labels(self, dataset: loading.Dataset, threads: int) -> list[int]:
        """The clips' labels, in their order; -1 for a record that cannot be read."""
        labels = dataset.catalogue(self.splits, threads).labels
        return labels if self.places is None else [labels[place] for place in self.places]


def select(
    config: ConfigDict,
    dataset: loading.Dataset,
    split: str,
    modalities: Sequence[str],
    single: bool = False,
) -> Selection:
    """The clips of `split` (train, validation or test) for a network that reads `modalities`.

    With `single` those of one modality only, without the pairs. Raises UserError for an unknown
    protocol, without validation subjects, and where pairs are needed and there are none.
    """
    share = config.input.get("validation", 0.0)
    if split == "validation" and not share:
        raise UserError("no training subjects were kept aside; set input.validation, 0.1 say")
    pairs = _protocol(config)["test" if split == "test" else "train"]
    there = [name for name in pairs if name in dataset.splits]
    alone = _alone(dataset, pairs, modalities) if len(modalities) == 1 else []
    alone = alone if single or config.input.get("unpaired", True) or not there else []
    if single:
        splits = tuple(alone)
    elif not alone:
        splits = tuple(pairs)
        _refuse_without_pairs(dataset, pairs, there, modalities)
    else:
        splits = tuple(there or alone) if split == "test" else (*there, *alone)
    if not share or split == "test":
        return Selection(splits)
    *_, masks = aside(config, dataset)
    mask = [kept for name in splits for kept in masks.get(name, [])]
    wanted = split == "validation"
    return Selection(splits, [i for i, kept in enumerate(mask) if kept == wanted])


def readable(config: ConfigDict, dataset: loading.Dataset, split: str) -> tuple[str, ...]:
    """The modalities that every clip of `split` (train or test) has: both where there are pairs."""
    pairs = _protocol(config)[split]
    there = [name for name in pairs if name in dataset.splits]
    for kind in CHANNELS:
        alone = bool(there) and all(name.endswith(f"_{kind}") for name in there)
        if alone or (not there and _alone(dataset, pairs, (kind,))):
            return (kind,)
    return tuple(CHANNELS)


def aside(
    config: ConfigDict, dataset: loading.Dataset
) -> tuple[str, list[str], dict[str, list[bool]]]:
    """What clips are grouped by, the groups that validate, and whether each clip of a split does.

    The groups are those of all training clips, so that teacher and student have the same ones.
    """
    pairs = _protocol(config)["train"]
    names = [name for name in (*pairs, *_alone(dataset, pairs, CHANNELS)) if name in dataset.splits]
    parts = {name: dataset.catalogue((name,), config.input.threads) for name in names}
    whole = loading.Catalogue(
        [clip for part in parts.values() for clip in part.clip_ids],
        [label for part in parts.values() for label in part.labels],
    )
    nothing = background_of(dataset.class_names)
    kind, groups, mask = divide(whole, config.input.validation, nothing)
    cut = iter(mask)
    return kind, groups, {name: [next(cut) for _ in part.labels] for name, part in parts.items()}


def divide(
    catalogue: loading.Catalogue, share: float, background: int | None = None
) -> tuple[str, list[str], list[bool]]:
    """What clips are grouped by, the groups that validate, and whether each clip does.

    Whole subjects are kept aside, the same for every seed and method (`data.groups`), and as large
    a share of the clips whose names say of nobody. A record that cannot be read (label -1) has no
    say in it. Raises UserError where the clips are all of one, where a class would be left without
    training clips, and where those kept aside are all of the class `background`: no threshold comes
    of these.
    """
    read = [clip for clip, label in zip(catalogue.clip_ids, catalogue.labels) if label != -1]
    kind, groups = grouped(read)
    alone = {group for clip, group in zip(read, groups) if clip == group}
    parts = [part for part in (set(groups) - alone, alone) if len(part) > 1]
    if not parts:
        raise UserError(
            f"input.validation is {share:g}, but all training clips are of one group ({kind}: "
            f"{', '.join(groups[:1])}), which cannot be divided; set input.validation=0"
        )
    aside = sorted(group for part in parts for group in kept_aside(part, share))
    group_of, held = dict(zip(read, groups)), set(aside)  # thousands where each clip is a group
    mask = [group_of.get(clip) in held for clip in catalogue.clip_ids]
    trained = {label for label, kept in zip(catalogue.labels, mask) if not kept}
    lost = sorted(set(catalogue.labels) - trained - {-1})
    if lost:
        raise UserError(
            f"with input.validation={share:g} ({kind}: {', '.join(aside[:5])}) no training clips "
            f"of {len(lost)} classes are left, class {lost[0]} first; take a smaller share"
        )
    if {label for label, kept in zip(catalogue.labels, mask) if kept} == {background}:
        raise UserError(
            f"with input.validation={share:g} ({kind}: {', '.join(aside[:5])}) only clips of the "
            "class background are kept aside; take a larger share"
        )
    return kind, aside, mask


def _protocol(config: ConfigDict) -> ConfigDict:
    protocols = config.dataset.protocols
    if config.protocol not in protocols:
        raise UserError(f"unknown protocol {config.protocol!r}; choose one of {sorted(protocols)}")
    return protocols[config.protocol]


def _alone(dataset: loading.Dataset, pairs: Sequence[str], modalities: Sequence[str]) -> list[str]:
    """The splits of clips of one of these modalities only, beside `pairs`."""
    names = [f"{name}_{modality}" for name in pairs for modality in modalities]
    return [name for name in names if name in dataset.splits]


def _refuse_without_pairs(
    dataset: loading.Dataset, pairs: Sequence[str], there: list[str], modalities: Sequence[str]
) -> None:
    """Raises UserError where all clips are of another modality than what is to be read."""
    found = [kind for kind in CHANNELS if not there and _alone(dataset, pairs, (kind,))]
    if not found:
        return
    needs = "pairs" if len(modalities) > 1 else f"{modalities[0]} clips"
    hint = "method=baseline trains on infrared alone" if found == ["infrared"] else "build pairs"
    raise UserError(
        f"dataset {dataset.name} has {' and '.join(found)} clips without partners only, and this "
        f"needs {needs}; {hint}"
    )
