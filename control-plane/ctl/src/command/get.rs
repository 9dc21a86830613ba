//! `ntonixctl get`: resources of a revision, as a table or as they stand in a file.

use std::io::Write;

use anyhow::Context;
use ntonix_config::{from_resources, resource_to_json, resource_to_yaml, to_json, to_yaml};
use ntonix_proto::{
    admin::v1::{ConfigServiceGetRequest, ConfigServiceListRequest},
    config::v1::{self, Resource, secret_source},
};

use crate::{
    complaint::explain,
    connect::Server,
    render::{duration, number, or_dash, table, time},
};

/// Show what is configured
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl get routes
  ntonixctl get pool demo -o yaml
  ntonixctl get limits --revision 3

`get keys` shows the keys of the configuration; those made with `key create` are in `key list`.
In a table, what is not configured is a dash: it has its default, if there is one.")]
pub(crate) struct Args {
    /// What to show; the singular is understood too
    #[arg(value_enum)]
    kind: ResourceKind,
    /// Only the one of this name; a route is named by its model
    name: Option<String>,
    /// How to show it; yaml and json are as in a file
    #[arg(long, short, value_enum, value_name = "FORM", default_value = "table")]
    output: Form,
    /// Of an older revision
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    revision: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ResourceKind {
    #[value(alias = "pool")]
    Pools,
    #[value(alias = "route")]
    Routes,
    #[value(alias = "tenant")]
    Tenants,
    #[value(alias = "key")]
    Keys,
    #[value(alias = "secret")]
    Secrets,
    #[value(alias = "limit")]
    Limits,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Form {
    Table,
    Yaml,
    Json,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let text = match &self.name {
            None => self.list(server).await?,
            Some(name) => self.one(server, name).await?,
        };
        Ok(write!(out, "{text}")?)
    }

    async fn one(&self, server: &Server, name: &str) -> anyhow::Result<String> {
        let request = ConfigServiceGetRequest { name: format!("{}/{name}", self.kind.word()), revision: self.revision };
        let found = server.config().get(request).await.map_err(|status| explain(&status, None))?;
        let resource = found.into_inner().resource.context("the control plane sent an empty answer")?;
        Ok(match self.output {
            Form::Table => self.kind.table(&[resource]),
            Form::Yaml => resource_to_yaml(&resource),
            Form::Json => resource_to_json(&resource),
        })
    }

    async fn list(&self, server: &Server) -> anyhow::Result<String> {
        let mut request = ConfigServiceListRequest {
            kind: self.kind.word().to_owned(),
            revision: self.revision,
            ..ConfigServiceListRequest::default()
        };
        let mut resources = Vec::new();
        loop {
            let page =
                server.config().list(request.clone()).await.map_err(|status| explain(&status, None))?.into_inner();
            resources.extend(page.resources);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(match self.output {
            Form::Table => self.kind.table(&resources),
            Form::Yaml => to_yaml(&from_resources(resources)),
            Form::Json => to_json(&from_resources(resources)),
        })
    }
}

// === impl ResourceKind ===

impl ResourceKind {
    /// As the names of resources begin.
    fn word(self) -> &'static str {
        match self {
            Self::Pools => "pools",
            Self::Routes => "routes",
            Self::Tenants => "tenants",
            Self::Keys => "keys",
            Self::Secrets => "secrets",
            Self::Limits => "limits",
        }
    }

    fn table(self, resources: &[Resource]) -> String {
        let draft = from_resources(resources.iter().cloned());
        match self {
            Self::Pools => {
                table(["NAME", "BALANCE", "BACKENDS", "CREDENTIAL"], &draft.pools.iter().map(pool).collect::<Vec<_>>())
            }
            Self::Routes => {
                table(["MODEL", "ALIASES", "TARGETS", "FALLBACK"], &draft.routes.iter().map(route).collect::<Vec<_>>())
            }
            Self::Tenants => table(
                ["NAME", "MODELS", "REQUESTS/MIN", "STREAMS"],
                &draft.tenants.iter().map(tenant).collect::<Vec<_>>(),
            ),
            Self::Keys => {
                table(["NAME", "TENANT", "EXPIRES", "DIGEST"], &draft.keys.iter().map(key).collect::<Vec<_>>())
            }
            Self::Secrets => table(["NAME", "FROM"], &draft.secrets.iter().map(secret).collect::<Vec<_>>()),
            Self::Limits => {
                table(["STREAMS", "QUEUE", "QUEUE-WAIT", "BODY"], &draft.limits.iter().map(limits).collect::<Vec<_>>())
            }
        }
    }
}

fn pool(pool: &v1::Pool) -> [String; 4] {
    let balance = match pool.balance() {
        v1::Balance::WeightedRoundRobin => "weighted-round-robin",
        v1::Balance::LeastLoaded | v1::Balance::Unspecified => "least-loaded",
    };
    let backends: Vec<String> =
        pool.backends.iter().map(|backend| format!("{}={}", backend.name, backend.url)).collect();
    let credential = pool.credential.as_ref().map(|credential| credential.secret.clone());
    [pool.name.clone(), balance.to_owned(), backends.join(" "), number(credential)]
}

fn route(route: &v1::Route) -> [String; 4] {
    [route.model.clone(), or_dash(route.aliases.join(" ")), targets(&route.targets), targets(&route.fallback)]
}

fn targets(targets: &[v1::Target]) -> String {
    let shown = targets.iter().map(|target| {
        let model = if target.model.is_empty() { String::new() } else { format!(":{}", target.model) };
        let weight = target.weight.map(|weight| format!("*{weight}")).unwrap_or_default();
        format!("{}{model}{weight}", target.pool)
    });
    or_dash(shown.collect::<Vec<_>>().join(" "))
}

fn tenant(tenant: &v1::Tenant) -> [String; 4] {
    let limits = tenant.limits.unwrap_or_default();
    let models = if tenant.models.is_empty() { "*".to_owned() } else { tenant.models.join(" ") };
    [tenant.name.clone(), models, number(limits.requests_per_minute), number(limits.streams)]
}

fn key(key: &v1::Key) -> [String; 4] {
    [key.name.clone(), key.tenant.clone(), time(key.expires), key.digest.clone()]
}

fn secret(secret: &v1::Secret) -> [String; 2] {
    let from = match secret.from.as_ref().and_then(|from| from.source.as_ref()) {
        Some(secret_source::Source::Env(name)) => format!("env {name}"),
        Some(secret_source::Source::File(file)) => format!("file {file}"),
        None => "-".to_owned(),
    };
    [secret.name.clone(), from]
}

fn limits(limits: &v1::Limits) -> [String; 4] {
    [number(limits.streams), number(limits.queue), duration(limits.queue_wait), number(limits.body)]
}

#[cfg(test)]
mod tests {
    use ntonix_proto::config::v1::resource::Kind;

    use super::*;

    #[test]
    fn each_kind_has_its_table() {
        let text = "
pools: [{name: p, backends: [{name: a, url: 'http://a'}, {name: b, url: 'http://b'}], credential: {secret: s}}]
routes: [{model: m, aliases: [n], targets: [{pool: p, model: x, weight: 2}, {pool: p}]}]
tenants: [{name: t, limits: {streams: 5}}]
keys: [{name: k, tenant: t, digest: 'sha256:0'}]
secrets: [{name: s, from: {env: A}}]
limits: {body: 1KiB}";
        let file = crate::file::File::from_text("x", text).unwrap();
        let resources: Vec<Resource> =
            ntonix_config::to_resources(file.draft()).into_iter().map(|(_, resource)| resource).collect();
        let of = |kind: ResourceKind| {
            let wanted = resources.iter().filter(|resource| {
                ntonix_config::resource_name(resource).is_some_and(|name| name.starts_with(kind.word()))
            });
            kind.table(&wanted.cloned().collect::<Vec<_>>())
        };
        assert_eq!(
            of(ResourceKind::Pools),
            "NAME  BALANCE       BACKENDS               CREDENTIAL\np     least-loaded  a=http://a b=http://b  s\n"
        );
        assert_eq!(of(ResourceKind::Routes), "MODEL  ALIASES  TARGETS  FALLBACK\nm      n        p:x*2 p  -\n");
        assert_eq!(of(ResourceKind::Tenants), "NAME  MODELS  REQUESTS/MIN  STREAMS\nt     *       -             5\n");
        assert_eq!(of(ResourceKind::Keys), "NAME  TENANT  EXPIRES  DIGEST\nk     t       -        sha256:0\n");
        assert_eq!(of(ResourceKind::Secrets), "NAME  FROM\ns     env A\n");
        assert_eq!(of(ResourceKind::Limits), "STREAMS  QUEUE  QUEUE-WAIT  BODY\n-        -      -           1024\n");
    }

    #[test]
    fn nothing_of_a_kind_is_an_empty_table() {
        assert_eq!(ResourceKind::Secrets.table(&[]), "NAME  FROM\n");
        let wrong = Resource { kind: Some(Kind::Limits(v1::Limits::default())) };
        assert_eq!(ResourceKind::Secrets.table(&[wrong]), "NAME  FROM\n");
    }
}
