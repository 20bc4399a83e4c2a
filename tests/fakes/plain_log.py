"""A reader of log format 1 written from docs/replay.md alone: no line of replay/ is used."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import xxhash


def plain_records(folder: Path) -> Iterator[tuple[int, int, bytes]]:
    """(sequence, kind, body) of every record of an undamaged log; an AssertionError tells of anything else."""
    expected, chain, last_epoch = 0, 0, -1
    for index, path in enumerate(sorted(folder.glob("*.segment"))):
        data = path.read_bytes()
        magic, version, _, held_index, epoch, first, before = struct.unpack_from("<8sIIQQQQ", data)
        assert magic == b"PXLSLOG\n" and version == 1 and held_index == index == int(path.stem)
        assert (first, before) == (expected, chain) and epoch >= last_epoch
        assert data[48:56] == bytes(8)
        assert struct.unpack_from("<Q", data, 56)[0] == xxhash.xxh3_64_intdigest(data[:56])
        last_epoch, at = epoch, 64
        while at < len(data):
            head = data[at : at + 64]
            magic, kind, zero, sequence, _, length = struct.unpack_from("<4sHHQQQ", head)
            assert magic == b"PXFR" and zero == 0 and sequence == expected
            body = data[at + 64 : at + 64 + length]
            assert head[32:48] == xxhash.xxh3_128_digest(body)
            chain = xxhash.xxh3_64_intdigest(chain.to_bytes(8, "little") + head[:48])
            assert head[48:56] == chain.to_bytes(8, "little")
            assert head[56:64] == xxhash.xxh3_64_intdigest(head[:56]).to_bytes(8, "little")
            end = at + 64 + length
            at = -(-end // 64) * 64
            assert not any(data[end:at])
            if kind == 0:
                assert length == 0 and at == len(data)
            else:
                expected += 1
                yield sequence, kind, body
