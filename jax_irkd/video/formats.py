"""Which names films have: one list for builders, inventory, predictions and streams."""

import unicodedata

VIDEOS = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv", ".y4m"),
)
PAGES = (".tif", ".tiff")  # one file may hold a whole film, page by page
STILLS = (*PAGES, ".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".webp")


def stem_and_suffix(name: str) -> tuple[str, str]:
    """A file name without its suffix, and the suffix in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix.lower()) if stem else (name, "")


def is_video(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return stem_and_suffix(name)[1] in VIDEOS


def is_still(name: str) -> bool:
    """Whether a file of this name is taken for a picture of a sequence."""
    return stem_and_suffix(name)[1] in STILLS


def composed(name: str) -> str:
    """The name with its accents in one form: macOS writes them apart, others in one (NFC)."""
    return unicodedata.normalize("NFC", name)
