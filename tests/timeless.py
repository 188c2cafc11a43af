"""Records without their times, which are all that may differ between two equal runs."""

from __future__ import annotations

from dataclasses import replace

from regrow.records import Record

CLOCKS = ("prefill_seconds", "decode_seconds", "sparse_seconds", "refresh_seconds")


def timeless(record: Record) -> Record:
    return replace(record, seconds=0.0, counters={**record.counters, **dict.fromkeys(CLOCKS, 0.0)})
