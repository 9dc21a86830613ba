//! Where the configuration comes from: a file, `--backend`, what was there before, or a demo.

use std::{fs, net::SocketAddr};

use ntonix_config::{BackendUrl, Draft, Source};
use ntonix_control_plane::ControlPlane;
use ntonix_proto::config::v1::{Backend, Pool, Route, Target};

use crate::{demo, settings::NtonixArgs};

/// Who has written a revision that nobody else has written: it may be replaced at the next start.
const AUTHOR: &str = "ntonix";
/// Where the demo backend is, unless something else is there.
const DEMO_ADDRESS: &str = "127.0.0.1:8101";

/// Starts the demo backends that a configuration file names, so that it can be tried as it is.
pub(crate) fn start_named_demos(args: &NtonixArgs) -> anyhow::Result<()> {
    let Some(path) = &args.config else { return Ok(()) };
    // What is wrong with the file is for the control plane to say.
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let Ok(source) = Source::read(&text, &std::env::current_dir()?) else { return Ok(()) };
    start_demos_of(&source.draft);
    Ok(())
}

fn start_demos_of(draft: &Draft) {
    let backends = draft.pools.iter().flat_map(|pool| &pool.backends);
    for backend in backends.filter(|backend| backend.name.starts_with(demo::NAME_PREFIX)) {
        let Some(address) = loopback_address(&backend.url) else { continue };
        match demo::start(address) {
            Ok(_) => tracing::info!(backend.name, url = backend.url, "Demo backend serves"),
            Err(error) => tracing::warn!(backend.name, url = backend.url, %error, "Demo backend not started"),
        }
    }
}

/// Gives the control plane the configuration of `--backend`, or the demo when it has none but ours.
pub(crate) async fn apply(plane: &ControlPlane, args: &NtonixArgs) -> anyhow::Result<()> {
    let draft = if args.config.is_some() {
        return Ok(());
    } else if !args.backend.is_empty() {
        gateway_for(&args.backend)
    } else if plane.newest_author().await?.is_none_or(|author| author == AUTHOR) {
        let preferred = DEMO_ADDRESS.parse::<SocketAddr>()?;
        let address = demo::start(preferred).or_else(|_| demo::start(SocketAddr::new(preferred.ip(), 0)))?;
        demo_for(address)
    } else {
        // An example that was applied to the demo is served like the same example as a file.
        start_demos_of(&plane.newest_draft().await.map_err(|refusal| anyhow::anyhow!("{refusal}"))?);
        return Ok(());
    };
    plane.apply_draft(draft, AUTHOR).await.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    Ok(())
}

/// Whatever the backends say that they have.
fn gateway_for(urls: &[String]) -> Draft {
    let backends = urls.iter().enumerate().map(|(index, url)| Backend {
        name: format!("backend-{}", index + 1),
        url: url.clone(),
        ..Backend::default()
    });
    draft("*", "backends", backends.collect())
}

fn demo_for(address: SocketAddr) -> Draft {
    let url = format!("http://{address}");
    draft(demo::MODEL, "demo", vec![Backend { name: format!("{}1", demo::NAME_PREFIX), url, ..Backend::default() }])
}

fn draft(model: &str, pool: &str, backends: Vec<Backend>) -> Draft {
    let target = Target { pool: pool.to_owned(), ..Target::default() };
    Draft {
        pools: vec![Pool { name: pool.to_owned(), backends, ..Pool::default() }],
        routes: vec![Route { model: model.to_owned(), targets: vec![target], ..Route::default() }],
        ..Draft::default()
    }
}

/// The address of a URL like http://127.0.0.1:8101.
fn loopback_address(url: &str) -> Option<SocketAddr> {
    let url = BackendUrl::try_from(url).ok().filter(|url| !url.tls && url.prefix.is_empty())?;
    let address = SocketAddr::new(url.host.parse().ok()?, url.port);
    address.ip().is_loopback().then_some(address)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ntonix_config::validate;

    use super::*;

    #[test]
    fn every_example_is_valid_and_its_demo_backends_can_be_started() {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let examples = fs::read_dir(deploy.join("examples")).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = examples.chain([deploy.join("compose/ntonix.yaml")]).collect();
        assert!(files.len() >= 5, "{files:?}");
        for file in files {
            let source = Source::read(&fs::read_to_string(&file).unwrap(), &deploy).unwrap();
            let config = validate(&source.draft).unwrap_or_else(|faults| panic!("{}:\n{faults}", file.display()));
            assert!(config.warnings().is_empty(), "{}: {:?}", file.display(), config.warnings());
            let backends = source.draft.pools.iter().flat_map(|pool| &pool.backends);
            for demo in backends.filter(|backend| backend.name.starts_with(demo::NAME_PREFIX)) {
                assert!(loopback_address(&demo.url).is_some(), "{}: {}", file.display(), demo.url);
            }
        }
    }
}
