"""The play-out clock: what is still to be played, and what was heard, by a clock that a test moves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.fakes import HandClock
from worker.call.playout import RATE, Cuts, Mark, Playout, SpokenSentences


def test_audio_plays_from_the_moment_it_was_written() -> None:
    clock, playout = HandClock(), Playout()
    assert playout.lead(clock()) == 0
    playout.sent(RATE, clock())
    assert playout.lead(clock()) == pytest.approx(1.0)
    clock.advance(0.4)
    assert playout.lead(clock()) == pytest.approx(0.6)
    clock.advance(5)
    assert playout.lead(clock()) == 0


def test_audio_written_while_other_plays_queues_behind_it() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(4000, clock())
    clock.advance(0.25)
    playout.sent(4000, clock())
    assert playout.lead(clock()) == pytest.approx(0.75)
    assert playout.sent_bytes == 8000


def test_silence_between_is_not_made_up_for() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(160, clock())
    clock.advance(60)
    playout.sent(160, clock())
    assert playout.lead(clock()) == pytest.approx(0.02)


def test_a_clear_leaves_nothing_to_play_and_says_whether_there_was_something() -> None:
    clock, playout = HandClock(), Playout()
    assert not playout.clear(clock())
    playout.sent(RATE, clock())
    assert playout.clear(clock())
    assert playout.lead(clock()) == 0
    assert not playout.clear(clock())
    playout.mark("")
    assert playout.clear(clock())


def test_after_a_clear_new_audio_plays_at_once() -> None:
    clock, playout = HandClock(), Playout()
    playout.sent(10 * RATE, clock())
    clock.advance(1)
    playout.clear(clock())
    playout.sent(RATE, clock())
    assert playout.lead(clock()) == pytest.approx(1.0)


def test_a_mark_that_comes_back_proves_its_text_heard_once() -> None:
    playout = Playout()
    name = playout.mark("Hello.")
    assert playout.echoed(name) == "Hello."
    assert playout.echoed(name) is None


def test_a_mark_without_text_is_still_an_answer() -> None:
    playout = Playout()
    assert playout.echoed(playout.mark("")) == ""


def test_a_later_mark_proves_the_earlier_ones() -> None:
    playout = Playout()
    first, _, third, fourth = (playout.mark(text) for text in ("One.", "", "Three.", "Four."))
    assert playout.echoed(third) == "One. Three."
    assert playout.echoed(first) is None
    assert playout.echoed(fourth) == "Four."


def test_a_cleared_mark_proves_nothing_and_a_new_one_does() -> None:
    playout = Playout()
    cleared = playout.mark("You never heard this.")
    playout.clear(0)
    fresh = playout.mark("But this.")
    assert playout.echoed(cleared) is None
    assert playout.echoed(fresh) == "But this."


def test_names_carry_the_generation_of_the_worker_and_never_repeat() -> None:
    playout = Playout()
    names = [playout.mark("") for _ in range(3)]
    playout.clear(0)
    names += [playout.mark("") for _ in range(3)]
    assert names == [f"0:{number}" for number in range(1, 7)]
    assert Playout(resume=2).mark("") == "2:1"


def test_marks_of_a_predecessor_that_come_back_prove_what_it_said() -> None:
    playout = Playout(1, [Mark("0:3", "Gladly."), Mark("0:4", "For how many?")])
    own = playout.mark("And when?")
    assert own == "1:1"
    assert playout.echoed("0:3") == "Gladly."
    assert playout.echoed("0:3") is None
    assert playout.echoed(own) == "For how many? And when?"


def test_a_clear_also_takes_back_what_a_predecessor_sent() -> None:
    playout = Playout(1, [Mark("0:3", "Gladly.")])
    assert playout.clear(0.0)
    assert playout.echoed("0:3") is None
    assert playout.knows("0:3")


def test_marks_of_this_call_are_known_also_those_of_a_former_worker() -> None:
    playout = Playout(resume=1)
    name = playout.mark("")
    assert playout.knows(name)
    assert playout.knows("0:40")
    playout.clear(0)
    assert playout.knows(name)


@pytest.mark.parametrize(
    "name",
    [
        *["", ":", "0", "0:", ":1", "0:0", "0:1:1", "0:2", "1:1", "-1:1", "0:-1", "0:x", "x:1", "0:¹", "²:1"],
        " 0:1",
        "0:" + "9" * 5000,
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    playout = Playout()
    playout.mark("")
    assert not playout.knows(name)
    assert playout.echoed(name) is None


@settings(deadline=None)
@given(st.text())
def test_no_name_raises(name: str) -> None:
    playout = Playout(resume=1)
    playout.mark("")
    playout.knows(name)
    playout.echoed(name)


class Carrier(RuleBasedStateMachine):
    """A carrier that plays what it is sent, echoes marks when they are due, and all of them at a clear."""

    under_way = Bundle("under_way")

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.playout = Playout()
        self.buffer: list[float] = []  # seconds of audio each, in order
        self.played_s = self.dropped_s = 0.0
        self.alive: list[tuple[str, str]] = []
        self.heard: list[str] = []
        self.written = 0

    @rule(count=st.integers(1, 20_000))
    def write(self, count: int) -> None:
        """Send audio."""
        self.playout.sent(count, self.clock())
        self.buffer.append(count / RATE)
        self.written += count

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        """Let the carrier play."""
        self.clock.advance(seconds)
        while self.buffer and seconds > 0:
            played = min(self.buffer[0], seconds)
            seconds -= played
            self.played_s += played
            self.buffer[0] -= played
            if self.buffer[0] <= 0:
                self.buffer.pop(0)

    @rule(target=under_way)
    def mark(self) -> tuple[str, str]:
        """Send a mark with a text of its own."""
        text = f"text-{len(self.heard)}-{self.clock()}-{self.playout._count}"
        sent = (self.playout.mark(text), text)
        self.alive.append(sent)
        return sent

    @rule()
    def clear(self) -> None:
        """Take back what was not played."""
        self.playout.clear(self.clock())
        self.dropped_s += sum(self.buffer)
        self.buffer.clear()
        self.alive.clear()

    @rule(mark=consumes(under_way))
    def echo(self, mark: tuple[str, str]) -> None:
        """Send a mark back, cleared or not: it is heard only when it was not cleared."""
        heard = self.playout.echoed(mark[0])
        if mark not in self.alive:
            assert heard is None
            return
        through = self.alive.index(mark) + 1
        assert heard == " ".join(text for _, text in self.alive[:through])
        self.heard += [text for _, text in self.alive[:through]]
        del self.alive[:through]

    @invariant()
    def lead_is_what_the_carrier_holds(self) -> None:
        """The lead is never negative, and is what the carrier has still to play."""
        lead = self.playout.lead(self.clock())
        assert lead >= 0
        assert lead == pytest.approx(sum(self.buffer), abs=1e-6)

    @invariant()
    def nothing_gets_lost(self) -> None:
        """Played, dropped and waiting together are what was sent."""
        total = self.played_s + self.dropped_s + sum(self.buffer)
        assert total == pytest.approx(self.playout.sent_bytes / RATE, abs=1e-6)
        assert self.playout.sent_bytes == self.written

    @invariant()
    def nothing_is_heard_twice(self) -> None:
        """A text is heard at most once."""
        assert len(self.heard) == len(set(self.heard))


TestAgainstACarrier = Carrier.TestCase
TestAgainstACarrier.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- sentences --------------------------------------------------------------------------------------------------------


def spoken(*words: tuple[str, float], context: str = "c1") -> SpokenSentences:
    """Give the sentences of one context under way."""
    sentences = SpokenSentences()
    for text, start_s in words:
        sentences.word(context, text, start_s)
    sentences.begin(context)
    return sentences


def test_a_sentence_is_complete_when_the_next_one_begins_to_sound() -> None:
    sentences = spoken(("Good", 0.0), ("day.", 0.4), ("How", 1.0), ("are", 1.2), ("you?", 1.4))
    sentences.wrote(0.9)
    assert sentences.complete() == []
    sentences.wrote(0.1)
    assert sentences.complete() == ["Good day."]
    assert sentences.complete() == []
    sentences.wrote(5)
    assert sentences.complete() == []
    assert sentences.rest() == "How are you?"
    assert sentences.rest() == ""


def test_several_sentences_written_at_once_are_given_one_by_one() -> None:
    sentences = spoken(("One.", 0.0), ("Two!", 0.5), ("Three?", 1.0), ("Four", 1.5))
    sentences.wrote(2)
    assert sentences.complete() == ["One.", "Two!", "Three?"]
    assert sentences.rest() == "Four"


def test_words_known_before_their_context_begins_are_kept_for_it() -> None:
    sentences = spoken(("First.", 0.0))
    sentences.word("c2", "Second.", 0.0)
    sentences.wrote(1)
    assert sentences.rest() == "First."
    sentences.begin("c2")
    assert sentences.rest() == "Second."


def test_what_was_left_of_a_former_context_is_not_said_in_the_next() -> None:
    sentences = spoken(("Cut", 0.0), ("off", 0.2))
    sentences.begin("c2")
    sentences.word("c2", "New.", 0.0)
    assert sentences.rest() == "New."


def test_an_interruption_forgets_everything() -> None:
    sentences = spoken(("One.", 0.0), ("Two.", 0.5))
    sentences.word("c2", "Three.", 0.0)
    sentences.forget()
    sentences.wrote(5)
    assert sentences.complete() == []
    assert sentences.rest() == ""
    sentences.begin("c2")
    assert sentences.rest() == ""


@pytest.mark.parametrize("word", ["end.", "end!", "end?", "end…", "end。", 'end."', "end!»", "end.’", "end.”", "end.)"])  # noqa: RUF001 - the marks of other languages are the point
def test_a_sentence_may_end_in_quotes_and_other_signs(word: str) -> None:
    sentences = spoken((word, 0.0), ("Next", 0.5))
    sentences.wrote(0.5)
    assert sentences.complete() == [word]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b.", "c?", "d,"]), st.floats(0.01, 1)), max_size=12),
    st.lists(st.floats(0, 2), max_size=12),
)
def test_every_word_is_given_once_and_in_order(words: list[tuple[str, float]], writes: list[float]) -> None:
    at = 0.0
    sentences = SpokenSentences()
    sentences.begin("c")
    for text, length in words:
        sentences.word("c", text, at)
        at += length
    given_out: list[str] = []
    for seconds in writes:
        sentences.wrote(seconds)
        given_out += sentences.complete()
    given_out.append(sentences.rest())
    assert " ".join(given_out).split() == [text for text, _ in words]


def test_sound_that_was_cut_is_left_out_wherever_the_pieces_end() -> None:
    sound = bytes(range(200)) * 16  # 0.2 s
    for size in (320, 640, 1000, len(sound)):
        cuts = Cuts()
        cuts.begin("a")
        cuts.cut("a", 0.05, 0.08)
        cuts.cut("a", 0.09, 0.1)
        kept = b"".join(cuts.keep(sound[at : at + size]) for at in range(0, len(sound), size))
        assert kept == sound[:800] + sound[1280:1440] + sound[1600:]


def test_a_cut_is_of_one_context_and_too_late_for_what_has_passed() -> None:
    cuts = Cuts()
    cuts.cut("b", 0.0, 0.01)
    cuts.begin("a")
    assert cuts.keep(bytes(320)) == bytes(320)
    cuts.cut("a", 0.01, 0.03)
    assert len(cuts.keep(bytes(320))) == 160
    cuts.begin("b")
    assert len(cuts.keep(bytes(320))) == 160
