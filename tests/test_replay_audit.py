"""The audit: what kept its word is clean, and every way of breaking it that is planted is found and placed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.logs import (
    a_late_rollout,
    a_replay,
    appended,
    edited,
    put,
    records_of,
    removed,
)
from fakes.sabotage import (
    a_draw,
    age_a_draw,
    another_state,
    as_single_files,
    double_an_entry,
    draw_again,
    draw_before_it_is_whole,
    draw_for_a_step_behind,
    draw_one_twice,
    draw_what_was_given_up,
    erase_but_keep_a_picture,
    erase_from_a_draw_that_does_not_add_up,
    erase_without_doing,
    find_a_superseded_entry,
    flip,
    flip_a_body,
    flip_a_picture,
    flip_a_segments_header,
    learn_again,
    learn_without_a_draw,
    leave_one_out,
    lose_a_draw,
    lose_a_picture,
    lose_a_segment,
    lose_an_empty_segment,
    manifest_of,
    miscount_the_index,
    never_begin,
    orphan,
    repeat_a_rollout,
    replace_with_tombstone,
    retire,
    rollout_at,
    same_id_by_another_producer,
    save_index,
    second_header,
    shorten_the_bound,
    skip_a_step,
    snapshots_of,
    wrong_oldest_version,
)
from fakes.values import a_consensus, a_group, a_query, a_rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import LogDamaged, RunFolderError
from common.schema import encode_rollouts
from replay.audit.audit import Audit, audit_replay
from replay.audit.findings import RULES, Violation
from replay.audit.lines import Learned
from replay.config import Drawing, Durability, ReplayConfig
from replay.frames import ALIGN
from replay.log import Log
from replay.opening import open_replay
from replay.reading import read_log
from replay.records import Admit, Advance, Begin, Drawn, Experience, Expire, Rewind, Settle

APPLIED = Learned(
    phases=frozenset({"rft", "ttrl"}),
    cursor=("ttrl", 1),
    steps={"sft": {1: 1}, "rft": {1: 1, 2: 1, 3: 2, 4: 1}, "ttrl": {1: 1}},
)
"""What the learner of `a_replay` leaves: step 3 was done twice, because it was restored to step 2."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    asyncio.run(a_replay(folder / "replay", folder / "live"))
    return folder / "replay"


@pytest.fixture
def replay(kept: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    shutil.copytree(kept, tmp_path / "replay")
    return tmp_path / "replay"


def audited(folder: Path, **changes: Any) -> Audit:
    return audit_replay(folder, **({"learned": APPLIED, "needs_media": True} | changes))


def by_rule(audit: Audit, rule: str) -> list[Violation]:
    return [item for item in audit.violations if item.rule == rule]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


# ── what kept its word ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_replay_that_kept_its_word_is_clean_and_adds_up(kept: Path) -> None:
    before = contents(kept)
    audit = audited(kept)
    assert audit.violations == ()
    balance = audit.balance
    assert (balance.inserted, balance.live, balance.expired, balance.quarantined, balance.erased) == (18, 2, 2, 1, 0)
    assert balance.spent == {"abstained": 2, "drawn": 10, "late": 1}
    assert balance.holds
    assert (audit.num_draws, audit.num_experiences, audit.media.num_kept) == (6, 2, 4)
    assert contents(kept) == before


async def test_a_live_writer_is_not_disturbed_and_not_blamed(tmp_path: Path) -> None:
    buffer = open_replay(ReplayConfig(folder=tmp_path, durability=Durability(mode="os")))
    await buffer.begin("rft", groups_per_step=1, max_policy_lag=0, votes=False)
    await buffer.admit("g0")
    await put(buffer, *a_group(0))
    await buffer.sample(0)
    before = contents(tmp_path)
    audit = audit_replay(tmp_path)
    assert audit.clean
    assert any("not sealed: its writer is alive, or was killed" in note for note in audit.notes)
    assert contents(tmp_path) == before
    await buffer.advance(1, 1)
    await buffer.close()
    assert audit_replay(tmp_path).clean


def test_a_torn_tail_is_noted_and_is_no_breach(replay: Path) -> None:
    [segment] = (replay / "log").glob("*.segment")
    data = segment.read_bytes()
    segment.write_bytes(data[: -ALIGN - 10])  # the seal, and the end of the record before it
    audit = audited(replay, learned=None)
    assert audit.clean
    assert any("torn tail" in note for note in audit.notes)
    assert segment.stat().st_size == len(data) - ALIGN - 10


def test_after_a_kill_orphans_and_a_stale_index_are_noted_only(replay: Path) -> None:
    [segment] = (replay / "log").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-ALIGN])
    orphan(replay)
    flip(replay / "index" / "delta-00000001.faiss", 50)
    audit = audited(replay)
    assert audit.clean
    assert any("1 orphan media (17 bytes), to which no rollout refers: abababababab…" in note for note in audit.notes)
    assert any("will be built anew" in note for note in audit.notes)


@pytest.mark.parametrize(("layout", "age"), [(None, "an earlier"), (0, "an earlier"), (2, "a later")])
def test_an_index_of_another_layout_is_noted_only(replay: Path, layout: int | None, age: str) -> None:
    """The first layout: a manifest without a format, that has none of the fields of today's."""
    fields = {"encoder": "e", "dimension": 3, "num_entries": 2, "file_digest": "00", "entries_digest": "00"}
    manifest_of(replay).write_text(json.dumps(fields if layout is None else {"format": layout}))
    audit = audited(replay)
    assert audit.clean
    said = f"builds the index anew: manifest.json is of {age} layout (format {layout or 0}; this program reads 1)"
    assert any(said in note for note in audit.notes)


def test_draws_beyond_the_checkpoint_are_noted_because_a_restart_takes_them_back(replay: Path) -> None:
    audit = audited(replay, learned=dataclasses.replace(APPLIED, cursor=("ttrl", 0)))
    assert audit.clean
    assert any("1 steps came after the checkpoint of step 0" in note for note in audit.notes)


def test_a_checkpoint_may_come_before_the_learner_tells_of_its_step(replay: Path) -> None:
    removed(replay, Advance, -1)
    appended(replay, Rewind(step=1, version=9, orphans=False))
    assert audited(replay).violations == ()


def test_a_folder_without_a_log_is_refused_and_a_record_that_changes_meanwhile_is_damage(replay: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no log"):
        audit_replay(replay / "nowhere")
    log = read_log(replay / "log")
    flip_a_body(replay)
    with pytest.raises(LogDamaged, match="changed under our eyes"):
        list(log.entries())


def test_metrics_that_a_power_cut_took_are_noted(replay: Path) -> None:
    steps = {"rft": {1: 1, 4: 1}}
    audit = audited(replay, learned=dataclasses.replace(APPLIED, steps=steps))
    assert audit.clean
    assert any("do not tell of steps 2–3" in note for note in audit.notes)


def test_a_group_may_be_drawn_as_often_as_max_reuse_says(replay: Path) -> None:
    drawn = a_draw(replay, -1)
    again = dataclasses.replace(drawn, step=1, watermark=len(records_of(replay)) - 1, lag=1)
    appended(replay, again, Advance(step=2, version=9))
    assert by_rule(audited(replay), "reuse")
    edited(replay, Begin, 1, drawing=Drawing(max_reuse=2))
    assert audited(replay).violations == ()
    appended(replay, dataclasses.replace(again, step=2, watermark=len(records_of(replay)) - 1, lag=2))
    assert [item.what for item in audited(replay).violations] == [
        "the draw for step 2: group ttrl/0 is drawn 3 times in one line; at most 2"
    ]


def test_media_of_an_earlier_version_are_clean(replay: Path) -> None:
    as_single_files(replay)
    assert audited(replay).violations == ()


def test_a_snapshot_that_opening_leaves_aside_is_noted(replay: Path) -> None:
    flip(snapshots_of(replay)[-1], 100)
    audit = audited(replay)
    assert audit.clean
    assert any("left aside by opening" in note and "does not match its hash" in note for note in audit.notes)


# ── what is planted is found ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """plant: breaks the replay in a folder; it may return the number of the record that is to be named."""

    rule: str
    plant: Callable[[Path], Any]
    says: str = ""
    learned: Learned = APPLIED


def unplaced(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    """A change whose breach lies elsewhere than in the changed record."""

    def plant(folder: Path) -> None:
        change(folder)

    return plant


PLANTS = {
    "a flipped bit of a body": Plant(rule="damage", plant=flip_a_body, says="do not match their hash"),
    "a flipped bit of a segment's header": Plant(rule="damage", plant=flip_a_segments_header, says="no record lost"),
    "a missing segment": Plant(rule="gap", plant=lose_a_segment, says="are missing"),
    "a missing segment without records": Plant(rule="gap", plant=lose_an_empty_segment, says="segments between"),
    "a missing group": Plant(rule="gap", plant=lambda f: removed(f, Admit, 1), says="1 to 1 are missing"),
    "noise for a rollout": Plant(rule="unreadable", plant=lambda f: appended(f, (1, b"noise")), says="not an Arrow"),
    "a kind that nobody knows": Plant(rule="unreadable", plant=lambda f: appended(f, (99, b"{}")), says="unknown kind"),
    "noise for a record": Plant(rule="unreadable", plant=lambda f: appended(f, (3, b"{")), says="cannot be read"),
    "a version that is not the tokens'": Plant(
        rule="unreadable", plant=wrong_oldest_version, says="oldest version is 6"
    ),
    "a rollout twice": Plant(rule="duplicate", plant=repeat_a_rollout, says="producer actor-0, epoch 0, sequence 0"),
    "an id twice in a group": Plant(rule="duplicate", plant=same_id_by_another_producer, says="in group ttrl/2"),
    "a group admitted twice": Plant(
        rule="duplicate", plant=lambda f: appended(f, Admit(number=3, group_id="ttrl/0")), says="admitted twice"
    ),
    "a number given twice": Plant(
        rule="duplicate", plant=lambda f: appended(f, Admit(number=2, group_id="ttrl/9")), says="given before"
    ),
    "a draw of part of a group": Plant(rule="group", plant=leave_one_out, says="leaves out rollout g2/1"),
    "a rollout twice in a draw": Plant(rule="group", plant=draw_one_twice, says="names a rollout twice"),
    "a draw of a group that is not whole": Plant(rule="group", plant=draw_before_it_is_whole, says="is not whole"),
    "a draw of nothing known": Plant(
        rule="group", plant=lambda f: edited(f, Drawn, 0, group_ids=("g9",)), says="g9 was never admitted"
    ),
    "a draw of what was given up": Plant(rule="group", plant=draw_what_was_given_up, says="was given up before"),
    "a draw without a vote": Plant(rule="group", plant=lambda f: removed(f, Settle, 0), says="nobody voted"),
    "a draw of another size": Plant(
        rule="group", plant=unplaced(lambda f: edited(f, Begin, 0, groups_per_step=2)), says="1 groups instead of 2"
    ),
    "a draw under another name": Plant(
        rule="group", plant=lambda f: edited(f, Drawn, 0, rollout_ids=("g0/0", "g7/7")), says="it is g0/1"
    ),
    "a draw that knew the future": Plant(
        rule="group", plant=lambda f: edited(f, Drawn, 0, watermark=999), says="knew records up to 999"
    ),
    "a rollout too many for its group": Plant(
        rule="group",
        plant=lambda f: appended(f, a_late_rollout(group_id="ttrl/2", rollout_id="more", group_size=2)),
        says="it has 2 of 2",
    ),
    "a draw of a record that is not in its group": Plant(
        rule="group", plant=lambda f: edited(f, Drawn, 0, sequences=(0, 1)), says="hands out record 0"
    ),
    "a draw before any phase": Plant(
        rule="group", plant=unplaced(never_begin), says="the draw for step 0, before any phase began"
    ),
    "a step before any phase": Plant(
        rule="no draw", plant=unplaced(never_begin), says="came to step 1 before any phase began"
    ),
    "a group drawn twice": Plant(rule="reuse", plant=draw_again, says="2 times in one line; at most 1"),
    "a step drawn twice": Plant(
        rule="reuse", plant=lambda f: appended(f, a_draw(f, -1)), says="second draw for step 0"
    ),
    "a line that was not rewound": Plant(
        rule="reuse", plant=lambda f: removed(f, Rewind, 0), says="group g3 is drawn 2 times in one line"
    ),
    "a draw beyond the bound": Plant(rule="lag", plant=shorten_the_bound, says="1 steps old; at most 0 are allowed"),
    "a draw that hides its lag": Plant(rule="lag", plant=age_a_draw, says="recorded a lag of"),
    "a policy from before the phase": Plant(
        rule="lag", plant=unplaced(lambda f: edited(f, Begin, 1, version=8)), says="from before phase ttrl"
    ),
    "a step that was skipped": Plant(
        rule="not applied", plant=skip_a_step, says="the draw for step 0 was never applied"
    ),
    "a phase that ended before its draw was applied": Plant(
        rule="not applied", plant=lambda f: removed(f, Advance, 4), says="phase rft ended"
    ),
    "a step learned again": Plant(rule="applied twice", plant=learn_again, says="nothing was rewound"),
    "a draw for a step behind": Plant(
        rule="applied twice", plant=draw_for_a_step_behind, says="a draw for step 3, which the line has behind it"
    ),
    "metrics that tell of a step too often": Plant(
        rule="applied twice",
        plant=lambda f: None,
        says="step 2 2 times, the log of 1",
        learned=dataclasses.replace(APPLIED, steps={"rft": {1: 1, 2: 2}}),
    ),
    "a step without a draw": Plant(rule="no draw", plant=learn_without_a_draw, says="no draw for step 1"),
    "a lost draw": Plant(rule="no draw", plant=lose_a_draw, says="no draw for step 1"),
    "a checkpoint ahead of the log": Plant(
        rule="no draw",
        plant=lambda f: None,
        says="surviving line of the log came to 1",
        learned=dataclasses.replace(APPLIED, cursor=("ttrl", 2)),
    ),
    "a checkpoint of a phase that never began": Plant(
        rule="no draw",
        plant=never_begin,
        says="which the log never began",
    ),
    "metrics ahead of the log": Plant(
        rule="no draw",
        plant=lambda f: None,
        says="no line of the log came to it",
        learned=dataclasses.replace(APPLIED, steps={"ttrl": {1: 1, 2: 1}}),
    ),
    "two rollouts in one record": Plant(
        rule="unreadable",
        plant=lambda f: appended(f, (1, encode_rollouts([a_late_rollout(), a_late_rollout(rollout_id="r")]))),
        says="2 rollouts instead of one",
    ),
    "a segment that another writer wrote": Plant(
        rule="damage", plant=lambda f: second_header(f, chain=7), says="the chain is broken here"
    ),
    "an older writer after a newer one": Plant(
        rule="damage", plant=lambda f: second_header(f, epoch=3), says="an older one was not fenced"
    ),
    "a segment under another name": Plant(
        rule="damage", plant=lambda f: second_header(f, index=9), says="says it is segment 9"
    ),
    "an empty file for a segment": Plant(
        rule="damage", plant=lambda f: (f / "log" / "00000001.segment").touch(), says="bytes 0 to 64 do not match"
    ),
    "a draw after an abstention": Plant(
        rule="group",
        plant=unplaced(lambda f: edited(f, Settle, 0, consensus=a_consensus("ttrl/0", answer=None))),
        says="abstained",
    ),
    "a checkpoint of a step without a draw": Plant(
        rule="no draw",
        plant=lambda f: appended(f, Rewind(step=2, version=9, orphans=False)),
        says="restored to step 2; the log holds no draw for step 1",
    ),
    "an entry twice": Plant(rule="index", plant=double_an_entry, says="2 entries of the index are there twice"),
    "a manifest that cannot be read": Plant(
        rule="index", plant=unplaced(lambda f: manifest_of(f).write_text("{")), says="cannot be read"
    ),
    "a manifest of another size": Plant(
        rule="index", plant=miscount_the_index, says="holds 2 vectors of 3 and 2 entries"
    ),
    "a rollout that became nothing": Plant(
        rule="count", plant=unplaced(lambda f: appended(f, (1, b"noise"))), says="19 rollouts were inserted; 18 are"
    ),
    "rollouts that the fold counts otherwise": Plant(
        rule="count", plant=unplaced(leave_one_out), says="spent as drawn: 9 by the records, 10 by the fold"
    ),
    "a log that cannot be opened": Plant(
        rule="count", plant=erase_from_a_draw_that_does_not_add_up, says="cannot be opened"
    ),
    "a picture that is gone": Plant(rule="missing media", plant=lose_a_picture, says="which the replay does not hold"),
    "a picture that is another": Plant(
        rule="damaged media", plant=flip_a_picture, says="other bytes lie under that name"
    ),
    "a picture of an earlier version that is gone": Plant(
        rule="missing media", plant=lambda f: as_single_files(f)[0].unlink(), says="which the replay does not hold"
    ),
    "a picture of an earlier version that is another": Plant(
        rule="damaged media", plant=lambda f: flip(as_single_files(f)[0], 20), says="other bytes lie under that name"
    ),
    "a tombstone that no erasure names": Plant(
        rule="erased",
        plant=lambda f: replace_with_tombstone(f, rollout_at(f, 3)[0]),
        says="no erasure names it",
    ),
    "an erased record that lies there": Plant(rule="erased", plant=erase_without_doing, says="it still lies there"),
    "an erased picture that lies there": Plant(
        rule="erased", plant=erase_but_keep_a_picture, says="a picture of an erased source still lies there: abab"
    ),
    "a snapshot of another state": Plant(rule="snapshot", plant=another_state, says="opening would use it"),
    "an entry that the log does not hold": Plant(
        rule="index", plant=lambda f: save_index(f, [0, 1, 7]), says="record 7, which is no experience"
    ),
    "an entry with another vector": Plant(
        rule="index", plant=lambda f: save_index(f, [0, 1]), says="another vector for record 1"
    ),
    "an entry that is not found": Plant(rule="index", plant=lambda f: retire(f, 0), says="lacks record 0"),
    "an entry that is retired and not there": Plant(
        rule="index", plant=lambda f: retire(f, 5), says="has retired record 5, which it does not hold"
    ),
    "an entry that a later one took the place of": Plant(
        rule="index", plant=find_a_superseded_entry, says="finds record 0, which later ones took the place of"
    ),
    "an entry that is missing": Plant(rule="index", plant=lambda f: save_index(f, [1]), says="lacks record 0"),
    "an entry of another encoder": Plant(
        rule="index", plant=lambda f: edited(f, Experience, 0, encoder="e2"), says="another encoder"
    ),
    "a saved index that changed": Plant(
        rule="index", plant=lambda f: flip(f / "index" / "delta-00000001.faiss", 50), says="does not match the digest"
    ),
    "a saved index without its manifest": Plant(
        rule="index", plant=lambda f: (f / "index" / "manifest.json").unlink(), says="manifest.json is missing"
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(replay: Path, name: str) -> None:
    planted = PLANTS[name]
    where = planted.plant(replay)
    audit = audited(replay, learned=planted.learned)
    found = [item for item in by_rule(audit, planted.rule) if planted.says in item.what]
    assert found, audit.violations
    if where is not None:
        assert where in [item.sequence for item in found]
        placed = next(item for item in found if item.sequence == where)
        assert placed.segment is not None and placed.byte is not None and placed.byte % ALIGN == 0


def test_every_rule_has_something_planted() -> None:
    assert {plant.rule for plant in PLANTS.values()} == set(RULES)


@pytest.mark.parametrize("name", ["Expire", "late"])
def test_what_is_told_twice_or_late_changes_no_balance(replay: Path, name: str) -> None:
    appended(replay, Expire(group_id="g5", step=4, lag=None) if name == "Expire" else a_late_rollout())
    audit = audited(replay)
    assert audit.balance.holds
    assert audit.balance.spent["late"] == (1 if name == "Expire" else 2)
    assert not by_rule(audit, "count")


def test_without_a_folder_for_media_nothing_is_said_of_them_but_a_note(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.append(1, encode_rollouts([a_rollout(0, 0, query=a_query())]))
    log.commit()
    log.close()
    audit = audit_replay(tmp_path)
    assert audit.clean
    assert any("keeps no media" in note for note in audit.notes)
    assert len(by_rule(audit_replay(tmp_path, needs_media=True), "missing media")) == 4


def test_lost_rollouts_are_quarantined_and_the_law_holds(replay: Path) -> None:
    flip_a_body(replay)
    audit = audited(replay)
    assert (audit.balance.inserted, audit.balance.quarantined) == (18, 2)
    assert audit.balance.holds
    assert not by_rule(audit, "count")


def test_numbers_that_never_came_are_noted(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for number in (0, 1, 5):
        log.append(1, encode_rollouts([a_late_rollout(sequence=number, rollout_id=f"r{number}")]))
    log.commit()
    log.close()
    assert any(note.startswith("3 numbers between") for note in audit_replay(tmp_path).notes)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_closed_log_goes_unseen(kept: Path, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as aside:
        shutil.copytree(kept / "log", Path(aside) / "log")
        segment = Path(aside) / "log" / "00000000.segment"
        data = bytearray(segment.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        segment.write_bytes(data)
        assert by_rule(audit_replay(Path(aside)), "damage") or audit_replay(Path(aside)).notes
