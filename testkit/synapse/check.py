"""Asks the lab every operation, verifies every event, and holds Synapse to what the README says."""

from concurrent.futures import ThreadPoolExecutor

from federation import Federation, key_server
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import check_event_content_hash
from synapse.events import make_event_from_dict
from synapse.synapse_rust.events import redact_event
from unpaddedbase64 import decode_base64

UNKNOWN = "$" + "a" * 43
BACKFILL_MOST, MISSING_MOST = 100, 20
STORM = 100
# Ends of history to go on from at once.
SEVERAL = 20


def parse(pdu, version):
    return make_event_from_dict(pdu, KNOWN_ROOM_VERSIONS[version])


def event_id(pdu, version):
    return parse(pdu, version).event_id


class Check:
    def __init__(self, lab):
        self.lab = lab
        self.rooms = {room["label"]: room for room in lab["rooms"]}
        self.servers = {server["name"]: server for server in lab["servers"]}
        first, second = lab["servers"][:2]
        self.api = Federation(lab, first, second)
        self.back = Federation(lab, second, first)
        self.verified = set()

    def expect(self, answer, status, error=None):
        told = f"{answer.status} {answer.body[:300]}"
        assert answer.status == status, f"not {status}: {told}"
        if error is not None:
            assert answer.json == error or error in answer.json.values(), f"not {error}: {told}"
        return answer

    def verify(self, pdu, version, content=True):
        """The id, with signatures and (unless it was cut) content hash found good."""
        event = parse(pdu, version)
        assert check_event_content_hash(event) == content, event.event_id
        signers = {pdu["sender"].split(":", 1)[1]}
        if version in ("1", "2"):
            signers.add(pdu["event_id"].split(":", 1)[1])
        voucher = pdu["content"].get("join_authorised_via_users_server")
        if voucher:
            signers.add(voucher.split(":", 1)[1])
        signed = redact_event(event).get_pdu_json()
        for signer in signers:
            server = self.servers[signer]
            keys = {server["key_id"]: server["verify_key"]}
            keys |= {id: old["key"] for id, old in server["old_verify_keys"].items()}
            ((key_id, _),) = pdu["signatures"][signer].items()
            key = decode_verify_key_bytes(key_id, decode_base64(keys[key_id]))
            verify_signed_json(signed, signer, key)
        self.verified.add(event.event_id)
        return event.event_id

    def conversation(self, room):
        """Every operation, for a room that both servers are in."""
        id, version, api = room["room_id"], room["version"], self.api
        events = room["events"]
        redacted = {event["event_id"] for event in events if "redacted_by" in event}
        last = events[-1]["event_id"]
        verify = lambda pdu: self.verify(pdu, version, event_id(pdu, version) not in redacted)

        (pdu,) = self.expect(api.event(last), 200).json["pdus"]
        assert verify(pdu) == last

        # All of the history, in steps; an answer begins with what was asked for.
        seen, ahead = {}, [last]
        while ahead:
            pdus = self.expect(api.backfill(id, ahead, BACKFILL_MOST), 200).json["pdus"]
            new = {verify(pdu): pdu for pdu in pdus}
            assert set(ahead) & set(new), "no progress"
            seen |= new
            parsed = [parse(pdu, version) for pdu in seen.values()]
            prev = {before for event in parsed for before in event.prev_event_ids()}
            ahead = sorted(prev - set(seen))[:SEVERAL]
        known = {event["event_id"] for event in events}
        assert set(seen) == known, f"{room['label']}: {len(seen)} of {len(known)} backfilled"

        chain = self.expect(api.event_auth(id, last), 200).json["auth_chain"]
        assert {verify(pdu) for pdu in chain} <= known

        ids = self.expect(api.state_ids(id, last), 200).json
        assert set(ids) == {"pdu_ids", "auth_chain_ids"} and set(ids["pdu_ids"]) <= known

        window = room["missing"]
        answer = api.missing(id, window["earliest"], window["latest"])
        pdus = self.expect(answer, 200).json["events"]
        assert [verify(pdu) for pdu in pdus] == window["between"], "the window, oldest first"
        nearest = self.expect(api.missing(id, window["earliest"], window["latest"], 3), 200)
        assert [verify(pdu) for pdu in nearest.json["events"]] == window["between"][-3:]

        middle = events[len(events) // 2]
        for direction in "fb":
            answer = self.expect(api.at(id, middle["origin_server_ts"], direction), 200).json
            assert answer["origin_server_ts"] == middle["origin_server_ts"]

    def answers(self):
        """What is not found, not allowed, or not asked properly."""
        api, room = self.api, self.rooms["conversation-10"]
        id, last, first = room["room_id"], room["events"][-1], room["events"][0]
        last, first = last["event_id"], first["event_id"]
        foreign = self.rooms["conversation-11"]["events"][-1]["event_id"]

        for absent in [UNKNOWN, "garbage"]:
            self.expect(api.event(absent), 404, "")
        for absent in [UNKNOWN, foreign]:
            self.expect(api.event_auth(id, absent), 404, "M_NOT_FOUND")
            self.expect(api.state_ids(id, absent), 404, "M_NOT_FOUND")
            assert self.expect(api.backfill(id, [absent], 5), 200).json["pdus"] == []
            assert self.expect(api.missing(id, [], [absent]), 200).json["events"] == []
        self.expect(api.state_ids(id, first), 404, "M_NOT_FOUND")
        for direction, ts in [("b", 1), ("f", 2**52)]:
            self.expect(api.at(id, ts, direction), 404, "M_NOT_FOUND")
        self.expect(api.at(id, 1, "x"), 400, "M_INVALID_PARAM")
        self.expect(api.backfill(id, [last]), 400, "Did not include limit param")
        self.expect(api.backfill(id, [last], 0), 400, "Did not include limit param")
        self.expect(api.backfill(id, [last], -1), 400, "M_INVALID_PARAM")
        self.expect(api.backfill(id, [], 5), 500, "M_UNKNOWN")
        most = self.expect(api.backfill(id, [last], 1000), 200).json["pdus"]
        assert len(most) == BACKFILL_MOST and event_id(most[0], "10") == last
        assert self.expect(api.missing(id, [], [last], 0), 200).json["events"] == []
        most = self.expect(api.missing(id, [], [last], 1000), 200).json["events"]
        assert len(most) == MISSING_MOST and last not in {event_id(pdu, "10") for pdu in most}

        nowhere = "!nowhere:hs2.test"
        for answer in self.batches(api, nowhere, last):
            self.expect(answer, 403, "Host not in room.")
        self.expect(api.call("GET", "/event/" + last, signed=False), 401, "M_UNAUTHORIZED")
        # A stranger, as long as nobody has its key, and then.
        guest = Federation(self.lab, self.lab["guest"], api.destination)
        self.expect(guest.event(last), 401, "M_UNAUTHORIZED")
        with key_server(self.lab["guest"]):
            self.expect(guest.event(UNKNOWN), 404, "")
            for room, event in [(id, last), (id, UNKNOWN), (nowhere, last)]:
                for answer in self.batches(guest, room, event):
                    self.expect(answer, 403, "Host not in room.")
            self.expect(guest.event(last), 403, "Host not in room.")

    def batches(self, api, room, event):
        return [
            api.event_auth(room, event), api.backfill(room, [event], 5),
            api.state_ids(room, event), api.missing(room, [], [event]), api.at(room, 1, "f"),
        ]

    def barred(self):
        room = self.rooms["banned"]
        for event in [room["before"][0], room["after"][0]]:
            for answer in [self.api.event(event), *self.batches(self.api, room["room_id"], event)]:
                self.expect(answer, 403, "Host not in room.")
        room = self.rooms["denied"]
        for event in [room["before"][0], room["after"][0]]:
            self.expect(self.api.event(event), 200)
            for answer in self.batches(self.api, room["room_id"], event):
                self.expect(answer, 403, "Server is banned from room")

    def history(self):
        """Content is cut from what the asking server must not see, also within batches."""
        room = self.rooms["history"]
        for event in room["hidden"]:
            (pdu,) = self.expect(self.api.event(event), 200).json["pdus"]
            assert pdu["content"] == {} and self.verify(pdu, "11", content=False) == event
        for event in room["shown"]:
            (pdu,) = self.expect(self.api.event(event), 200).json["pdus"]
            assert pdu["content"] and self.verify(pdu, "11") == event
        pdus = self.expect(self.api.missing(room["room_id"], [], room["shown"][:1]), 200).json
        cut = [pdu for pdu in pdus["events"] if event_id(pdu, "11") in room["hidden"]]
        assert len(cut) == len(room["hidden"]) and all(pdu["content"] == {} for pdu in cut)

    def chain(self):
        room = self.rooms["chain"]
        event = room["chain_event"]
        for api in [self.api, self.back]:
            pdus = self.expect(api.event_auth(room["room_id"], event), 200).json["auth_chain"]
            assert sorted(self.verify(pdu, "10") for pdu in pdus) == room["auth_chain"]

    def vouched(self):
        for label in ["vouched-10", "vouched-11"]:
            room = self.rooms[label]
            pdus = self.expect(
                self.api.backfill(room["room_id"], [room["events"][-1]["event_id"]], 50), 200
            ).json["pdus"]
            for pdu in pdus:
                self.verify(pdu, room["version"])
            assert any(len(pdu["signatures"]) == 2 for pdu in pdus)

    def floats(self):
        for label in ["floats-1", "floats-5"]:
            for event in self.rooms[label]["unverifiable"]:
                (pdu,) = self.expect(self.api.event(event), 200).json["pdus"]
                assert "number" in pdu["content"]

    def keys(self):
        """The last server has changed its key; a notary may have the old document only."""
        last = self.lab["servers"][-1]
        document = Federation(self.lab, self.lab["servers"][0], last).keys().json
        assert set(document["verify_keys"]) == {last["key_id"]}
        assert set(document["old_verify_keys"]) == set(last["old_verify_keys"])
        # About itself a notary says nothing.
        notary = self.api.destination
        other = next(s for s in reversed(self.lab["servers"]) if s is not notary)
        (document,) = self.api.notary([other["name"]]).json["server_keys"]
        assert set(document["signatures"]) == {other["name"], notary["name"]}
        assert self.api.notary([notary["name"]]).json == {"server_keys": []}
        assert self.api.notary(["nowhere.test"]).json == {"server_keys": []}

    def storm(self, limited):
        """Many requests at once: at default limits some are turned away."""
        room = self.rooms["conversation-10"]
        events = [event["event_id"] for event in room["events"][:STORM]]
        with ThreadPoolExecutor(STORM) as pool:
            answers = list(pool.map(self.api.event, events))
        refused = [answer for answer in answers if answer.status == 429]
        assert bool(refused) == limited, f"{len(refused)} of {STORM} refused"
        for answer in refused:
            assert answer.json["errcode"] == "M_LIMIT_EXCEEDED"
        if refused:
            told = refused[0].headers["retry-after"], refused[0].json["retry_after_ms"]
            return f"{len(refused)} of {STORM} refused: Retry-After {told[0]}, {told[1]} ms"
        return "none refused"

    def all(self, limited):
        for room in self.lab["rooms"]:
            if "missing" in room:
                self.conversation(room)
        for part in ["answers", "barred", "history", "chain", "vouched", "floats", "keys"]:
            getattr(self, part)()
        print(f"{len(self.verified)} events verified; at once: {self.storm(limited)}")
