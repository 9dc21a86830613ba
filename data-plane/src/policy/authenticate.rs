//! Refuses whoever shows no key that this gateway knows.

use crate::{
    exchange::Exchange,
    live::{Identity, WhyNot},
    policy::gate::Gate,
    refusal::{Kind, Refusal},
};

/// The gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authenticate;

// === impl Authenticate ===

impl Gate for Authenticate {
    fn pass(&self, exchange: &mut Exchange) -> Result<(), Refusal> {
        if let Identity::Known(key) = &exchange.identity {
            let mut facts = exchange.record.facts();
            facts.tenant = Some(key.tenant.clone());
            facts.key = Some(key.clone());
        }
        check(&exchange.identity)
    }
}

/// Refuses nobody in particular. The HTTP edge asks too, before it reads a body for someone without a key.
pub(crate) fn check(identity: &Identity) -> Result<(), Refusal> {
    match identity {
        Identity::Anonymous | Identity::Known(_) => Ok(()),
        Identity::Nobody(why) => Err(Refusal::new(Kind::InvalidApiKey, why.public())),
    }
}

// === impl WhyNot ===

impl WhyNot {
    fn public(self) -> &'static str {
        match self {
            WhyNot::Missing => "no API key: send it as \"Authorization: Bearer …\" or as \"x-api-key\"",
            WhyNot::Malformed => "what was sent as API key is none",
            WhyNot::Unknown => "the API key is not known",
            WhyNot::Expired => "the API key has expired",
            WhyNot::NoKeysHere => {
                "this gateway has no keys configured and serves without keys only on loopback (see --allow-anonymous)"
            }
        }
    }
}
