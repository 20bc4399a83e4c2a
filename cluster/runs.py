"""The folder of a run: what was asked for, what happened, and a lock while it is in use.

    runs/demo/manifest.json   format version, configuration and its digest, when it was made
              summary.json    the result
              metrics.jsonl   one line a learner step, appended
              report.html     the result for people
              lock            held by the process that uses the folder

Files that are replaced appear whole (written aside, synced, renamed), so a killed run leaves the old file or the new
one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from common.errors import RunFolderError

FORMAT = 1
"""Raised whenever a folder made by older code can no longer be read or continued."""


class RunFolder:
    """A run's folder, held by this process until `close`. Made by `open_run`."""

    def __init__(self, path: Path, lock: IO[str], *, resumed: bool) -> None:
        self.path = path
        self.resumed = resumed
        self._lock = lock
        self._metrics: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        return write_atomically(self.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, visible to readers at once."""
        if self._metrics is None:
            _cut_torn_line(self.path / "metrics.jsonl")
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self._lock.close()  # releases the lock, as the end of the process would


def open_run(path: Path, *, config_digest: str, resume: bool, config: Mapping[str, Any] | None = None) -> RunFolder:
    """Make the folder, or continue in it. config: as JSON values, kept in the manifest for who looks at the run later.

    resume: continue what is there; otherwise what is there is removed first. Raises RunFolderError, and leaves
    everything as it is, when another process uses the folder, it holds something else than a run, or (to resume)
    another version's or configuration's run.
    """
    lock = _locked(path)
    try:
        manifest = read_manifest(path) if resume else None
        if manifest is not None and manifest["config_digest"] != config_digest:
            raise RunFolderError(
                f"{path} holds a run with another configuration; choose another name=, "
                "or add --fresh to start over in it"
            )
        if manifest is None:
            _clear(path)
            run = RunFolder(path, lock, resumed=False)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = {"format": FORMAT, "config_digest": config_digest, "created": created, "config": config}
            run.write_json("manifest.json", manifest)
            return run
        return RunFolder(path, lock, resumed=True)
    except BaseException:
        lock.close()
        raise


def named_run(text: str) -> Path:
    """The folder that a command line means: `text`, or runs/`text` where only that is there."""
    named = Path(text)
    return named if named.exists() or not Path("runs", named).exists() else Path("runs", named)


def replay_folder(run: Path) -> Path:
    """Where the replay of `run` lies: in its folder, or `run` is such a folder itself. Raises RunFolderError."""
    for folder in (run / "replay", run):
        if (folder / "log").is_dir():
            return folder
    raise RunFolderError(f"{run} holds no run with a replay (no replay/log)")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest, or None where no run has begun. Raises RunFolderError for a run of another version."""
    file = path / "manifest.json"
    if not file.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        version = manifest["format"]
        manifest["config_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{file} cannot be read; choose another name=, or add --fresh to start over") from error
    if version != FORMAT:
        raise RunFolderError(
            f"{path} was made by another version (format {version}, this is {FORMAT}); "
            "choose another name=, or add --fresh to start over"
        )
    return manifest


def read_summary(path: Path) -> dict[str, Any]:
    """summary.json of a finished run. Raises RunFolderError when there is none."""
    try:
        summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"{path} holds no finished run (no summary.json)") from None
    except ValueError as error:
        raise RunFolderError(f"{path}/summary.json cannot be read: {error}") from error
    return summary


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a torn last line (the run was killed while writing it) is left out."""
    file = path / "metrics.jsonl"
    return [json.loads(line) for line in _whole_lines(file)] if file.exists() else []


def write_atomically(path: Path, text: str) -> Path:
    """`path` holds the old text or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).rename(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def _locked(path: Path) -> IO[str]:
    """The folder, made if need be and held for this process. A lock dies with its process, so a killed run blocks
    nobody.
    """
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _looks_like_a_run(path))):
        raise RunFolderError(f"{path} exists and holds no run; choose another name= or folder=")
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "?"
        lock.close()
        raise RunFolderError(f"{path} is in use by process {holder}; wait for it, or choose another name=") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _looks_like_a_run(path: Path) -> bool:
    return (path / "manifest.json").exists() or (path / "lock").exists()


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == "lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _whole_lines(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield line


def _cut_torn_line(file: Path) -> None:
    if not file.exists():
        return
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)
