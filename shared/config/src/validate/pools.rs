//! Checks pools, and the secrets that they show to their backends.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use ntonix_proto::config::v1::{self, secret_source};

use super::checker::{Checker, HOUR, MINUTE};
use crate::{Backend, BackendUrl, Balance, Breaker, Dialect, Draft, Health, Pool, Secret, SecretSource};

const MILLISECOND: Duration = Duration::from_millis(1);

impl Checker {
    pub(super) fn pools(&mut self, draft: &Draft) -> Vec<Pool> {
        let secrets: HashSet<&str> = draft.secrets.iter().map(|secret| secret.name.as_str()).collect();
        let names = draft.pools.iter().enumerate();
        self.unique("name", names.map(|(index, pool)| (format!("pools[{index}].name"), pool.name.as_str())));
        let pools = draft.pools.iter().enumerate();
        pools.filter_map(|(index, pool)| self.pool(&format!("pools[{index}]"), pool, &secrets)).collect()
    }

    fn pool(&mut self, at: &str, pool: &v1::Pool, secrets: &HashSet<&str>) -> Option<Pool> {
        self.name(format!("{at}.name"), &pool.name);
        let credential = pool.credential.as_ref().map(|credential| credential.secret.clone());
        if let Some(secret) = &credential {
            self.reference(format!("{at}.credential.secret"), "secret", secret, secrets);
        }
        Some(Pool {
            name: pool.name.clone(),
            backends: self.backends(&format!("{at}.backends"), &pool.backends),
            credential,
            health: self.health(&format!("{at}.health"), &pool.health.clone().unwrap_or_default()),
            breaker: self.breaker(&format!("{at}.breaker"), &pool.breaker.unwrap_or_default()),
            // Both last, so that the rest of a pool of a newer version is checked all the same.
            dialect: self.dialect(&format!("{at}.dialect"), pool.dialect)?,
            balance: self.balance(&format!("{at}.balance"), pool.balance)?,
        })
    }

    fn dialect(&mut self, at: &str, dialect: i32) -> Option<Dialect> {
        match v1::Dialect::try_from(dialect) {
            Ok(v1::Dialect::Unspecified | v1::Dialect::Openai) => Some(Dialect::OpenAi),
            Err(_) => self.unknown_number(at, dialect),
        }
    }

    fn balance(&mut self, at: &str, balance: i32) -> Option<Balance> {
        match v1::Balance::try_from(balance) {
            Ok(v1::Balance::Unspecified | v1::Balance::LeastLoaded) => Some(Balance::LeastLoaded),
            Ok(v1::Balance::WeightedRoundRobin) => Some(Balance::WeightedRoundRobin),
            Err(_) => self.unknown_number(at, balance),
        }
    }

    fn unknown_number<T>(&mut self, at: &str, number: i32) -> Option<T> {
        self.fault(at, format!("has the value {number}, which this version does not know"));
        None
    }

    fn backends(&mut self, at: &str, backends: &[v1::Backend]) -> Vec<Backend> {
        if backends.is_empty() {
            self.fault(at, "must have at least one backend");
        } else if backends.iter().all(|backend| backend.weight == Some(0)) {
            self.fault(at, "must have at least one backend with a weight above 0");
        }
        let numbered = backends.iter().enumerate();
        self.unique(
            "name",
            numbered.clone().map(|(index, backend)| (format!("{at}[{index}].name"), backend.name.as_str())),
        );
        let checked: Vec<(usize, Backend)> = numbered
            .filter_map(|(index, backend)| Some((index, self.backend(&format!("{at}[{index}]"), backend)?)))
            .collect();
        let urls: Vec<(usize, String)> =
            checked.iter().map(|(index, backend)| (*index, backend.url.to_string())).collect();
        self.unique("address", urls.iter().map(|(index, url)| (format!("{at}[{index}].url"), url.as_str())));
        checked.into_iter().map(|(_, backend)| backend).collect()
    }

    fn backend(&mut self, at: &str, backend: &v1::Backend) -> Option<Backend> {
        self.name(format!("{at}.name"), &backend.name);
        let weight = self.count(&format!("{at}.weight"), backend.weight, 0..=1_000, 1);
        let max_streams = self.optional_count(&format!("{at}.max_streams"), backend.max_streams, 1..=1_000_000);
        if backend.ca.as_ref().is_some_and(|ca| ca.file.is_empty()) {
            self.fault(format!("{at}.ca.file"), "is missing");
        }
        let url = if backend.url.is_empty() { Err("is missing") } else { BackendUrl::try_from(backend.url.as_str()) };
        Some(Backend {
            name: backend.name.clone(),
            url: self.kept(format!("{at}.url"), url)?,
            weight,
            max_streams,
            http2: backend.http2,
            ca_file: backend.ca.as_ref().map(|ca| PathBuf::from(&ca.file)),
        })
    }

    fn health(&mut self, at: &str, health: &v1::Health) -> Health {
        let path = if health.path.is_empty() { "/health" } else { &health.path };
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            self.fault(
                format!("{at}.path"),
                format!("must start with \"/\" and be without spaces or \"#\", not {path:?}"),
            );
        }
        let (every, timeout) = (Duration::from_secs(5), Duration::from_secs(2));
        Health {
            path: path.to_owned(),
            every: self.duration(&format!("{at}.every"), health.every, 100 * MILLISECOND..=HOUR, every),
            timeout: self.duration(&format!("{at}.timeout"), health.timeout, 10 * MILLISECOND..=MINUTE, timeout),
            healthy_after: self.count(&format!("{at}.healthy_after"), health.healthy_after, 1..=100, 2),
            unhealthy_after: self.count(&format!("{at}.unhealthy_after"), health.unhealthy_after, 1..=100, 3),
        }
    }

    fn breaker(&mut self, at: &str, breaker: &v1::Breaker) -> Breaker {
        let (open, slow_start) = (Duration::from_secs(10), Duration::from_secs(30));
        Breaker {
            failures: self.count(&format!("{at}.failures"), breaker.failures, 1..=1_000, 5),
            open: self.duration(&format!("{at}.open"), breaker.open, 100 * MILLISECOND..=HOUR, open),
            slow_start: self.duration(
                &format!("{at}.slow_start"),
                breaker.slow_start,
                Duration::ZERO..=HOUR,
                slow_start,
            ),
        }
    }

    pub(super) fn secrets(&mut self, draft: &Draft) -> Vec<Secret> {
        let names = draft.secrets.iter().enumerate();
        self.unique("name", names.map(|(index, secret)| (format!("secrets[{index}].name"), secret.name.as_str())));
        let secrets = draft.secrets.iter().enumerate();
        secrets.filter_map(|(index, secret)| self.secret(&format!("secrets[{index}]"), secret)).collect()
    }

    fn secret(&mut self, at: &str, secret: &v1::Secret) -> Option<Secret> {
        self.name(format!("{at}.name"), &secret.name);
        let source = match secret.from.as_ref().and_then(|from| from.source.as_ref()) {
            Some(secret_source::Source::Env(name)) if name.is_empty() || name.contains(['=', '\0']) => {
                Err(no_variable(name))
            }
            Some(secret_source::Source::File(file)) if file.is_empty() || file.contains('\0') => {
                Err(format!("must have the path of a file in file, not {file:?}"))
            }
            Some(secret_source::Source::Env(name)) => Ok(SecretSource::Env(name.clone())),
            Some(secret_source::Source::File(file)) => Ok(SecretSource::File(PathBuf::from(file))),
            None => Err("must have env or file".to_owned()),
        };
        Some(Secret { name: secret.name.clone(), source: self.kept(format!("{at}.from"), source)? })
    }
}

/// What is said of `name`, which may be followed by its value.
fn no_variable(name: &str) -> String {
    let reason = "must have the name of an environment variable in env";
    match name.split_once('=') {
        Some((name, _)) => format!("{reason}, and not its value: {:?}", format!("{name}=…")),
        None => format!("{reason}, not {name:?}"),
    }
}
