"""What a voice over the agent's is taken for, by moments that a test says."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.turns import Turns
from worker.call.backchannels import Backchannels
from worker.call.bargein import (
    CLOSING_S,
    LONGEST_ACKNOWLEDGED_S,
    LONGEST_OVER_S,
    LONGEST_S,
    MOST_FOR_NOTHING,
    WORDS_S,
    BargeIn,
    State,
    Verdict,
)

MORE = math.inf
NOTHING, HALT, PROCEED, IGNORE, BEGIN = Verdict


def halted(rules: BargeIn | None = None, left_s: float = MORE) -> BargeIn:
    """Have a voice over the agent."""
    made = rules or BargeIn()
    assert made.voice_began(0.0, left_s) is HALT
    return made


# --- an agent that halts ----------------------------------------------------------------------------------------------


def test_a_voice_while_the_agent_is_silent_begins_a_turn_at_once() -> None:
    rules = BargeIn()
    assert rules.voice_began(0.0, 0.0) is BEGIN
    rules.began()
    assert rules.words("Uh-huh.", final=True, left_s=0.0) is NOTHING, "it is the caller's turn"
    assert rules.voice_ended(1.0, 0.0) is NOTHING
    assert rules.no_more_words(0.0) is NOTHING
    assert rules.deadline == math.inf


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("text", ["Wait.", "uh-huh, but", "yes please"])
def test_words_that_are_no_backchannels_interrupt_as_soon_as_they_are_known(text: str, *, final: bool) -> None:
    assert halted().words(text, final=final, left_s=MORE) is BEGIN


def test_a_backchannel_lets_the_agent_go_on_when_the_ear_has_said_so() -> None:
    rules = halted()
    assert rules.words("Uh-huh", final=False, left_s=MORE) is NOTHING
    assert rules.voice_ended(0.5, MORE) is NOTHING
    assert rules.words("Uh-huh.", final=True, left_s=MORE) is NOTHING
    assert rules.no_more_words(MORE) is PROCEED
    assert rules.said == "Uh-huh."


def test_an_ear_that_is_done_before_the_voice_is_found_to_be_over_is_believed_when_it_is() -> None:
    rules = halted()
    rules.words("Yeah.", final=True, left_s=MORE)
    assert rules.no_more_words(MORE) is NOTHING
    assert rules.voice_ended(0.5, MORE) is PROCEED
    rules = halted()
    assert rules.no_more_words(MORE) is NOTHING
    rules.voice_goes_on()
    assert rules.voice_ended(0.5, MORE) is NOTHING, "there will be more"


def test_a_voice_that_is_longer_than_a_backchannel_interrupts_without_words() -> None:
    rules = halted()
    assert rules.deadline == LONGEST_S
    assert rules.passed(LONGEST_S - 0.1, MORE) is NOTHING
    assert rules.passed(LONGEST_S, MORE) is BEGIN


def test_backchannels_may_follow_one_another_for_longer() -> None:
    rules = halted()
    rules.words("yeah okay", final=False, left_s=MORE)
    assert rules.deadline == LONGEST_ACKNOWLEDGED_S
    assert rules.passed(LONGEST_S, MORE) is NOTHING
    assert rules.passed(LONGEST_ACKNOWLEDGED_S, MORE) is BEGIN


def test_pieces_of_a_voice_count_together() -> None:
    rules = halted()
    rules.voice_ended(0.3, MORE)
    assert rules.voice_began(0.5, MORE) is NOTHING
    assert rules.deadline == pytest.approx(0.5 + LONGEST_S - 0.3)


def test_noise_lets_the_agent_go_on_when_the_ear_found_no_words_or_says_nothing() -> None:
    rules = halted()
    rules.voice_ended(0.4, MORE)
    assert rules.no_more_words(MORE) is PROCEED
    rules = halted()
    rules.voice_ended(0.4, MORE)
    assert rules.deadline == 0.4 + WORDS_S
    assert rules.passed(0.4 + WORDS_S, MORE) is PROCEED


def test_words_that_come_too_late_still_interrupt_and_a_late_backchannel_does_not() -> None:
    rules = BargeIn()
    assert rules.words("Uh-huh.", final=True, left_s=MORE) is IGNORE
    rules.ended()
    assert rules.words("Stop it.", final=True, left_s=MORE) is BEGIN


def test_a_backchannel_while_the_agent_is_silent_is_an_answer() -> None:
    assert BargeIn().words("Okay.", final=True, left_s=0.0) is BEGIN


def test_who_speaks_into_the_last_moments_of_an_answer_answers_it() -> None:
    assert halted(left_s=CLOSING_S).words("Okay.", final=False, left_s=CLOSING_S) is BEGIN
    assert halted(left_s=CLOSING_S + 0.1).words("Okay.", final=False, left_s=0.0) is NOTHING
    rules = halted(left_s=0.1)
    rules.voice_ended(0.3, 0.1)
    assert rules.no_more_words(0.1) is PROCEED, "a cough is no answer"


def test_any_word_is_a_sign_of_life_for_an_agent_that_asks_for_one() -> None:
    rules = BargeIn()
    assert rules.voice_began(0.0, MORE, asked=True) is HALT
    assert rules.words("Mhm.", final=False, left_s=MORE) is BEGIN


def test_an_agent_that_halts_for_nothing_again_and_again_waits_for_words_until_somebody_speaks() -> None:
    rules = BargeIn()
    for _ in range(MOST_FOR_NOTHING):
        halted(rules).voice_ended(0.3, MORE)
        assert rules.no_more_words(MORE) is PROCEED
        rules.ended()
    assert rules.voice_began(0.0, MORE) is NOTHING
    rules.voice_ended(0.3, MORE)
    assert rules.no_more_words(MORE) is IGNORE
    rules.ended()
    assert rules.voice_began(0.0, MORE) is NOTHING
    assert rules.words("Stop.", final=False, left_s=MORE) is BEGIN
    rules.began()
    rules.ended()
    halted(rules)


# --- an agent that waits for words ------------------------------------------------------------------------------------


def over(min_words: int = 2, left_s: float = MORE) -> BargeIn:
    """Have a voice over an agent that waits for words."""
    rules = BargeIn(Turns(min_words=min_words))
    assert rules.voice_began(0.0, left_s) is NOTHING
    assert rules.state is State.OVER
    return rules


def test_so_many_words_interrupt_an_agent_that_waits_for_them() -> None:
    rules = over(3)
    assert rules.words("no that", final=False, left_s=MORE) is NOTHING
    assert rules.words("no that is", final=False, left_s=MORE) is BEGIN
    rules = over(3)
    assert rules.words("No, okay.", final=True, left_s=MORE) is NOTHING
    assert rules.words("That is wrong", final=False, left_s=MORE) is BEGIN, "those before it count"


def test_too_few_words_are_passed_over_and_forgotten() -> None:
    rules = over(2)
    rules.voice_ended(0.5, MORE)
    rules.words("Stop.", final=True, left_s=MORE)
    assert rules.no_more_words(MORE) is IGNORE
    rules.ended()
    over(2)
    assert rules.said == ""


def test_who_talks_long_enough_wins() -> None:
    rules = over()
    assert rules.passed(LONGEST_OVER_S - 0.1, MORE) is NOTHING
    assert rules.passed(LONGEST_OVER_S, MORE) is BEGIN


@pytest.mark.parametrize("event", ["voice_ended", "words", "no_more_words"])
def test_an_agent_that_has_ended_meanwhile_is_no_longer_spoken_over(event: str) -> None:
    rules = over(5)
    rules.words("Yes", final=False, left_s=MORE)
    match event:
        case "voice_ended":
            assert rules.voice_ended(0.5, 0.0) is BEGIN
        case "words":
            assert rules.words("Yes.", final=True, left_s=0.0) is BEGIN
        case _:
            rules.voice_ended(0.5, MORE)
            assert rules.no_more_words(0.0) is BEGIN


def test_noise_over_an_agent_that_has_ended_meanwhile_is_no_turn() -> None:
    rules = over()
    rules.voice_ended(0.5, MORE)
    assert rules.no_more_words(0.0) is IGNORE


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Uh-huh."), ("en", "Mm-hmmm"), ("en", "Yeah, okay. All right!"), ("en", "I see"), ("en-GB", "Hmm..."),
        ("pt-BR", "Aham, tá bom."), ("pt", "É, entendi."), ("es", "Vale, entiendo"), ("es", "Ajá"), ("de", "Ach so, genau."),
        ("fr", "Entendu."), ("fr", "Ouais, tre\u0300s bien"), ("it", "Va bene"), ("nl", "Oké"), ("ja", "Mhm"),
    ],
)  # fmt: skip
def test_backchannels_of_a_language_are_known_however_they_are_written(language: str, text: str) -> None:
    assert Backchannels(language).other_words(text) == 0


@pytest.mark.parametrize(
    ("text", "count"), [("No.", 1), ("I see a problem", 2), ("all of it", 3), ("", 0), ("…", 0), ("Yes but no", 3)]
)
def test_other_words_are_counted(text: str, count: int) -> None:
    assert Backchannels("en").other_words(text) == count


def test_an_agent_may_name_its_own() -> None:
    own = Backchannels("en", ("Roger that", "copy"))
    assert own.other_words("Copy. Roger that!") == 0
    assert own.other_words("Okay.") == 1


# --- whatever happens -------------------------------------------------------------------------------------------------

Step = tuple[str, float, float]
steps = st.lists(
    st.tuples(
        st.sampled_from(["began", "ended", "yeah", "wait", "~yeah", "~wait", "done", "on", "pass", "over"]),
        st.floats(0.0, 3.0),
        st.sampled_from([0.0, 0.3, 2.0, MORE]),
    ),
    max_size=40,
)


class Follower:
    """The pipeline as it follows the rules, and what must be so after each step."""

    def __init__(self, min_words: int) -> None:
        self.rules = BargeIn(Turns(min_words=min_words))
        self.halting = min_words == 0
        self.now = 0.0
        self.halted = False
        self.speaking = False

    def step(self, what: str, left_s: float) -> None:
        """Do one thing that can happen now; what cannot is passed over."""
        if what == "over":
            if self.rules.state is State.TURN:
                self.rules.ended()
            return
        self._follow(self._told(what, 0.0 if self.halted else left_s))
        assert self.halted is (self.rules.state is State.HALTED)
        assert (self.rules.deadline == math.inf) is (self.rules.state in {State.FREE, State.TURN}), (
            "nobody waits for ever"
        )
        assert self.rules.deadline == math.inf or self.rules.deadline <= self.now + LONGEST_OVER_S

    def _told(self, what: str, left_s: float) -> Verdict:
        rules = self.rules
        if what in {"began", "ended"}:
            if self.speaking is (what == "began"):
                return NOTHING
            self.speaking = not self.speaking
            return (rules.voice_began if self.speaking else rules.voice_ended)(self.now, left_s)
        if what == "pass":
            self.now = rules.deadline if rules.deadline < math.inf else self.now
            return rules.passed(self.now, left_s)
        if what == "done":
            return rules.no_more_words(left_s)
        if what == "on":
            rules.voice_goes_on()
            return NOTHING
        return rules.words(what.strip("~"), final="~" not in what, left_s=left_s)

    def _follow(self, verdict: Verdict) -> None:
        match verdict:
            case Verdict.HALT:
                assert self.halting
                assert not self.halted
                self.halted = True
            case Verdict.PROCEED | Verdict.IGNORE:
                assert self.halted is (verdict is PROCEED)
                assert not (self.speaking and self.halted), "nobody goes on while the caller speaks"
                self.halted = False
                self.rules.ended()
            case Verdict.BEGIN:
                assert self.rules.state is not State.TURN
                self.halted = False
                self.rules.began()
            case Verdict.NOTHING:
                pass


@settings(deadline=None)
@given(steps, st.sampled_from([0, 1, 3]))
def test_an_agent_that_halts_goes_on_or_is_interrupted_whatever_happens(taken: list[Step], min_words: int) -> None:
    follower = Follower(min_words)
    for what, seconds, left_s in taken:
        follower.now += seconds
        follower.step(what, left_s)
