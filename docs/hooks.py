"""What MkDocs cannot do by itself: pages and pictures that lie outside of docs/.

README.md is the home page. Whatever a page links in the repository, such as the figures of
results/reference/, becomes a part of the site at its own path, so links are written for the
repository and work in both places. A link to nothing is left for MkDocs to refuse.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
HOME, PAGES = "README.md", "docs/"

_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)\s#]+)")


def site_path(path: str) -> str:
    """Where a file of the repository is in the site."""
    return "index.md" if path == HOME else path.removeprefix(PAGES)


def repository_path(uri: str) -> str:
    """Where a file of the site is in the repository; undoes `site_path`."""
    if uri == "index.md":
        return HOME
    return PAGES + uri if (ROOT / PAGES / uri).exists() else uri


def links(path: str) -> set[str]:
    """The files of the repository that one of its pages links, relative to the root."""
    text = _FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    here = posixpath.dirname(path)
    return {posixpath.normpath(posixpath.join(here, found[1])) for found in _LINK.findall(text)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the home page, and all that pages link outside of docs/, directly or not."""
    files.append(_file(HOME, config))
    known = {repository_path(file.src_uri) for file in files}
    unread = sorted(path for path in known if path.endswith(".md") and (ROOT / path).is_file())
    while unread:
        for path in sorted(links(unread.pop()) - known):
            if (ROOT / path).is_file() and not path.startswith(".."):
                known.add(path)
                files.append(_file(path, config))
                if path.endswith(".md"):
                    unread.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Makes links of the repository into links of the site."""
    here = posixpath.dirname(repository_path(page.file.src_uri))
    site = posixpath.dirname(page.file.src_uri) or "."

    def moved(found: re.Match[str]) -> str:
        target = site_path(posixpath.normpath(posixpath.join(here, found[2])))
        return found[1] + posixpath.relpath(target, site)

    parts = re.split(f"({_FENCE.pattern})", markdown, flags=_FENCE.flags)
    return "".join(part if i % 2 else _LINK.sub(moved, part) for i, part in enumerate(parts))


def _file(path: str, config: MkDocsConfig) -> File:
    source = os.fspath(ROOT / path)
    return File.generated(config, site_path(path), abs_src_path=source)
