# SPDX-License-Identifier: Apache-2.0
"""helion_compile.vllm.agreement: all ranks do a thing, or none; told through a store, as ranks do that are threads here."""

import itertools
import threading
from types import SimpleNamespace

import pytest
import torch

from helion_compile import compat
from helion_compile.vllm import agreement
from helion_compile.vllm.agreement import find_disagreement


class Turn:
    """Every thread is in the same turn, as the processes of ranks are."""

    def __next__(self):
        return 0


@pytest.fixture
def ask(monkeypatch):
    """What ranks are answered that tell these facts; None stays away, a pair comes late by so many seconds."""
    monkeypatch.setattr(agreement, "_turns", Turn())
    stores = itertools.count()

    def ask(*facts):
        main = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        prefix = str(next(stores))
        answers = {}

        def rank(index, told):
            if isinstance(told, tuple):
                told, late = told
                threading.Event().wait(late)
            client = torch.distributed.TCPStore("localhost", main.port, is_master=False)
            group = SimpleNamespace(
                world_size=len(facts), rank_in_group=index, cpu_group=torch.distributed.PrefixStore(prefix, client)
            )
            answers[index] = find_disagreement(group, told, seconds=0.5)

        threads = [threading.Thread(target=rank, args=each) for each in enumerate(facts) if each[1] is not None]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return answers

    monkeypatch.setitem(compat.NAMES, "get_process_group_store", compat.PrivateName("builtins", "id", ()))
    monkeypatch.setattr(compat, "get_process_group_store", lambda group: group, raising=False)
    return ask


def test_ranks_that_agree(ask):
    assert ask("a", "a", "a") == {0: None, 1: None, 2: None}


def test_a_rank_with_other_options(ask):
    answers = ask("a", "b")
    assert answers[0] == answers[1] and "has other options, tables, versions or another GPU" in answers[0]


def test_a_rank_without_the_plugin(ask):
    assert ask("a", "a", None) == dict.fromkeys((0, 1), "rank 2 said nothing in 0.5 s; is the plug-in on there?")


def test_a_rank_that_comes_late_does_as_the_others_do(ask):
    answers = ask("a", ("a", 1.5))
    assert answers[0] == answers[1] == "rank 1 said nothing in 0.5 s; is the plug-in on there?"


def test_one_rank_has_nobody_to_ask():
    assert find_disagreement(SimpleNamespace(world_size=1), "a") is None


def test_the_store_of_a_group_keeps_the_first_verdict():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        store = compat.get_process_group_store(torch.distributed.new_group([0], backend="gloo"))
        assert [store.compare_set("verdict", "", each) for each in ("agreed", "not")] == [b"agreed"] * 2
    finally:
        torch.distributed.destroy_process_group()
