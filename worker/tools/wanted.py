"""Tools that agents name and nobody has: reported where the tools are known, and in nobody's way at the start. Pure.

The tool may be a custom one whose file is broken at the moment, and then the agent does without it as every other does. A
change that makes a name wrong is refused by the pool, like one that breaks a file of tools.
"""

import difflib
from collections.abc import Collection, Iterable

from shared.agents import Agent
from shared.messages import Problem


def missing(agents: Iterable[Agent], names: Collection[str]) -> tuple[Problem, ...]:
    """Say of each agent which of its tools there are not.

    What begins like a tool of one of its MCP servers is not judged: those are known when the servers are connected.
    """
    problems: list[Problem] = []
    for agent in agents:
        servers = tuple(f"{server}_" for server in agent.mcp)
        for name in agent.tools:
            if name not in names and not name.startswith(servers):
                close = difflib.get_close_matches(name, names, n=1)
                words = f"agent {agent.name}: tools: there is no {name}" + (f"; {close[0]}?" if close else "")
                problems.append(Problem(resource="agents", detail=words))
    return tuple(problems)
