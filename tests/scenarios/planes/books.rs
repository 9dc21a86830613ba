//! What an operator was told of its writes, held against what the control plane has after it came back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ntonix_config::Source;
use ntonix_proto::admin::v1::config_service_client::ConfigServiceClient;
use ntonix_proto::admin::v1::key_service_client::KeyServiceClient;
use ntonix_proto::admin::v1::{
    ConfigServiceApplyRequest, ConfigServiceExportRequest, ConfigServiceListRevisionsRequest, KeyServiceCreateRequest,
    KeyServiceListRequest, KeyServiceRevokeRequest, ManagedKey,
};
use ntonix_tests::cluster::Cluster;
use ntonix_tests::wait::soon;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// An operator who writes down every acknowledgement, and every request that got none.
pub(super) struct Operator {
    channel: Channel,
    books: Mutex<Books>,
    /// Writes that were acknowledged.
    acknowledged: watch::Sender<usize>,
}

#[derive(Default)]
struct Books {
    /// What each acknowledged revision says: a number that no other has.
    revisions: BTreeMap<u64, u32>,
    /// Managed keys, and whether they are revoked.
    keys: BTreeMap<String, bool>,
    /// Asked, and neither acknowledged nor refused.
    doubts: Vec<Doubt>,
    /// Numbers and names are made from it.
    used: u32,
    /// Revisions up to here were compared.
    compared: u64,
}

enum Doubt {
    Apply(u32),
    Create(String),
    Revoke(String),
}

// === impl Operator ===

impl Operator {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { channel: cluster.channel().unwrap(), books: Mutex::default(), acknowledged: watch::Sender::new(0) }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        *self.acknowledged.borrow()
    }

    /// Waits until so many writes more were acknowledged.
    pub(super) async fn acknowledged_further(&self, count: usize) {
        let wanted = self.acknowledged() + count;
        let mut acknowledged = self.acknowledged.subscribe();
        soon("acknowledgements", acknowledged.wait_for(|count| *count >= wanted)).await.unwrap().unwrap();
    }

    /// Writes an answer down, or that there was none.
    fn note<T>(
        &self,
        answer: Result<T, Status>,
        doubt: Doubt,
        write: impl FnOnce(&mut Books, T),
    ) -> Result<(), Status> {
        let mut books = self.books();
        match answer {
            Ok(told) => {
                write(&mut books, told);
                self.acknowledged.send_modify(|count| *count += 1);
                Ok(())
            }
            Err(status) => {
                books.doubts.push(doubt);
                Err(status)
            }
        }
    }

    fn next(&self) -> u32 {
        let mut books = self.books();
        books.used += 1;
        books.used
    }

    /// Applies a configuration that no other revision has.
    pub(super) async fn apply(&self) -> Result<(), Status> {
        let number = self.next();
        let asked = self.ask_apply(number).await;
        self.note(asked, Doubt::Apply(number), |books, revision| {
            books.revisions.insert(revision, number);
        })
    }

    async fn ask_apply(&self, number: u32) -> Result<u64, Status> {
        let source = Source::read(&config(number), std::path::Path::new("/")).unwrap();
        let request = ConfigServiceApplyRequest {
            config: Some(source.draft),
            request_id: format!("change-{number}"),
            ..ConfigServiceApplyRequest::default()
        };
        let applied = ConfigServiceClient::new(self.channel.clone()).apply(request).await?.into_inner();
        Ok(applied.revision.unwrap().number)
    }

    /// Makes a key; the tenant comes with the first revision.
    pub(super) async fn create(&self) -> Result<(), Status> {
        let name = format!("key-{}", self.next());
        let request = KeyServiceCreateRequest { name: name.clone(), tenant: "research".to_owned(), expires: None };
        let made = KeyServiceClient::new(self.channel.clone()).create(request).await;
        self.note(made, Doubt::Create(name.clone()), |books, _| {
            books.keys.insert(name, false);
        })
    }

    /// Revokes a key; without one it has nothing to do.
    pub(super) async fn revoke(&self) -> Result<(), Status> {
        let unrevoked = self.books().keys.iter().find(|(_, revoked)| !**revoked).map(|(name, _)| name.clone());
        let Some(name) = unrevoked else { return Ok(()) };
        let request = KeyServiceRevokeRequest { name: name.clone() };
        let revoked = KeyServiceClient::new(self.channel.clone()).revoke(request).await;
        self.note(revoked, Doubt::Revoke(name.clone()), |books, _| {
            books.keys.insert(name, true);
        })
    }

    /// Compares what the control plane has with the books: every acknowledged write is there; of the others each is there
    /// whole or not at all; and nothing is there that nobody asked for.
    pub(super) async fn compare(&mut self, cluster: &Cluster) {
        // A connection from before would first have to fail.
        self.channel = cluster.channel().unwrap();
        let doubts = std::mem::take(&mut self.books().doubts);
        self.compare_keys(&doubts).await;
        for doubt in doubts {
            if let Doubt::Apply(number) = doubt {
                // Asked again, it is answered as it would have been, written or not: see that it is there once.
                let revision = self.ask_apply(number).await.unwrap();
                assert_eq!(self.books().revisions.insert(revision, number), None, "one revision for two changes");
            }
        }
        self.compare_revisions().await;
    }

    async fn compare_keys(&self, doubts: &[Doubt]) {
        let found = self.list_keys().await;
        let mut books = self.books();
        for doubt in doubts {
            match doubt {
                Doubt::Create(name) if found.contains_key(name) => books.keys.insert(name.clone(), false),
                Doubt::Revoke(name) if found.get(name) == Some(&true) => books.keys.insert(name.clone(), true),
                _ => None,
            };
        }
        assert_eq!(found, books.keys);
    }

    async fn list_keys(&self) -> BTreeMap<String, bool> {
        let (mut found, mut page_token) = (BTreeMap::new(), String::new());
        loop {
            let request = KeyServiceListRequest { page_size: 1000, page_token, ..KeyServiceListRequest::default() };
            let page = KeyServiceClient::new(self.channel.clone()).list(request).await.unwrap().into_inner();
            found.extend(page.keys.into_iter().map(|key: ManagedKey| (key.name, key.revoked.is_some())));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    }

    async fn compare_revisions(&self) {
        let request = ConfigServiceListRevisionsRequest { page_size: 1, page_token: String::new() };
        let newest = ConfigServiceClient::new(self.channel.clone()).list_revisions(request).await.unwrap();
        let newest = newest.into_inner().revisions.first().map_or(0, |revision| revision.number);
        let compared = self.books().compared;
        for revision in compared + 1..=newest {
            let exported = self.export(revision).await;
            let expected = self.books().revisions.get(&revision).copied();
            assert_eq!(Some(exported), expected, "revision {revision} of {newest}");
        }
        let mut books = self.books();
        assert_eq!(books.revisions.keys().next_back().copied().unwrap_or_default(), newest, "a revision is missing");
        books.compared = newest;
    }

    /// The number that a revision says.
    async fn export(&self, revision: u64) -> u32 {
        let request = Request::new(ConfigServiceExportRequest { revision });
        let exported = ConfigServiceClient::new(self.channel.clone()).export(request).await.unwrap().into_inner();
        let tenants = exported.config.unwrap().tenants;
        assert_eq!(tenants.len(), 2, "half a revision: {tenants:?}");
        let numbers = tenants.iter().map(|tenant| tenant.limits.as_ref().and_then(|limits| limits.streams));
        let numbers: Vec<u32> = numbers.map(Option::unwrap).collect();
        assert!(numbers[0] == numbers[1], "parts of two revisions: {numbers:?}");
        numbers[0]
    }
}

/// A configuration that says a number in two of its resources.
fn config(number: u32) -> String {
    let tenant = |name: &str| format!("{{ name: {name}, limits: {{ streams: {number} }} }}");
    format!("tenants: [{}, {}]\n", tenant("research"), tenant("sales"))
}
