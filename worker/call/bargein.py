"""How a caller interrupts: what a voice over the agent's is taken for, from its length and its words. Pure.

A voice makes the agent halt at once, and nothing of its answer is lost by that. What follows decides: words, or a voice that
goes on for longer than a backchannel, begin the caller's turn; "uh-huh", a cough or noise let the agent proceed where the
caller stopped hearing it. Over an agent whose `min_words` is not 0 nobody makes it halt: it speaks on until the words are
there; so does one that halted for nothing too often. Audible is what the carrier plays, not what the pipeline believes.

Moments are seconds of one clock. `left_s` is how long the agent can still be heard if nobody stops it: 0 when it is silent,
infinite while there is more to say.
"""

import math
from enum import StrEnum
from typing import Final

from shared.turns import Turns
from worker.call.backchannels import Backchannels, spoken

LONGEST_S: Final = 0.8
"""How long a backchannel lasts at most, counted from when the voice was noticed; recorded ones are over after 0.6 s."""

LONGEST_ACKNOWLEDGED_S: Final = 1.6
"""The same when its words so far are only backchannels: "yeah, okay, right"."""

LONGEST_OVER_S: Final = 3.0
"""How long somebody may speak over an agent that waits for words: they win then, whatever the ear makes of it."""

WORDS_S: Final = 1.5
"""How long after the voice the ear is waited for; a final transcript takes 0.1 to 0.5 s. What comes later can still interrupt."""

CLOSING_S: Final = 0.7
"""Who speaks into the last moments of an answer answers it: a "yes" is an answer then, and no backchannel."""


MOST_FOR_NOTHING: Final = 3
"""How often the agent halts in a row for a voice without words: a noisy place, or its own echo, would make it stammer."""


class Verdict(StrEnum):
    """What is to be done."""

    NOTHING = "nothing"
    HALT = "halt"  # the agent is silent until it is known what this is
    PROCEED = "proceed"  # it was nothing: the agent goes on, and what was recognised is forgotten
    IGNORE = "ignore"  # it was nothing, and the agent has never ceased to speak
    BEGIN = "begin"  # the caller's turn begins, and interrupts whatever the agent does


class State(StrEnum):
    """Where a voice stands towards the agent."""

    FREE = "free"  # is when nobody speaks over the agent
    HALTED = "halted"  # is when the agent is silent because of a voice
    OVER = "over"  # is when somebody speaks over an agent that waits for words
    TURN = "turn"  # is when the caller's turn has begun


class BargeIn:
    """The rules for one call. `began` and `ended` tell it of turns, whoever began or ended them."""

    def __init__(self, turns: Turns | None = None, language: str = "en") -> None:
        self.use(turns or Turns(), language)
        self.state = State.FREE
        self._speaking = False
        self._closing = False
        self._for_nothing = 0
        self._answered = False  # the ear has given its words before the voice was found to be over
        self._voiced_s = 0.0  # of stretches that are over
        self._since = 0.0  # when the stretch under way began, or the silence after the last one
        self._said = ""
        self._saying = ""

    def use(self, turns: Turns, language: str) -> None:
        """Take the ways of an agent."""
        self._needed = max(1, turns.min_words)
        self._halts = turns.min_words == 0
        self._backchannels = Backchannels(language, turns.backchannels)

    @property
    def said(self) -> str:
        """What was recognised of the voice over the agent."""
        return f"{self._said} {self._saying}".strip()

    @property
    def deadline(self) -> float:
        """When `passed` is to be asked if nothing happens before; infinite when never."""
        if self.state in {State.FREE, State.TURN}:
            return math.inf
        return self._since + (self._limit_s - self._voiced_s if self._speaking else WORDS_S)

    def began(self) -> None:
        """Note that the caller's turn has begun."""
        self.state = State.TURN
        self._for_nothing = 0

    def ended(self) -> None:
        """Note that the caller's turn has ended, or that what was said over the agent is dealt with."""
        self.state = State.FREE
        self._said = self._saying = ""

    def voice_began(self, now: float, left_s: float, *, asked: bool = False) -> Verdict:
        """Take the beginning of a voice; `asked`: over words that only want a sign of life, so that any word is one."""
        if self.state is State.TURN:
            return Verdict.NOTHING
        if self.state is not State.HALTED and left_s <= 0:
            return Verdict.BEGIN
        if self.state is State.FREE:
            self._voiced_s, self._said, self._saying, self._answered = 0.0, "", "", False
            self._closing = asked or left_s <= CLOSING_S
            halts = self._halts and self._for_nothing < MOST_FOR_NOTHING
            self.state = State.HALTED if halts else State.OVER
            self._speaking, self._since = True, now
            return Verdict.HALT if halts else Verdict.NOTHING
        self._speaking, self._since, self._answered = True, now, False
        return Verdict.NOTHING

    def voice_goes_on(self) -> None:
        """Take that the voice was not over when the ear gave its words: there will be more."""
        self._answered = False

    def voice_ended(self, now: float, left_s: float) -> Verdict:
        """Take the end of a voice."""
        if self.state in {State.TURN, State.FREE}:
            return Verdict.NOTHING
        if self._speaking:
            self._voiced_s += now - self._since
            self._speaking, self._since = False, now
        return self._over(left_s) if self._answered else self._unless_silent(left_s, Verdict.NOTHING)

    def words(self, text: str, *, final: bool, left_s: float) -> Verdict:
        """Take what was recognised: a final piece, or everything since the last final one."""
        if self.state is State.TURN or not spoken(text):
            return Verdict.NOTHING
        self._said, self._saying = (f"{self._said} {text}", "") if final else (self._said, text)
        answers = self.state is not State.FREE and self._closing
        if answers or self._backchannels.other_words(self.said) >= self._needed:
            return Verdict.BEGIN
        if self.state is State.FREE and left_s > 0:  # late, or too low for the voice detector
            return Verdict.IGNORE if final and self._halts else Verdict.NOTHING
        return self._unless_silent(left_s, Verdict.NOTHING)

    def no_more_words(self, left_s: float) -> Verdict:
        """Take that everything that was said is recognised; it may be known of a voice before it is found to be over."""
        if self.state is State.TURN:
            return Verdict.NOTHING
        if self.state is State.FREE:
            passed = bool(self._said) and left_s > 0
            return Verdict.IGNORE if passed else Verdict.NOTHING
        if self._speaking:
            self._answered = True
            return Verdict.NOTHING
        return self._over(left_s)

    def passed(self, now: float, left_s: float) -> Verdict:
        """Take that time has passed."""
        if now < self.deadline:
            return Verdict.NOTHING
        return Verdict.BEGIN if self._speaking else self._over(left_s)

    @property
    def _limit_s(self) -> float:
        if self.state is State.OVER:
            return LONGEST_OVER_S
        return LONGEST_ACKNOWLEDGED_S if self.said else LONGEST_S

    def _over(self, left_s: float) -> Verdict:
        if self.state is State.HALTED:
            self._for_nothing = 0 if self.said else self._for_nothing + 1
            return Verdict.PROCEED
        return self._unless_silent(left_s, Verdict.IGNORE)

    def _unless_silent(self, left_s: float, otherwise: Verdict) -> Verdict:
        """Say that the caller's turn begins when the agent has fallen silent by itself, and they said something."""
        ours = self.state is State.HALTED or left_s > 0
        nothing_said = self.state is State.OVER and not self._speaking and not self.said
        return otherwise if ours or nothing_said else Verdict.BEGIN
