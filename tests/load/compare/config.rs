//! The configuration that NTONIX is measured with: as large as that of a real site.

use std::fmt::Write as _;
use std::net::SocketAddr;

use ntonix_config::KeyDigest;
use ntonix_tests::mock_llm;

/// How much of everything there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) routes: u32,
    pub(crate) keys: u32,
    /// Of the pool that answers.
    pub(crate) backends: u32,
}

const TENANTS: u32 = 20;
const OTHER_POOLS: u32 = 9;

/// A site with some dozens of teams.
pub(crate) const REAL: Size = Size { routes: 100, keys: 1_000, backends: 2 };

/// A site of one team, and one of a whole country, with what is looked up for each request.
pub(crate) const FEW: Size = Size { routes: 10, keys: 10, ..REAL };
pub(crate) const MANY: Size = Size { routes: 10_000, keys: 100_000, ..REAL };

/// The key that the driver shows: one in the middle.
pub(crate) fn key(size: Size) -> String {
    nth_key(size.keys / 2)
}

fn nth_key(number: u32) -> String {
    format!("ntx_compare{number:032}")
}

/// The file. The measured route is the one in the middle; quotas are counted, and high enough for any load.
pub(crate) fn yaml(size: Size, backends: &[SocketAddr]) -> String {
    let mut text = String::from("pools:\n");
    write_pool(&mut text, "answers", backends);
    for other in 0..OTHER_POOLS {
        write_pool(&mut text, &format!("other-{other}"), backends.first_chunk::<2>().map_or(backends, |two| two));
    }
    text.push_str("routes:\n");
    for route in 0..size.routes {
        if route == size.routes / 2 {
            let model = mock_llm::MODEL;
            line(
                &mut text,
                format_args!("- {{ model: {model}, targets: [{{ pool: answers }}], deadlines: {{ idle: 10m }} }}"),
            );
        } else {
            let pool = route % OTHER_POOLS;
            line(
                &mut text,
                format_args!(
                    "- {{ model: model-{route}, aliases: [alias-{route}], targets: [{{ pool: other-{pool} }}] }}"
                ),
            );
        }
    }
    text.push_str("tenants:\n");
    for tenant in 0..TENANTS {
        line(
            &mut text,
            format_args!("- {{ name: tenant-{tenant}, limits: {{ requests_per_minute: 10000000, streams: 20000 }} }}"),
        );
    }
    text.push_str("keys:\n");
    for key in 0..size.keys {
        let (tenant, digest) = (key % TENANTS, KeyDigest::of(nth_key(key).as_bytes()));
        line(&mut text, format_args!("- {{ name: key-{key}, tenant: tenant-{tenant}, digest: \"{digest}\" }}"));
    }
    text.push_str("limits: { streams: 20000, queue: 1000, queue_wait: 1s }\n");
    text
}

fn write_pool(text: &mut String, name: &str, backends: &[SocketAddr]) {
    line(text, format_args!("- name: {name}\n  backends:"));
    for (number, address) in backends.iter().enumerate() {
        line(text, format_args!("  - {{ name: b-{number}, url: \"http://{address}\" }}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A string takes whatever is written to it.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_takes_the_file_and_knows_the_key() {
        for size in [REAL, Size { routes: 1, keys: 1, backends: 1 }, Size { backends: 7, ..REAL }] {
            let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
            let addresses: Vec<SocketAddr> = (1..).map(address).take(size.backends as usize).collect();
            let text = yaml(size, &addresses);
            let source = ntonix_config::Source::read(&text, std::path::Path::new(".")).unwrap();
            let config = ntonix_config::validate(&source.draft).unwrap();
            assert_eq!((config.routes.len(), config.keys.len()), (size.routes as usize, size.keys as usize));
            assert_eq!(config.pools[0].backends.len(), size.backends as usize);
            let digest = KeyDigest::of(key(size).as_bytes());
            assert!(config.keys.iter().any(|key| key.digest == digest));
            assert!(config.routes.iter().any(|route| route.model.matches(mock_llm::MODEL)));
        }
    }
}
