//! A failure anywhere on the way of a request: what happened, who is to blame, what the client may read.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use http::StatusCode;
use ntonix_llm::BackendError;

/// Whatever went wrong underneath; only the log sees it.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Why an exchange has no answer, or no more of it.
#[derive(Debug)]
pub(crate) struct Refusal {
    kind: Kind,
    public: Cow<'static, str>,
    param: Option<&'static str>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    spent: bool,
    backend: Option<Box<BackendError>>,
    backend_status: Option<StatusCode>,
    source: Option<Source>,
}

/// What happened; one variant for each code that a client can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The request is not one: a field is missing or out of range.
    BadRequest,
    /// The body is not JSON.
    InvalidJson,
    /// No key, or one that is unknown, expired or revoked.
    InvalidApiKey,
    /// The tenant may not use this model.
    Forbidden,
    /// The page that opened the socket is not on the list of origins.
    OriginNotAllowed,
    /// No route answers for this model.
    ModelNotFound,
    /// No such path.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// The body did not come in time.
    RequestTimeout,
    /// The body is larger than the limit.
    RequestTooLarge,
    /// The body is not said to be JSON.
    UnsupportedMediaType,
    /// The body is compressed.
    UnsupportedEncoding,
    /// The tenant's requests per minute or streams are used up.
    RateLimited,
    /// A promise of ours is broken.
    Internal,
    /// No backend took the connection.
    UpstreamConnect,
    /// The backend's connection broke.
    UpstreamReset,
    /// The backend said something that is not the protocol.
    UpstreamProtocol,
    /// The backend's certificate or handshake was no good.
    UpstreamTls,
    /// The backend reported an error of its own inside a stream.
    UpstreamError,
    /// The first event, the next one, or the end did not come in time.
    UpstreamTimeout,
    /// The whole took longer than the route allows.
    DeadlineExceeded,
    /// This worker, or every backend, is full.
    Overloaded,
    /// Every backend is unhealthy or open.
    NoHealthyBackend,
    /// This worker is going away.
    Draining,
    /// This worker has no configuration yet.
    NotConfigured,
    /// The client stopped reading.
    ClientStalled,
}

/// Whose failure it is: decides the log level and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The client asked for something it cannot have.
    Client,
    /// We could not do what we promise.
    Gateway,
    /// A backend failed.
    Backend,
}

// === impl Kind ===

impl Kind {
    /// The `code` of the error body, and the label of the metric.
    pub(crate) fn as_label(self) -> &'static str {
        match self {
            Kind::BadRequest => "bad_request",
            Kind::InvalidJson => "invalid_json",
            Kind::InvalidApiKey => "invalid_api_key",
            Kind::Forbidden => "forbidden",
            Kind::OriginNotAllowed => "origin_not_allowed",
            Kind::ModelNotFound => "model_not_found",
            Kind::NotFound => "not_found",
            Kind::MethodNotAllowed => "method_not_allowed",
            Kind::RequestTimeout => "request_timeout",
            Kind::RequestTooLarge => "request_too_large",
            Kind::UnsupportedMediaType => "unsupported_media_type",
            Kind::UnsupportedEncoding => "unsupported_encoding",
            Kind::RateLimited => "rate_limited",
            Kind::Internal => "internal",
            Kind::UpstreamConnect => "upstream_connect",
            Kind::UpstreamReset => "upstream_reset",
            Kind::UpstreamProtocol => "upstream_protocol",
            Kind::UpstreamTls => "upstream_tls",
            Kind::UpstreamError => "upstream_error",
            Kind::UpstreamTimeout => "upstream_timeout",
            Kind::DeadlineExceeded => "deadline_exceeded",
            Kind::Overloaded => "overloaded",
            Kind::NoHealthyBackend => "no_healthy_backend",
            Kind::Draining => "draining",
            Kind::NotConfigured => "not_configured",
            Kind::ClientStalled => "client_stalled",
        }
    }

    /// Whose failure it is.
    pub(crate) fn blame(self) -> Blame {
        match self {
            Kind::BadRequest
            | Kind::InvalidJson
            | Kind::InvalidApiKey
            | Kind::Forbidden
            | Kind::OriginNotAllowed
            | Kind::ModelNotFound
            | Kind::NotFound
            | Kind::MethodNotAllowed
            | Kind::RequestTimeout
            | Kind::RequestTooLarge
            | Kind::UnsupportedMediaType
            | Kind::UnsupportedEncoding
            | Kind::RateLimited
            | Kind::ClientStalled => Blame::Client,
            Kind::Internal | Kind::Overloaded | Kind::Draining | Kind::NotConfigured => Blame::Gateway,
            Kind::UpstreamConnect
            | Kind::UpstreamReset
            | Kind::UpstreamProtocol
            | Kind::UpstreamTls
            | Kind::UpstreamError
            | Kind::UpstreamTimeout
            | Kind::DeadlineExceeded
            | Kind::NoHealthyBackend => Blame::Backend,
        }
    }

    /// May the same request, sent again a little later, do better?
    pub(crate) fn is_retryable(self) -> bool {
        matches!(
            self,
            Kind::RequestTimeout
                | Kind::RateLimited
                | Kind::UpstreamConnect
                | Kind::UpstreamReset
                | Kind::UpstreamError
                | Kind::UpstreamTimeout
                | Kind::Overloaded
                | Kind::NoHealthyBackend
                | Kind::Draining
                | Kind::NotConfigured
        )
    }

    /// Was there no answer at all, so that the same backend may be asked again?
    pub(crate) fn is_lost_connection(self) -> bool {
        matches!(self, Kind::UpstreamConnect | Kind::UpstreamReset)
    }

    /// May another backend be asked, as long as no event has left?
    pub(crate) fn is_worth_another_attempt(self) -> bool {
        matches!(
            self,
            Kind::UpstreamConnect
                | Kind::UpstreamReset
                | Kind::UpstreamProtocol
                | Kind::UpstreamTls
                | Kind::UpstreamError
        )
    }
}

// === impl Refusal ===

impl Refusal {
    /// The gateway goes away before this one is over.
    pub(crate) fn stopped() -> Self {
        Self::new(Kind::Draining, "the gateway is going away and could not wait for this one to end")
    }

    /// A refusal that says `public` to the client: lower case, no full stop, nothing internal.
    pub(crate) fn new(kind: Kind, public: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            public: public.into(),
            param: None,
            retry_after: None,
            allow: None,
            spent: false,
            backend: None,
            backend_status: None,
            source: None,
        }
    }

    /// Adds what went wrong underneath, for the log.
    pub(crate) fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Names the field of the request that is to blame.
    pub(crate) fn about(mut self, param: Option<&'static str>) -> Self {
        self.param = param;
        self
    }

    /// Tells the client when to come back.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Names the methods that would have been taken.
    pub(crate) fn allowing(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The gateway has tried more than once already: the client should not.
    pub(crate) fn spent(mut self) -> Self {
        self.spent = true;
        self
    }

    /// A failure that a backend reported itself, inside a stream.
    pub(crate) fn from_backend(error: BackendError) -> Self {
        let mut refusal = Self::new(Kind::UpstreamError, error.message.clone());
        refusal.backend = Some(Box::new(error));
        refusal
    }

    /// The status that the backend answered with.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.backend_status = Some(status);
        self
    }

    /// What happened.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What the client may read.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// The field of the request that is to blame.
    pub(crate) fn param(&self) -> Option<&'static str> {
        self.param
    }

    /// When the client may come back.
    pub(crate) fn retry_in(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The methods that would have been taken.
    pub(crate) fn allow(&self) -> Option<&'static str> {
        self.allow
    }

    /// Has the gateway tried more than once already?
    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }

    /// The status that the backend answered with, when that is what is passed on.
    pub(crate) fn status_of_backend(&self) -> Option<StatusCode> {
        self.backend_status
    }

    /// What the backend said about it, when it did.
    pub(crate) fn backend(&self) -> Option<&BackendError> {
        self.backend.as_deref()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)?;
        let mut cause = self.source.as_ref().map(|source| &**source as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Refusal {}
