"""One Synapse of the lab: its place, its configuration, its process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from signedjson.key import generate_signing_key, get_verify_key, read_signing_keys
from unpaddedbase64 import encode_base64

HERE = Path(__file__).resolve().parent
# What SRV is needed to find, and where federation is without it.
UNUSUAL_PORT, FEDERATION_PORT, CLIENT_PORT = 18448, 8448, 8008
REGISTRATION_SECRET = "lab"
PATIENCE_S = 180
LOOK_S = 0.05
UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}
FEDERATION_UNLIMITED = {
    "sleep_limit": 100_000,
    "reject_limit": 100_000,
    "concurrent": 100_000,
}


class Place:
    """What a server is called, and where it is."""

    def __init__(self, label, number, net, names):
        self.label = label
        self.address = f"{net}.{number}"
        self.port = FEDERATION_PORT
        self.service = None
        # Each way to find a server by its name occurs: port in the name, SRV, neither.
        if names == "ip":
            self.host = self.address
        else:
            self.host = f"{label}.test"
            if number == 2:
                self.port = UNUSUAL_PORT
                self.service = {"target": f"host{number}.test", "port": self.port}
        named_port = number == 1 or number > 99
        self.name = f"{self.host}:{self.port}" if named_port else self.host
        self.client_api = f"http://{self.address}:{CLIENT_PORT}"


def names_of(places):
    """Everything that a name server would be told, as `server.py` reads it."""
    hosts, services = {}, {}
    for place in places:
        if place.host == place.address:
            continue
        hosts[place.host] = place.address
        if place.service:
            hosts[place.service["target"]] = place.address
            services[f"_matrix-fed._tcp.{place.host}"] = place.service
    return {"hosts": hosts, "services": services}


def new_signing_key(path, version):
    key = generate_signing_key(version)
    path.write_text(f"{key.alg} {key.version} {encode_base64(key.encode())}\n")


def read_signing_key(path):
    return read_signing_keys(path.read_text().splitlines())[0]


def verify_key(path):
    return encode_base64(get_verify_key(read_signing_key(path)).encode())


class Homeserver:
    def __init__(self, place, lab, federation_limits):
        self.place = place
        self.dir = lab / place.label
        self.process = None
        self.write_config(lab, federation_limits)

    def write_config(self, lab, federation_limits):
        place = self.place
        old_keys = self.dir / "old_keys.json"
        log = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {"file": {
                "class": "logging.FileHandler",
                "filename": str(self.dir / "synapse.log"),
                "formatter": "line",
            }},
            "root": {"level": "WARNING", "handlers": ["file"]},
        }
        federation = {
            "type": "http",
            "tls": True,
            "port": place.port,
            "bind_addresses": [place.address],
            "resources": [{"names": ["federation", "keys"]}],
        }
        client = {
            "type": "http",
            "port": CLIENT_PORT,
            "bind_addresses": [place.address],
            "resources": [{"names": ["client"]}],
        }
        config = {
            "server_name": place.name,
            "report_stats": False,
            "listeners": [federation, client],
            "tls_certificate_path": str(self.dir / "tls.crt"),
            "tls_private_key_path": str(self.dir / "tls.key"),
            "federation_custom_ca_list": [str(lab / "ca.crt")],
            # A whitelist would not do: Synapse ignores it for servers named by their addresses.
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "trusted_key_servers": [],
            "database": {"name": "sqlite3", "args": {"database": str(self.dir / "homeserver.db")}},
            "media_store_path": str(self.dir / "media"),
            "signing_key_path": str(self.dir / "signing.key"),
            "old_signing_keys": json.loads(old_keys.read_text()) if old_keys.exists() else {},
            "log_config": str(self.dir / "log.json"),
            "registration_shared_secret": REGISTRATION_SECRET,
            "macaroon_secret_key": "lab",
            "form_secret": "lab",
            "presence": {"enabled": False},
            # A server that was away is asked again at once, not after ten minutes.
            "federation": {
                "destination_min_retry_interval": "1s",
                "destination_max_retry_interval": "1s",
            },
            "rc_message": UNLIMITED,
            "rc_registration": UNLIMITED,
            "rc_login": dict.fromkeys(["address", "account", "failed_attempts"], UNLIMITED),
            "rc_joins": dict.fromkeys(["local", "remote"], UNLIMITED),
            "rc_joins_per_room": UNLIMITED,
            "rc_room_creation": UNLIMITED,
            "rc_admin_redaction": UNLIMITED,
            "rc_invites": dict.fromkeys(["per_room", "per_user", "per_issuer"], UNLIMITED),
        }
        if federation_limits == "off":
            config["rc_federation"] = FEDERATION_UNLIMITED
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "log.json").write_text(json.dumps(log, indent=1))
        # JSON is YAML.
        self.config = self.dir / "homeserver.json"
        self.config.write_text(json.dumps(config, indent=1))
        self.names = lab / "names.json"

    def start(self):
        """Begins to; see `until_ready`."""
        with (self.dir / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-B", HERE / "server.py", str(os.getpid()), self.names,
                 "--config-path", self.config],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )

    def until_ready(self):
        end = time.monotonic() + PATIENCE_S
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > end:
                log = self.dir / "synapse.log"
                text = (self.dir / "output").read_text() + (log.read_text() if log.exists() else "")
                sys.exit(f"{self.place.label} did not start:\n{text[-4000:]}")
            time.sleep(LOOK_S)

    def healthy(self):
        try:
            socket.create_connection((self.place.address, self.place.port), 1).close()
            with urllib.request.urlopen(f"{self.place.client_api}/health", timeout=5) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def kill(self, number):
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Ends it, also one that is frozen."""
        self.kill(number)
        self.kill(signal.SIGCONT)
        if self.process:
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
