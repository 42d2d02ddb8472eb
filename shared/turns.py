"""How an agent takes turns with its caller: `[agents.<name>.turns]` of the agents file. Values; pure."""

import msgspec


class Turns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the caller is taken to speak, to have finished, and to interrupt. Times in seconds.

    `start`: how long a voice must be there until it counts as speech, and `stop` how long it must be away until it counts as
    a pause. `confidence` (0-1) is how sure the voice detector must be, `min_volume` how loud the voice (0.6: -50 LUFS, 0.9:
    -20 LUFS, as it comes over 0.4 s); it rises to that within some 0.1 s.
    `smart`: a model judges at each pause whether the caller has finished. Without it every pause is an end. `patience` is how
    long a pause that did not sound like an end must last until it is one all the same.
    `min_words`: how many words interrupt the agent while it speaks, and until then it speaks on. With 0 a voice makes it halt at
    once; one word interrupts it then, or a voice that goes on, and behind anything else it goes on where it was.
    `backchannels` are words that are no interruption ("uh-huh"); empty for the usual ones of the agent's language.
    `eager`: an answer is begun at a pause that may be the end, and thrown away when the caller goes on. Who says that is
    the model of `smart`, or an ear that ends turns itself; with neither nothing is begun.
    """

    start: float = 0.2
    stop: float = 0.16
    confidence: float = 0.7
    min_volume: float = 0.3
    smart: bool = True
    patience: float = 3.0
    min_words: int = 0
    backchannels: tuple[str, ...] = ()
    eager: bool = False
