"""Files with secrets: each appears whole or not at all, and only its owner can read it."""

import os
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file anew; who reads it meanwhile sees the old one.

    Args:
        path: its directory exists.
        content: all of it.
        mode: who may read it, when it is no secret after all.
    """
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a rename may outlive a power cut that the content does not
    draft.replace(path)
