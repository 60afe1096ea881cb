"""The choices of a build that are not the dataset's own."""

import dataclasses
import hashlib
import json
import os

from jax_irkd.errors import UserError
from jax_irkd.host import processor
from jax_irkd.video.depth import AUTO, parse_range

VARIABLE = "JAX_IRKD_BUILD"
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
ENCODING = 2  # Raised whenever clips are encoded otherwise: a cache that was kept is not theirs.


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """How clips are stored, and how the build runs.

    `python -m jax_irkd.build` has a flag for each; `tfds build` reads them as JSON from the
    environment variable JAX_IRKD_BUILD, for example '{"max_frames": 0, "workers": 4}'.
    """

    max_frames: int = 64  # Per clip and modality, evenly spaced; 0 keeps all.
    short_side: int = 256  # Pixels; larger frames are shrunk, smaller ones kept.
    quality: int = 90  # JPEG, 1 to 100.
    range: str = AUTO  # Pixels of more than eight bits: auto, or MIN,MAX of the file's values.
    trust_names: bool = False  # Take infrared files for infrared, whatever their colours say.
    unpaired: bool = False  # Keep clips of one modality beside pairs, in splits of their own.
    background: bool = False  # PKU-MMD: one more class, of stretches between annotations.
    crop_file: str = ""  # Per-camera crop of RGB to the infrared field of view.
    workers: int = 0  # 0: one for each core.
    max_skipped: float = 0.01  # The build refuses to finish when a larger share is skipped.
    skip_unreadable: bool = False  # Go on without folders and archives that cannot be read.
    keep_cache: bool = False  # Keep the encoded clips after a finished build.

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) not in (kind, int if kind is float else kind):  # True is an int, too
                raise UserError(f"{field.name} is {value!r}; choose {KINDS[kind]}")
        limits = {
            "max_frames": (0, 1_000_000),
            "short_side": (8, 10_000),
            "quality": (1, 100),
            "workers": (0, 4096),
            "max_skipped": (0, 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} is {value}; choose a value from {low} to {high}")
        parse_range(self.range)

    @classmethod
    def from_environment(cls) -> "BuildOptions":
        """Options from JAX_IRKD_BUILD. Raises UserError for bad JSON, names and values."""
        text = os.environ.get(VARIABLE, "")
        known = [field.name for field in dataclasses.fields(cls)]
        try:
            values = json.loads(text) if text else {}
        except ValueError as error:
            raise UserError(f"{VARIABLE} is not a JSON object ({error}): {text!r}") from error
        if not isinstance(values, dict):
            raise UserError(f'{VARIABLE} is not a JSON object such as {{"workers": 4}}: {text!r}')
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"{VARIABLE} has unknown options {unknown}; choose from {known}")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{VARIABLE}: {error}") from error

    @property
    def stored(self) -> dict[str, int | str | bool]:
        """What decides the stored bytes."""
        from jax_irkd.tfds_builders._shared.crops import crops_digest  # reads pictures: heavy

        crop = crops_digest(self.crop_file) if self.crop_file else ""
        return {
            "max_frames": self.max_frames,
            "short_side": self.short_side,
            "quality": self.quality,
            "range": str(parse_range(self.range)),
            "crop": crop,
        } | ({"background": True} if self.background else {})

    @property
    def recorded(self) -> dict[str, int | str | bool]:
        """What decides which clips there are, and their bytes: the data set's metadata say it."""
        names = ("background", "unpaired", "trust_names")
        return self.stored | {name: getattr(self, name) for name in names}

    @property
    def storage(self) -> dict:
        """The fields of `encoding.FrameStorage`."""
        return {
            "max_frames": self.max_frames,
            "short_side": self.short_side,
            "quality": self.quality,
            "range": parse_range(self.range),
            "trusted": self.trust_names,
        }

    @property
    def digest(self) -> str:
        """Names the cache: clips encoded with other options are not reused."""
        content = self.stored | {"trust_names": self.trust_names, "encoding": ENCODING}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def processes(self) -> int:
        """The number of worker processes."""
        return self.workers or processor.cores()
