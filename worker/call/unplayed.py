"""Sound that was written and may have to be written again, because the agent halted before it was played. Pure.

Places are bytes of 8 kHz mu-law since the beginning of the call.
"""

from collections import deque


class Unplayed:
    """The last of what was written, in pieces."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, bytes]] = deque()

    def add(self, place: int, ulaw: bytes) -> None:
        """Keep sound that begins at a place, behind everything kept before."""
        if ulaw:
            self._pieces.append((place, ulaw))

    def forget(self, before: int) -> None:
        """Let go of pieces that end before a place."""
        while self._pieces and self._pieces[0][0] + len(self._pieces[0][1]) < before:
            self._pieces.popleft()

    def clear(self) -> None:
        """Let go of everything."""
        self._pieces.clear()

    def since(self, place: int) -> list[tuple[int, bytes]]:
        """Give what is kept from a place on; the first piece may begin in the middle of one."""
        return [
            (max(begins, place), ulaw[max(0, place - begins) :])
            for begins, ulaw in self._pieces
            if begins + len(ulaw) > place
        ]
