"""NTU RGB+D 60 as published: file names, classes, subjects, totals."""

import re
from typing import NamedTuple

PATTERN = re.compile(r"^(S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3}))_(rgb|ir)$", re.IGNORECASE)
SETUPS, CAMERAS, SUBJECTS, REPETITIONS, ACTIONS = 17, 3, 40, 2, 60
TOTALS = {"ten": 9_480, "sixty": 56_880}
# Frames and bytes of the published files: 4 M frames, 136 GB RGB, 221 GB infrared in 56,880 clips.
MEAN_FRAMES = 70

TRAIN_SUBJECTS = frozenset(
    (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
)

CLASSES = (
    "drink water",
    "eat meal/snack",
    "brushing teeth",
    "brushing hair",
    "drop",
    "pickup",
    "throw",
    "sitting down",
    "standing up (from sitting position)",
    "clapping",
    "reading",
    "writing",
    "tear up paper",
    "wear jacket",
    "take off jacket",
    "wear a shoe",
    "take off a shoe",
    "wear on glasses",
    "take off glasses",
    "put on a hat/cap",
    "take off a hat/cap",
    "cheer up",
    "hand waving",
    "kicking something",
    "reach into pocket",
    "hopping (one foot jumping)",
    "jump up",
    "make a phone call/answer phone",
    "playing with phone/tablet",
    "typing on a keyboard",
    "pointing to something with finger",
    "taking a selfie",
    "check time (from watch)",
    "rub two hands together",
    "nod head/bow",
    "shake head",
    "wipe face",
    "salute",
    "put the palms together",
    "cross hands in front (say stop)",
    "sneeze/cough",
    "staggering",
    "falling",
    "touch head (headache)",
    "touch chest (stomachache/heart pain)",
    "touch back (backache)",
    "touch neck (neckache)",
    "nausea or vomiting condition",
    "use a fan (with hand or paper)/feeling warm",
    "punching/slapping other person",
    "kicking other person",
    "pushing other person",
    "pat on back of other person",
    "point finger at the other person",
    "hugging other person",
    "giving something to other person",
    "touch other person's pocket",
    "handshaking",
    "walking towards each other",
    "walking apart from each other",
)


class ClipName(NamedTuple):
    """The fields of a file name; `key` is the first 20 characters, `modality` rgb or infrared."""

    key: str
    setup: int
    camera: int
    subject: int
    repetition: int
    action: int
    modality: str

    @property
    def split(self) -> str:
        """The physical split: cross-subject is a sum of two of them, cross-view another."""
        subjects = "train" if self.subject in TRAIN_SUBJECTS else "test"
        return f"{subjects}_subjects_{'c1' if self.camera == 1 else 'c23'}"

    @property
    def odd(self) -> str:
        """Which field is not one of NTU RGB+D 60's, or an empty string."""
        limits = zip(
            ("setup", "camera", "subject", "repetition", "action"),
            (self.setup, self.camera, self.subject, self.repetition, self.action),
            (SETUPS, CAMERAS, SUBJECTS, REPETITIONS, ACTIONS),
        )
        return ", ".join(
            f"{name} {value} is not in 1 to {most}"
            for name, value, most in limits
            if not 1 <= value <= most
        )


SPLITS = (
    "train_subjects_c1",
    "train_subjects_c23",
    "test_subjects_c1",
    "test_subjects_c23",
)


def parse(name: str) -> ClipName | None:
    """The fields of a film's name without suffix, S001C002P003R001A010_ir, or None."""
    match = PATTERN.match(name)
    if match is None:
        return None
    numbers = [int(match.group(i)) for i in range(2, 7)]
    modality = "rgb" if match.group(7).lower() == "rgb" else "infrared"
    return ClipName(match.group(1).upper(), *numbers, modality)
