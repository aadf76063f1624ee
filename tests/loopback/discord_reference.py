"""discord.py as a program: connects to the Discord at the given URLs, says what it sees, and answers what it hears.

python discord_reference.py http://.../api/v10 ws://.../gateway TOKEN
"""

from __future__ import annotations

import sys
from typing import Any

import discord
import discord.gateway
import yarl


class Reference(discord.Client):
    async def on_ready(self) -> None:
        tell("ready")

    async def on_resumed(self) -> None:
        tell("resumed")

    async def on_message(self, message: Any) -> None:
        if message.author == self.user:
            return
        tell(f"heard {message.content}")
        async with message.channel.typing():
            await message.reply(f"echo {message.content}", allowed_mentions=discord.AllowedMentions.none())


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(api: str, gateway: str, token: str) -> None:
    discord.http.Route.BASE = api
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway)
    intents = discord.Intents.default()
    intents.message_content = True
    try:
        Reference(intents=intents).run(token)
    except discord.LoginFailure:
        tell("login refused")
    except discord.PrivilegedIntentsRequired:
        tell("intents refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
