"""What scripts/check-deploy checks beside promtool: see there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
# preStop with `sleep` is on from 1.30.
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
# There is no schema for these: what counts of them is checked by hand.
FOREIGN = {"Issuer", "Certificate"}
# What Prometheus adds, and what every histogram has.
LABELS_OF_ALL = {"job", "namespace", "instance", "le"}
# What an end takes beside the pauses and drains that are set: commits, the last spans, and a few seconds to spare.
COMMITS_S = 10
SPANS_S = 5
SLACK_S = 5

wrong = []


def check(good, text):
    if not good:
        wrong.append(text)


def rows(document):
    """The rows of a document's tables, cell by cell."""
    for line in (DOCS / document).read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            # A pipe within a cell would be escaped.
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# Each setting, with its default.
SETTINGS = {cells[0].strip("`"): cells[2].strip("`") for cells in rows("CONFIG.md") if len(cells) > 2}
# Each metric, with its labels.
METRICS = {
    cells[0].strip("`"): set(re.findall(r"`(\w+)`", cells[1]))
    for cells in rows("METRICS.md")
    if cells[0].startswith("`gannet_")
}
for name, labels in METRICS.items():
    if name.startswith(("gannet_fetch_", "gannet_source_")):
        labels.add("fetcher")


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def size(text):
    number, unit = re.fullmatch(r"(\d+)(Gi|GiB)", text).groups()
    return int(number) << 30


def end_s(settings):
    """How long a member may take to end: new clients are still taken for `notice`, then come the drains
    of clients and of other members, then commits, and the last spans.
    """
    of = {**SETTINGS, **settings}
    return seconds(of["notice"]) + 2 * seconds(of["drain"]) + COMMITS_S + SPANS_S + SLACK_S


# Manifests


def build(directory):
    kubectl = Path(sys.executable).with_name("kubectl")
    # It looks for a configuration, and must find none.
    env = {**os.environ, "KUBECONFIG": "/dev/null"}
    built = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, env=env)
    if built.returncode:
        wrong.append(f"kustomize {directory}: {built.stderr.strip()}")
        return []
    return list(yaml.safe_load_all(built.stdout))


def manifests():
    """Both overlays, each with every kind of credentials."""
    for overlay in ("shared-store", "disks"):
        for components in (["mtls"], ["mtls", "cert-manager"], ["cluster-secret"]):
            with tempfile.TemporaryDirectory() as directory:
                copy = Path(directory, "kubernetes")
                shutil.copytree(DEPLOY / "kubernetes", copy)
                path = copy / "overlays" / overlay / "kustomization.yaml"
                kustomization = yaml.safe_load(path.read_text())
                check(kustomization["components"] == ["../../components/mtls"], f"{overlay}: its components")
                kustomization["components"] = [f"../../components/{name}" for name in components]
                path.write_text(yaml.safe_dump(kustomization))
                resources = build(path.parent)
            what = f"{overlay} with {' and '.join(components)}"
            try:
                if resources:
                    manifest(what, overlay, components, resources)
            except (KeyError, ValueError, AttributeError) as error:
                wrong.append(f"{what}: something is missing, or not as it was: {error!r}")


def manifest(what, overlay, components, resources):
    for resource in resources:
        if resource["kind"] in FOREIGN:
            continue
        for version in (OLDEST, NEWEST):
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                wrong.append(f"{what}: {resource['kind']} {resource['metadata']['name']}, {version}: {error}")

    def one(kind, name="gannet"):
        found = [r for r in resources if r["kind"] == kind and r["metadata"]["name"].startswith(name)]
        check(found, f"{what}: no {kind} {name}")
        return found[-1] if name == "gannet-members" else found[0]

    workload = one({"shared-store": "Deployment", "disks": "StatefulSet"}[overlay])
    template = workload["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    labels = template["metadata"]["labels"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = "\n".join(one("ConfigMap")["data"].values())
    settings = dict(re.findall(r'^([\w-]+) = "?([^"\n]*)"?$', settings, re.M))

    for name in settings:
        check(name in SETTINGS, f"{what}: no setting {name}")
    for name in env:
        setting = name.removeprefix("GANNET_").lower().replace("_", "-")
        check(not name.startswith("GANNET_") or setting in SETTINGS, f"{what}: no setting for {name}")
        # Only what comes earlier is put in.
        for used in re.findall(r"\$\((\w+)\)", env[name] or ""):
            earlier = list(env)[: list(env).index(name)]
            check(used in earlier, f"{what}: {name} uses {used}, which does not come before it")
    for port, setting in (("s3", "listen"), ("internal", "internal-listen"), ("ops", "ops-listen")):
        check(settings[setting] == f"0.0.0.0:{ports[port]}", f"{what}: {setting} is not the port {port}")

    # Everybody who selects members selects these, and nobody else.
    selectors = [
        workload["spec"]["selector"]["matchLabels"],
        one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        one("Service")["spec"]["selector"],
        one("Service", "gannet-members")["spec"]["selector"],
    ]
    for selector in selectors:
        check(selector == labels, f"{what}: a selector {selector}, and pods {labels}")
    for service in (one("Service"), one("Service", "gannet-members")):
        for port in service["spec"]["ports"]:
            check(ports.get(port["targetPort"]) == port["port"], f"{what}: a port {port}")
    members = one("Service", "gannet-members")["spec"]
    check(members["clusterIP"] == "None" and members["publishNotReadyAddresses"], f"{what}: members are not found")
    for rule in one("NetworkPolicy")["spec"]["ingress"]:
        check(rule.get("from"), f"{what}: a listener is open to everybody")
    reached = [port["port"] for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    check(sorted(reached) == sorted(ports), f"{what}: the network policy speaks of {reached}")

    # Also where one of them is set for the container alone.
    for name in ("notice", "drain"):
        settings[name] = env.get(f"GANNET_{name.upper()}") or settings.get(name) or SETTINGS[name]
    needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + end_s(settings)
    check(pod["terminationGracePeriodSeconds"] >= needed, f"{what}: it is killed before its {needed} s are over")
    memory = size(env.get("GANNET_MEMORY_MAX") or settings["memory-max"])
    limit = size(container["resources"]["limits"]["memory"])
    check(limit >= memory + (1 << 30), f"{what}: no memory is left beside that for chunks")

    check(container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "ops"}, f"{what}: readiness")
    check(container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "ops"}, f"{what}: liveness")
    check(pod["securityContext"]["runAsNonRoot"], f"{what}: may be root")
    context = container["securityContext"]
    check(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], f"{what}: {context}")
    check(context["capabilities"] == {"drop": ["ALL"]}, f"{what}: capabilities")

    # Files are where settings say, and no volume lies within another.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    check(volumes == set(mounts), f"{what}: volumes {volumes}, mounts {set(mounts)}")
    for path in mounts.values():
        check(not any(path.startswith(other + "/") for other in mounts.values()), f"{what}: {path} is within another")
    files = [settings["auth"], *(v for k, v in env.items() if k.startswith("GANNET_CLUSTER_") and "/" in v)]
    files += [argument.split("=")[1] for argument in container["args"] if argument.startswith("--config=")]
    for path in files:
        check(any(path.startswith(mount + "/") for mount in mounts.values()), f"{what}: nothing has {path}")

    # Who the members are, and how they show it.
    replicas = workload["spec"]["replicas"]
    if overlay == "disks":
        listed = [f"gannet-{n}.gannet-members:{ports['internal']}" for n in range(replicas)]
        check(env["GANNET_PEERS"].split(",") == listed, f"{what}: {replicas} members, and a list of {env['GANNET_PEERS']}")
        check("GANNET_PEERS_DNS" not in env, f"{what}: members are found in two ways")
        check(env["GANNET_ADVERTISE"] == f"$(POD_NAME).gannet-members:{ports['internal']}", f"{what}: its own name")
        check(workload["spec"]["serviceName"] == "gannet-members", f"{what}: pods have no names")
    else:
        check(env["GANNET_PEERS_DNS"] == "gannet-members", f"{what}: members are not found")
        check(env["GANNET_ADVERTISE"] == f"$(POD_IP):{ports['internal']}", f"{what}: its own name")
    tls = [name for name in ("CA", "CERT", "KEY", "SAN") if f"GANNET_CLUSTER_{name}" in env]
    check(len(tls) == (4 if "mtls" in components else 0), f"{what}: certificates: {tls}")
    check(("GANNET_CLUSTER_SECRET" in env) == ("cluster-secret" in components), f"{what}: the secret")
    if "cert-manager" in components:
        certificate = one("Certificate", "gannet-cluster")
        certificate = next(
            r for r in resources if r["kind"] == "Certificate" and r["metadata"]["name"] == "gannet-cluster"
        )["spec"]
        (secret,) = [v["secret"]["secretName"] for v in pod["volumes"] if v["name"] == "cluster"]
        check(certificate["secretName"] == secret, f"{what}: the certificate is put elsewhere")
        check(env["GANNET_CLUSTER_SAN"] in certificate["dnsNames"], f"{what}: the certificate has another name")
        check({"client auth", "server auth"} <= set(certificate["usages"]), f"{what}: usages")


def unit():
    """systemd's unit, with the settings as they are by default."""
    text = (ROOT / "packaging/gannet.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\w+)$", text, re.M)
    needed = end_s({})
    check(seconds(stop) >= needed, f"gannet.service: it is killed before its {needed} s are over")


# Alerts and the dashboard


def expression(where, text):
    """Names only metrics that there are, with labels that they have."""
    for name, matchers in re.findall(r"\b(gannet_\w+)(?:\{([^}]*)\})?", text):
        plain = re.sub(r"_(bucket|sum|count)$", "", name)
        name = name if name in METRICS else plain
        if name not in METRICS:
            wrong.append(f"{where}: no metric {name}")
            continue
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        check(used <= METRICS[name] | LABELS_OF_ALL, f"{where}: {name} has no label {used - METRICS[name]}")


def anchors(document):
    headings = re.findall(r"^#+ (.*)$", (DOCS / document).read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def alerts():
    rules = [
        rule
        for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yaml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]
    }
    explained = anchors("OPERATIONS.md")
    for rule in rules:
        name = rule["alert"]
        expression(name, rule["expr"])
        check(name in fired, f"{name}: no test has it fire")
        check(rule["labels"]["severity"] in ("page", "ticket"), f"{name}: severity")
        page, anchor = rule["annotations"]["runbook_url"].split("#")
        check(page.endswith("/docs/OPERATIONS.md") and anchor == name.lower(), f"{name}: its runbook")
        check(anchor in explained, f"{name}: docs/OPERATIONS.md does not say what to do")
    return len(rules)


def dashboard():
    board = json.loads((DEPLOY / "grafana/gannet.json").read_text())
    panels = board["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] == "row"]
    check(titles == ["Traffic", "Origin", "Cluster", "Stores", "Fetches", "Errors"], f"rows {titles}")
    check(len({panel["id"] for panel in panels}) == len(panels), "two panels of one id")
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        check(not cells & taken and place["x"] + place["w"] <= 24, f"{panel['title']}: its place")
        taken |= cells
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    expressions = []
    for panel in panels:
        for target in panel.get("targets", []):
            expression(panel["title"], target["expr"])
            for variable in re.findall(r"\$(?!__)(\w+)", target["expr"]):
                check(variable in variables, f"{panel['title']}: no variable {variable}")
            text = target["expr"].replace("$__rate_interval", "5m")
            expressions.append(re.sub(r"\$\w+", ".*", text))
    for variable in variables.values():
        expression(f"variable {variable['name']}", str(variable["query"]))
    shown = " ".join(expressions)
    for name in METRICS:
        told = name in shown or name == "gannet_edge_accepted_total" or name in QUIET
        check(told, f"{name} is on no panel: say in deploy/check.py why not")
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}, file)
        file.flush()
        said = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    check(said.returncode == 0, f"the dashboard's expressions: {said.stderr.strip()}")
    return len(expressions)


# Nobody looks at these from day to day: connections over time say the same as those open, a source is
# blocked for good only by the wrong data that its health shows, and copies are verified all the time.
QUIET = {"gannet_source_blocked", "gannet_store_scrubbed_total"}


# Documents


def documents():
    """Files that are named exist; the error codes explained are those that there are."""
    for path in [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "ARCHITECTURE.md"]:
        text = path.read_text()
        for name in re.findall(r"`((?:crates|deploy|scripts|packaging|testkit)/[\w./-]+)`", text):
            check((ROOT / name).exists(), f"{path.name}: no {name}")
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            check((path.parent / link).exists(), f"{path.name}: no {link}")
        for page, anchor in re.findall(r"\]\((\w+\.md)?#([\w-]+)\)", text):
            check(anchor in anchors(page or path.name), f"{path.name}: no {page}#{anchor}")
    edge = "\n".join(path.read_text() for path in (ROOT / "crates/cache/src/edge").rglob("*.rs"))
    codes = set(re.findall(r'(?:bad_request|forbidden|not_found)\(\s*"(\w+)"', edge))
    codes |= set(re.findall(r'(?:StatusCode|S)::[A-Z_]+,\s*"(\w+)"', edge))
    codes |= set(re.findall(r'^\s+Some\(.*=> \(\s*"(\w+)",', edge, re.M))
    explained = set()
    for cells in rows("OPERATIONS.md"):
        if re.fullmatch(r"\d{3}", cells[0]):
            explained |= set(re.findall(r"`(\w+)`", cells[1]))
    check(codes <= explained, f"OPERATIONS.md does not explain {sorted(codes - explained)}")
    for code in explained:
        check(f'"{code}"' in edge, f"OPERATIONS.md explains {code}, which nobody answers")
    return len(explained)


manifests()
unit()
counts = (alerts(), dashboard(), documents())
for text in wrong:
    print(f"check-deploy: {text}", file=sys.stderr)
if wrong:
    sys.exit(1)
print("check-deploy: 6 manifests, %d alerts, %d expressions of the dashboard, %d error codes" % counts)
