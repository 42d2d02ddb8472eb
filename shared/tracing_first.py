"""What each of our processes imports first of all, since it cannot know its settings before: see `tracing_off`.

It calls `over` as soon as it has imported the rest.
"""

from shared.tracing_off import hide, over

__all__ = ["over"]

hide()
