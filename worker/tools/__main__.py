"""`python -m worker.tools`: which tools each agent's model sees at each stage, and how many tokens they cost.

    python -m worker.tools [--agent NAME] [--model NAME] [--json]

Settings come from the environment, as for the pool. Files of TOOLS_DIR are loaded, and broken ones reported, as at its start.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from shared import logs, settings
from shared.agents import STAGES
from shared.agents_file import load_agents
from shared.errors import OffhookError, SettingsError
from shared.processes import Process
from shared.settings import Settings
from worker.tools import tokens
from worker.tools.builtin import BUILT_IN
from worker.tools.custom_folder import load_custom
from worker.tools.tokens import Cost, Vocabulary

NOTE = "counted over the JSON of the request; the vendor's own form of it differs slightly"


def report(configured: Settings, model: str, only: str) -> dict[str, Any]:
    """Count for every agent, or one.

    Raises:
        SettingsError: the agents file or the folder of tools is wrong, or there is no such agent.
    """
    agents = load_agents(configured.agents_file, prompts=False).all
    if only and only not in {agent.name for agent in agents}:
        raise SettingsError(f"--agent: there is no agent {only}, only {', '.join(agent.name for agent in agents)}")
    with contextlib.redirect_stdout(sys.stderr):  # what the files print
        custom = load_custom(configured)
    vocabulary = Vocabulary.of(model)
    tools = tokens.there([*BUILT_IN.values(), *custom.tools], configured)
    costs = [tokens.cost(tools, agent, vocabulary) for agent in agents if only in {"", agent.name}]
    return {
        "model": model,
        "vocabulary": vocabulary.name,
        "model_known": vocabulary.known,
        "note": NOTE,
        "agents": [_agent(cost) for cost in costs],
        "left_out": [str(trouble) for trouble in custom.troubles],
    }


def _agent(cost: Cost) -> dict[str, Any]:
    listed = {tool.name: tool for stage in STAGES for tool in cost.seen[stage]}
    return {
        "name": cost.agent.name,
        "begins_with": cost.agent.stage,
        "tools": [{"name": name, "stage": tool.stage, "tokens": cost.tools[name]} for name, tool in listed.items()],
        "stages": {
            stage: {"tokens": cost.stages[stage], "tools": [tool.name for tool in cost.seen[stage]]} for stage in STAGES
        },
        "mcp_not_counted": list(cost.agent.mcp),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Write a report for people."""
    guessed = "" if found["model_known"] else ", guessed: the model is not known"
    yield f"{found['model']} ({found['vocabulary']}{guessed}); {found['note']}"
    for agent in found["agents"]:
        yield ""
        yield f"{agent['name']}: begins with {agent['begins_with']}"
        width = max((len(tool["name"]) for tool in agent["tools"]), default=0)
        for tool in agent["tools"]:
            yield f"  {tool['name']:{width}}  {tool['stage']:9}  {tool['tokens']:5} tokens"
        for stage, seen in agent["stages"].items():
            yield f"  {stage:{width}}  {len(seen['tools']):2} tools   {seen['tokens']:5} tokens"
        if agent["mcp_not_counted"]:
            yield f"  and the tools of these MCP servers, which are not counted: {', '.join(agent['mcp_not_counted'])}"
    if found["left_out"]:
        yield ""
        yield from (f"left out: {trouble}" for trouble in found["left_out"])


def main(arguments: list[str] | None = None) -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(prog="python -m worker.tools", description="The tools, and what they cost.")
    parser.add_argument("--agent", default="", help="only this one of AGENTS_FILE")
    parser.add_argument("--model", default="", help="another model than OPENAI_MODEL")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    logs.configure("CRITICAL")  # broken files are part of the report
    try:
        configured = settings.load(Process.MCP_SERVER)
        found = report(configured, options.model or configured.openai_model, options.agent)
    except OffhookError as error:
        settings.refuse(error)
    written = json.dumps(found, indent=2, ensure_ascii=False) if options.json else "\n".join(lines(found))
    sys.stdout.write(written + "\n")


if __name__ == "__main__":
    main()
