"""The tools over the Model Context Protocol, on standard input and output; everything else that is printed goes to standard error."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from sclm.agent.calling import call
from sclm.agent.schemas import tools

_BEAT = 5.0  # seconds between two signs of life of a long call
_INSTRUCTIONS = (
    "Tools for single cells on files (.h5ad, .zarr, .h5mu). Call check first: it says what a file holds, what is wrong and which arguments and "
    "models fit. Inputs are never changed; each call writes a new file and says in short what is in it. Use read for tables. Results carry "
    "confidences, nulls and warnings: report them. Nothing here is for clinical use."
)


def serve() -> None:
    """Serve until standard input ends.

    Raises
    ------
    ImportError
        If the package ``mcp`` is not installed.
    """
    try:
        import anyio
        import mcp.server.stdio
    except ImportError as error:
        raise ImportError("serving agents needs the package mcp, which is missing: pip install 'sclm[mcp]'") from error

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("sclm")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    async def main() -> None:
        server = _server()
        # The transport takes descriptor 1 for the protocol and turns what libraries print there to standard error.
        async with mcp.server.stdio.stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(main)


def _server() -> Any:
    import anyio
    import anyio.to_thread
    import mcp_types as types
    from mcp.server import Server

    from sclm import __version__

    one_at_a_time = anyio.CapacityLimiter(1)  # calls share the threads of torch and numba

    async def on_list_tools(ctx: Any, params: Any) -> Any:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool["name"],
                    description=tool["description"],
                    input_schema=tool["input_schema"],
                    output_schema=tool["output_schema"],
                )
                for tool in tools()
            ]
        )

    async def on_call_tool(ctx: Any, params: Any) -> Any:
        async with anyio.create_task_group() as group:
            group.start_soon(_beat, ctx)
            answer = await anyio.to_thread.run_sync(call, params.name, params.arguments, limiter=one_at_a_time)
            group.cancel_scope.cancel()
        text = types.TextContent(type="text", text=json.dumps(answer, ensure_ascii=False))
        return types.CallToolResult(content=[text], structured_content=answer, is_error=not answer["ok"])

    return Server(
        "sclm", version=__version__, instructions=_INSTRUCTIONS, on_list_tools=on_list_tools, on_call_tool=on_call_tool
    )


async def _beat(ctx: Any) -> None:
    """Tell a client that asked for progress that the call still runs, so that it does not give up."""
    import anyio

    seconds = 0.0
    while True:
        await anyio.sleep(_BEAT)
        seconds += _BEAT
        await ctx.session.report_progress(seconds, None, f"running for {seconds:.0f} s")
