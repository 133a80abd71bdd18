//! S3 clients that we did not write: curl, the AWS command line, boto3, s3fs; signed, presigned,
//! anonymous.

use crate::harness::{Gannet, Tree};
use gannet_testkit::{
    client::{encode_key, stampede},
    origin::{Object, Origin},
    peers::{Moto, Python},
};
use std::{fs, process::Command};

const KEY: &str = "GANNETTESTREADER";
const SECRET: &str = "a-secret-of-more-than-sixteen-characters";
const TOKEN: &str = "a-bearer-token-for-the-tests";

fn curl(args: &[&str]) -> (String, Vec<u8>) {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "60",
        ])
        .args(args)
        .output()
        .expect("curl is installed");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {args:?}: {error}");
    (error, output.stdout)
}

/// A cache in front of the tree that only the holder of [`KEY`] or [`TOKEN`] may read.
fn guarded(tree: &Tree, data: &tempfile::TempDir) -> Gannet {
    let auth = data.path().join("auth.toml");
    let text = format!(
        "[[key]]\nid = \"{KEY}\"\nsecret = \"{SECRET}\"\n\n\
         [[token]]\nname = \"t\"\ntoken = \"{TOKEN}\"\nallow = [\"data\"]\n"
    );
    fs::write(&auth, text).unwrap();
    Gannet::start(
        &data.path().join("cache"),
        &[
            "--origin",
            &tree.url(),
            "--auth",
            auth.to_str().unwrap(),
            "--chunk-size",
            "1MiB",
        ],
    )
}

#[test]
fn curl_reads_everything_anonymously() {
    let tree = Tree::new();
    let data = tempfile::tempdir().unwrap();
    let gannet = Gannet::start(
        data.path(),
        &["--origin", &tree.url(), "--chunk-size", "1MiB"],
    );
    for round in ["cold", "warm"] {
        for (name, bytes) in &tree.files {
            let url = gannet.url(&encode_key(name));
            let (_, got) = curl(&["--fail", &url]);
            assert!(
                got == *bytes,
                "{round} {name}: {} bytes for {}",
                got.len(),
                bytes.len()
            );
        }
    }
    let url = gannet.url("models/deep/er/weights.bin");
    let bytes = &tree.files[2].1;
    let (_, got) = curl(&["--fail", "--range", "1048570-1048590", &url]);
    assert_eq!(
        got,
        bytes[1_048_570..=1_048_590],
        "across the border of two chunks"
    );
    let (_, got) = curl(&["--fail", "--range", "-5", &url]);
    assert_eq!(got, bytes[bytes.len() - 5..]);
    let (_, head) = curl(&["--head", &url]);
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(
        head.contains("content-length: 3145728") && head.contains("x-amz-request-id: "),
        "{head}"
    );
    let etag = head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap()
        .trim();
    let status = |args: &[&str]| {
        let args = [
            &["--output", "/dev/null", "--write-out", "%{http_code}"],
            args,
        ]
        .concat();
        String::from_utf8(curl(&args).1).unwrap()
    };
    assert_eq!(
        status(&["--header", &format!("If-None-Match: {etag}"), &url]),
        "304"
    );
    assert_eq!(status(&["--header", "If-Match: \"other\"", &url]), "412");
    assert_eq!(status(&[&gannet.url("models/nothing")]), "404");
    assert_eq!(
        status(&["--upload-file", "/dev/null", &gannet.url("models/new")]),
        "405"
    );
    assert_eq!(
        status(&["--path-as-is", &gannet.url("models/../../../etc/passwd")]),
        "404"
    );
}

/// The command of the README: any directory, one line.
#[test]
fn a_directory_of_the_system_is_served() {
    let root = ["/usr/share", "/usr/lib"]
        .into_iter()
        .find(|dir| fs::read_dir(dir).is_ok())
        .unwrap();
    let data = tempfile::tempdir().unwrap();
    let gannet = Gannet::start(data.path(), &["--origin", &format!("file://{root}")]);
    let log = gannet.process.log();
    let line = log
        .lines()
        .find_map(|line| line.trim().strip_prefix("try  curl -O "))
        .unwrap();
    let (_, got) = curl(&["--fail", line]);
    let path = line.strip_prefix(&format!("{}/", gannet.edge)).unwrap();
    assert!(
        !path.contains('%'),
        "a plain name was expected, for this test's sake: {path}"
    );
    assert_eq!(
        got,
        fs::read(format!("{root}/{path}")).unwrap(),
        "the line that is printed works"
    );
}

#[test]
fn without_an_origin_the_current_directory_is_served() {
    let tree = Tree::new();
    let data = tree.path().join("cache");
    fs::create_dir(tree.path().join(".hidden")).unwrap();
    fs::write(tree.path().join(".hidden/secret"), "x").unwrap();
    let mut command = crate::harness::program();
    let gannet = Gannet::spawn(command.current_dir(tree.path()).arg("--data").arg(&data));
    assert_eq!(
        curl(&["--fail", &gannet.url("data/a.txt")]).1,
        tree.files[7].1
    );
    let status = |path: &str| {
        let url = gannet.url(path);
        let args = ["--output", "/dev/null", "--write-out", "%{http_code}", &url];
        String::from_utf8(curl(&args).1).unwrap()
    };
    assert_eq!(status(".hidden/secret"), "404");
    let (_, buckets) = curl(&["--fail", &gannet.edge]);
    let buckets = String::from_utf8(buckets).unwrap();
    assert!(buckets.contains("<Name>data</Name>") && buckets.contains("<Name>models</Name>"));
    assert!(
        !buckets.contains("cache") && !buckets.contains("hidden"),
        "{buckets}"
    );
}

#[test]
fn the_aws_command_line_lists_copies_and_syncs_signed() {
    let tree = Tree::new();
    let data = tempfile::tempdir().unwrap();
    let gannet = guarded(&tree, &data);
    let python = Python::new(&gannet.edge, KEY, SECRET);
    let buckets = python.aws(&["s3", "ls"]);
    assert!(
        buckets.contains("data") && buckets.contains("models"),
        "{buckets}"
    );
    let listing = python.aws(&["s3", "ls", "--recursive", "s3://models"]);
    assert_eq!(listing.lines().count(), 7, "{listing}");
    assert!(listing.contains("ünïcödé/文件"), "{listing}");
    let copy = data.path().join("copy");
    python.aws(&[
        "s3",
        "cp",
        "s3://models/deep/er/weights.bin",
        copy.to_str().unwrap(),
    ]);
    assert!(fs::read(&copy).unwrap() == tree.files[2].1);
    let synced = data.path().join("synced");
    python.aws(&[
        "s3",
        "sync",
        "--only-show-errors",
        "s3://models",
        synced.to_str().unwrap(),
    ]);
    for (name, bytes) in tree
        .files
        .iter()
        .filter(|(name, _)| name.starts_with("models/"))
    {
        let got = fs::read(synced.join(name.strip_prefix("models/").unwrap()));
        assert!(got.unwrap() == *bytes, "{name}");
    }
    let again = python.aws(&["s3", "sync", "s3://models", synced.to_str().unwrap()]);
    assert_eq!(again.trim(), "", "a second sync has nothing to do");
    let forged = Python::new(&gannet.edge, KEY, "not-the-secret-that-was-given");
    let output = forged
        .command("aws")
        .args(["s3", "ls", "s3://models"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("SignatureDoesNotMatch"),
        "{error}"
    );
}

const BOTO3: &str = r#"
import sys, json, urllib.request, urllib.error, boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, token = sys.argv[1], sys.argv[2]
# Without this, boto3 presigns by the old scheme (SigV2); that is looked at below.
s3 = boto3.client("s3", config=Config(signature_version="s3v4"))

def code(call, **args):
    try:
        call(**args)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None

keys = [o["Key"] for page in s3.get_paginator("list_objects_v2").paginate(
    Bucket="models", PaginationConfig={"PageSize": 2}) for o in page.get("Contents", [])]
assert len(keys) == 7 and keys == sorted(keys, key=lambda k: k.encode()), keys
old = [o["Key"] for page in s3.get_paginator("list_objects").paginate(
    Bucket="models", PaginationConfig={"PageSize": 3}) for o in page.get("Contents", [])]
assert old == keys, old
for key in keys:
    head = s3.head_object(Bucket="models", Key=key)
    body = s3.get_object(Bucket="models", Key=key)["Body"].read()
    assert len(body) == head["ContentLength"], key
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": key})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == body, key
page = s3.list_objects_v2(Bucket="models", Delimiter="/")
assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["deep/", "ünïcödé/"], page

key = "deep/er/weights.bin"
whole = s3.get_object(Bucket="models", Key=key)
body, etag = whole["Body"].read(), whole["ETag"]
part = s3.get_object(Bucket="models", Key=key, Range="bytes=1000000-2000000")
assert part["ContentRange"] == "bytes 1000000-2000000/3145728"
assert part["Body"].read() == body[1000000:2000001]
assert code(s3.get_object, Bucket="models", Key=key, IfMatch='"other"') == "PreconditionFailed"
assert code(s3.get_object, Bucket="models", Key=key, IfNoneMatch=etag) == "304"
assert code(s3.get_object, Bucket="models", Key="nothing") == "NoSuchKey"
assert code(s3.get_object, Bucket="nowhere", Key="nothing") in ("NoSuchBucket", "NoSuchKey")
assert code(s3.get_object, Bucket="models", Key=key, Range="bytes=99999999-") == "InvalidRange"
assert code(s3.put_object, Bucket="models", Key="new", Body=b"x") == "MethodNotAllowed"
assert code(s3.delete_object, Bucket="models", Key=key) == "MethodNotAllowed"

url = s3.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": key})
def status(url, headers={}):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code
assert status(url.replace("weights", "other")) == 403
default = boto3.client("s3").generate_presigned_url("get_object", Params={"Bucket": "data", "Key": "a.txt"})
assert status(default) == 200, default
assert status(default.replace("a.txt", "b.txt")) == 403, default
assert status(url[:-1] + ("0" if url[-1] != "0" else "1")) == 403
bearer = {"Authorization": "Bearer " + token}
assert status(endpoint + "/data/a.txt", bearer) == 200
assert status(endpoint + "/models/one", bearer) == 403
assert status(endpoint + "/data/a.txt") == 403

anonymous = boto3.client("s3", config=Config(signature_version=UNSIGNED))
assert code(anonymous.get_object, Bucket="data", Key="a.txt") == "AccessDenied"
s3.download_file("models", key, sys.argv[3])
assert open(sys.argv[3], "rb").read() == body
print("ok")
"#;

#[test]
fn boto3_reads_signed_presigned_and_with_a_token() {
    let tree = Tree::new();
    let data = tempfile::tempdir().unwrap();
    let gannet = guarded(&tree, &data);
    let python = Python::new(&gannet.edge, KEY, SECRET);
    let file = data.path().join("downloaded");
    let out = python.script(BOTO3, &[&gannet.edge, TOKEN, file.to_str().unwrap()]);
    assert_eq!(out.trim(), "ok");
}

const S3FS: &str = r#"
import sys, fsspec
signed = len(sys.argv) > 2
fs = fsspec.filesystem("s3", anon=not signed, client_kwargs={"endpoint_url": sys.argv[1]})
names = fs.find("models")
assert len(names) == 7, names
assert {n["name"] for n in fs.ls("models", detail=True)} >= {"models/one", "models/deep"}
assert fs.info("models/deep/er/weights.bin")["size"] == 3 << 20
whole = fs.cat("models/deep/er/weights.bin")
with fs.open("models/deep/er/weights.bin", "rb", block_size=256 << 10) as f:
    f.seek(1 << 20)
    assert f.read(100) == whole[1 << 20:(1 << 20) + 100]
    f.seek(-7, 2)
    assert f.read() == whole[-7:]
assert fs.cat("models/empty") == b""
assert not fs.exists("models/nothing")
print(len(whole))
"#;

#[test]
fn s3fs_reads_signed_and_anonymously() {
    let tree = Tree::new();
    let data = tempfile::tempdir().unwrap();
    let gannet = guarded(&tree, &data);
    let python = Python::new(&gannet.edge, KEY, SECRET);
    assert_eq!(
        python.script(S3FS, &[&gannet.edge, "signed"]).trim(),
        "3145728"
    );
    let open = tempfile::tempdir().unwrap();
    let gannet = Gannet::start(
        open.path(),
        &["--origin", &tree.url(), "--chunk-size", "1MiB"],
    );
    assert_eq!(python.script(S3FS, &[&gannet.edge]).trim(), "3145728");
}

const THROUGH: &str = r#"
import sys, boto3
origin = boto3.client("s3", endpoint_url=sys.argv[2])
cache = boto3.client("s3", endpoint_url=sys.argv[1])
origin.put_object(Bucket="through", Key="k v", Body=b"x" * 3000000, ContentType="text/x-test",
                  CacheControl="max-age=60", Metadata={"who": "me"})
got = cache.get_object(Bucket="through", Key="k v")
assert got["Body"].read() == b"x" * 3000000
assert (got["ContentType"], got["CacheControl"], got["Metadata"]) == (
    "text/x-test", "max-age=60", {"who": "me"}), got
assert got["ETag"] == origin.head_object(Bucket="through", Key="k v")["ETag"]
assert [o["Key"] for o in cache.list_objects_v2(Bucket="through")["Contents"]] == ["k v"]
print("ok")
"#;

#[tokio::test]
async fn s3_in_front_of_s3() {
    let moto = Moto::start();
    moto.bucket("through").await;
    let data = tempfile::tempdir().unwrap();
    let mut command = crate::harness::program();
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    command
        .args(["--origin=s3://", "--origin-endpoint", moto.url(), "--data"])
        .arg(data.path());
    let gannet = Gannet::spawn(&mut command);
    let python = Python::new(&gannet.edge, "test", "test");
    let out = tokio::task::spawn_blocking({
        let (edge, origin) = (gannet.edge.clone(), moto.url().to_owned());
        move || python.script(THROUGH, &[&edge, &origin])
    });
    assert_eq!(out.await.unwrap().trim(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_cost_the_origin_one() {
    let origin = Origin::start();
    let object = origin.put("b", "big", Object::generated(7, 5 << 20));
    let data = tempfile::tempdir().unwrap();
    // On a busy machine an origin may well be silent for a second: no hedge is to fire here.
    let gannet = Gannet::start(
        data.path(),
        &[
            "--origin",
            &origin.url(),
            "--chunk-size=1MiB",
            "--hedge-after=1h",
        ],
    );
    let clients = stampede(&gannet.url("b/big"), &[], 50, true).await;
    assert_eq!(
        (clients.right(&object.sha256()), clients.served()),
        (50, 50)
    );
    assert_eq!(
        origin.counts().bytes,
        object.size,
        "each byte was fetched once"
    );
    assert_eq!(
        gannet.metric("gannet_origin_bytes_total").await,
        object.size as f64
    );
    // 200s of GETs, whatever the labels are beside.
    assert_eq!(gannet.metric("gannet_edge_requests_total").await, 50.0);
}
