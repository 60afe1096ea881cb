"""Fonts for names in any script: this machine's, and what to write where none has the letters.

DejaVu Sans, which comes with matplotlib, writes Latin, Greek, Cyrillic, Hebrew and Arabic. For
others the system's fonts are looked through, once. What no font has is written as its code
(`\\u6325\\u624b`), and one line says which font would help; empty boxes would tell nothing.
"""

import functools
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from jax_irkd.errors import once

PLAIN = ("bold", "italic", "oblique", "mono", "condensed", "light", "black", "thin")


def default_font() -> str:
    """A font that is there on every machine."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def fonts_for(text: str) -> tuple[list[str], set[str]]:
    """The fonts that write `text`, the default one first, and the letters that none of them has."""
    missing = _letters(text) - _written_by(default_font())
    fonts = [default_font()]
    for path in system_fonts() if missing else ():
        if missing & _written_by(path):
            fonts.append(path)
            missing = missing - _written_by(path)
        if not missing:
            break
    return fonts, missing


@functools.lru_cache(maxsize=4096)
def lettered(text: str) -> tuple[str, str]:
    """The font that writes most of `text`, and the text with codes for what it has not."""
    letters = _letters(text)
    if letters <= _written_by(default_font()):
        return default_font(), text
    paths = [default_font(), *system_fonts()]
    best = max(paths, key=lambda path: len(letters & _written_by(path)))
    return best, spelled(text, letters - _written_by(best))


def spelled(text: str, missing: Iterable[str]) -> str:
    """`text` with codes for the `missing` letters, which is said once for every script."""
    missing = set(missing) & set(text)
    for script in sorted({script_of(letter) for letter in missing}):
        once(
            f"no font of this machine writes {script}; pictures show codes instead. Install a font "
            "that does, for example one of the Noto family"
        )
    return "".join(
        letter.encode("ascii", "backslashreplace").decode() if letter in missing else letter
        for letter in text
    )


def script_of(letter: str) -> str:
    """What the writing is called that a letter belongs to, as Unicode names it."""
    if unicodedata.category(letter).startswith("S"):
        return "these symbols"
    name = unicodedata.name(letter, "these").split()[0]
    return name if name == "CJK" else name.capitalize()


@functools.cache
def system_fonts() -> tuple[str, ...]:
    """The machine's fonts, upright ones of ordinary weight first."""
    from matplotlib import font_manager

    found = sorted(font_manager.findSystemFonts())
    return tuple(sorted(found, key=lambda path: sum(kind in path.lower() for kind in PLAIN)))


@functools.cache
def _written_by(path: str) -> frozenset[str]:
    from matplotlib import ft2font

    try:
        return frozenset(map(chr, ft2font.FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()  # no font that this library reads


def _letters(text: str) -> set[str]:
    """What has to be drawn: no blanks, no marks that only steer how others look."""
    return {
        letter
        for letter in text
        if not letter.isspace() and unicodedata.category(letter) not in ("Cf", "Cc", "Mn")
    }
