"""The evaluation of turn taking, on a few of its scripts: what it must find whatever the settings are."""

import audioop
import time

import numpy as np

from tests.bench.turns import HARD, ROOMS, measure, table
from tests.bench.turns_scripts import AUDIBLE, LEAD_S, scripts


def test_scripts_say_where_their_words_and_sounds_are() -> None:
    made = scripts()
    assert {script.kind for script in made} == {"question", "pause", "answer", "interruption", "backchannel", "noise"}
    assert len({(script.kind, script.name) for script in made}) == len(made)
    for script in made:
        ends = [word.end_s for word in script.words]
        assert ends == sorted(ends)
        assert LEAD_S <= script.begin_s < script.end_s
        assert bool(ends) is (script.kind != "noise")
        heard = np.frombuffer(audioop.ulaw2lin(script.ulaw, 2), "<i2")
        assert np.abs(heard.astype(int)).max() > AUDIBLE * 1000, script.name


async def test_an_agent_that_halts_loses_fewer_answers_and_no_barge_in() -> None:
    found = await measure([HARD, "defaults"], every=20)
    lost = {
        name: sum(each.began_at is not None for each in scores.of("backchannel", "noise", over_agent=True))
        for name, scores in found.items()
    }
    assert lost["defaults"] < lost[HARD]
    for scores in found.values():
        assert all(each.began_at is not None for each in scores.of("interruption", over_agent=True))
    assert len(table(found).splitlines()) == 3
    assert all(room.time is time for room in ROOMS), "their clocks run again"
