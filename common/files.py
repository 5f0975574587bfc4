"""Files that other processes, a kill or a full disk may meet: written whole or not at all, held by
one process at a time."""

import fcntl
import os
from pathlib import Path

from common.errors import UsageError


def check_out(path: str | Path) -> None:
    """Says at the start, rather than when all is done, that nothing can be written there."""
    path = Path(path)
    try:
        there = next(p for p in (path, *path.parents) if p.exists())
    except OSError as error:  # a name that is too long
        raise UsageError(f"--out {path}: {error.strerror}") from None
    if not there.is_dir():
        raise UsageError(f"--out {path}: {there} is a file, so no folder can be there")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {path}: nothing may be written to {there}")


_held: dict[Path, int] = {}  # open files, by their path


def hold(path: str | Path) -> None:
    """Keeps other processes from writing to the same file or folder, until `release` or the end."""
    path = Path(path).resolve()
    if path in _held:
        return
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise UsageError(
            f"--out: another process is writing {path}; wait for its end, or name another"
        ) from None
    except OSError:  # a file system without locks
        pass
    _held[path] = file


def holds(path: str | Path) -> bool:
    """Whether this process does."""
    return Path(path).resolve() in _held


def release() -> None:
    """Lets go of all that is held."""
    while _held:
        os.close(_held.popitem()[1])


def replace_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = f"{path}.partial"
    Path(partial).write_text(text, encoding="utf-8")
    os.replace(partial, path)


def sync(path: Path) -> None:
    """To the disk itself; a folder too, for its list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_of(path: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a file, or of a folder's weights or tables: still the same?"""
    here = Path(path)
    files = [here] if here.is_file() else sorted(here.glob("**/*")) if here.is_dir() else []
    files = [f for f in files if f == here or f.suffix in (".safetensors", ".parquet")]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
