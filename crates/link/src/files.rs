//! Reading small files.

use crate::LinkError;
use std::{fs::File, io::Read, path::Path};

/// More than any secret, key or chain of certificates: a device or a wrong file must not fill memory.
const BYTES_MAX: u64 = 1 << 20;

/// All of a file, up to a bound that no right file reaches.
pub(crate) fn read(path: &Path, what: &str) -> Result<Vec<u8>, LinkError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut content))
        .map_err(|error| {
            LinkError::Config(format!(
                "cannot read {what} from {}: {error}",
                path.display()
            ))
        })?;
    Ok(content)
}
