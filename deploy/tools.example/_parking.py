"""What several tools may share: a name that begins with an underscore is no tool."""

from datetime import date

SPACES = {"Saturday": 4}
USUAL_SPACES = 12


def spaces_on(day: date) -> int:
    """Say how many cars there is room for."""
    return SPACES.get(f"{day:%A}", USUAL_SPACES)
