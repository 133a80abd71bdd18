//! The little XML that S3 answers consist of.

use bytes::Bytes;

/// S3's namespace.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Writes elements in order; tag names are ours, texts are escaped.
#[derive(Debug)]
pub(crate) struct Xml(String);

impl Xml {
    pub(crate) fn new() -> Self {
        let mut out = String::with_capacity(512);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        Self(out)
    }

    /// A document with this root element in S3's namespace, filled by `body`.
    pub(crate) fn document(root: &str, body: impl FnOnce(&mut Self)) -> Bytes {
        let mut xml = Self::new();
        xml.push(&["<", root, " xmlns=\"", NAMESPACE, "\">"]);
        body(&mut xml);
        xml.close(root);
        xml.finish()
    }

    pub(crate) fn open(&mut self, tag: &str) {
        self.push(&["<", tag, ">"]);
    }

    pub(crate) fn close(&mut self, tag: &str) {
        self.push(&["</", tag, ">"]);
    }

    /// An element with a text.
    pub(crate) fn text(&mut self, tag: &str, text: &str) {
        self.open(tag);
        self.escape(text);
        self.close(tag);
    }

    /// An element with a number.
    pub(crate) fn number(&mut self, tag: &str, number: u64) {
        self.text(tag, &number.to_string());
    }

    /// An element with a truth value.
    pub(crate) fn truth(&mut self, tag: &str, truth: bool) {
        self.text(tag, if truth { "true" } else { "false" });
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.into()
    }

    fn push(&mut self, parts: &[&str]) {
        for part in parts {
            self.0.push_str(part);
        }
    }

    /// Control characters go out as references, as S3 does it: not legal XML 1.0, which has no way to
    /// say them, but what its clients read (and why `encoding-type=url` exists).
    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\n' | '\t' => self.0.push(c),
                c if c < ' ' || c == '\u{7f}' || c == '\u{fffe}' || c == '\u{ffff}' => {
                    self.0.push_str(&format!("&#x{:x};", u32::from(c)));
                }
                c => self.0.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        let xml = Xml::document("A", |xml| {
            xml.text("B", "<&>\"'\u{1}\r€");
            xml.number("C", 7);
            xml.truth("D", true);
        });
        assert_eq!(
            std::str::from_utf8(&xml).unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <A xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <B>&lt;&amp;&gt;&quot;'&#x1;&#xd;€</B><C>7</C><D>true</D></A>"
        );
    }
}
