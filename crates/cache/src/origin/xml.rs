//! XML answers of origins, read under bounds: depth, elements, text. No DTD, hence no entities of
//! the sender's making.

use quick_xml::{Reader, events::Event};

/// The deepest nesting that is read.
const DEPTH_MAX: usize = 16;
/// The most elements of one document.
const ELEMENTS_MAX: usize = 200_000;
/// The most text of one element, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Why a document is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    /// It is not well-formed, or breaks off.
    #[error("not well-formed XML")]
    Syntax,
    /// It has a document type, or an entity that XML does not define.
    #[error("XML with a document type or unknown entities is refused")]
    Entity,
    /// It exceeds a bound.
    #[error("XML beyond its bounds")]
    Bounds,
    /// It is XML, and not what was asked for.
    #[error("unexpected XML")]
    Unexpected,
}

/// One element that has ended.
#[derive(Debug)]
pub(crate) struct Element<'a> {
    /// Local names from the root to this element.
    pub(crate) path: &'a [String],
    /// Its own text, entities resolved; that of its children is not in it.
    pub(crate) text: &'a str,
    /// Its `Encoded="true"` attribute (Azure's way to list names that XML cannot hold).
    pub(crate) encoded: bool,
}

impl Element<'_> {
    /// Whether the path below the root is this.
    pub(crate) fn is(&self, below_root: &[&str]) -> bool {
        self.path.len() == below_root.len() + 1
            && self.path[1..].iter().zip(below_root).all(|(a, b)| a == b)
    }
}

#[derive(Default)]
struct Open {
    text: String,
    encoded: bool,
}

/// Calls `ended` for each element at its end, children first; the root comes last.
///
/// Cost: one pass; memory for the open elements only.
pub(crate) fn walk(
    xml: &[u8],
    mut ended: impl FnMut(&Element<'_>) -> Result<(), XmlError>,
) -> Result<(), XmlError> {
    let xml = std::str::from_utf8(xml).map_err(|_| XmlError::Syntax)?;
    let mut reader = Reader::from_str(xml.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut path: Vec<String> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut elements = 0;
    loop {
        let event = reader.read_event().map_err(|_| XmlError::Syntax)?;
        match event {
            Event::Start(start) => {
                elements += 1;
                if path.len() >= DEPTH_MAX || elements > ELEMENTS_MAX {
                    return Err(XmlError::Bounds);
                }
                if path.is_empty() && elements > 1 {
                    return Err(XmlError::Syntax);
                }
                let encoded = start
                    .attributes()
                    .flatten()
                    .any(|a| a.key.as_ref() == "Encoded" && a.value.eq_ignore_ascii_case("true"));
                path.push(start.local_name().as_ref().to_owned());
                open.push(Open {
                    text: String::new(),
                    encoded,
                });
            }
            Event::End(_) => {
                let done = open.pop().ok_or(XmlError::Syntax)?;
                ended(&Element {
                    path: &path,
                    text: &done.text,
                    encoded: done.encoded,
                })?;
                path.pop();
            }
            Event::Text(text) => push(&mut open, &text.xml10_content())?,
            Event::CData(text) => push(&mut open, &text.xml10_content())?,
            Event::GeneralRef(entity) => {
                let resolved = match entity.resolve_char_ref() {
                    Ok(Some(c)) => c,
                    Ok(None) => match entity.xml10_content().as_ref() {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return Err(XmlError::Entity),
                    },
                    Err(_) => return Err(XmlError::Syntax),
                };
                push(&mut open, resolved.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(XmlError::Entity),
            Event::Eof if elements > 0 && path.is_empty() => return Ok(()),
            Event::Eof => return Err(XmlError::Syntax),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Empty(_) => {}
        }
    }
}

fn push(open: &mut [Open], text: &str) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(element) if element.text.len() + text.len() > TEXT_BYTES_MAX => Err(XmlError::Bounds),
        Some(element) => {
            element.text.push_str(text);
            Ok(())
        }
        None if text.trim().is_empty() => Ok(()),
        None => Err(XmlError::Syntax),
    }
}

/// An error answer of S3 or Azure: its code, its message, and the region that S3 names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    /// `NoSuchKey` and the like.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// S3: where the bucket is.
    pub(crate) region: Option<String>,
}

/// Reads an error answer; anything that is none gives an empty one, since the status says enough.
pub(crate) fn error_body(xml: &[u8]) -> ErrorBody {
    let mut body = ErrorBody::default();
    let read = walk(xml, |element| {
        if element.is(&["Code"]) {
            element.text.trim().clone_into(&mut body.code);
        } else if element.is(&["Message"]) {
            body.message = element.text.trim().chars().take(300).collect();
        } else if element.is(&["Region"]) {
            body.region = Some(element.text.trim().to_owned());
        }
        Ok(())
    });
    match read {
        Ok(()) => body,
        Err(_) => ErrorBody::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flat(xml: &str) -> Result<Vec<String>, XmlError> {
        let mut seen = Vec::new();
        walk(xml.as_bytes(), |e| {
            seen.push(format!("{}={}", e.path.join("/"), e.text));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn elements_come_children_first() {
        assert_eq!(
            flat(
                "<?xml version='1.0'?>\n<r xmlns='x'><a>1 &amp; &#50;</a><n:b/><c><![CDATA[<]]></c></r>\n"
            ),
            Ok(vec![
                "r/a=1 & 2".into(),
                "r/b=".into(),
                "r/c=<".into(),
                "r=".into()
            ])
        );
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        let wide = format!("<r>{}</r>", "<a/>".repeat(ELEMENTS_MAX));
        let long = format!("<r>{}</r>", "x".repeat(TEXT_BYTES_MAX + 1));
        let bomb = "<!DOCTYPE r [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><r>&b;</r>";
        for (xml, want) in [
            ("", XmlError::Syntax),
            ("text", XmlError::Syntax),
            ("<a>", XmlError::Syntax),
            ("<a></b>", XmlError::Syntax),
            ("<a/><b/>", XmlError::Syntax),
            ("<a>&nope;</a>", XmlError::Entity),
            ("<a>&#0;</a>", XmlError::Syntax),
            ("<a>&#xD800;</a>", XmlError::Syntax),
            (bomb, XmlError::Entity),
            (&deep, XmlError::Bounds),
            (&wide, XmlError::Bounds),
            (&long, XmlError::Bounds),
        ] {
            assert_eq!(flat(xml).err(), Some(want), "{}", &xml[..xml.len().min(60)]);
        }
    }

    #[test]
    fn errors_of_s3() {
        let body = error_body(
            b"<Error><Code>NoSuchKey</Code><Message>gone</Message><Region>eu-west-1</Region></Error>",
        );
        assert_eq!(body.code, "NoSuchKey");
        assert_eq!(body.message, "gone");
        assert_eq!(body.region.as_deref(), Some("eu-west-1"));
        assert_eq!(error_body(b"<html><body>no"), ErrorBody::default());
    }

    proptest! {
        #[test]
        fn never_panics(xml in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = walk(&xml, |_| Ok(()));
            let _ = error_body(&xml);
        }

        #[test]
        fn never_panics_on_markup(xml in "(<[a-c/!?]{0,3}[ a=\"']{0,4}>?|&[#a-z0-9]{0,5};?|[a-z]|]]>){0,40}") {
            let _ = walk(xml.as_bytes(), |_| Ok(()));
        }
    }
}
