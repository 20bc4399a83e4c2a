"""The runtimes: one suite for both, since a program must not be able to tell them apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fakes.processes import Counter, Rank, Unbuildable, counter_on_the_loop

from cluster.local_runtime import LocalRuntime
from cluster.runtime import Handle, Runtime, RuntimeConfig, Shards
from common.errors import ActorDied, ConfigError, ContractError

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["local", pytest.param("ray", marks=pytest.mark.system)],
)
async def runtime(request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    if request.param == "local":
        built: Runtime = LocalRuntime()
    else:
        from cluster.ray_runtime import RayRuntime

        built = RayRuntime.start(RuntimeConfig(num_cpus=8, object_store_bytes=80 * 2**20))
    yield built
    await built.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counter(runtime: Runtime) -> Handle[Counter]:
    """One process for the tests that leave it alive."""
    return await runtime.spawn("counter", Counter, env={"PIXELIS_TEST": "here"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other(runtime: Runtime) -> Handle[Counter]:
    return await runtime.spawn("other", counter_on_the_loop, 0)  # type: ignore[arg-type]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def from_zero(counter: Handle[Counter], other: Handle[Counter]) -> None:
    await asyncio.gather(counter.call(Counter.reset), other.call(Counter.reset))


async def test_a_call_gives_the_value(counter: Handle[Counter]) -> None:
    assert await counter.call(Counter.add, 5) == 5
    assert await counter.call(Counter.add, 2) == 7


async def test_an_async_factory_builds_the_object_it_returns(other: Handle[Counter]) -> None:
    assert await other.call(Counter.add, 1) == 1


async def test_a_ref_is_resolved_by_the_receiver_at_any_depth(
    runtime: Runtime, counter: Handle[Counter], other: Handle[Counter]
) -> None:
    ref = other.send(Counter.add, 11)
    nested = [ref, (ref, {"key": ref, "plain": 100})]
    assert await counter.call(Counter.total, nested) == 3 * 11 + 100
    assert await counter.call(Counter.add, ref) == 11
    assert await runtime.get(ref) == 11


async def test_a_value_that_was_put_reaches_many(runtime: Runtime, counter: Handle[Counter]) -> None:
    ref = runtime.put([1, 2, 3])
    assert await counter.call(Counter.total, ref) == 6
    assert await counter.call(Counter.total, [ref, ref]) == 12


async def test_arguments_and_results_are_copies(runtime: Runtime, counter: Handle[Counter]) -> None:
    items = [1, 2]
    await counter.call(Counter.keep, items)
    items.append(3)
    kept = await counter.call(Counter.kept)
    kept.append(4)
    assert await counter.call(Counter.kept) == [1, 2]


async def test_sync_methods_run_one_at_a_time(runtime: Runtime, counter: Handle[Counter]) -> None:
    values = await asyncio.gather(*(counter.call(Counter.slow_add, 1) for _ in range(5)))
    assert sorted(values) == [1, 2, 3, 4, 5]


async def test_a_waiting_call_blocks_nobody(runtime: Runtime, counter: Handle[Counter]) -> None:
    waiting = counter.send(Counter.wait)
    assert await counter.call(Counter.add, 1) == 1
    await counter.call(Counter.wake)
    assert await runtime.get(waiting) == "woken"


async def test_an_error_keeps_its_class_and_says_where(runtime: Runtime, counter: Handle[Counter]) -> None:
    with pytest.raises(LookupError, match="nothing here") as caught:
        await counter.call(Counter.fail)
    assert "raised in counter" in caught.value.__notes__[0]
    assert await counter.call(Counter.add, 1) == 1


async def test_a_user_error_stays_one_line(runtime: Runtime, counter: Handle[Counter]) -> None:
    with pytest.raises(ConfigError) as caught:
        await counter.call(Counter.misconfigured)
    assert str(caught.value) == "learner.lr: must be above 0"
    assert not hasattr(caught.value, "__notes__")


async def test_the_receiver_of_a_failed_ref_fails_alike(runtime: Runtime, counter: Handle[Counter]) -> None:
    with pytest.raises(LookupError, match="nothing here"):
        await counter.call(Counter.total, [counter.send(Counter.fail)])


async def test_a_value_that_cannot_cross_is_refused(runtime: Runtime, counter: Handle[Counter]) -> None:
    with pytest.raises(ContractError, match="cannot cross"):
        await counter.call(Counter.unpicklable)


async def test_a_factory_that_fails_fails_the_spawn(runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        await runtime.spawn("unbuildable", Unbuildable)


async def test_a_process_sees_its_environment(counter: Handle[Counter]) -> None:
    assert await counter.call(Counter.environment, "PIXELIS_TEST") == "here"


async def test_a_handle_reaches_its_process_from_another(counter: Handle[Counter], other: Handle[Counter]) -> None:
    assert await counter.call(Counter.ask, other, 10) == 10
    assert await other.call(Counter.add, 1) == 11


async def test_killing_ends_pending_calls_and_later_ones(runtime: Runtime) -> None:
    counter = await runtime.spawn("counter", Counter)
    pending = asyncio.ensure_future(counter.call(Counter.sleep, 600.0))
    ended = asyncio.ensure_future(counter.ended())
    await asyncio.sleep(0.2)
    await runtime.kill(counter)
    with pytest.raises(ActorDied, match="counter"):
        await asyncio.wait_for(pending, 10)
    with pytest.raises(ActorDied, match="counter"):
        await asyncio.wait_for(counter.call(Counter.add, 1), 10)
    await asyncio.wait_for(ended, 10)
    await runtime.kill(counter)


async def test_giving_up_waiting_does_not_stop_the_call(counter: Handle[Counter]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(counter.call(Counter.wait), 0.1)
    await counter.call(Counter.wake)
    assert await counter.call(Counter.wait) == "woken"


async def test_ranks_know_their_place(runtime: Runtime) -> None:
    ranks = await runtime.spawn_ranks("ranks", Rank, 2, 100)
    assert await ranks.call_all(Rank.describe) == [(100, 0, 2), (100, 1, 2)]
    (address, port), other = await ranks.call_all(Rank.rendezvous)
    assert address == "127.0.0.1" and port and (address, port) == other
    await ranks.end()


async def test_shards_are_dealt_and_the_rest_goes_to_all(runtime: Runtime, counter: Handle[Counter]) -> None:
    ranks = await runtime.spawn_ranks("ranks", Rank, 2, 100)
    assert await ranks.call_all(Rank.add, counter.send(Counter.add, 6)) == [106, 107]
    assert await ranks.call_all(Rank.add, Shards([1, counter.send(Counter.add, 1)])) == [101, 108]
    with pytest.raises(ValueError, match="3 shards for the 2 ranks"):
        await ranks.call_all(Rank.add, Shards([1, 2, 3]))
    await ranks.end()


async def test_one_failed_rank_ends_those_that_wait_for_it(runtime: Runtime) -> None:
    ranks = await runtime.spawn_ranks("ranks", Rank, 2, 0)
    with pytest.raises(ValueError, match="rank 1 is ill"):
        await asyncio.wait_for(ranks.call_all(Rank.fail_on, 1), 30)
    await asyncio.wait_for(ranks.ended(), 10)
    with pytest.raises(ActorDied):
        await ranks.call_all(Rank.describe)


async def test_one_dead_rank_ends_all(runtime: Runtime) -> None:
    ranks = await runtime.spawn_ranks("ranks", Rank, 3, 0)
    await runtime.kill(ranks.handles[1])
    assert "rank 1 died" in await asyncio.wait_for(ranks.ended(), 10)
    with pytest.raises(ActorDied, match="all its ranks were ended"):
        await ranks.call_all(Rank.describe)
