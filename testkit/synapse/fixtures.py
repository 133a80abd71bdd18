"""Saves small real answers, as they came, for unit tests that start no server."""

import json
import shutil

from federation import Federation


class Fixtures:
    def __init__(self, lab, dir):
        self.lab, self.dir = lab, dir
        self.rooms = {room["label"]: room for room in lab["rooms"]}
        self.api = Federation(lab, *lab["servers"][:2])
        self.index = []

    def save(self, file, op, answer, room=None, **asked):
        """An answer, and a line about it: what was asked of whom, and which ids it has to have."""
        assert answer.status == 200, answer.body
        path = self.dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer.body)
        about = {"file": file, "op": op, "from": self.api.destination["name"]}
        if room:
            about |= {"room_version": room["version"], "room_id": room["room_id"]}
        self.index.append(about | asked)

    def event(self, file, room, event, **facts):
        self.save(file, "event", self.api.event(event), room, event_id=event, **facts)

    def version(self, version):
        """Each operation once, and what differs between versions: creation, and redacted events."""
        api, room = self.api, self.rooms[f"exchange-{version}"]
        id, events = room["room_id"], room["events"]
        last = events[-1]["event_id"]
        plain = room["missing"]["latest"][0]
        redacted = next(event["event_id"] for event in events if "redacted_by" in event)
        dir = f"v{version}"
        self.event(f"{dir}/create.json", room, events[0]["event_id"])
        self.event(f"{dir}/event.json", room, plain)
        self.event(f"{dir}/redacted.json", room, redacted, redacted=True)
        self.event(f"{dir}/redaction.json", room, last)
        self.save(f"{dir}/event_auth.json", "event_auth", api.event_auth(id, plain), room,
                  event_id=plain)
        # The last four: none of them is redacted.
        ids = [event["event_id"] for event in reversed(events[-4:])]
        self.save(f"{dir}/backfill.json", "backfill", api.backfill(id, [last], len(ids)), room,
                  v=[last], limit=len(ids), ids=ids)
        self.save(f"{dir}/state_ids.json", "state_ids", api.state_ids(id, plain), room,
                  event_id=plain)
        window = room["missing"]
        ends = {"earliest": window["earliest"], "latest": window["latest"]}
        self.save(f"{dir}/missing.json", "missing", api.missing(id, **ends), room,
                  **ends, ids=window["between"])
        time = next(e["origin_server_ts"] for e in events if e["event_id"] == plain)
        self.save(f"{dir}/at.json", "at", api.at(id, time, "b"), room, ts=time, dir="b")

    def special(self):
        """What only some rooms have."""
        room = self.rooms["history"]
        self.event("special/cut.json", room, room["hidden"][0], cut=True)
        room = self.rooms["vouched-10"]
        carol = self.lab["servers"][2]["users"][0]["id"]
        vouched = next(e["event_id"] for e in room["events"] if e.get("state_key") == carol)
        self.event("special/vouched.json", room, vouched)
        room = self.rooms["conversation-10"]
        for name, event in zip(["unicode", "kinds", "numbers", "order"], room["variety"]):
            self.event(f"special/{name}.json", room, event)
        alice = self.lab["servers"][0]["users"][0]["id"]
        redacted = [event for event in room["events"] if "redacted_by" in event]
        member = next(event["event_id"] for event in redacted if event.get("state_key") == alice)
        self.event("special/redacted_member.json", room, member, redacted=True)
        for label in ["floats-1", "floats-5"]:
            room = self.rooms[label]
            for name, event in zip(["float", "huge", "large", "least"], room["unverifiable"]):
                self.event(f"special/{label}-{name}.json", room, event, unverifiable=True)

    def keys(self):
        first, *others = self.lab["servers"]
        for server in others:
            answer = Federation(self.lab, first, server).keys()
            self.save(f"keys/{server['label']}.json", "keys", answer, server=server["name"])
        asked = [server["name"] for server in self.lab["servers"] if server is not others[0]]
        self.save("keys/notary.json", "notary", self.api.notary(asked), servers=asked)

    def all(self):
        for part in ["special", "keys", *(f"v{version}" for version in range(1, 13))]:
            shutil.rmtree(self.dir / part, ignore_errors=True)
        for version in range(1, 13):
            self.version(str(version))
        self.special()
        self.keys()
        servers = {
            server["name"]: {
                "verify_keys": {server["key_id"]: {"key": server["verify_key"]}},
                "old_verify_keys": server["old_verify_keys"],
            }
            for server in self.lab["servers"]
        }
        index = {"servers": servers, "answers": self.index}
        text = json.dumps(index, indent=1, ensure_ascii=False)
        (self.dir / "index.json").write_text(text + "\n")
