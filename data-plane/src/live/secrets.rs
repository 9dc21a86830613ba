//! Looks up the values of secrets where the worker runs.

use std::fs;

use http::HeaderValue;
use ntonix_config::{Secret, SecretSource};

/// The `Authorization` value that a secret makes.
///
/// # Errors
/// Why there is none, lower case, without the value.
pub(super) fn bearer(secret: &Secret) -> Result<HeaderValue, String> {
    let value = lookup(&secret.source)?;
    let mut header = HeaderValue::from_str(&format!("Bearer {value}"))
        .map_err(|_| "the value has characters that no header can carry".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

/// Is the value there at all?
pub(super) fn lookup(source: &SecretSource) -> Result<String, String> {
    let value = match source {
        SecretSource::Env(name) =>
        {
            #[expect(clippy::disallowed_methods, reason = "a secret may be an environment variable of the worker")]
            std::env::var(name).map_err(|_| format!("the environment variable {name} is not set on this worker"))?
        }
        SecretSource::File(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            text.strip_suffix('\n').map(|cut| cut.strip_suffix('\r').unwrap_or(cut)).unwrap_or(&text).to_owned()
        }
    };
    if value.is_empty() { Err("the value is empty".to_owned()) } else { Ok(value) }
}
