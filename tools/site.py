"""Copy the project's pages and everything that they show or link to for mkdocs, in the layout of the repository."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build/site/pages"
# [text](target), ![text](target) and src="target", except URLs and anchors.
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)|src=\"(?!\w+:)([^\"]+)\"")


def main() -> None:
    """Create the folder of pages from scratch."""
    shutil.rmtree(PAGES, ignore_errors=True)
    patterns = ("*.md", "docs/*.md", "patches/*.md", "deploy/**/*.md")
    for page in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        _copy(page)
        for found in _LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / (found[0] or found[1])).resolve()
            if target.is_file() and target.is_relative_to(ROOT):
                _copy(target)


def _copy(path: Path) -> None:
    copy = PAGES / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)


if __name__ == "__main__":
    main()
