"""The long tests: `python -m fakes.rounds`, or scripts/soak.

    scripts/soak                       every part, all rounds, then the tools
    scripts/soak kills --rounds 100    the first rounds of one part
    scripts/soak kills --round 17      one round again, in a folder that stays
    scripts/soak --list                which parts there are, and how far they are
    scripts/soak tools …               the long test of the tools, with options of its own

A part is a module of tests/soak: NUM_ROUNDS, and `run_round(number, folder)`, which draws everything from the number,
gives counters, and raises AssertionError where something was violated. A finished round is a line in
runs/rounds/<part>-<digest of the code>.jsonl, so the same command goes on where it was stopped, and begins again
when the code is another. The exit status is 0 when every round held, 1 at the first that did not, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.benchmarks.soak import main as soak_tools
from cluster.progress import Progress, make_progress
from cluster.summary import clock
from common.media import content_digest

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- soak: rounds -->", "<!-- /soak: rounds -->"
HEAD = ("| part | rounds | violations | counted | time | command |", "|---|---|---|---|---|---|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A module of rounds. kept: the file of its finished rounds."""

    name: str
    module: Any
    kept: Path

    @property
    def num_rounds(self) -> int:
        return int(self.module.NUM_ROUNDS)

    def results(self) -> dict[int, dict[str, Any]]:
        """By number, how each round ended the last time; a line that was cut short counts for nothing."""
        lines = self.kept.read_text().split("\n")[:-1] if self.kept.exists() else []
        return {result["round"]: result for result in map(json.loads, lines)}

    def keep(self, **result: Any) -> None:
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        held = self.kept.read_bytes() if self.kept.exists() else b""
        whole = held[: held.rfind(b"\n") + 1]
        if whole != held:  # a process ended in the middle of a line
            self.kept.write_bytes(whole)
        with self.kept.open("a") as file:
            file.write(json.dumps(result) + "\n")

    def row(self) -> str:
        """Of the table in docs/measurements.md."""
        results = self.results().values()
        counts = sum((Counter(result["counts"]) for result in results), Counter[str]())
        broken = sum(bool(result["violation"]) for result in results)
        counted = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if name != "rounds")
        time_s = clock(sum(result["time_s"] for result in results))
        command = (
            f"`scripts/soak {self.name}`" if len(results) == self.num_rounds else f"`scripts/soak {self.name}`, so far"
        )
        return f"| {self.name} | {len(results)} of {self.num_rounds} | {broken} | {counted} | {time_s} | {command} |"


def find_parts(folder: Path, kept: Path) -> list[Part]:
    """The modules of `folder` that hold rounds, by name."""
    shared = _digest(
        [*(ROOT / "replay").rglob("*.py"), *(ROOT / "common").glob("*.py"), *(ROOT / "tests/fakes").glob("*.py")]
    )
    parts = []
    for path in sorted(folder.glob("[!_]*.py")):
        digest = content_digest(f"{shared} {_digest([path])}".encode())[:12]
        parts.append(Part(name=path.stem, module=_imported(path), kept=kept / f"{path.stem}-{digest}.jsonl"))
    return [part for part in parts if hasattr(part.module, "run_round")]


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"soak.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _digest(paths: Iterable[Path]) -> str:
    return content_digest(b"".join(path.name.encode() + path.read_bytes() for path in sorted(paths)))


def run_part(part: Part, numbers: Sequence[int], work: Path, progress: Progress) -> str:
    """Play those of the rounds that did not end well yet; the first violation, "" when there is none."""
    held = {number for number, result in part.results().items() if not result["violation"]}
    todo = [number for number in numbers if number not in held]
    progress.start(f"soak {part.name}", len(numbers))
    for done, number in enumerate(todo, start=len(numbers) - len(todo)):
        progress.update(done)
        violation = run_one(part, number, work / part.name)
        if violation:
            return violation
    progress.finish()
    return ""


def run_one(part: Part, number: int, folder: Path) -> str:
    """Play one round in `folder`, which stays when something is violated; what is, or ""."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun, counts, violation = time.monotonic(), {}, ""
    try:
        counts = part.module.run_round(number, folder)
    except AssertionError as error:
        violation = f"{error}" or "an assertion without a word"
    else:
        shutil.rmtree(folder, ignore_errors=True)  # some rounds tidy up themselves
    part.keep(round=number, time_s=round(time.monotonic() - begun, 3), counts=counts, violation=violation)
    return violation


def write_rows(page: Path, parts: Iterable[Part]) -> None:
    """Put a row for each part that was played into the table between the markers; rows of others stay."""
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Rounds\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    held, _, after = rest.partition(END)
    rows = {line.split("|")[1].strip(): line for line in held.splitlines()[3:]}
    rows |= {part.name: part.row() for part in parts if part.results()}
    page.write_text("\n".join([before + BEGIN, *HEAD, *(rows[name] for name in sorted(rows)), END + after]))


def main(
    words: Sequence[str], *, folder: Path = ROOT / "tests/soak", page: Path = ROOT / "docs/measurements.md"
) -> int:
    """folder: where the parts are. page: where their rows go."""
    if words[:1] == ["tools"]:
        return soak_tools(words[1:])
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part")
    parser.add_argument("--list", action="store_true", help="say which parts there are, and how far they are")
    parser.add_argument("--rounds", type=int, metavar="N", help="only the first N rounds of each part")
    parser.add_argument("--round", type=int, metavar="NUMBER", help="only this round, whatever was played")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/rounds", help="what was played is kept here")
    options = parser.parse_args(words)
    parts = find_parts(folder, options.folder)
    if options.list:
        for part in parts:
            print(f"{part.name}: {len(part.results())} of {part.num_rounds} rounds")
        print("tools: see scripts/soak tools --help")
        return 0
    unknown = set(options.parts) - {part.name for part in parts}
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; see scripts/soak --list")
    chosen = [part for part in parts if part.name in options.parts or not options.parts]
    progress = make_progress()
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = _play(chosen, options, progress)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        progress.close()
        if options.round is None:
            write_rows(page, chosen)
    return status or (
        0 if options.parts or options.rounds or options.round is not None else soak_tools(["--write", str(page)])
    )


def _play(parts: Sequence[Part], options: argparse.Namespace, progress: Progress) -> int:
    for part in parts:
        if options.round is not None:
            violation = run_one(part, options.round, options.folder / part.name)
        else:
            violation = run_part(
                part, range(min(part.num_rounds, options.rounds or part.num_rounds)), options.folder, progress
            )
        if violation:
            number = next(n for n, result in reversed(part.results().items()) if result["violation"])
            print(f"{violation}\nits files are in {options.folder / part.name}", file=sys.stderr)
            print(f"to repeat it: scripts/soak {part.name} --round {number}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
