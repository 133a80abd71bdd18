"""Signed federation requests, in the name of any server whose key we have."""

import contextlib
import http.client
import http.server
import json
import socket
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlencode

from homeserver import read_signing_key
from signedjson.sign import sign_json

TIMEOUT_S = 60
VALID_S = 24 * 3600


def escape(text):
    return quote(text, safe="")


@contextlib.contextmanager
def key_server(server):
    """Stands at a server's address and gives out its key document, so that others believe it."""
    key = read_signing_key(Path(server["signing_key"]))
    document = {
        "server_name": server["name"],
        "verify_keys": {server["key_id"]: {"key": server["verify_key"]}},
        "old_verify_keys": {},
        "valid_until_ts": int((time.time() + VALID_S) * 1000),
    }
    body = json.dumps(sign_json(document, server["name"], key)).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    host, port = server["address"].rsplit(":", 1)
    with http.server.ThreadingHTTPServer((host, int(port)), Handler) as listener:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(server["tls_certificate"], server["tls_key"])
        listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield
        listener.shutdown()


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Federation:
    """One homeserver's federation API as another one sees it: both as `lab.json` describes them."""

    def __init__(self, lab, origin, destination):
        self.origin, self.destination = origin, destination
        self.key = read_signing_key(Path(origin["signing_key"]))
        self.tls = ssl.create_default_context(cafile=lab["ca"])

    def call(self, method, path, query=(), content=None, signed=True, path_prefix="federation/v1"):
        uri = f"/_matrix/{path_prefix}{path}"
        if query:
            uri += "?" + urlencode(query)
        headers = {"host": self.destination["name"]}
        if signed:
            headers["authorization"] = self.authorization(method, uri, content)
        body = None
        if content is not None:
            headers["content-type"] = "application/json"
            body = json.dumps(content)
        host, port = self.destination["address"].rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        plain = socket.create_connection((host, int(port)), TIMEOUT_S)
        connection.sock = self.tls.wrap_socket(plain, server_hostname=self.destination["host"])
        try:
            connection.request(method, uri, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def authorization(self, method, uri, content):
        signed = {
            "method": method,
            "uri": uri,
            "origin": self.origin["name"],
            "destination": self.destination["name"],
        }
        if content is not None:
            signed["content"] = content
        signatures = sign_json(signed, self.origin["name"], self.key)["signatures"]
        ((key_id, signature),) = signatures[self.origin["name"]].items()
        return (
            f'X-Matrix origin="{self.origin["name"]}",destination="{self.destination["name"]}",'
            f'key="{key_id}",sig="{signature}"'
        )

    def event(self, event):
        return self.call("GET", f"/event/{escape(event)}")

    def event_auth(self, room, event):
        return self.call("GET", f"/event_auth/{escape(room)}/{escape(event)}")

    def backfill(self, room, events, limit=None):
        query = [("v", event) for event in events]
        if limit is not None:
            query.append(("limit", limit))
        return self.call("GET", f"/backfill/{escape(room)}", query)

    def state_ids(self, room, event):
        return self.call("GET", f"/state_ids/{escape(room)}", [("event_id", event)])

    def missing(self, room, earliest, latest, limit=20):
        content = {"earliest_events": earliest, "latest_events": latest, "limit": limit}
        return self.call("POST", f"/get_missing_events/{escape(room)}", content=content)

    def at(self, room, ts, direction):
        query = [("ts", ts), ("dir", direction)]
        return self.call("GET", f"/timestamp_to_event/{escape(room)}", query)

    def keys(self):
        return self.call("GET", "/server", signed=False, path_prefix="key/v2")

    def notary(self, servers):
        """What this server says of the keys of others."""
        content = {"server_keys": {server: {} for server in servers}}
        return self.call("POST", "/query", content=content, signed=False, path_prefix="key/v2")
