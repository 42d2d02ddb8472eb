"""What is doubtful about agents and their tools, and in nobody's way at the start. Pure.

Tools that agents name and nobody has are reported where the tools are known, and bookings without a time zone by the pool.

The tool may be a custom one whose file is broken at the moment, and then the agent does without it as every other does. A
change that makes a name wrong is refused by the pool, like one that breaks a file of tools.
"""

import difflib
from collections.abc import Collection, Iterable
from typing import Final

from shared.agents import Agent
from shared.messages import Problem
from worker.tools.registry import of_server

BOOKING: Final = frozenset({"list_free_slots", "book_appointment", "reschedule_appointment"})
"""Tools that are useless where nobody knows what time it is at the business, and when it is open."""


def missing(agents: Iterable[Agent], names: Collection[str]) -> tuple[Problem, ...]:
    """Say of each agent which of its tools there are not.

    What begins like a tool of one of its MCP servers is not judged: those are known when the servers are connected.
    """
    problems: list[Problem] = []
    for agent in agents:
        for name in agent.tools:
            if name not in names and not any(of_server(name, server) for server in agent.mcp):
                close = difflib.get_close_matches(name, names, n=1)
                words = f"agent {agent.name}: tools: there is no {name}" + (f"; {close[0]}?" if close else "")
                problems.append(Problem(resource="agents", detail=words))
    return tuple(problems)


def unplaced(agents: Iterable[Agent]) -> tuple[Problem, ...]:
    """Say of each agent that books for a business of which nobody said where it is: its appointments are in UTC."""
    usual = Agent().timezone
    problems: list[Problem] = []
    for agent in agents:
        if agent.timezone == usual and (not agent.tools or BOOKING & set(agent.tools)):
            hours = "" if agent.hours else " and at any hour of day and night"
            words = f"agent {agent.name}: timezone: there is none, so it books in UTC{hours}; if UTC is meant, write Etc/UTC"
            problems.append(Problem(resource="agents", detail=words))
    return tuple(problems)
