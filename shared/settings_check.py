"""The settings of all processes at once, for what starts or looks at an installation as a whole."""

from shared.errors import SettingsError
from shared.processes import Process
from shared.settings import load


def problems() -> list[str]:
    """Check the settings as each kind of process would at its start; one line per problem, each once."""
    found: list[str] = []
    for process in Process:
        try:
            load(process)
        except SettingsError as error:
            found += str(error).splitlines()
    return list(dict.fromkeys(found))
