//! `GET /v1/models`: what the caller may ask for.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use ntonix_llm::openai::{self, Model};

use super::{Edge, Visit, body::EdgeBody, credential};
use crate::{
    live::{Identity, Live},
    policy::authenticate,
    refusal::{Kind, Refusal},
};

// === impl Edge ===

impl Edge {
    /// The list, or one entry of it.
    pub(super) fn models(&self, visit: &Visit) -> Result<Response<EdgeBody>, Refusal> {
        let live = &visit.live;
        let shown = credential::of_headers(visit.request.headers());
        let identity = live.identify(shown.as_ref().map(Option::as_deref).map_err(|why| *why), visit.peer.anonymous);
        authenticate::check(&identity)?;
        let models = allowed(live, &identity);
        let created = live.origin().taken.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let entry = |id| Model { id, created, owned_by: "ntonix" };
        let body = match visit.request.uri().path().strip_prefix("/v1/models/").map(decoded) {
            None => openai::models_body(models.iter().map(|model| entry(model.as_str()))),
            Some(wanted) if models.contains(&wanted) => openai::model_body(entry(&wanted)),
            Some(wanted) => {
                let public = format!("the model \"{wanted}\" does not exist or is not for this caller");
                return Err(Refusal::new(Kind::ModelNotFound, public).about(Some("model")));
            }
        };
        Ok(json(body))
    }
}

fn allowed(live: &Live, identity: &Identity) -> Vec<String> {
    let mut models = live.routes().models();
    if let Identity::Known(key) = identity {
        models.retain(|model| key.tenant.may_ask_for(model));
    }
    models
}

fn json(body: Bytes) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Undoes percent-encoding (RFC 3986 §2.1): an id may hold `/` and `:`, encoded or not.
fn decoded(id: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(id.len()), id.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_hold_slashes_encoded_or_not() {
        // Conformance item 15.
        assert_eq!(decoded("meta-llama/Llama-3:70b"), "meta-llama/Llama-3:70b");
        assert_eq!(decoded("meta-llama%2FLlama-3%3A70b"), "meta-llama/Llama-3:70b");
        assert_eq!(decoded("50%"), "50%");
        assert_eq!(decoded("%zz%e2%82%ac"), "%zz€");
    }
}
