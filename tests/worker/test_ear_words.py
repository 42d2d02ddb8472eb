"""Words that are on their way to the agent when the machine is busy: nothing that happens out of order costs one."""

from pipecat.frames.frames import TranscriptionFrame
from pydantic import SecretStr

from shared.settings import Settings
from worker.providers.call_ear import PCM_BYTES_PER_S as BYTES_PER_S
from worker.providers.cartesia_stt import CartesiaEar
from worker.providers.unheard import QUIET_S, Unheard

FRAME = bytes(BYTES_PER_S // 50)


async def test_an_interruption_takes_no_final_transcript_back() -> None:
    """A caller who speaks over the greeting interrupts it; a starved pipeline deals with that after the words came."""
    ear = CartesiaEar(Settings(cartesia_api_key=SecretStr("made-up"), _env_file=None))
    words = TranscriptionFrame("My favourite colour is purple.", "", "")
    assert words.interruptible
    await ear.push_frame(words)
    assert not words.interruptible


def test_what_a_predecessor_heard_is_sent_whole_before_the_voice_in_it_was_noticed() -> None:
    """It comes at once, and the detector looks at it afterwards: longer than a pause may be, its first word would be lost."""
    unheard = Unheard(BYTES_PER_S)
    frames = int(2 * QUIET_S * 50)
    for _ in range(frames):
        unheard.add(FRAME)
    sent = 0
    while (piece := unheard.next()) is not None:
        sent += len(piece)
    assert sent == frames * len(FRAME)


def test_a_pause_later_in_the_call_is_not_kept_whole() -> None:
    unheard = Unheard(BYTES_PER_S)
    unheard.end_turn()
    assert unheard.next() == "finalize"
    unheard.flushed()
    for _ in range(int(2 * QUIET_S * 50)):
        unheard.add(FRAME)
    sent = 0
    while (piece := unheard.next()) is not None:
        sent += len(piece)
    assert sent == int(QUIET_S * BYTES_PER_S)
