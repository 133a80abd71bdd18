//! Content types by file name, for the kinds of files that caches serve.

/// What S3 clients expect of anything else.
const UNKNOWN: &str = "application/octet-stream";

/// The content type that a key's extension suggests.
pub(super) fn content_type(key: &str) -> &'static str {
    let name = key.rsplit('/').next().unwrap_or(key);
    let Some((stem, extension)) = name.rsplit_once('.') else {
        return UNKNOWN;
    };
    if stem.is_empty() || extension.len() > 12 {
        return UNKNOWN;
    }
    match extension.to_ascii_lowercase().as_str() {
        "7z" => "application/x-7z-compressed",
        "avif" => "image/avif",
        "avro" => "application/vnd.apache.avro",
        "bz2" => "application/x-bzip2",
        "css" => "text/css",
        "csv" => "text/csv",
        "deb" => "application/vnd.debian.binary-package",
        "flac" => "audio/flac",
        "gif" => "image/gif",
        "gz" | "tgz" => "application/gzip",
        "htm" | "html" => "text/html",
        "ico" => "image/vnd.microsoft.icon",
        "jar" => "application/java-archive",
        "jpeg" | "jpg" => "image/jpeg",
        "js" | "mjs" => "text/javascript",
        "json" | "map" => "application/json",
        "jsonl" | "ndjson" => "application/x-ndjson",
        "md" => "text/markdown",
        "mp3" => "audio/mpeg",
        "mp4" | "m4v" => "video/mp4",
        "ogg" => "audio/ogg",
        "parquet" => "application/vnd.apache.parquet",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "rpm" => "application/x-rpm",
        "svg" => "image/svg+xml",
        "tar" => "application/x-tar",
        "toml" => "application/toml",
        "txt" | "log" => "text/plain",
        "wasm" => "application/wasm",
        "wav" => "audio/wav",
        "webm" => "video/webm",
        "webp" => "image/webp",
        "whl" | "zip" => "application/zip",
        "woff2" => "font/woff2",
        "xml" => "application/xml",
        "xz" => "application/x-xz",
        "yaml" | "yml" => "application/yaml",
        "zst" => "application/zstd",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_extension() {
        for (key, want) in [
            ("a/b.TXT", "text/plain"),
            ("model.safetensors", UNKNOWN),
            ("archive.tar.gz", "application/gzip"),
            ("dir.html/file", UNKNOWN),
            (".html", UNKNOWN),
            ("plain", UNKNOWN),
            ("x.", UNKNOWN),
            ("", UNKNOWN),
        ] {
            assert_eq!(content_type(key), want, "{key}");
        }
    }
}
