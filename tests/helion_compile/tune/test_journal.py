# SPDX-License-Identifier: Apache-2.0
"""The tuner's journal: what was measured outlives damaged lines, full disks and several ranks."""

import json
import os
from pathlib import Path

import pytest

from helion_compile.configs.case import Case
from helion_compile.tune.cases import TuneError
from helion_compile.tune.journal import Journal, config_text

BEST = {"block_sizes": [1], "num_warps": 8, "pid_type": "persistent_interleaved"}


def case(tokens, size=4096):
    return Case(dtype="bf16", hidden_size=size, num_tokens=tokens)


def test_a_journal_survives_what_can_be_in_a_file(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.time(case(1), BEST, 4.0)
    journal.baseline(case(1), "inductor", 7.0)
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"case": {"num_tokens": 1}}\n[]\n\xff\n{"case": {"num_tokens": 1}, "config": {"num_w')
    again = Journal(tmp_path, "run", rank=1)
    assert list(again.times) == [(case(1), config_text(BEST))] and again.baselines[case(1), "inductor"] == 7.0
    third = Journal(tmp_path, "run")  # the line cut short must not swallow the next
    third.finish(case(2), BEST, 4.0, effort=2)
    assert case(2) in Journal(tmp_path, "run", rank=2).done
    assert Journal(tmp_path, "other").times == {}


def test_a_journal_with_the_older_word_for_a_fallback_goes_on(tmp_path):
    entries = {"config": {"alternative": "library"}, "us": 2.0}, {"winner": {"alternative": "library"}, "us": 2.0}
    lines = [json.dumps({"case": {"k": 1}, **entry}) for entry in entries]
    (tmp_path / "run.0.jsonl").write_text("\n".join(lines))
    journal = Journal(tmp_path, "run")
    journal.close()
    assert list(journal.times) == [(Case(k=1), config_text({"fallback": "library"}))] and not journal.has_run
    assert journal.done[Case(k=1)]["winner"] == {"fallback": "library"}


def test_of_two_ranks_the_longer_search_counts(tmp_path):
    quick = {**BEST, "num_warps": 4}
    for rank, config, effort in ((0, BEST, 3), (5, quick, 1)):
        Journal(tmp_path, "run", rank).finish(case(1), config, 4.0, effort)
    assert Journal(tmp_path, "run").done[case(1)]["winner"] == BEST
    again = {**BEST, "num_warps": 16}
    Journal(tmp_path, "run").finish(case(1), again, 3.9, 3)
    assert Journal(tmp_path, "run").done[case(1)]["winner"] == again


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(TuneError, match="cannot be kept in /proc/none/run.0.jsonl: No such file or directory; make room, or"):
        Journal(Path("/proc/none"), "run")
    journal = Journal(tmp_path, "run")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:5]))  # as much as there was room for
    with pytest.raises(TuneError, match="No space left on device; make room, or name another folder with --journal"):
        journal.time(case(1), BEST, 4.0)
    monkeypatch.undo()
    assert Journal(tmp_path, "run", rank=1).times == {}


def test_a_damaged_line_of_a_journal_is_passed_over(tmp_path):
    sound = {"case": {"k": 1}, "config": {"num_warps": 4}, "us": 2.0, "error": None}
    odd = ({"us": "fast"}, {"us": 10**400}, {"us": -1}, {"us": True}, {"us": [1]}, {"case": 3}, {"config": 3})
    lines = [json.dumps({**sound, **each}) for each in odd]
    lines += ["[" * 100_000, "7", "{}", '{"case": {"k": 1}, "config": {"num_warps": 8}, "us": 1e999}', json.dumps(sound)]
    (tmp_path / "run.0.jsonl").write_text("\n".join(lines))
    journal = Journal(tmp_path, "run")
    journal.close()
    assert [entry["us"] for entry in journal.times.values()] == [2.0]
