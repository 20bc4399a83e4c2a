"""What surrounds the tools: sharing, keeping, and surviving whatever a worker does."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes.tools import FAULTY_WORKER, FixedReader, plates

from actors.tools.backends.segmenters import GrabCut
from actors.tools.backends.trackers import CorrelationTracker
from actors.tools.cache import ResultCache
from actors.tools.catalogue import describe_back_ends
from actors.tools.config import ToolsConfig
from actors.tools.ports import Job, Result, Workbench
from actors.tools.runners import InProcess, WorkerPool
from actors.tools.toolbox import Toolbox, build_toolbox
from actors.tools.workspace import Workspace
from common.errors import ModelError
from common.media import FolderMediaStore, put_image
from common.types import Query, ToolCall

CONFIG = ToolsConfig(num_workers=0, ocr="none")
ZOOM = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [0, 0, 500, 500]})
READ = ToolCall(name="OCR", arguments={"image": "image_1"})


def toolbox(store, *, reader=None, cache_dir=None, config=CONFIG):
    bench = Workbench(config=config, store=store, reader=reader, segmenter=GrabCut(), tracker=CorrelationTracker())
    cache = ResultCache(store=store, num_entries=10, folder=cache_dir, max_bytes=10**9)
    back_ends = describe_back_ends(config)
    return Toolbox(config=config, runner=InProcess(bench), cache=cache, back_ends=back_ends)


def workspace(store, seed=0):
    ref = put_image(store, plates(seed).pixels)
    return Workspace.of(Query(query_id="q", question="?", images=(ref,)))


# Sharing


async def test_the_same_call_is_executed_once_and_then_free(tmp_path):
    store, reader = FolderMediaStore(tmp_path), FixedReader()
    box = toolbox(store, reader=reader)
    first, _ = await box.execute(READ, workspace(store))
    second, _ = await box.execute(READ, workspace(store))
    other, _ = await box.execute(READ, workspace(store, seed=1))
    assert reader.num_reads == 2
    assert not first.observation.cached and second.observation.cached and second.observation.cpu_s == 0
    assert first.observation.digest == second.observation.digest
    assert first.observation.cpu_s > 0 and other.source != first.source


async def test_siblings_in_flight_share_one_execution(tmp_path):
    store, reader = FolderMediaStore(tmp_path), FixedReader()
    box = toolbox(store, reader=reader)
    done = await asyncio.gather(*(box.execute(READ, workspace(store)) for _ in range(8)))
    assert reader.num_reads == 1
    assert sum(not executed.observation.cached for executed, _ in done) == 1
    assert {executed.observation.text for executed, _ in done} == {'{"text":"493"}'}


async def test_a_sibling_that_leaves_does_not_take_the_result_along(tmp_path):
    store, reader = FolderMediaStore(tmp_path), FixedReader()
    box = toolbox(store, reader=reader)
    leaver = asyncio.create_task(box.execute(READ, workspace(store)))
    stayer = asyncio.create_task(box.execute(READ, workspace(store)))
    await asyncio.sleep(0)
    leaver.cancel()
    executed, _ = await stayer
    assert executed.observation.text == '{"text":"493"}' and reader.num_reads == 1


async def test_a_later_run_with_an_empty_store_finds_results_and_pictures_on_disk(tmp_path):
    reader = FixedReader()
    for part in ("first", "second"):
        store = FolderMediaStore(tmp_path / part)
        box = toolbox(store, reader=reader, cache_dir=tmp_path / "cache")
        zoomed, _ = await box.execute(ZOOM, workspace(store))
        read, _ = await box.execute(READ, workspace(store))
        assert zoomed.observation.cached == read.observation.cached == (part == "second")
        assert zoomed.observation.image.digest in store
    assert reader.num_reads == 1


async def test_a_damaged_entry_on_disk_is_a_miss(tmp_path):
    store, reader = FolderMediaStore(tmp_path / "media"), FixedReader()
    await toolbox(store, reader=reader, cache_dir=tmp_path / "cache").execute(READ, workspace(store))
    (entry,) = (tmp_path / "cache").rglob("*.json")
    entry.write_bytes(entry.read_bytes()[:-3])
    executed, _ = await toolbox(store, reader=reader, cache_dir=tmp_path / "cache").execute(READ, workspace(store))
    assert not executed.observation.cached and reader.num_reads == 2


def test_the_disk_keeps_within_its_budget_by_forgetting_the_oldest(tmp_path):
    store = FolderMediaStore(tmp_path / "media")
    cache = ResultCache(store=store, num_entries=1, folder=tmp_path / "cache", max_bytes=10**6)
    for index in range(4):
        cache.put(f"{index:064x}", Result(values={"text": "x" * 100}))
        path = tmp_path / "cache" / "results" / "00" / f"{index:064x}.json"
        os.utime(path, (index, index))
        size = path.stat().st_size
    again = ResultCache(store=store, num_entries=1, folder=tmp_path / "cache", max_bytes=2 * size)
    assert [again.get(f"{index:064x}") is not None for index in range(4)] == [False, False, True, True]


# Errors


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("JUMP", {}, "unknown_tool"),
        ("ZOOM", {"image": "image_1", "box": "everything"}, "bad_argument"),
        ("ZOOM", {"image": "image_7", "box": [0, 0, 10, 10]}, "unknown_reference"),
        ("ZOOM", {"image": "image_1", "box": [10, 10, 10, 20]}, "empty_box"),
        ("TRK", {"box": [0, 0, 10, 10]}, "unknown_reference"),
        ("OCR", {"image": "image_1"}, "unavailable"),
    ],
)
async def test_an_error_is_an_observation_and_leaves_the_workspace_as_it_was(tmp_path, name, arguments, code):
    store = FolderMediaStore(tmp_path)
    before = workspace(store)
    executed, after = await toolbox(store).execute(ToolCall(name=name, arguments=arguments), before)
    assert executed.observation.error == code and after is before
    assert f'"error":"{code}"' in executed.observation.text and len(executed.observation.digest) == 64


async def test_a_picture_that_is_no_picture_is_bad_media(tmp_path):
    store = FolderMediaStore(tmp_path)
    ref = store.put(b"not a picture", kind="image", width=100, height=100)
    query = Query(query_id="q", question="?", images=(ref,))
    executed, _ = await toolbox(store).execute(ZOOM, Workspace.of(query))
    assert executed.observation.error == "bad_media"


class BrokenReader(FixedReader):
    def read(self, pixels):
        raise RuntimeError("a library fails")


async def test_a_library_that_fails_costs_its_call_only(tmp_path):
    store = FolderMediaStore(tmp_path)
    box = toolbox(store, reader=BrokenReader())
    executed, _ = await box.execute(READ, workspace(store))
    assert executed.observation.error == "tool_crashed"
    executed, _ = await box.execute(ZOOM, workspace(store))
    assert executed.observation.error is None


# Workers


def faulty(tmp_path, **changes):
    config = ToolsConfig(num_workers=2, ocr="none", **changes)
    return WorkerPool(config, tmp_path, command=(sys.executable, "-S", "-c", FAULTY_WORKER))


async def test_a_call_that_hangs_is_cut_at_its_deadline_while_others_go_on(tmp_path):
    pool = faulty(tmp_path, deadline_s=0.5)
    await pool.start()
    hung, *others = await asyncio.gather(pool.run(Job(tool="TRK")), *(pool.run(Job(tool="ZOOM")) for _ in range(6)))
    assert hung.error == "timeout" and [reply.error for reply in others] == [None] * 6
    assert (await pool.run(Job(tool="ZOOM"))).error is None
    await pool.close()


async def test_a_worker_that_dies_costs_its_call_and_is_replaced(tmp_path):
    pool = faulty(tmp_path)
    first = [(await pool.run(Job(tool="ZOOM"))).result.values["pid"] for _ in range(2)]
    assert len(set(first)) == 2
    assert [(await pool.run(Job(tool="SEG"))).error for _ in range(2)] == ["tool_crashed"] * 2
    second = [(await pool.run(Job(tool="ZOOM"))).result.values["pid"] for _ in range(2)]
    assert not set(first) & set(second) and len(set(second)) == 2
    await pool.close()
    assert all(is_gone(pid) for pid in first + second)


async def test_a_caller_that_is_cancelled_frees_its_worker(tmp_path):
    pool = faulty(tmp_path)
    tasks = [asyncio.create_task(pool.run(Job(tool="TRK"))) for _ in range(2)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await pool.run(Job(tool="ZOOM"))).error is None
    await pool.close()


def is_gone(pid: int) -> bool:
    """Whether no process (or only an unburied one) has this id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_real_workers_give_the_same_observations_as_this_process(tmp_path):
    store = FolderMediaStore(tmp_path)
    calls = [
        ZOOM,
        ToolCall(name="SEG", arguments={"image": "image_1", "box": [100, 100, 400, 400]}),
        ToolCall(name="PROP", arguments={"image": "image_1"}),
    ]
    here = build_toolbox(CONFIG, tmp_path)
    there = build_toolbox(ToolsConfig(num_workers=1, ocr="none"), tmp_path)
    await there.start()
    for call in calls:
        ours, _ = await here.execute(call, workspace(store))
        theirs, _ = await there.execute(call, workspace(store))
        assert ours.observation.text == theirs.observation.text
        assert ours.observation.digest == theirs.observation.digest
        assert not theirs.observation.cached and theirs.observation.cpu_s > 0
    await there.close()


def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from actors.tools.config import ToolsConfig\n"
        "from actors.tools.runners import WorkerPool\n"
        "async def main():\n"
        "    pool = WorkerPool(ToolsConfig(num_workers=1, ocr='none'), Path(sys.argv[1]))\n"
        "    await pool.start()\n"
        "    print(*(worker.pid for worker in pool._alive), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert not is_gone(worker)
        parent.send_signal(signal.SIGKILL)
        until = time.monotonic() + 5
        while not is_gone(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert is_gone(worker)


# Configuration


def test_weights_that_are_asked_for_and_missing_are_named_in_one_line(tmp_path):
    for asked in ({"segmenter": "sam2"}, {"tracker": "nano"}):
        with pytest.raises(ModelError) as caught:
            describe_back_ends(ToolsConfig(ocr="none", weights_dir=str(tmp_path), **asked))
        assert "\n" not in str(caught.value) and "tools." in str(caught.value)
    assert describe_back_ends(ToolsConfig(ocr="none", weights_dir=str(tmp_path)))["SEG"].startswith("grabcut")


@pytest.mark.parametrize(
    ("key", "value"), [("num_workers", -1), ("deadline_s", 0), ("ocr", "tesseract"), ("zoom_min_side", 900)]
)
def test_impossible_values_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        ToolsConfig(**{key: value})
