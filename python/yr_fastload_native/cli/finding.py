"""What ``yr-fastload doctor`` finds."""

from __future__ import annotations

import attrs

__all__ = ["Finding"]


@attrs.frozen
class Finding:
    """The result of one check.

    Attributes:
        check: Its name.
        level: ``ok``; ``note``, which costs time or is good to know; ``wrong``, which must be fixed.
        what: What was found.
        todo: What to do about it; may be empty.
    """

    check: str
    level: str
    what: str
    todo: str = ""
