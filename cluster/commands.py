"""The commands of `pixelis`: what each accepts and whom it calls. Heavy imports wait until a command is chosen."""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from actors.dialects.config import BOXES
from cluster import audit_verb, log_verb
from cluster.output import Result, show, stdout
from common.errors import UserError

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.progress import Progress
    from cluster.summary import Answer, Summary


class Verbs(Protocol):
    """The work that the command line can ask for; `resume` continues what the run's folder holds."""

    def run(self, config: RunConfig, *, progress: Progress, resume: bool) -> Awaitable[Summary]: ...

    def sft(self, config: RunConfig, *, progress: Progress, resume: bool) -> Awaitable[Summary]: ...

    def rft(self, config: RunConfig, *, progress: Progress, resume: bool) -> Awaitable[Summary]: ...

    def adapt(self, config: RunConfig, *, progress: Progress, resume: bool) -> Awaitable[Summary]: ...

    def eval(self, config: RunConfig, *, progress: Progress) -> Awaitable[Result]: ...

    def pretrain(self, config: RunConfig, *, progress: Progress, resume: bool) -> Awaitable[Summary]: ...

    def ask(self, config: RunConfig, *, picture: Path, question: str, progress: Progress) -> Awaitable[Answer]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """A parsed command line. overrides: Hydra's. verbs: None for the real ones."""

    options: argparse.Namespace
    overrides: tuple[str, ...]
    verbs: Verbs | None = None

    @property
    def as_json(self) -> bool:
        return bool(self.options.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A word after `pixelis`. arguments: adds positionals and flags. execute: returns the exit status."""

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[Invocation], int]
    takes_overrides: bool = True


def _work(verb: str) -> Callable[[Invocation], int]:
    def execute(invocation: Invocation) -> int:
        return _perform(
            invocation,
            lambda verbs, config, progress: getattr(verbs, verb)(
                config, progress=progress, resume=not invocation.options.fresh
            ),
        )

    return execute


def _eval(invocation: Invocation) -> int:
    short = replace(invocation, overrides=tuple(map(evaluation_override, invocation.overrides)))
    return _perform(short, lambda verbs, config, progress: verbs.eval(config, progress=progress))


def evaluation_override(text: str) -> str:
    """The key that a short name of `eval` stands for; a path may hold what Hydra would read otherwise."""
    key, equals, value = text.partition("=")
    if not equals or key not in ("qa", "data", "num_tasks"):
        return text
    if key == "num_tasks":
        return f"evaluation.num_tasks={value}"
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"evaluation.{key}='{quoted}'"


def _ask(invocation: Invocation) -> int:
    picture = Path(invocation.options.file)
    _check_media(picture, invocation.overrides)
    return _perform(
        invocation,
        lambda verbs, config, progress: verbs.ask(
            config, picture=picture, question=invocation.options.question, progress=progress
        ),
    )


def _check_media(path: Path, overrides: Sequence[str]) -> None:
    """Refuse a missing or truncated file before anything is started; of a video two frames are tried."""
    import tempfile

    from actors.files import open_media
    from cluster.config import load
    from common.media import FolderMediaStore

    limits = load(overrides).tools.media_limits
    with tempfile.TemporaryDirectory() as aside:
        open_media(path, FolderMediaStore(Path(aside)), replace(limits, max_frames=min(2, limits.max_frames)))


def _tool(invocation: Invocation) -> int:
    """Execute calls on a file; 1 where one ended in an error observation."""
    from cluster.config import load
    from cluster.interrupt import run_until_interrupted
    from cluster.placement import QUIET
    from cluster.tool_verb import calls_of, perform

    options = invocation.options
    if options.docs is not None:
        from actors.tools.reference import write

        print(write(Path(options.docs)))
        return 0
    if options.calls is None:
        raise UserError("needs a tool, a file and arguments (see pixelis tool --help)")
    file, calls = Path(options.file), calls_of(options.names, options.calls)
    wanted = options.out or (
        None if invocation.as_json else f"{file.stem}.{options.names.replace(',', '-').lower()}.png"
    )
    with stdout(only_json=invocation.as_json) as out:
        config = load(invocation.overrides)
        os.environ.update(QUIET)
        overlay = None if wanted is None else Path(wanted)
        result = run_until_interrupted(perform(config.tools, calls, file, overlay=overlay))
        show(result, out, as_json=invocation.as_json)
    return 1 if result.failed else 0


def _reenact(invocation: Invocation) -> int:
    """Execute a run's recorded calls again; 1 where one came back different or could not be executed."""
    from cluster.interrupt import run_until_interrupted
    from cluster.placement import QUIET
    from cluster.progress import make_progress
    from cluster.reenact import reenact
    from cluster.runs import named_run

    folder = named_run(invocation.options.folder)
    with stdout(only_json=invocation.as_json) as out:
        os.environ.update(QUIET)
        progress = make_progress()
        try:
            result = run_until_interrupted(reenact(folder, invocation.options.rollout, progress))
        finally:
            progress.close()
        show(result, out, as_json=invocation.as_json)
    return 0 if result.holds else 1


def _perform(invocation: Invocation, work: Callable[[Verbs, RunConfig, Progress], Awaitable[Result]]) -> int:
    """Load the configuration, do the work, show the result."""
    with stdout(only_json=invocation.as_json) as out:
        from cluster.config import load
        from cluster.interrupt import run_until_interrupted
        from cluster.placement import QUIET
        from cluster.progress import make_progress

        config = load(invocation.overrides)
        os.environ.update(QUIET)
        progress = make_progress()

        async def awaited() -> Result:
            return await work(invocation.verbs or _real_verbs(), config, progress)

        try:
            result = run_until_interrupted(awaited())
        finally:
            progress.close()
        show(result, out, as_json=invocation.as_json)
    return 0


def _real_verbs() -> Verbs:
    from cluster import verbs

    return verbs


def _audit(invocation: Invocation) -> int:
    """Verify a run's replay; 1 where a law is broken."""
    with stdout(only_json=invocation.as_json) as out:
        result = audit_verb.perform(invocation.options)
        show(result, out, as_json=invocation.as_json)
    return 0 if result.clean else 1


def _log(invocation: Invocation) -> int:
    """Count, list or export what a run's log holds, or erase a source from it."""
    with stdout(only_json=invocation.as_json) as out:
        if invocation.options.what == "cat":
            log_verb.cat(invocation.options, out)
        else:
            show(log_verb.perform(invocation.options), out, as_json=invocation.as_json)
    return 0


def _data(invocation: Invocation) -> int:
    """Write, show, compare or import sets; 1 where sets share a picture and --refuse was given."""
    from cluster.config import load
    from cluster.data_verb import perform
    from cluster.placement import QUIET
    from cluster.progress import make_progress

    with stdout(only_json=invocation.as_json) as out:
        os.environ.update(QUIET)
        progress = make_progress()
        try:
            result, status = perform(invocation.options, load(invocation.overrides), progress)
        finally:
            progress.close()
        show(result, out, as_json=invocation.as_json)
    return status


def _report(invocation: Invocation) -> int:
    from cluster.report import rebuild

    print(rebuild(Path(invocation.options.folder)))
    return 0


def _doctor(invocation: Invocation) -> int:
    from cluster.config import load
    from cluster.doctor import examine

    with stdout(only_json=invocation.as_json) as out:
        diagnosis = examine(load(invocation.overrides))
        show(diagnosis, out, as_json=invocation.as_json)
    return 0 if diagnosis.healthy else 1


def _bench(invocation: Invocation) -> int:
    from cluster.benchmarks.harness import measure
    from cluster.config import load
    from cluster.placement import QUIET
    from cluster.progress import make_progress

    with stdout(only_json=invocation.as_json) as out:
        os.environ.update(QUIET)
        progress = make_progress()
        try:
            outcome = measure(
                invocation.options.suites, load(invocation.overrides), progress, rounds=invocation.options.rounds
            )
        finally:
            progress.close()
        show(outcome, out, as_json=invocation.as_json)
    return 0 if outcome.holds else 1


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of continuing what the run's folder holds"
    )


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description}: [qa=FILE] [data=DIR] [num_tasks=N]. qa names the questions (a JSONL or Parquet file, "
        "a folder that holds one, hf:NAME or easy-vqa), data the folder that the paths of their media start from."
    )


def _ask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a picture or video file")
    parser.add_argument("question", help="what to find out about it")


def _tool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="?", metavar="name", help="ZOOM, SEG, TRK, OCR, TEMP or PROP; a chain: SEG,PROP")
    parser.add_argument("file", nargs="?", help="a picture (image_1) or a video (frame_1, frame_2, …)")
    parser.add_argument(
        "calls", nargs="?", metavar="arguments", help="JSON object of arguments; of a chain a list of them"
    )
    parser.add_argument(
        "--out", metavar="png", help="where the overlay goes (default FILE.TOOL.png here; none with --json)"
    )
    parser.add_argument(
        "--docs",
        nargs="?",
        const="docs/tools.md",
        metavar="page",
        help="write the page about the tools instead (default docs/tools.md)",
    )


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    help_text = "write a set of the world, show one, compare, or make traces of published conversations"
    add("what", choices=("world", "show", "leaks", "import"), help=help_text)
    add(
        "sets",
        nargs="*",
        metavar="set",
        help="a JSONL or Parquet file, a folder that holds one, hf:NAME or easy-vqa; of leaks also world:SPLIT, a "
        "set of traces, or a run's folder, which stands for its neighbour index; of import the conversations",
    )
    add("--media", metavar="DIR", help="where the paths in a set start from (default: beside it)")
    add("--out", metavar="DIR", help="world, import: the folder to write to")
    add("--format", choices=("pixel_reasoner", "deepeyes"), help="import: whose conversations they are")
    add("--boxes", choices=BOXES, default="auto", help="import: what their boxes are counted in (default auto)")
    add("--cut", action="store_true", help="import: of what is too long keep the whole turns that fit")
    add("--split", default="test", help="world: train, validation, test or index (default test)")
    add("--shift", default="", help="world: a change of its look, like dark:0.3")
    add("--count", type=int, metavar="N", help="world: tasks (default 1000); leaks: at most so many of each set")
    add("--force", action="store_true", help="world, import: replace what is there")
    add("--rows", type=int, default=8, metavar="N", help="show: how many rows (default 8)")
    add("--check", action="store_true", help="show: decode all media, not only those of the first rows")
    add("--distance", type=int, metavar="N", help="leaks: bits of 256 between near-duplicates (default 24)")
    add("--exact", action="store_true", help="leaks: look for equal pixels only")
    add("--refuse", action="store_true", help="leaks: exit with 1 where two sets share a picture")


def _reenact_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="run", help="the run's folder, or its name under runs/")
    parser.add_argument("--rollout", metavar="id", help="this rollout only")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suites", nargs="*", metavar="suite", help="which to run; all when none is named")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of ours and the peer (default 5)")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs/demo", help="the run's folder (default runs/demo)")


def _verb(name: str, text: str) -> Command:
    return Command(name=name, help=text, arguments=_run_arguments, execute=_work(name))


COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        _verb("run", "all phases: base, SFT, CC-RFT, Pixel TTRL, then evaluation and report"),
        _verb("pretrain", "make the small base model"),
        _verb("sft", "phase 1: imitate traces of tool use"),
        _verb("rft", "phase 2: curiosity-coherence reward fine-tuning"),
        _verb("adapt", "phase 3: Pixel TTRL, learning without labels"),
        Command(
            name="eval",
            help="measure the newest policy of a run on held-out tasks, or on a set of yours",
            arguments=_eval_arguments,
            execute=_eval,
        ),
        Command(
            name="ask",
            help="put a question about a picture or a video to the newest policy of a run",
            arguments=_ask_arguments,
            execute=_ask,
        ),
        Command(
            name="tool",
            help="execute one call of a tool on a picture or a video, and draw what it found",
            arguments=_tool_arguments,
            execute=_tool,
        ),
        Command(
            name="reenact",
            help="execute the calls of a run's rollouts again and compare what comes back",
            arguments=_reenact_arguments,
            execute=_reenact,
            takes_overrides=False,
        ),
        Command(
            name="audit",
            help="verify a run's replay: every hash, every rollout, every draw",
            arguments=audit_verb.arguments,
            execute=_audit,
            takes_overrides=False,
        ),
        Command(
            name="log",
            help="count, list or export what a run's replay log holds, or erase a source",
            arguments=log_verb.arguments,
            execute=_log,
            takes_overrides=False,
        ),
        Command(
            name="data",
            help="write tasks of the world, show a set, find what sets share, or import traces",
            arguments=_data_arguments,
            execute=_data,
        ),
        Command(name="bench", help="measure against peers", arguments=_bench_arguments, execute=_bench),
        Command(
            name="report",
            help="write report.html of a finished run again",
            arguments=_report_arguments,
            execute=_report,
            takes_overrides=False,
        ),
        Command(
            name="doctor",
            help="check whether this machine can run it, and say what to do",
            arguments=_no_arguments,
            execute=_doctor,
        ),
    )
}


def split_overrides(words: Sequence[str], num_positionals: int | None) -> tuple[list[str], tuple[str, ...]]:
    """(words for argparse, overrides). A word with "=" is an override, unless it is one of the first `num_positionals`
    positionals (a question may hold "="). None: as many positionals as there are words without "=".
    """
    kept: list[str] = []
    overrides: list[str] = []
    seen = 0
    for word in words:
        if word.startswith("--"):
            kept.append(word)
        elif num_positionals is not None and seen < num_positionals:
            kept.append(word)
            seen += 1
        elif "=" in word:
            overrides.append(word)
        else:
            kept.append(word)
    return kept, tuple(overrides)


def parse(command: Command, words: Sequence[str], verbs: Verbs | None) -> Invocation:
    """Raises UserError for words that the command does not accept."""
    parser = _Parser(prog=f"pixelis {command.name}", description=command.help, allow_abbrev=False)
    command.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone, on standard output")
    if command.takes_overrides:
        parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " [key=value …]"
        parser.epilog = (
            "key=value sets any key of the configuration; group=choice takes a file (model, hardware, experiment)."
        )
    num_positionals = {"ask": 2, "tool": 3}.get(command.name)
    kept, overrides = split_overrides(words, num_positionals if command.takes_overrides else len(words))
    return Invocation(options=parser.parse_intermixed_args(kept), overrides=overrides, verbs=verbs)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message} (see {self.prog} --help)")
