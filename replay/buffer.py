"""The replay buffer: rollouts in, whole groups out, nothing lost and nothing handed out twice.

Every change is a record of the log. The state follows at once, so decisions are taken in the order of the log; whoever
asked is answered when the record is durable. Rollouts arrive singly and are assembled into groups; a draw is decided,
logged, made durable, and only then handed out, so asking for a step again gives the same rollouts.

    loop      begin ─► admit (waits on the limiter) ─► … ─► settle (if voting) ─► abandon (if an actor died)
    actors    add (a rollout each)
    learner   sample (waits for whole groups) ─► advance (wakes admit) ─► … ─► rewind (after a restore)
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from common.columns import RolloutKeys
from common.errors import ConfigError, ContractError, DiskFull, ReplayError, Stopped
from common.types import Consensus, Draw, Neighbour
from replay.candidates import Candidates
from replay.commit import Committer
from replay.config import ReplayConfig
from replay.disk import refusal
from replay.handing_out import HandingOut
from replay.inspecting import Inspected, Inspecting
from replay.inspector import Inspector
from replay.keeping import Keeping
from replay.limiter import Limiter
from replay.log import Log
from replay.records import Admit, Advance, Begin, Kind, Record, Release, Rewind, Settle, Spend, encode
from replay.remembering import Remembering
from replay.retention import Pruner
from replay.rules import check_admissible, check_same, draw_of, is_known, ready, why_spend
from replay.state import FOLD_VERSION, Group, State, default_name
from replay.stats import ReplayStats, stats_of
from replay.upkeep import Upkeep, packed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from replay.index import NeighbourIndex
    from replay.media import DurableMedia


class ReplayBuffer:
    """One per run, on one event loop; `replay.opening.open_replay` builds it.

    While the disk is full, whoever writes waits (`ReplayStats.waiting_for`). After any other failed write or sync every
    method that writes raises ReplayError, for ever: restart to read the disk back.
    """

    def __init__(
        self,
        config: ReplayConfig,
        *,
        log: Log,
        state: State,
        media: DurableMedia | None = None,
        index: NeighbourIndex | None = None,
        pruner: Pruner | None = None,
    ) -> None:
        self._config = config
        self._log = log
        self._state = state
        self._media = media
        self._handing_out = HandingOut(log, media)
        self._inspecting = Inspecting([Inspector(config.live_media) for _ in range(config.inspectors)])
        self._committer = Committer(log, config.durability, on_failure=self._on_failure)
        self._index = None if index is None else Remembering(index, durable=self._committer.flush)
        self._keeping = None if media is None else Keeping(media, wait_for_room=self._wait_for_room)
        pruner = pruner or Pruner(config.folder, log, config.retention, media=media)
        self._upkeep = Upkeep(config, log, self._committer, pruner, reading=lambda: self._handing_out.reading)
        self._candidates = Candidates(state, configured=config.drawing)
        self._changed = asyncio.Condition()
        self._duplicates = 0
        self._closed = False

    @property
    def state(self) -> State:
        """The fold of the log; read only."""
        return self._state

    async def begin(
        self, phase: str, *, groups_per_step: int, max_policy_lag: int, votes: bool, step: int = 0, version: int = 0
    ) -> None:
        """Begin `phase`, the learner at `step`, having published `version`. What the phase before left is spent.

        Beginning the phase that is under way is a restored learner's `rewind` to `step`. Raises ConfigError for
        settings that would deadlock, or that differ from those the phase began with.
        """
        self._inspecting.start()
        drawing = self._config.drawing
        Limiter(groups_per_step=groups_per_step, max_policy_lag=max_policy_lag, drawing=drawing)
        begin = Begin(
            phase=phase,
            groups_per_step=groups_per_step,
            max_policy_lag=max_policy_lag,
            votes=votes,
            step=step,
            version=version,
            drawing=drawing,
        )
        now = self._state.phase
        if now is not None and now.phase == phase:
            check_same(now, begin)
            return await self.rewind(step, version=version)
        await self._record_and_wake(begin)

    async def admit(self, group_id: str = "") -> int:
        """Let one group start and return its number. Waits while acting is ahead of the learner; `advance` and every
        returned group wake it.

        group_id: what its rollouts will carry; "<phase>/<number>" by default. Admitting a live group again gives its
        number again. Raises Stopped when the buffer closes, or another phase begins while this waits: whoever asked has
        gone with the phase.
        """
        async with self._changed:
            begun = self._phase().phase
            while True:
                self._check()
                if self._phase().phase != begun:
                    raise Stopped(f"phase {begun} is over")
                if group_id in self._state.groups:
                    return self._state.groups[group_id].number
                if self._state.may_admit():
                    break
                await self._changed.wait()
            number = self._state.admitted
            group_id = group_id or default_name(self._phase().phase, number)
            if group_id in self._state.closed:
                why = self._state.why_over(group_id)
                raise ContractError(f"group {group_id} is over ({why}); give it another id")
            self._record(Admit(number=number, group_id=group_id))
            return number

    async def add(self, data: bytes) -> bool:
        """Keep one rollout (an Arrow stream of one row). Returns, once it and its media are durable, whether it is new.

        A second copy, by (producer, epoch, sequence), is acknowledged and not kept. One for a group that is over is
        kept and spent as "late". Raises ContractError for one that breaks a law or whose group was never admitted.
        """
        self._check()
        rollout = await self._inspecting.inspect(data)
        with contextlib.ExitStack() as pins:
            if self._media is not None and self._keeping is not None:
                pins.enter_context(self._media.pinned(rollout.keys.media))
                await self._keep(self._keeping, rollout)
            return await self._add(data, rollout.keys, pins)

    async def _add(self, data: bytes, keys: RolloutKeys, pins: contextlib.ExitStack) -> bool:
        """pins: on the pictures of the rollout; held until its record is durable, even when whoever waits is gone."""
        async with self._changed:
            self._check()
            self._phase()
            if is_known(self._state, keys):
                self._duplicates += 1
                durable = None
            else:
                check_admissible(self._state, keys, drop_zero_variance=self._config.drop_zero_variance)
                sequence, durable = self._committer.put(Kind.ROLLOUT, data, then=pins.pop_all().close)
                self._handing_out.note(sequence, keys.media)
                self._candidates.add(keys, sequence)
                self._judge(keys.group_id)
                self._read_ahead(keys.group_id)
                self._upkeep.follow(self._state)
                self._changed.notify_all()
        await (self._committer.flush() if durable is None else durable)
        return durable is not None

    async def settle(self, consensus: Consensus) -> None:
        """Take the vote over a group; it is drawn only after this. An abstention spends the group. Votes over groups
        that are over are ignored, and so is a second vote: a draw of the group may have been handed out with the first.
        """
        if not self._phase().votes:
            raise ContractError(f"phase {self._phase().phase} takes no votes; begin it with votes=True")
        if self._state.why_over(consensus.group_id):
            return await self._committer.flush()
        if consensus.group_id not in self._state.groups:
            raise ContractError(f"a vote over group {consensus.group_id}, which was never admitted")
        if self._state.groups[consensus.group_id].consensus is not None:
            return await self._committer.flush()
        self._check()
        durable = self._record(Settle(consensus=consensus))
        self._judge(consensus.group_id)
        self._read_ahead(consensus.group_id)
        await self._wake()
        await durable

    async def abandon(self, group_id: str, reason: str) -> None:
        """Give up a group whose rollouts will not all come (its actor was killed); its credit returns."""
        if group_id not in self._state.groups:
            return await self._committer.flush()
        await self._record_and_wake(Spend(group_id=group_id, reason=reason))

    async def sample(self, step: int) -> Draw:
        """Hand out the whole groups for learner step `step`. Waits until enough are complete (and settled, if voting)
        and within the policy lag; `add` and `settle` wake it. Asking again for a step gives the same draw.

        Raises ContractError for a step that is not the next one or is no longer remembered, Stopped when the buffer
        closes.
        """
        async with self._changed:
            while True:
                self._check()
                if step in self._state.draws:
                    break
                self._phase()
                if step != self._state.next_step:
                    raise ContractError(f"a draw for step {step}; the next one is for step {self._state.next_step}")
                chosen = self._choose(step)
                if chosen is not None:
                    self._record(draw_of(self._state, chosen, step, watermark=self._committer.last_sequence))
                    self._forget()
                    break
                await self._changed.wait()
            drawn, groups = self._state.draws[step], self._state.drawn_groups(step)
        draw = await self._handing_out.draw(drawn, groups, self._committer.flush())
        self._read_ahead()
        return draw

    async def advance(self, step: int, version: int) -> None:
        """The learner stands at `step` (so many steps are done) and has published policy `version`. Wakes `admit`."""
        if step < self._state.step:
            raise ContractError(f"the learner went from step {self._state.step} to {step}; a restore calls rewind")
        await self._record_and_wake(Advance(step=step, version=version))

    async def rewind(self, step: int, *, version: int, orphans: bool = True) -> None:
        """The learner was restored to `step` and serves `version`. Draws for `step` and later are taken back: their
        groups are live again and are drawn within the lag or expire. Versions published after `step` count as of
        `step`, where the lines part.

        orphans: also give up groups that lack rollouts or their vote; False when whoever fills them lives on.
        """
        self._phase()
        if not self._state.floor <= step <= self._state.next_step:
            raise ConfigError(
                f"the learner was restored to step {step}; the replay remembers steps {self._state.floor} to "
                f"{self._state.next_step}: use a later checkpoint, or a new run folder"
            )
        await self._record_and_wake(Rewind(step=step, version=version, orphans=orphans))

    async def release(self, phase: str, step: int) -> None:
        """The learner has a durable checkpoint of `step` of `phase` and is never restored to an earlier one, so what
        was drawn before it can be forgotten. Ignored for a phase that is not under way. A phase that ends early is
        checkpointed at a step that was never drawn.
        """
        now, floor = self._state.phase, min(step, self._state.next_step)
        if now is None or now.phase != phase or floor <= self._state.floor:
            return await self._committer.flush()
        await self._record_and_wake(Release(step=floor))

    async def remember(
        self,
        vector: NDArray[np.float32],
        *,
        query_id: str,
        family: str,
        chain: tuple[str, ...],
        answer: str | None,
        confidence: float,
        source: str = "",
        trusted: bool = False,
        version: int | None = None,
    ) -> int:
        """Keep an experience for `nearest`. vector: length 1, shape (dimension,). source: whom it came from, and
        whether that is trusted; version: of the policy that acted. Returns its log sequence number.
        """
        index = self._needs_index()
        experience = index.experience(
            vector,
            query_id=query_id,
            family=family,
            chain=chain,
            answer=answer,
            confidence=confidence,
            source=source,
            trusted=trusted,
            version=version,
        )
        self._check()
        sequence, durable = self._committer.put(*encode(experience))
        self._state.last_experience = sequence
        self._upkeep.follow(self._state)
        await index.follow(experience, sequence)
        await durable
        return sequence

    async def nearest(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        exclude_query: str = "",
        source: str | None = None,
        trusted: bool | None = None,
        min_version: int | None = None,
        max_version: int | None = None,
    ) -> list[Neighbour]:
        """At most k past experiences, most similar first, none of them of query `exclude_query`.

        Where they are given: only those from `source`, only those that are (or are not) `trusted`, only those of policy
        versions in [min_version, max_version].
        """
        index = self._needs_index()
        from replay.index import Wanted

        wanted = Wanted(source=source, trusted=trusted, min_version=min_version, max_version=max_version)
        return await index.nearest(vector, k, exclude_query=exclude_query, wanted=wanted)

    async def stats(self) -> ReplayStats:
        return stats_of(
            self._state,
            self._log,
            duplicates=self._duplicates,
            num_records=self._committer.last_sequence + 1,
            num_experiences=0 if self._index is None else self._index.num_entries,
            retention_error=self._upkeep.error,
            waiting_for=self._committer.waiting_for,
            merge_error="" if self._index is None else self._index.merge_error,
        )

    async def close(self) -> None:
        """Make everything durable, save the index, seal the log behind a snapshot. Whoever waits gets Stopped. Raises
        ReplayError when the disk refuses; the next writer is let in all the same.
        """
        if self._closed:
            return
        self._closed = True
        await self._wake()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._close_log)  # it lets the next writer in, so it comes last
            if self._media is not None:
                stack.push_async_callback(asyncio.to_thread, self._media.close)
            stack.push_async_callback(self._upkeep.close)
            stack.push_async_callback(self._handing_out.close)
            stack.push_async_callback(self._inspecting.close)
            await self._committer.close()
            if self._index is not None:
                await self._save(self._index)

    async def _close_log(self) -> None:
        failed = self._committer.error is not None
        state = b"" if failed else await asyncio.to_thread(packed, self._state)
        await asyncio.to_thread(self._log.close, state, fold=FOLD_VERSION)

    async def _save(self, index: Remembering) -> None:
        try:
            await index.close()
        except OSError as error:
            self._log.abandon()  # without a seal nobody takes the index for one that was saved
            raise refusal(self._config.folder, "the index could not be saved; it will be built anew", error) from error

    async def _keep(self, keeping: Keeping, rollout: Inspected) -> None:
        try:
            await keeping.keep(rollout)
        except ReplayError as error:
            self._check()
            self._committer.fail(error)
            raise

    async def _wait_for_room(self, error: DiskFull) -> None:
        self._check()
        await self._committer.wait_for_room(error)
        self._check()

    def _read_ahead(self, changed: str = "") -> None:
        """Read what the next draw would take now, once a draw: when the one before is handed out, or as soon as the
        group `changed` makes it enough.
        """
        state = self._state
        group = state.groups.get(changed)
        if state.phase is None or not state.draws or self._handing_out.is_ahead:
            return
        if (changed and (group is None or not ready(state, group))) or self._candidates.stale:
            return
        if self._candidates.too_old(state.next_step):
            return
        groups = self._candidates.choose(state.next_step)
        if groups is not None:
            self._handing_out.read_ahead(groups, self._committer.flush())

    def _judge(self, group_id: str) -> None:
        """Spend a group that is all there and teaches nothing."""
        group = self._state.groups.get(group_id)
        if group is not None and ready(self._state, group):
            reason = why_spend(self._state, group, drop_zero_variance=self._config.drop_zero_variance)
            if reason:
                self._record(Spend(group_id=group_id, reason=reason))

    def _choose(self, step: int) -> list[Group] | None:
        """Expire what is too old for `step`, then select. Run under the condition; returned credits wake `admit`."""
        for group_id in self._candidates.renew():
            self._judge(group_id)  # a process killed between a group's last rollout and this verdict left it out
        for record in self._candidates.too_old(step):
            self._record(record)
        self._changed.notify_all()
        return self._candidates.choose(step)

    def _forget(self) -> None:
        """Keep the last `keep_draws` draws."""
        while len(self._state.draws) > self._config.keep_draws:
            self._record(Release(step=next(iter(self._state.draws)) + 1))

    def _record(self, record: Record) -> asyncio.Future[None]:
        _, durable = self._committer.put(*encode(record))
        self._candidates.apply(record)
        self._upkeep.follow(self._state)
        return durable

    async def _record_and_wake(self, record: Record) -> None:
        self._check()
        durable = self._record(record)
        await self._wake()
        await durable

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _on_failure(self) -> None:
        """Wake whoever waits, so that the failure reaches them. The task is kept, or it might be collected."""
        self._last_wake = asyncio.get_running_loop().create_task(self._wake())

    def _check(self) -> None:
        if self._closed:
            raise Stopped("the replay is closed")
        if self._committer.error is not None:
            raise self._committer.error

    def _phase(self) -> Begin:
        if self._state.phase is None:
            raise ContractError("no phase has begun; call begin first")
        return self._state.phase

    def _needs_index(self) -> Remembering:
        if self._index is None:
            raise ContractError("this replay was opened without an index; give ReplayConfig an IndexConfig")
        return self._index
