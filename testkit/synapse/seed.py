"""Fills the homeservers, and tells what is in them then."""

import json
from concurrent.futures import ThreadPoolExecutor

from client import User

CONVERSATIONS = ["1", "6", "10", "11", "12"]
EXCHANGES = [str(version) for version in range(1, 13)]
# Besides, the chain has the room's creation, its creator's join, and the first levels.
CHAIN_CHANGES = 300
# Between the ends of the window that `missing` describes.
WINDOW = 12
VARIETY = [
    {"msgtype": "m.text", "body": "ünï¢ôdé 🐦 \u2028 \x7f \" \\ / <tag>"},
    {"msgtype": "m.text", "body": "", "empty": {}, "list": [[], {}, None, True, False, ""]},
    {"msgtype": "m.text", "body": "numbers", "most": 2**53 - 1, "least": 1 - 2**53, "zero": 0},
    {"msgtype": "m.text", "body": "order", "b": 1, "a": 2, "B": 3, "\u00e9": 4, "\U0001f426": 5,
     "\uffee": 6, "": 7},
    {"msgtype": "m.notice", "body": "long " * 2000},
]


class Room:
    """A room while it is made. The first of its servers is the one that made it."""

    def __init__(self, label, version, creator, **options):
        self.label, self.version, self.creator = label, version, creator
        self.id = creator.create(version, **options)
        self.facts = {}
        self.last = {}
        self.servers = {creator.server: "joined"}
        self.users = [creator]

    def join(self, user, how="joined"):
        user.join(self.id, self.creator.server)
        for other in self.users:
            other.until_knows(self.id, user)
        self.users.append(user)
        self.servers[user.server] = how

    def send(self, user, content, **more):
        event = self.last[user.server] = user.send(self.id, content, **more)
        return event

    def settle(self, users):
        """Waits until every server that is still in the room has what each sent last."""
        for user in users:
            if self.servers.get(user.server) in ("joined", "late"):
                for event in self.last.values():
                    user.until_has(self.id, event)


class Seeder:
    def __init__(self, places, secret):
        with ThreadPoolExecutor() as pool:
            # alice, bob and carol are on the first three servers, and so on.
            names = ["alice", "bob", "carol"] + [f"user{n}" for n in range(4, 10)]
            register = lambda place, name: User(place, name, secret)
            self.users = list(pool.map(register, places, names))
            self.extra = User(places[0], "dave", secret)
        self.alice, self.bob = self.users[:2]

    def moderated(self, label, version, creator, helper, **options):
        """A room in which the helper has some power."""
        users = {helper.id: 50}
        # From version 12 on a creator's power is without limit, and not listed.
        if int(version) < 12:
            users[creator.id] = 100
        levels = {"users": users, "state_default": 50, "redact": 50, "kick": 50, "ban": 50}
        return Room(label, version, creator, power_level_content_override=levels, **options)

    def conversation(self, version):
        """Messages from all, branches, state, members who come and go, redactions."""
        alice, bob, dave = self.alice, self.bob, self.extra
        room = self.moderated(f"conversation-{version}", version, alice, bob, name="Lab", topic="0")
        for user in self.users[1:]:
            room.join(user)
        sent = [room.send(alice, content) for content in VARIETY]
        room.facts["variety"] = sent[:]
        # At the same time, so that they branch.
        with ThreadPoolExecutor() as pool:
            for burst in range(6):
                talk = lambda user: [room.send(user, f"{burst}.{n}") for n in range(3)]
                for events in pool.map(talk, self.users):
                    sent += events
        room.settle(self.users)

        alice.member(room.id, "invite", dave)
        dave.join(room.id, alice.server)
        dave.member(room.id, "leave")
        dave.join(room.id, alice.server)
        bob.until_has(room.id, room.send(dave, "here"))
        bob.member(room.id, "kick", dave)
        alice.until_has(room.id, room.send(bob, "gone"))
        alice.member(room.id, "ban", dave)
        alice.member(room.id, "unban", dave)
        alice.state(room.id, "m.room.topic", {"topic": "1"})
        topic = alice.state(room.id, "m.room.topic", {"topic": "secret"})
        alice.state(room.id, "m.room.topic", {"topic": "2"})
        for key in ["", "a", "a/b?c#d%e", "ü"]:
            alice.state(room.id, "org.gannet.lab", {"key": key}, key)
        content = {"membership": "join", "displayname": "Alice", "org.gannet.lab": "not kept"}
        member = alice.state(room.id, "m.room.member", content, alice.id)
        alice.state(room.id, "m.room.history_visibility", {"history_visibility": "world_readable"})

        # Of what varies only the last, which is long.
        long, plain = len(VARIETY) - 1, len(VARIETY)
        redactions = [(alice, sent[long]), (alice, sent[-1]), (alice, topic), (alice, member)]
        bob.until_has(room.id, room.send(alice, "redacting"))
        redactions += [(bob, sent[plain]), (bob, sent[plain + 1])]
        for user, event in redactions:
            room.last[user.server] = user.redact(room.id, event, "because")
        room.settle(self.users)

        # One after the other: each follows on the one before.
        line = [room.send(alice, f"line {n}") for n in range(WINDOW + 30)]
        window = {"earliest": line[2:3], "latest": line[WINDOW + 3 : WINDOW + 4]}
        room.facts["missing"] = window | {"between": line[3 : WINDOW + 3]}
        return room

    def exchange(self, version):
        """As little as shows a version's form."""
        room = self.moderated(f"exchange-{version}", version, self.alice, self.bob)
        for user in self.users[1:]:
            room.join(user)
        sent = [room.send(self.alice, f"message {n}") for n in range(8)]
        self.bob.until_has(room.id, sent[-1])
        sent.append(room.send(self.bob, "answer"))
        room.last[self.bob.server] = self.bob.redact(room.id, sent[0])
        window = {"earliest": sent[1:2], "latest": sent[6:7], "between": sent[2:6]}
        room.facts["missing"] = window
        return room

    def chain(self):
        """Each change of power has the one before among its auth events."""
        room = Room("chain", "10", self.alice)
        levels = {"users": {self.alice.id: 100}, "events_default": 0}
        for n in range(CHAIN_CHANGES):
            last = self.alice.state(room.id, "m.room.power_levels", levels | {"org.gannet.lab": n})
        room.facts["chain_event"] = self.alice.send(room.id, "after many changes")
        for user in self.users[1:]:
            room.join(user)
        room.send(self.alice, "after the others came")
        return room

    def history(self):
        """The first server came late, and what was before is not for it."""
        creator, rest = self.bob, self.users[2:]
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room = Room("history", "11", creator, initial_state=[hidden | {"state_key": ""}])
        for user in rest:
            room.join(user)
        room.facts["hidden"] = [room.send(creator, f"hidden {n}") for n in range(10)]
        room.join(self.alice, "late")
        room.facts["shown"] = [room.send(creator, f"shown {n}") for n in range(10)]
        return room

    def banned(self):
        """The first server's only member was banned: the server is not in the room any more."""
        room = Room("banned", "10", self.bob)
        for user in self.users:
            if user is not self.bob:
                room.join(user)
        room.facts["before"] = [room.send(self.bob, f"before {n}") for n in range(5)]
        self.alice.until_has(room.id, room.facts["before"][-1])
        self.bob.member(room.id, "ban", self.alice)
        room.servers[self.alice.server] = "banned"
        room.facts["after"] = [room.send(self.bob, f"after {n}") for n in range(5)]
        return room

    def denied(self):
        """The first server has a member in the room, but the room's list of servers bars it."""
        room = Room("denied", "10", self.bob)
        for user in self.users:
            if user is not self.bob:
                room.join(user)
        room.facts["before"] = [room.send(self.bob, f"before {n}") for n in range(5)]
        self.alice.until_has(room.id, room.facts["before"][-1])
        host = self.alice.server.split(":")[0]
        rule = {"allow": ["*"], "deny": [host, f"{host}:*"], "allow_ip_literals": True}
        self.bob.state(room.id, "m.room.server_acl", rule)
        room.servers[self.alice.server] = "denied"
        room.facts["after"] = [room.send(self.bob, f"after {n}") for n in range(5)]
        return room

    def vouched(self, version):
        """Joins that the first server vouched for, and signed."""
        club = Room(f"club-{version}", version, self.alice)
        for user in self.users[1:]:
            club.join(user)
        allow = [{"type": "m.room_membership", "room_id": club.id}]
        rule = {"join_rule": "restricted", "allow": allow}
        state = {"type": "m.room.join_rules", "state_key": "", "content": rule}
        room = Room(f"vouched-{version}", version, self.alice, initial_state=[state])
        for user in self.users[1:]:
            room.join(user)
        room.send(self.bob, "vouched for")
        return room

    def floats(self, version):
        """Numbers that canonical JSON has no form for: not everyone can verify such events."""
        room = Room(f"floats-{version}", version, self.alice)
        room.join(self.bob)
        odd = [1.5, 1e100, 2**60, -(2**53)]
        room.facts["unverifiable"] = [
            room.send(self.alice, {"msgtype": "m.text", "body": "odd", "number": number})
            for number in odd
        ]
        return room

    def rooms(self):
        """All rooms, made side by side: the longest first."""
        jobs = [self.chain]
        jobs += [lambda v=version: self.conversation(v) for version in CONVERSATIONS]
        jobs += [lambda v=version: self.exchange(v) for version in EXCHANGES]
        jobs += [lambda v=version: self.vouched(v) for version in ["10", "11"]]
        jobs += [lambda v=version: self.floats(v) for version in ["1", "5"]]
        jobs += [self.history, self.banned, self.denied]
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                rooms = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for room in rooms:
            room.settle(self.users)
        return rooms


def events(database, room):
    """What a stopped server has of a room, in the order of the room's history."""
    redacted = dict(database.execute("SELECT redacts, event_id FROM redactions"))
    rows = database.execute(
        "SELECT e.event_id, ej.json FROM events e JOIN event_json ej USING (event_id)"
        " WHERE e.room_id = ? AND NOT e.outlier AND e.rejection_reason IS NULL"
        " ORDER BY e.topological_ordering, e.stream_ordering",
        [room],
    )
    found = []
    for event_id, text in rows:
        pdu = json.loads(text)
        told = {"event_id": event_id}
        told |= {
            field: pdu[field]
            for field in ["type", "state_key", "sender", "depth", "origin_server_ts"]
            if field in pdu
        }
        for field in ["auth_events", "prev_events"]:
            # Pairs of an id and hashes, in versions 1 and 2.
            told[field] = [e if isinstance(e, str) else e[0] for e in pdu[field]]
        if event_id in redacted:
            told["redacted_by"] = redacted[event_id]
        found.append(told)
    return found


def auth_chain(events, event):
    """The auth events of an event, theirs, and so on."""
    by_id = {event["event_id"]: event for event in events}
    chain, ahead = set(), [event]
    while ahead:
        for auth in by_id[ahead.pop()]["auth_events"]:
            if auth not in chain:
                chain.add(auth)
                ahead.append(auth)
    return sorted(chain)


def describe(room, users, databases):
    """A room as the tests read of it."""
    told = {
        "label": room.label,
        "room_id": room.id,
        "version": room.version,
        "creator": room.creator.server,
        # How each server is in the room: joined, late, banned, denied.
        "servers": room.servers,
        "members": {
            user.server: [user.id] for user in users if user.server in room.servers
        },
        **room.facts,
        "events": events(databases[room.creator.server], room.id),
    }
    if "chain_event" in told:
        told["auth_chain"] = auth_chain(told["events"], told["chain_event"])
    return told
