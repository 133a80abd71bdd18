"""The lab of Synapses: see the README beside."""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from pathlib import Path

import homeserver
from homeserver import Homeserver, Place
from seed import Seeder, describe
from tls import Authority

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gannet-test" / "synapse"
# What a snapshot depends on.
MAKERS = ["lab.py", "homeserver.py", "server.py", "client.py", "seed.py", "tls.py"]
MAKERS.append("../requirements-synapse.txt")
# A name that the servers find, where nobody is: for a test that wants to be a server of its own.
GUEST, GUEST_NUMBER = "guest", 100
KEPT = ["ca.crt", "ca.key", "seeded.json"]
KEPT += ["homeserver.db", "signing.key", "old_keys.json", "tls.crt", "tls.key"]


def digest():
    hashed = hashlib.sha256()
    for name in MAKERS:
        hashed.update((HERE / name).read_bytes())
    return hashed.hexdigest()


def free(places):
    """Whether nobody listens at these places."""
    try:
        for place in places:
            for port in [place.port, homeserver.CLIENT_PORT]:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((place.address, port))
    except OSError:
        return False
    return True


def places_for(options):
    """Where the servers will be, and the guest. Named ones are somewhere else each time, so any
    number of labs run side by side; those that are called by their addresses stay where they are.
    """
    for _ in range(100):
        draw = random.Random(options.servers) if options.names == "ip" else random
        net = f"127.{draw.randint(64, 127)}.{draw.randint(0, 255)}"
        places = [
            Place(f"hs{number}", number, net, options.names)
            for number in range(1, options.servers + 1)
        ]
        places.append(Place(GUEST, GUEST_NUMBER, net, options.names))
        if free(places):
            return places[:-1], places[-1]
    sys.exit(f"no free addresses; the last tried: {net}")


@contextlib.contextmanager
def locked(path):
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy(source, target, names):
    for file in source.rglob("*"):
        if file.name in names:
            to = target / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, to)


class Lab:
    """Running servers, in a directory."""

    def __init__(self, dir, places, guest, federation_limits):
        self.dir, self.places, self.guest = dir, places, guest
        names = homeserver.names_of([*places, guest])
        (dir / "names.json").write_text(json.dumps(names, indent=1))
        self.names = names
        self.servers = {place.label: Homeserver(place, dir, federation_limits) for place in places}

    def start(self):
        for server in self.servers.values():
            server.start()
        for server in self.servers.values():
            server.until_ready()

    def stop(self, number=signal.SIGTERM):
        # All at once, then each to its end.
        for server in self.servers.values():
            server.kill(number)
        for server in self.servers.values():
            server.stop(number)

    def control(self, line):
        """Does what a line on standard input says; returns what to print."""
        action, _, label = line.strip().partition(" ")
        server = self.servers.get(label)
        if not server or action not in ("start", "stop", "kill", "restart", "freeze", "thaw"):
            return {"error": f"not understood: {line.strip()}"}
        if action in ("stop", "restart"):
            server.stop()
        elif action == "kill":
            server.stop(signal.SIGKILL)
        elif action == "freeze":
            server.kill(signal.SIGSTOP)
        elif action == "thaw":
            server.kill(signal.SIGCONT)
        if action in ("start", "restart"):
            server.stop()
            server.start()
            server.until_ready()
        return {"done": action, "server": label, "pid": server.process.pid}

    def describe(self, seeded):
        """All that tests need, beside what was seeded."""

        def identity(place):
            key = self.dir / place.label / "signing.key"
            signing = homeserver.read_signing_key(key)
            old = self.dir / place.label / "old_keys.json"
            return {
                "label": place.label,
                "name": place.name,
                "host": place.host,
                "address": f"{place.address}:{place.port}",
                "signing_key": str(key),
                "key_id": f"{signing.alg}:{signing.version}",
                "verify_key": homeserver.verify_key(key),
                "old_verify_keys": json.loads(old.read_text()) if old.exists() else {},
                "tls_certificate": str(self.dir / place.label / "tls.crt"),
                "tls_key": str(self.dir / place.label / "tls.key"),
            }

        servers = []
        for place in self.places:
            server = self.servers[place.label]
            users = seeded["users"][place.label]
            servers.append(identity(place) | {
                "client_api": place.client_api,
                "pid": server.process.pid,
                "log": str(server.dir / "synapse.log"),
                "users": users,
            })
        return {
            "dir": str(self.dir),
            "ca": str(self.dir / "ca.crt"),
            "ca_key": str(self.dir / "ca.key"),
            "servers": servers,
            "guest": identity(self.guest),
            "dns": self.names,
            "rooms": seeded["rooms"],
        }


def seed(dir, options):
    """Makes a snapshot: certificates and keys, then what the servers have after seeding."""
    places, guest = places_for(options)
    authority = Authority(dir / "ca")
    for place in [*places, guest]:
        authority.certify(dir / place.label / "tls", place.host)
        homeserver.new_signing_key(dir / place.label / "signing.key", "a_lab")
    lab = Lab(dir, places, guest, federation_limits="off")
    lab.start()
    try:
        seeder = Seeder(places, homeserver.REGISTRATION_SECRET)
        rooms = seeder.rooms()
    finally:
        lab.stop()

    databases = {
        place.name: sqlite3.connect(dir / place.label / "homeserver.db") for place in places
    }
    told = [describe(room, seeder.users, databases) for room in rooms]
    for database in databases.values():
        database.close()
    users = {place.label: [] for place in places}
    for user in [*seeder.users, seeder.extra]:
        label = next(place.label for place in places if place.name == user.server)
        users[label].append({"id": user.id, "token": user.token})
    (dir / "seeded.json").write_text(json.dumps({"users": users, "rooms": told}))

    # The last server has another key since: what it sent before was signed with the old one.
    last = dir / places[-1].label
    old = homeserver.read_signing_key(last / "signing.key")
    retired = {"key": homeserver.verify_key(last / "signing.key"),
               "expired_ts": int(time.time() * 1000)}
    (last / "old_keys.json").write_text(json.dumps({f"{old.alg}:{old.version}": retired}))
    homeserver.new_signing_key(last / "signing.key", "a_new")


def snapshot(options, into):
    """Copies one, which is made first if there is none."""
    CACHE.mkdir(parents=True, exist_ok=True)
    sort = f"{options.servers}-{options.names}-"
    dir = CACHE / (sort + digest()[:16])
    with locked(CACHE / "lock"):
        if options.fresh or not dir.exists():
            with tempfile.TemporaryDirectory(prefix="gannet-lab-") as made:
                seed(Path(made), options)
                part = CACHE / "part"
                shutil.rmtree(part, ignore_errors=True)
                copy(Path(made), part, KEPT)
            for old in CACHE.glob(sort + "*"):
                shutil.rmtree(old)
            part.rename(dir)
        copy(dir, into, KEPT)


def ends_by_input():
    """Whether the end of standard input ends the lab: not if there never was any."""
    kind = os.fstat(0).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(0)


@contextlib.contextmanager
def running(options):
    """A lab, and its description."""
    with contextlib.ExitStack() as stack:
        if options.names == "ip":
            # There can only be one at those addresses.
            CACHE.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(CACHE / f"addresses-{options.servers}"))
        if options.dir:
            dir = Path(options.dir).resolve()
            dir.mkdir(parents=True, exist_ok=True)
        else:
            made = tempfile.TemporaryDirectory(prefix="gannet-lab-", ignore_cleanup_errors=True)
            dir = Path(stack.enter_context(made))
        snapshot(options, dir)
        lab = Lab(dir, *places_for(options), options.rate_limits)
        stack.callback(lab.stop, signal.SIGKILL)
        lab.start()
        told = lab.describe(json.loads((dir / "seeded.json").read_text()))
        (dir / "lab.json").write_text(json.dumps(told, indent=1, ensure_ascii=False))
        yield lab, told


def start(options):
    with running(options) as (lab, told):
        print(lab.dir / "lab.json", flush=True)
        if not ends_by_input():
            signal.pause()
        for line in sys.stdin:
            print(json.dumps(lab.control(line)), flush=True)


def check(options):
    with running(options) as (_, told):
        # Not before: it takes all of Synapse to load.
        from check import Check

        Check(told).all(limited=options.rate_limits == "default")


def fixtures(options):
    with running(options) as (_, told):
        from fixtures import Fixtures

        Fixtures(told, Path(options.into)).all()


def end(number, frame):
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser(prog="matrix-lab", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for does in [start, check, fixtures]:
        command = commands.add_parser(does.__name__)
        command.set_defaults(does=does)
        command.add_argument("--servers", type=int, default=3, choices=range(2, 10))
        command.add_argument("--dir", help="where the servers' files are [a temporary directory]")
        command.add_argument("--rate-limits", choices=["default", "off"], default="off")
        command.add_argument("--names", choices=["dns", "ip"], default="dns")
        command.add_argument("--fresh", action="store_true", help="seed anew")
    command.add_argument("into", help="the directory to save answers in")
    options = parser.parse_args()
    for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]:
        signal.signal(number, end)
    options.does(options)


if __name__ == "__main__":
    main()
