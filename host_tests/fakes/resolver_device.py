"""The resolver on real sockets; on both interpreters.

As a program: resolver_device.py PORT NAME..., asks 127.0.0.1:PORT and prints one line of JSON: for
each name its address, or why there is none.
"""

import asyncio
import json
import sys

from evmeter.uplink.resolver import ResolveError, Resolver


async def look_up(port, names):
    """Each name's address or the error's text."""
    resolver = Resolver(lambda: ("127.0.0.1",), port=port)
    found = []
    for name in names:
        try:
            found.append(await resolver(name))
        except ResolveError as error:
            found.append(str(error))
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(look_up(int(sys.argv[1]), sys.argv[2:]))))
