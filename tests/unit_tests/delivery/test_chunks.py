"""The text of a streamed answer: what is lost, late, repeated or too much never reaches the reader as nonsense."""

from __future__ import annotations

import random

import pytest

from chatixia_langchain.delivery.chunks import MAX_CHARS, MAX_CHUNK_CHARS, Assembly, Piece, Writer


def read(text: Assembly) -> list[tuple[int, str]]:
    """Everything that can be read now."""
    taken = []
    while text.out:
        piece = text.out.take()
        taken.append((piece.step, piece.text))
    return taken


def pieces(writer: Writer, max_chars: int = MAX_CHUNK_CHARS) -> list[Piece]:
    """Everything that waits to be sent."""
    taken = []
    while writer.waiting:
        taken.append(writer.waiting.take(max_chars))
    return taken


def test_chunks_that_continue_each_other_are_given_out_and_the_reply_adds_the_rest() -> None:
    text = Assembly()
    assert text.add(Piece(0, 0, "he"))
    assert read(text) == [(0, "he")]
    assert text.add(Piece(0, 2, "llo"))
    text.finish("hello world")
    assert read(text) == [(0, "llo world")]


def test_after_a_gap_nothing_of_the_step_until_the_reply() -> None:
    text = Assembly()
    text.add(Piece(0, 0, "one "))
    assert not text.add(Piece(0, 8, "three "))
    assert not text.add(Piece(0, 4, "two "))  # late: whoever sent it did not wait for it either
    assert read(text) == [(0, "one ")]
    text.finish("one two three ")
    assert read(text) == [(0, "two three ")]


def test_a_new_step_begins_anew_and_late_or_repeated_chunks_are_ignored() -> None:
    text = Assembly()
    text.add(Piece(0, 0, "let me look"))
    assert not text.add(Piece(0, 0, "let me look"))
    text.add(Piece(1, 0, "it is "))
    assert not text.add(Piece(0, 11, " further"))
    text.finish("it is 4")
    assert read(text) == [(0, "let me look"), (1, "it is 4")]


@pytest.mark.parametrize("reply", ["something else", ""])
def test_a_reply_that_does_not_begin_with_what_was_streamed_comes_whole_as_a_new_step(reply: str) -> None:
    text = Assembly()
    text.add(Piece(0, 0, "draft"))
    text.finish(reply)
    assert read(text) == [(0, "draft"), (1, reply)]


def test_a_step_whose_beginning_was_lost_is_given_whole() -> None:
    text = Assembly()
    text.add(Piece(0, 0, "thinking"))
    text.add(Piece(1, 5, "lost"))
    text.finish("found")
    assert read(text) == [(0, "thinking"), (1, "found")]


def test_without_chunks_the_reply_is_one_chunk_and_an_empty_one_is_none() -> None:
    whole, empty = Assembly(), Assembly()
    whole.finish("all")
    empty.finish("")
    assert (read(whole), read(empty)) == ([(0, "all")], [])


def test_a_slow_reader_costs_a_bounded_amount_and_still_gets_all() -> None:
    text, whole = Assembly(), "x" * (MAX_CHARS * 2)
    for at in range(0, len(whole), 1000):
        text.add(Piece(0, at, whole[at : at + 1000]))
    waiting = text.out.take()
    assert MAX_CHARS * 0.9 < len(waiting.text) <= MAX_CHARS
    assert not text.out
    reply = whole[:MAX_CHARS]  # no reply is longer
    text.finish(reply)
    assert waiting.text + "".join(t for _, t in read(text)) == reply


def test_a_peer_that_streams_without_end_is_cut_off_even_if_all_is_read() -> None:
    """The text of a step is kept to compare it with the reply, so it must be bounded."""
    text, got = Assembly(), 0
    for at in range(0, MAX_CHARS * 2, 4096):
        text.add(Piece(0, at, "x" * 4096))
        got += sum(len(t) for _, t in read(text))
    assert got == MAX_CHARS


def test_tiny_steps_are_bounded_too() -> None:
    text = Assembly()
    for step in range(100_000):
        text.add(Piece(step, 0, "x"))
    assert len(text.out) < MAX_CHARS / 64


def test_the_writer_merges_what_waits_cuts_what_is_long_and_shows_what_it_dropped() -> None:
    writer = Writer()
    for word in ("a", "b", "c"):
        writer.add(0, word)
    writer.add(1, "d")
    assert pieces(writer) == [Piece(0, 0, "abc"), Piece(1, 0, "d")]
    writer.add(1, "x" * MAX_CHARS)
    assert (pieces(writer), writer.dropped) == ([], 1)
    writer.add(1, "y" * (MAX_CHUNK_CHARS + 5))
    assert [(p.at, len(p.text)) for p in pieces(writer)] == [
        (MAX_CHARS + 1, MAX_CHUNK_CHARS),
        (MAX_CHARS + 1 + MAX_CHUNK_CHARS, 5),
    ]


def test_what_could_not_be_handed_over_goes_first_later() -> None:
    writer = Writer()
    writer.add(0, "abcdef")
    head = writer.waiting.take(2)
    writer.add(0, "gh")
    writer.waiting.put_back(head)
    assert pieces(writer) == [Piece(0, 0, "abcdefgh")]
    alone = Writer()
    alone.add(0, "ab")
    alone.waiting.put_back(alone.waiting.take())
    assert pieces(alone) == [Piece(0, 0, "ab")]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_the_wire_does_the_last_step_is_the_reply(seed: int) -> None:
    """Loss, repetition and disorder over random steps: what is read never goes back, and ends as the reply."""
    rng = random.Random(seed)
    writer, text = Writer(), Assembly()
    steps = ["".join(rng.choices("ab ", k=rng.randrange(12))) for _ in range(rng.randrange(1, 4))]
    sent = []
    for number, words in enumerate(steps):
        for letter in words:
            writer.add(number, letter)
            if rng.random() < 0.6:
                sent += pieces(writer, rng.randrange(1, 4))
    sent += pieces(writer)
    wire = [p for p in sent for _ in range(rng.choice([0, 1, 1, 1, 2]))]
    if rng.random() < 0.3:
        rng.shuffle(wire)
    got: dict[int, str] = {}
    for piece in wire:
        if text.add(piece) and rng.random() < 0.7:
            for step, words in read(text):
                got[step] = got.get(step, "") + words
    text.finish(steps[-1])
    for step, words in read(text):
        got[step] = got.get(step, "") + words
    assert list(got) == sorted(got)
    assert got.get(max(got, default=0), "") == steps[-1]
    assert all(steps[step].startswith(words) for step, words in got.items() if step < max(got))
