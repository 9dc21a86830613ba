//! Refuses a model that the tenant may not ask for.

use crate::{
    exchange::Exchange,
    live::Identity,
    policy::gate::Gate,
    refusal::{Kind, Refusal},
};

/// The gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authorize;

// === impl Authorize ===

impl Gate for Authorize {
    fn pass(&self, exchange: &mut Exchange) -> Result<(), Refusal> {
        let Identity::Known(key) = &exchange.identity else { return Ok(()) };
        let model = &exchange.call.model;
        if key.tenant.may_ask_for(model) {
            return Ok(());
        }
        let public = format!("the tenant \"{}\" may not use the model \"{model}\"", key.tenant.name);
        Err(Refusal::new(Kind::Forbidden, public).about(Some("model")))
    }
}
