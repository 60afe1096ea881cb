"""What a build found, made and left out: build_report.json and its head in words."""

import collections
import dataclasses
import json
from typing import Any

from jax_irkd.tfds_builders._shared.cache import EncodingSummary
from jax_irkd.video.finding import Skip

# A remark on a clip; when nearly all clips have it, the wrong files were given.
NO_COLOUR = "RGB without colour"


@dataclasses.dataclass
class Report:
    """Counts and names. `unit` is what one record is called, `found` counts what lay on disk;
    `unreadable` are folders and archives of which nobody knows what they hold, `unlisted` is how
    many more than the names in `skipped` are left out, where a name stands for several."""

    dataset: str
    unit: str
    manual_dir: str
    options: dict[str, Any]
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: list[Skip] = dataclasses.field(default_factory=list)
    notes: list[Skip] = dataclasses.field(default_factory=list)
    unreadable: list[Skip] = dataclasses.field(default_factory=list)
    built: int = 0
    unlisted: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def add(self, summaries: list[EncodingSummary]) -> None:
        for summary in summaries:
            self.built += summary.records
            self.bytes += summary.size
            self.skipped += summary.skipped
            self.notes += summary.notes

    @property
    def skipped_share(self) -> float:
        """Skipped as a share of all that was found."""
        total = self.built + self.skipped_count
        return self.skipped_count / total if total else 0.0

    @property
    def skipped_count(self) -> int:
        return len(self.skipped) + self.unlisted

    def as_json(self) -> str:
        content = dataclasses.asdict(self) | {
            "skipped_share": self.skipped_share,
            "skipped_count": self.skipped_count,
            "reasons": _counted(self.skipped),
            "remarks": _counted(self.notes),
            "skipped": [skip._asdict() for skip in self.skipped],
            "notes": [note._asdict() for note in self.notes],
            "unreadable": [one._asdict() for one in self.unreadable],
        }
        return json.dumps(content, indent=1, ensure_ascii=False)

    def head(self, names: int = 3) -> str:
        """A few lines: totals, then each reason with its count and its first names."""
        lines = [
            f"{self.dataset}: {self.built} {self.unit} built ({self.bytes / 1e6:.1f} MB), "
            f"{self.skipped_count} skipped ({self.skipped_share:.1%})"
        ]
        kinds = (
            ("skipped", self.skipped),
            ("passed over", self.unreadable),
            ("remark", self.notes),
        )
        for title, items in kinds:
            for reason, count in _counted(items).items():
                lines.append(f"  {title}: {reason}: {count}")
                shown = [item for item in items if item.reason == reason][:names]
                lines += [f"    {item.name}: {item.detail}" for item in shown]
        if self.unlisted:
            lines.append(f"  skipped: about {self.unlisted} more {self.unit} that nobody listed")
        return "\n".join(lines)


def _counted(items: list[Skip]) -> dict[str, int]:
    return dict(collections.Counter(item.reason for item in items).most_common())
