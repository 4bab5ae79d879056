"""Secrets, which no message, log or page ever shows, and the files that hold them."""

from __future__ import annotations

import hmac
import os
import stat

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["Secret"]

_MOST_BYTES = 4096


class Secret:
    """A string that `repr`, `str` and formatting do not show; only `reveal` returns it.

    Args:
        text: Printable ASCII without blanks; empty for none.

    Raises:
        InvalidArgumentError: The text is not allowed; the message does not show it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        if not isinstance(text, str) or not text.isascii() or any(not c.isprintable() or c == " " for c in text):
            raise InvalidArgumentError("a secret must be printable ASCII without blanks", op="config")
        if len(text) > _MOST_BYTES:
            raise InvalidArgumentError(f"a secret has {len(text)} characters, more than {_MOST_BYTES}", op="config")
        self._text = text

    @classmethod
    def of(cls, value: object) -> Secret:
        """The secret itself, or one made from a string."""
        return value if isinstance(value, Secret) else cls(value)  # type: ignore[arg-type]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], setting: str) -> Secret:
        """Read a file, without the newline at its end.

        Args:
            path: A file that only its owner can read; links are followed.
            setting: The setting that names it, for messages.

        Raises:
            InvalidArgumentError: It cannot be read, is open to others, or holds no secret; the message names the file
                and does not quote it.
        """
        where = f"{setting}: {os.fspath(path)!r}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"{where} cannot be read: {error}", op="config") from None
        try:
            _check_private(os.fstat(descriptor), where)
            content = os.read(descriptor, _MOST_BYTES + 2)
        finally:
            os.close(descriptor)
        try:
            secret = cls(content.decode("ascii").rstrip("\r\n"))
        except (InvalidArgumentError, UnicodeDecodeError):
            raise InvalidArgumentError(
                f"{where} must hold one line of printable ASCII without blanks, at most {_MOST_BYTES} characters",
                op="config",
            ) from None
        if not secret:
            raise InvalidArgumentError(f"{where} is empty", op="config")
        return secret

    def reveal(self) -> str:
        """The text. The caller must keep it out of messages, logs and process arguments."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text, other._text)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret()"


def _check_private(info: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise InvalidArgumentError(f"{where} is not a regular file", op="config")
    if info.st_uid not in (os.geteuid(), 0):
        raise InvalidArgumentError(
            f"{where} belongs to user {info.st_uid}, who can read and change it; use a file of your own", op="config"
        )
    if info.st_mode & 0o077:
        raise InvalidArgumentError(
            f"{where} is open to others (mode {info.st_mode & 0o777:04o}); `chmod 600` it, or mount it with that mode, "
            "and change the secret if somebody may have read it",
            op="config",
        )
