"""README.md and the pages of docs/, and the commands in them."""

import re
from pathlib import Path

from tests.pipeline import ROOT

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
_INLINE = re.compile(
    r"`((?:make|mkdocs|mpo|pip|python|snakemake|source|tensorboard)\s(?:[^`\n]|\n(?!\n))+)`"
)
GENERATED = "docs/reference/config.md"


def pages() -> dict[str, str]:
    """Each page's text, by its path."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each fenced block."""
    return [(found[2], found[3]) for found in _FENCE.finditer(text)]


def without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def commands() -> dict[str, set[str]]:
    """Each command of a shell block or of a sentence, without its comment -> its pages."""
    found: dict[str, set[str]] = {}
    for page, text in pages().items():
        lines = [
            line
            for language, block in blocks(text)
            if language in ("bash", "sh", "console")
            for line in re.sub(r"\\\n *", "", block).splitlines()
        ]
        if page != GENERATED:  # which names commands of other pages
            lines += [" ".join(span.split()) for span in _INLINE.findall(without_blocks(text))]
        for line in lines:
            if command := re.sub(r"(^|\s+)# .*", "", line).strip():
                found.setdefault(command, set()).add(page)
    return found


def function(reference: str) -> bool:
    """Whether there is a test `path::name`."""
    path, name = reference.split("::")
    file = ROOT / Path(path)
    return file.is_file() and re.search(rf"^def {name}\(", file.read_text(), re.M) is not None
