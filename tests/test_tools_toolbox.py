"""What surrounds the tools: sharing, keeping, and surviving whatever a worker does."""

import asyncio
import os
import time
from dataclasses import replace

import pytest
from fakes.tools import FixedReader, plates

from actors.tools.cache import FULL, ResultCache
from actors.tools.catalogue import describe_back_ends, furnish, tool_named
from actors.tools.config import ToolsConfig
from actors.tools.ports import Job, Result
from actors.tools.runners import InProcess
from actors.tools.toolbox import Toolbox, build_toolbox
from actors.tools.worker import answer, answer_all
from actors.tools.workspace import Workspace
from common.errors import ModelError
from common.media import FolderMediaStore, put_image
from common.types import Query, ToolCall

CONFIG = ToolsConfig(num_workers=0, ocr="none")
ZOOM = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": [0, 0, 500, 500]})
READ = ToolCall(name="OCR", arguments={"image": "image_1"})


def toolbox(store, *, reader=None, cache_dir=None, config=CONFIG):
    bench = furnish(config, store)
    bench.reader = reader
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


async def test_without_a_memory_every_call_is_executed(tmp_path):
    store, reader = FolderMediaStore(tmp_path), FixedReader()
    box = toolbox(store, reader=reader)
    first, _ = await box.execute(READ, workspace(store))
    for reads in (2, 3):
        again, _ = await box.uncached().execute(READ, workspace(store))
        assert reader.num_reads == reads and not again.observation.cached
        assert again.observation.digest == first.observation.digest


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
        await box.close()
    assert reader.num_reads == 1


async def test_a_damaged_entry_on_disk_is_a_miss(tmp_path):
    store, reader = FolderMediaStore(tmp_path / "media"), FixedReader()
    box = toolbox(store, reader=reader, cache_dir=tmp_path / "cache")
    await box.execute(READ, workspace(store))
    await box.close()
    (entry,) = (tmp_path / "cache").rglob("*.json")
    entry.write_bytes(entry.read_bytes()[:-3])
    executed, _ = await toolbox(store, reader=reader, cache_dir=tmp_path / "cache").execute(READ, workspace(store))
    assert not executed.observation.cached and reader.num_reads == 2


def num_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def disk_cache(tmp_path, max_bytes, num_entries=1):
    store = FolderMediaStore(tmp_path / "media")
    return ResultCache(store=store, num_entries=num_entries, folder=tmp_path / "cache", max_bytes=max_bytes)


def test_the_disk_forgets_what_was_used_longest_ago(tmp_path):
    cache = disk_cache(tmp_path, 10**6)
    for index in range(4):
        cache.put(f"{index:064x}", Result(values={"text": "x" * 1000}))
    cache.close()
    for index in range(4):
        path = tmp_path / "cache" / "results" / "00" / f"{index:064x}.json"
        os.utime(path, (index, index))
    assert disk_cache(tmp_path, 10**6).get(f"{0:064x}") is not None  # used now
    again = disk_cache(tmp_path, int(2.5 * path.stat().st_size / FULL))
    assert [again.get(f"{index:064x}") is not None for index in range(4)] == [True, False, False, True]


def test_the_disk_keeps_within_its_budget_while_two_caches_write_there(tmp_path):
    budget = 64 * 1024
    caches = [disk_cache(tmp_path, budget) for _ in range(2)]
    largest = 0
    for index in range(400):
        cache = caches[index % 2]
        cache.put(f"{index:04x}".ljust(64, "f"), Result(values={"text": "x" * 500}))
        cache.flush()
        largest = max(largest, num_bytes(tmp_path / "cache"))
    assert budget / 2 < largest <= budget
    assert caches[0].get("018f".ljust(64, "f")) is not None  # the last, which the other wrote
    assert caches[1].get("0000".ljust(64, "f")) is None


def test_pictures_count_in_the_budget_and_one_too_large_is_not_kept(tmp_path):
    store = FolderMediaStore(tmp_path / "media")
    cache = ResultCache(store=store, num_entries=9, folder=tmp_path / "cache", max_bytes=100_000)
    small, large = (store.put(os.urandom(size), kind="image", width=1, height=1) for size in (20_000, 30_000))
    cache.put("a" * 64, Result(picture=small))
    cache.put("b" * 64, Result(picture=large))
    cache.close()
    assert 20_000 < num_bytes(tmp_path / "cache") < 30_000
    assert cache.get("b" * 64) is not None  # from memory


def test_memory_keeps_within_its_bytes_and_its_entries(tmp_path):
    store = FolderMediaStore(tmp_path)
    cache = ResultCache(store=store, num_entries=50, memory_bytes=4000)
    for index in range(20):
        cache.put(f"{index}", Result(values={"text": "x" * 500}))
        assert cache.held_bytes <= 4000
    assert cache.get("19") is not None and cache.get("0") is None
    few = ResultCache(store=store, num_entries=2)
    for index in range(3):
        few.put(f"{index}", Result())
    assert [few.get(f"{index}") is not None for index in range(3)] == [False, True, True]


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


async def test_a_rollout_names_no_more_than_it_may(tmp_path):
    store = FolderMediaStore(tmp_path)
    box = toolbox(store, config=ToolsConfig(num_workers=0, ocr="none", max_images=3))
    space, codes = workspace(store), []
    for _ in range(4):
        executed, space = await box.execute(ZOOM, space)
        codes.append(executed.observation.error)
    assert codes == [None, None, "limit_exceeded", "limit_exceeded"] and len(space.images) == 3


async def test_a_mistake_of_ours_costs_its_call_only_and_is_logged(tmp_path, caplog):
    store = FolderMediaStore(tmp_path)
    before = workspace(store)
    call = ToolCall(name="ZOOM", arguments={"image": "image_1", "box": (0, 0, 500, object())})
    executed, after = await toolbox(store).execute(call, before)
    assert executed.observation.error in ("bad_argument", "tool_crashed") and after is before
    broken = before.__class__(images=(None,))
    executed, _ = await toolbox(store).execute(ZOOM, broken)
    assert executed.observation.error == "tool_crashed" and "ZOOM failed outside its worker" in caplog.text


# Workers


class BatchReader(FixedReader):
    """Notes how many pictures it is given at once."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def read_many(self, pictures):
        self.batches.append(len(pictures))
        return super().read_many(pictures)


def test_jobs_of_one_tool_are_read_together_and_the_one_that_fails_fails_alone(tmp_path):
    store, reader = FolderMediaStore(tmp_path), BatchReader()
    bench = furnish(CONFIG, store)
    bench.reader = reader
    ref = put_image(store, plates(0).pixels)
    jobs = [Job(tool="OCR", pictures=(ref,), options={"box": (0, 0, 50 + index, 40)}) for index in range(3)]
    together = answer_all(jobs, bench, clock=time.process_time, find=tool_named)
    assert reader.batches == [3]
    alone = [answer(job, bench, clock=time.process_time) for job in jobs]
    assert [reply.result for reply in together] == [reply.result for reply in alone]
    lost = replace(jobs[1], pictures=(replace(ref, digest="0" * 64),))
    mixed = answer_all([jobs[0], lost, jobs[2]], bench, clock=time.process_time, find=tool_named)
    assert [reply.error for reply in mixed] == [None, "bad_media", None]


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


# Configuration


def test_weights_that_are_asked_for_and_missing_are_named_in_one_line(tmp_path):
    for asked in ({"segmenter": "sam2"}, {"tracker": "nano"}):
        with pytest.raises(ModelError) as caught:
            describe_back_ends(ToolsConfig(ocr="none", weights_dir=str(tmp_path), **asked))
        assert "\n" not in str(caught.value) and "tools." in str(caught.value)
    assert describe_back_ends(ToolsConfig(ocr="none", weights_dir=str(tmp_path)))["SEG"].startswith("classical")


@pytest.mark.parametrize(
    ("key", "value"), [("num_workers", -1), ("deadline_s", 0), ("ocr", "tesseract"), ("zoom_min_side", 900)]
)
def test_impossible_values_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        ToolsConfig(**{key: value})
