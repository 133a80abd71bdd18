"""What the scripts beside have in common: they fetch the crates of a peer with cargo, and build and
run its own tests against ours, in a workspace of their own below the target directory.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def cargo(*args, cwd=ROOT):
    done = subprocess.run(["cargo", *args], cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"cargo {args[0]} failed in {cwd}")
    return done.stdout


def metadata():
    """What cargo says of the workspace, all of it fetched."""
    cargo("fetch", "--locked", "--quiet")
    return json.loads(cargo("metadata", "--format-version", "1", "--locked"))


def crate(metadata, name, version):
    """Where cargo has put the sources of a crate."""
    for package in metadata["packages"]:
        if (package["name"], package["version"]) == (name, version):
            return Path(package["manifest_path"]).parent
    sys.exit(f"Cargo.lock names no {name} {version}")


def path(inside):
    """A path in the project, as it stands in a manifest."""
    return json.dumps(str(ROOT / inside))


def write(path, text):
    """Leaves an unchanged file alone, so that nothing is built again for it."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def place(metadata, name, manifest, **fields):
    """A directory for a package, with its manifest: the same versions and the same profile as the
    workspace's, so that what that has built is used.
    """
    place = Path(metadata["target_directory"]) / "peers" / name
    workspace = (ROOT / "Cargo.toml").read_text()
    profile = re.search(r"\[profile\.dev\].*?(?=\n\[profile\.release|\Z)", workspace, re.S)
    profile = profile[0] if profile else ""
    write(place / "Cargo.toml", manifest.format(profile=profile, **fields))
    # Cargo drops what is not needed.
    (place / "Cargo.lock").write_text((ROOT / "Cargo.lock").read_text())
    return place


def build(place, target, name, *features):
    """Builds the test of this name, and says where it is."""
    args = ["test", "--no-run", "--message-format", "json-render-diagnostics"]
    if features:
        args += ["--features", ",".join(features)]
    out = cargo(*args, "--target-dir", target, cwd=place)
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return message["executable"]
    sys.exit("cargo built no test")


def run(binary, wanted="", exact=False, env={}):
    """Runs tests. Returns those that passed, and those that failed with what they printed."""
    env = os.environ | {"RUST_LOG": "off", "RUST_BACKTRACE": "0"} | env
    args = [binary, *([wanted] if wanted else []), *(["--exact"] if exact else [])]
    done = subprocess.run(
        args, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    results = dict(
        re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED)$", done.stdout, re.M)
    )
    passed = [name for name, result in results.items() if result == "ok"]
    failed = {name: "" for name, result in results.items() if result != "ok"}
    for name in failed:
        told = re.search(
            rf"^---- {re.escape(name)} stdout ----\n(.*?)\n\n", done.stdout, re.M | re.S
        )
        failed[name] = told[1] if told else ""
    if done.returncode != 0 and not failed:
        sys.exit(f"{' '.join(args)} ended with {done.returncode}:\n{done.stdout}")
    return passed, failed
