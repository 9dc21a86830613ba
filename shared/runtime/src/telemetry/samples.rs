//! Events of all kinds, and what is written of them: for tests that compare our lines with tracing-subscriber's.

use std::{
    error::Error,
    io,
    sync::{Arc, Mutex},
};

use tracing::Subscriber;

use super::fields::PlainFields;

/// What lines are written to.
#[derive(Clone, Default)]
pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] io::Error);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the subscriber that `subscribed` makes for a page writes of what `say` logs.
pub(crate) fn logged<S>(subscribed: impl FnOnce(Page) -> S, say: impl FnOnce()) -> String
where
    S: Subscriber + Send + Sync + 'static,
{
    let page = Page::default();
    tracing::subscriber::with_default(subscribed(page.clone()), say);
    String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
}

/// What `say` logs as plain lines, of which each begins with its level in five characters.
pub(crate) fn told(say: impl FnOnce()) -> String {
    let plain = || tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false).fmt_fields(PlainFields);
    logged(|page| plain().with_writer(move || page.clone()).finish(), say)
}

/// Four events.
pub(super) fn say() {
    let nothing: Option<u64> = None;
    let outer = Outer(io::Error::other("inner"));
    let error: &(dyn Error + 'static) = &outer;
    tracing::info!(
        text = "plain",
        odd = "a \"quoted\" \\ line\nof ünïcode \u{1b}[31m",
        empty = "",
        shown = %"as it is",
        debug = ?Some(1),
        tokens.r#in = 7_u64,
        below = -7_i64,
        part = 2.5,
        whole = 3.0,
        none = f64::NAN,
        stream = true,
        nothing,
        "Said {}",
        "something"
    );
    tracing::warn!(error, "Broke");
    tracing::warn!("With a command \u{7}\u{8} in it");
    tracing::info_span!("connection", client = 7, name = "x").in_scope(|| tracing::error!("Inside"));
}
