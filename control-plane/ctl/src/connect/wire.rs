//! A connection that says what is probably wrong when the other side speaks something else or wants to see more.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use rustls::{ClientConfig, SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How an alert of TLS begins (RFC 8446 §5.1). An answer of HTTP/1.1 begins with a letter, and one of HTTP/2 with a
/// length that would be more than a megabyte.
const ALERT: u8 = 21;
const SPEAKS_TLS: &str = "it seems to speak TLS: use https://";
const WANTS_CERTIFICATE: &str = "it may want a client certificate: --cert and --key-file";
pub(super) const SPEAKS_NO_TLS: &str = "it seems not to speak TLS: use http://";
/// All that is ever guessed.
pub(super) const HINTS: [&str; 3] = [SPEAKS_TLS, WANTS_CERTIFICATE, SPEAKS_NO_TLS];

/// A connection, encrypted or not.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// One on which nothing has been heard yet: what breaks it until then gets a hint.
pub(super) struct Unheard<S> {
    stream: S,
    guess: Guess,
}

/// What is probably wrong if it breaks.
enum Guess {
    /// We speak plainly: whoever answers with an alert does not.
    Plain,
    /// It has asked for a certificate, and we have none.
    WantsCertificate,
    /// Nothing. Something has been heard, or there is nothing to guess.
    Nothing,
}

/// Has no certificate to show, and notes that the server asked for one.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

/// Whether a server has asked for the certificate that we do not have.
#[derive(Debug)]
pub(super) struct Wanted(Arc<Asked>);

/// Makes a configuration without a certificate note whether the server asks for one.
pub(super) fn note_what_is_wanted(config: &mut ClientConfig) -> Wanted {
    let asked = Arc::new(Asked::default());
    config.client_auth_cert_resolver = Arc::<Asked>::clone(&asked);
    Wanted(asked)
}

// === impl Wanted ===

impl Wanted {
    /// An error of the handshake, and the hint if there is one.
    pub(super) fn explain(&self, error: io::Error) -> io::Error {
        if self.is_wanted() { with_hint(&error, WANTS_CERTIFICATE) } else { error }
    }

    /// With TLS 1.3 a server that misses the certificate says so after the handshake.
    pub(super) fn watch<S>(&self, stream: S) -> Unheard<S> {
        Unheard { stream, guess: if self.is_wanted() { Guess::WantsCertificate } else { Guess::Nothing } }
    }

    fn is_wanted(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }
}

// === impl Asked ===

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

// === impl Unheard ===

impl<S> Unheard<S> {
    /// A connection that is not encrypted.
    pub(super) fn plain(stream: S) -> Self {
        Self { stream, guess: Guess::Plain }
    }

    /// What breaks it, with the hint while there is one.
    fn explain(&self, error: io::Error) -> io::Error {
        match self.guess {
            Guess::WantsCertificate => with_hint(&error, WANTS_CERTIFICATE),
            Guess::Plain | Guess::Nothing => error,
        }
    }

    /// The first words, or the end without any.
    fn hear(&mut self, words: &[u8]) -> io::Result<()> {
        match (std::mem::replace(&mut self.guess, Guess::Nothing), words) {
            (Guess::Plain, [ALERT, ..]) => Err(with_hint(&"the answer is an alert of TLS", SPEAKS_TLS)),
            (Guess::WantsCertificate, []) => Err(with_hint(&"the connection was closed", WANTS_CERTIFICATE)),
            _ => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unheard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, has_room) = (buf.filled().len(), buf.remaining() > 0);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf)).map_err(|error| self.explain(error));
        if read.is_err() || !has_room || matches!(self.guess, Guess::Nothing) {
            return Poll::Ready(read);
        }
        let heard = self.hear(&buf.filled()[before..]);
        if heard.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(heard)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(|error| self.explain(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(|error| self.explain(error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An error, and after it what is probably to be done about it.
pub(super) fn with_hint(error: &impl std::fmt::Display, hint: &str) -> io::Error {
    // Not of the kind that it had: libraries take some kinds for an ordinary end and say nothing of them.
    io::Error::other(format!("{error}; {hint}"))
}
