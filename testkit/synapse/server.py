"""Runs one Synapse whose names come from a file, and which cannot outlive its parent.

Arguments: the parent's process id, the file of names (see `homeserver.py`), Synapse's own. No code
of Synapse is changed, and what it does with an address is its own affair: well-known, SRV before
8448, certificates. Names that the file lacks do not exist, so nothing leaves the machine.
"""

import ctypes
import json
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")

NAMES = json.loads(Path(sys.argv[2]).read_text())
TTL_S = 3600


def text(name):
    return name.decode() if isinstance(name, bytes) else name


real_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    """Asks the system about addresses only, which it answers from the text itself."""
    host = NAMES["hosts"].get(text(host), host)
    return real_getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)


real_connect = sqlite3.connect


def connect(*args, **kwargs):
    """What is written need not outlive the machine, only the process: nobody waits for a disk."""
    connection = real_connect(*args, **kwargs)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


# Before anything imports them by name.
socket.getaddrinfo = getaddrinfo
sqlite3.connect = connect

from twisted.internet import defer
from twisted.names import client, dns, error


def lookup_service(name, timeout=None):
    found = NAMES["services"].get(text(name))
    if not found:
        return defer.fail(error.DNSNameError())
    record = dns.Record_SRV(0, 0, found["port"], found["target"], TTL_S)
    return defer.succeed(([dns.RRHeader(name, dns.SRV, ttl=TTL_S, payload=record)], [], []))


client.lookupService = lookup_service

sys.argv[1:] = sys.argv[3:]
from synapse.app.homeserver import main

main()
