//! Continuation tokens of origins that have none of their own, or whose own say too little: where a
//! page ended, opaque to clients.

use super::{OriginError, encode};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::sync::Arc;

/// A page's end, opaque to clients.
pub(crate) fn token(last: &str) -> Arc<str> {
    URL_SAFE_NO_PAD.encode(last).into()
}

/// What [`token`] was made of.
pub(crate) fn from_token(token: &str) -> Result<String, OriginError> {
    let invalid = || OriginError::Invalid("not a continuation token of this origin".into());
    if token.len() > 4 * encode::KEY_BYTES_MAX {
        return Err(invalid());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_token() {
        let long = "a".repeat(4 * encode::KEY_BYTES_MAX + 1);
        for text in ["!", "a", "_w", long.as_str()] {
            assert!(
                matches!(from_token(text), Err(OriginError::Invalid(_))),
                "{text:.9}"
            );
        }
    }

    proptest! {
        #[test]
        fn there_and_back(last in ".{0,200}") {
            prop_assert_eq!(from_token(&token(&last)).unwrap(), last);
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = from_token(&text);
        }
    }
}
