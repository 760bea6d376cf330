"""Become one server: `python -m lakehouse.stack.launch NAME`, run by the supervisor.

The supervisor's configuration so holds no secret and no command line: both come from the settings at each start.
"""

import os
import sys

from lakehouse.settings import Settings, get_settings
from lakehouse.stack.server import Server, as_unprivileged
from lakehouse.stack.servers import servers

MARK = "OF_LAKEHOUSE_STACK"  # not LAKEHOUSE_…, which would be a setting
NAME_MARK = "SERVER_OF_LAKEHOUSE_STACK"
_INHERITED = ("HOME", "LANG", "TZ", "SSL_CERT_FILE", "LD_LIBRARY_PATH")


def environment(settings: Settings, server: Server) -> dict[str, str]:
    """What the server's process sees: little of ours, its own variables, and the marks of this stack."""
    base = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    marks = {MARK: str(settings.home), NAME_MARK: server.name}
    return {"PATH": os.defpath, "LANG": "C.UTF-8"} | base | dict(server.environment) | marks


def client(settings: Settings, name: str) -> tuple[list[str], dict[str, str]]:
    """The program of a server, without its arguments, and an environment for other commands of it.

    It carries no marks of this stack: what a person runs by hand is not for the stack to end.
    """
    server = servers(settings)[name]
    seen = environment(settings, server)
    return [server.command[0]], {key: value for key, value in seen.items() if key not in {MARK, NAME_MARK}}


def main(name: str) -> None:
    """Replace this process by the server `name`."""
    settings = get_settings()
    server = servers(settings)[name]
    os.chdir(server.directory or settings.home)
    command = as_unprivileged(server.command) if server.unprivileged else list(server.command)
    os.execve(command[0], command, environment(settings, server))


if __name__ == "__main__":
    main(sys.argv[1])
