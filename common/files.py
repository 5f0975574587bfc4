"""Files that other processes, a kill or a full disk may meet: written whole or not at all, held by
one process at a time."""

import fcntl
import hashlib
import os
from collections.abc import Iterable
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


def by_umask(folder: Path) -> None:
    """Gives the files in it the mode that a new file has here: some libraries write through temporary ones,
    which their owner alone may read."""
    probe = folder / "mode.partial"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_mode != mode:
            file.chmod(mode)


def files_in(path: str) -> list[Path]:
    """A file, or a folder's weights or tables; of what isn't here none."""
    here = Path(path)
    files = [here] if here.is_file() else sorted(here.glob("**/*")) if here.is_dir() else []
    return [f for f in files if f == here or f.suffix in (".safetensors", ".parquet")]


def files_of(path: str) -> list[tuple[str, int, int]]:
    """Their names, sizes and times: still the same?"""
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files_in(path)]


def digest(files: Iterable[Path], most: int) -> str:
    """Of their content, whatever their names; "" of none. A file of more than `most` bytes is known by its
    length and by pieces of a megabyte, evenly spaced, of `most` bytes in all."""
    found, piece = hashlib.blake2b(digest_size=16), 2**20
    files = list(files)
    for file in files:
        size = file.stat().st_size
        found.update(b"%d " % size)
        last = most // piece - 1
        places = [(size - piece) * i // last for i in range(last + 1)] if size > most else [0]
        with open(file, "rb") as opened:
            for place in places:
                opened.seek(place)
                found.update(opened.read(piece if size > most else most))
    return found.hexdigest() if files else ""
