"""MCP's Python SDK as a client that logs in by itself. Usage, input and output are those of `client.mjs` beside this file:

    PYTHONPATH=target/peers/mcp/python python3 client.py auto '{"github": "https://gateway.example.com/github"}'

The first argument is the SDK's `mode`: `legacy` opens sessions, `auto` asks for the newest protocol first. A line of the input
after `{"done": true}` tells by how many seconds the world's clock is ahead.
"""

import asyncio
import contextlib
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

MODE, SERVERS = sys.argv[1], json.loads(sys.argv[2])
ahead = 0
real_time = time.time
time.time = lambda: real_time() + ahead


def say(step):
    print(json.dumps(step), flush=True)


async def next_line():
    return await asyncio.to_thread(sys.stdin.readline)


class Storage:
    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def redirected(url):
    say({"authorize": url})


async def came_back():
    parameters = parse_qs(urlsplit(json.loads(await next_line())).query)
    return AuthorizationCodeResult(**{name: parameters.get(name, [None])[0] for name in ("code", "state", "iss")})


async def main():
    global ahead
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for server, url in SERVERS.items():
            metadata = OAuthClientMetadata(client_name="MCP client", redirect_uris=["http://127.0.0.1/callback"])
            login = OAuthClientProvider(url, metadata, Storage(), redirected, came_back)
            # A connection that is used again may be the one that the server closes at that moment.
            limits = httpx2.Limits(max_keepalive_connections=0)
            http = await stack.enter_async_context(httpx2.AsyncClient(auth=login, timeout=30, limits=limits))
            client = Client(streamable_http_client(url, http_client=http), mode=MODE)
            clients[server] = await stack.enter_async_context(client)
        while True:
            for server, client in clients.items():
                tools = await client.list_tools()
                assert any(tool.name == "whoami" for tool in tools.tools)
                answer = await client.call_tool("whoami", {})
                say({"server": server, "answer": answer.content[0].text})
            say({"done": True})
            line = await next_line()
            if not line:
                return
            ahead = json.loads(line)


asyncio.run(main())
