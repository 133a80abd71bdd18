"""A user of a homeserver, as far as seeding needs one."""

import hashlib
import hmac
import itertools
import json
import time
import urllib.error
import urllib.request
from urllib.parse import quote, urlencode

PATIENCE_S = 120
LOOK_S = 0.1


def call(base, method, path, body=None, token=None, query=()):
    """The status and the JSON of an answer."""
    url = base + path + ("?" + urlencode(query) if query else "")
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


class User:
    transactions = itertools.count()

    def __init__(self, homeserver, name, secret):
        """Registers the name."""
        self.base = homeserver.client_api
        self.server = homeserver.name
        _, nonce = call(self.base, "GET", "/_synapse/admin/v1/register")
        mac = hmac.new(secret.encode(), digestmod=hashlib.sha1)
        mac.update("\0".join([nonce["nonce"], name, "password", "notadmin"]).encode())
        account = {
            "nonce": nonce["nonce"], "username": name, "password": "password", "admin": False,
            "mac": mac.hexdigest(),
        }
        status, answer = call(self.base, "POST", "/_synapse/admin/v1/register", account)
        assert status == 200, answer
        self.id, self.token = answer["user_id"], answer["access_token"]

    def call(self, method, path, body=None, query=()):
        path = "/_matrix/client/v3" + path
        status, answer = call(self.base, method, path, body, self.token, query)
        assert status == 200, f"{self.id}: {method} {path}: {status} {answer}"
        return answer

    def create(self, version, **options):
        options = {"preset": "public_chat", "room_version": version} | options
        return self.call("POST", "/createRoom", options)["room_id"]

    def join(self, room, via):
        query = [("via", via), ("server_name", via)]
        self.call("POST", f"/join/{quote(room, safe='')}", {}, query)

    def send(self, room, content, type="m.room.message"):
        if isinstance(content, str):
            content = {"msgtype": "m.text", "body": content}
        path = f"{self.room(room)}/send/{quote(type)}/{next(self.transactions)}"
        return self.call("PUT", path, content)["event_id"]

    def state(self, room, type, content, key=""):
        path = f"{self.room(room)}/state/{quote(type)}/{quote(key, safe='')}"
        return self.call("PUT", path, content)["event_id"]

    def redact(self, room, event, reason=None):
        path = f"{self.room(room)}/redact/{quote(event, safe='')}/{next(self.transactions)}"
        return self.call("PUT", path, {"reason": reason} if reason else {})["event_id"]

    def member(self, room, action, user=None):
        """`invite`, `kick`, `ban`, `unban`, `leave`."""
        self.call("POST", f"{self.room(room)}/{action}", {"user_id": user.id} if user else {})

    def until_has(self, room, event):
        """Waits until an event has come to this user's server."""
        path = f"/event/{quote(event, safe='')}"
        self.until(room, path, lambda answer: "event_id" in answer, f"the event {event}")

    def until_knows(self, room, user):
        """Waits until this user's server knows that the other one is a member: before that, it
        would not send that server anything.
        """
        self.until(room, "/joined_members", lambda answer: user.id in answer.get("joined", {}),
                   f"the member {user.id}")

    def until(self, room, path, good, what):
        path = f"/_matrix/client/v3{self.room(room)}{path}"
        end = time.monotonic() + PATIENCE_S
        while True:
            _, answer = call(self.base, "GET", path, token=self.token)
            if good(answer):
                return
            assert time.monotonic() < end, f"{self.id} lacks {what} of {room}: {answer}"
            time.sleep(LOOK_S)

    @staticmethod
    def room(room):
        return f"/rooms/{quote(room, safe='')}"
