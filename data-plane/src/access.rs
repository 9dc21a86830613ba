//! Whether clients need keys, as the log tells it.

use crate::{live::Live, ops, settings::TrafficArgs};

/// The first words about a configuration: where it is from, how old it is, and whether anybody may ask.
pub(crate) fn announce(live: &Live, traffic: &TrafficArgs) {
    let origin = live.origin();
    tracing::info!(
        config.source = ?origin.source,
        config.revision = origin.snapshot.as_ref().map_or(0, |snapshot| snapshot.revision),
        config.age_seconds = ops::age(live).as_secs(),
        access = access(live, traffic),
        "Configuration runs"
    );
}

/// Who is served now, when it was otherwise `before`.
pub(crate) fn turned(before: Option<&Live>, now: &Live, traffic: &TrafficArgs) -> Option<&'static str> {
    before.filter(|before| before.is_open() != now.is_open()).map(|_| access(now, traffic))
}

fn access(live: &Live, traffic: &TrafficArgs) -> &'static str {
    match live.is_open() {
        false => "keys are required",
        true if traffic.allow_anonymous => "OPEN: no keys are configured and --allow-anonymous serves everyone",
        true => "open: no keys are configured; only loopback listeners serve",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        live::tests::{cell, swap},
        settings::DataPlaneArgs,
    };

    #[test]
    fn who_is_served_is_told_when_it_changes() {
        let traffic = |flags: &[&str]| {
            let args = ["ntonix-data-plane", "--config", "x.yaml"];
            DataPlaneArgs::try_parse_from(args.iter().chain(flags)).unwrap().settings().unwrap().traffic
        };
        let (closed, open) = ("tenants: [{ name: t }]", "{}");
        let cell = cell();
        let mut before = None;
        let told = [closed, closed, open, open, closed].map(|text| {
            let now = swap(&cell, text);
            let told = turned(before.as_deref(), &now, &traffic(&[]));
            before = Some(now);
            told
        });
        let now_open = Some("open: no keys are configured; only loopback listeners serve");
        assert_eq!(told, [None, None, now_open, None, Some("keys are required")]);
        let everyone = turned(before.as_deref(), &swap(&cell, open), &traffic(&["--allow-anonymous"]));
        assert!(everyone.is_some_and(|told| told.starts_with("OPEN")), "{everyone:?}");
    }
}
