//! The books of clients, mocks and gateway side by side, and everything in them that cannot be true.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::reader::{Account, Ending, Shape, Transport};
use super::record::Record;
use super::violation::{Invariant, Violation};
use crate::mock_llm::{Attempt, Ended};

/// No link of a run holds a request for longer than this, in ns.
const HELD_NS: u64 = 5_000_000_000;

/// Everything that was written down in a run.
#[derive(Debug, Default)]
pub struct Books {
    /// What each client got.
    pub accounts: Vec<Account>,
    /// Exchanges that clients asked for and that are no streams, such as the opening of a WebSocket.
    pub others: Vec<String>,
    /// What the gateway recorded of each exchange.
    pub records: Vec<Record>,
    /// What the mocks wrote in each attempt.
    attempts: Vec<Attempt>,
    /// The names by which the gateway knows the mocks, by what the names of their attempts begin with.
    backends: HashMap<String, String>,
}

/// What came of all streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Tokens that clients got.
    pub tokens: u64,
    /// Streams by how they were asked for and how they ended.
    pub streams: BTreeMap<(Transport, Shape, Ending), u64>,
}

/// The books, found by exchange.
struct Index<'a> {
    /// The name of a mock as a backend.
    backends: &'a HashMap<String, String>,
    /// By the name of the exchange.
    records: HashMap<&'a str, Vec<&'a Record>>,
    /// By the name of the exchange, in the order in which they began.
    attempts: HashMap<&'a str, Vec<&'a Attempt>>,
    /// By the attempt's own name.
    by_name: HashMap<&'a str, &'a Attempt>,
    /// The exchange of a stream, as its backend saw it.
    exchanges: HashMap<&'a str, &'a str>,
}

// === impl Books ===

impl Books {
    /// Adds the books of the mock that the gateway knows as `backend`.
    pub fn add_mock(&mut self, backend: &str, attempts: Vec<Attempt>) {
        if let Some(attempt) = attempts.first() {
            self.backends.insert(mock_of(&attempt.attempt).to_owned(), backend.to_owned());
        }
        self.attempts.extend(attempts);
    }

    /// What the mocks wrote in each attempt.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Everything that cannot be true if the promises were kept.
    pub fn violations(&self) -> Vec<Violation> {
        let index = Index::new(self);
        let mut found = Vec::new();
        for account in &self.accounts {
            found.extend(one_end(account));
            found.extend(one_prefix(account, &index));
            found.extend(no_late_retry(account, &index));
            found.extend(tokens_agree(account, &index));
        }
        found.extend(one_record(self, &index));
        found.extend(attempts_agree(&index));
        found
    }

    /// Streams for which a backend was asked and that did not simply pass: that ended otherwise than complete, or for
    /// which backends were asked again. What was refused before is none.
    pub fn faulted(&self) -> u64 {
        let index = Index::new(self);
        let is_faulted = |account: &&Account| {
            let attempts = index.record(account).map_or(0, |record| record.attempts);
            attempts > 1 || attempts == 1 && account.ending != Ending::Complete
        };
        self.accounts.iter().filter(is_faulted).count() as u64
    }

    /// Streams by how they ended, and their tokens.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for account in &self.accounts {
            sums.tokens += account.tokens;
            *sums.streams.entry((account.transport, account.shape, account.ending.clone())).or_default() += 1;
        }
        sums
    }
}

// === impl Index ===

impl<'a> Index<'a> {
    fn new(books: &'a Books) -> Self {
        let mut index = Self {
            backends: &books.backends,
            records: HashMap::new(),
            attempts: HashMap::new(),
            by_name: HashMap::new(),
            exchanges: HashMap::new(),
        };
        for record in &books.records {
            index.records.entry(&record.id).or_default().push(record);
        }
        for attempt in &books.attempts {
            index.by_name.insert(&attempt.attempt, attempt);
            let Some(exchange) = &attempt.exchange else { continue };
            index.attempts.entry(exchange).or_default().push(attempt);
            if let Some(stream) = &attempt.stream {
                index.exchanges.insert(stream, exchange);
            }
        }
        for attempts in index.attempts.values_mut() {
            attempts.sort_by_key(|attempt| attempt.begun_ns);
        }
        index
    }

    /// The exchange of a stream, as its client or its backend was told.
    fn exchange(&self, account: &'a Account) -> Option<&'a str> {
        account.exchange.as_deref().or_else(|| self.exchanges.get(account.stream.as_str()).copied())
    }

    fn record(&self, account: &'a Account) -> Option<&'a Record> {
        self.records.get(self.exchange(account)?)?.first().copied()
    }
}

/// I1, as the client saw it.
fn one_end(account: &Account) -> Option<Violation> {
    let (invariant, what) = account.wrong.as_ref()?;
    Some(Violation::new(*invariant, &account.stream, what)).filter(|_| *invariant == Invariant::OneEnd)
}

/// I2: what the client saw was right in itself, and the attempt wrote as much.
fn one_prefix(account: &Account, index: &Index<'_>) -> Option<Violation> {
    let violation = |what| Some(Violation::new(Invariant::OnePrefix, &account.stream, what));
    if let Some((Invariant::OnePrefix, what)) = &account.wrong {
        return violation(what.clone());
    }
    let name = account.attempt.as_ref()?;
    let Some(attempt) = index.by_name.get(name.as_str()) else {
        return violation(format!("the attempt {name} is in no mock's books"));
    };
    if account.tokens > attempt.tokens {
        return violation(format!("{} tokens came, {} were written", account.tokens, attempt.tokens));
    }
    if account.ending == Ending::Complete && (account.tokens < attempt.tokens || attempt.ended != Ended::Complete) {
        let (tokens, written, ended) = (account.tokens, attempt.tokens, attempt.ended);
        return violation(format!("complete with {tokens} tokens of {written}, of an attempt that ended as {ended:?}"));
    }
    None
}

/// I3: the gateway asked nobody after the backend whose tokens came.
///
/// When a mock saw an attempt is not when it was made: a request that a bad link holds may be seen after another one has
/// taken its place. So what the gateway itself says it asked last is compared, and the time only where it leaves no doubt.
fn no_late_retry(account: &Account, index: &Index<'_>) -> Option<Violation> {
    let (name, first_ns) = (account.attempt.as_ref()?, account.first_ns?);
    let violation = |what| Some(Violation::new(Invariant::NoLateRetry, &account.stream, what));
    let own = index.by_name.get(name.as_str())?;
    let asked_last = index.record(account).and_then(|record| record.backend.as_ref());
    if let (Some(asked_last), Some(backend)) = (asked_last, index.backends.get(mock_of(name)))
        && asked_last != backend
    {
        return violation(format!("tokens of {backend} came, but {asked_last} was asked after it"));
    }
    let is_late = |attempt: &&&Attempt| {
        let is_same = mock_of(&attempt.attempt) == mock_of(name) && attempt.attempt != *name;
        let is_after_its_end = own.ended_ns.is_some_and(|ended_ns| ended_ns < attempt.begun_ns);
        let is_retry = is_same && is_after_its_end && account.ending != Ending::Complete;
        attempt.begun_ns > first_ns && (is_retry || attempt.begun_ns - first_ns > HELD_NS)
    };
    let late = index.attempts.get(index.exchange(account)?)?.iter().find(is_late)?;
    violation(format!("the attempt {} began after the first token of {name} had come", late.attempt))
}

/// What an attempt's name begins with: its mock.
fn mock_of(attempt: &str) -> &str {
    attempt.rsplit_once('-').map_or(attempt, |(mock, _)| mock)
}

/// I4: one record for each exchange that anybody was told of, and none of an exchange that nobody asked for.
fn one_record(books: &Books, index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let violation = |about: &str, what: String| Violation::new(Invariant::OneRecord, about, what);
    for (id, records) in index.records.iter().filter(|(_, records)| records.len() > 1) {
        let outcomes: Vec<&str> = records.iter().map(|record| record.outcome.as_str()).collect();
        found.push(violation(id, format!("{} records: {outcomes:?}", records.len())));
    }
    let answered = books.accounts.iter().filter(|account| account.is_answered);
    let told = answered.filter_map(|account| index.exchange(account)).chain(index.attempts.keys().copied());
    let told: HashSet<&str> = told.collect();
    found.extend(
        told.iter().filter(|id| !index.records.contains_key(**id)).map(|id| violation(id, "no record".to_owned())),
    );
    // The name of an exchange over HTTP is the client's own, so that it is known even when no answer came.
    let asked = books.accounts.iter().filter_map(|account| account.exchange.as_deref());
    let asked: HashSet<&str> = asked.chain(books.others.iter().map(String::as_str)).collect();
    for (id, records) in &index.records {
        let is_http = records.iter().any(|record| record.transport != "websocket");
        if is_http && !asked.contains(id) {
            found.push(violation(id, "a record of what nobody asked for".to_owned()));
        }
    }
    found
}

/// The client got no more than the gateway delivered, and that no more than the attempt wrote; all of it when complete.
fn tokens_agree(account: &Account, index: &Index<'_>) -> Option<Violation> {
    let record = index.record(account)?;
    let violation = |what| Some(Violation::new(Invariant::BooksAgree, &account.stream, what));
    let counts = format!(
        "the client got {} tokens ({}), the record says {} delivered of {} ({})",
        account.tokens,
        account.ending.kind(),
        record.delivered,
        record.generated,
        record.outcome
    );
    if record.transport != account.transport.label() {
        return violation(format!("asked for by {}, recorded as {}", account.transport.label(), record.transport));
    }
    if account.tokens > record.delivered || record.delivered > record.generated {
        return violation(counts);
    }
    if let Some(attempt) = account.attempt.as_ref().and_then(|name| index.by_name.get(name.as_str()))
        && record.delivered > attempt.tokens
    {
        return violation(format!("{counts}, the backend wrote {}", attempt.tokens));
    }
    let is_complete = account.ending == Ending::Complete;
    let is_other_end = match &account.ending {
        Ending::Complete => false,
        Ending::Error(_) | Ending::Silent => record.is_completed(),
        // The gateway may have been done before the transport broke, or before it knew that the client had left.
        Ending::Abort | Ending::Left => false,
    };
    if is_other_end || is_complete && account.tokens != record.delivered {
        return violation(counts);
    }
    None
}

/// No mock saw more attempts of an exchange than the gateway counted; connections that failed no mock saw.
fn attempts_agree(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, attempts) in &index.attempts {
        let Some(record) = index.records.get(id).and_then(|records| records.first()) else { continue };
        if attempts.len() as u64 > record.attempts {
            let what = format!("mocks saw {} attempts, the record says {}", attempts.len(), record.attempts);
            found.push(Violation::new(Invariant::BooksAgree, *id, what));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            stream: "s".to_owned(),
            exchange: Some("x".to_owned()),
            transport: Transport::Http1,
            shape: Shape::Streamed,
            is_answered: true,
            attempt: Some("m-1".to_owned()),
            tokens: 3,
            first_ns: Some(20),
            ending: Ending::Complete,
            wrong: None,
        }
    }

    fn attempt() -> Attempt {
        Attempt {
            stream: Some("s".to_owned()),
            attempt: "m-1".to_owned(),
            exchange: Some("x".to_owned()),
            tokens: 3,
            ended: Ended::Complete,
            begun_ns: 10,
            ended_ns: Some(30),
        }
    }

    fn record() -> Record {
        Record {
            id: "x".to_owned(),
            transport: "http1".to_owned(),
            attempts: 1,
            backend: Some("gpu-0".to_owned()),
            outcome: "completed".to_owned(),
            generated: 3,
            delivered: 3,
        }
    }

    fn books() -> Books {
        let mut books = Books { accounts: vec![account()], records: vec![record()], ..Books::default() };
        books.add_mock("gpu-0", vec![attempt()]);
        books
    }

    /// The invariants that are broken after a change to good books.
    fn broken(change: impl FnOnce(&mut Books)) -> Vec<Invariant> {
        let mut books = books();
        change(&mut books);
        let mut broken: Vec<Invariant> = books.violations().iter().map(|violation| violation.invariant).collect();
        broken.sort();
        broken.dedup();
        broken
    }

    #[test]
    fn good_books_agree() {
        assert_eq!(books().violations(), []);
        assert_eq!(books().faulted(), 0);
        let sums = books().sums();
        assert_eq!((sums.tokens, sums.streams.values().sum::<u64>()), (3, 1));
    }

    #[test]
    fn i1_a_silent_truncation_is_found() {
        let wrong = Some((Invariant::OneEnd, "ended cleanly".to_owned()));
        let silent = Account { ending: Ending::Silent, wrong, tokens: 2, ..account() };
        let outcome = "upstream_reset".to_owned();
        let told = Record { outcome, ..record() };
        assert_eq!(broken(|books| (books.accounts, books.records) = (vec![silent], vec![told])), [Invariant::OneEnd]);
    }

    #[test]
    fn i2_tokens_that_no_attempt_wrote_are_found() {
        let prefix = [Invariant::OnePrefix];
        let wrong = Some((Invariant::OnePrefix, "a gap".to_owned()));
        assert_eq!(broken(|books| books.accounts[0].wrong = wrong), prefix);
        // What is wrong here breaks another promise as well.
        assert!(broken(|books| books.accounts[0].attempt = Some("m-9".to_owned())).contains(&Invariant::OnePrefix));
        assert!(broken(|books| books.attempts[0].tokens = 2).contains(&Invariant::OnePrefix));
        // Called complete, but the attempt wrote more, or did not end well itself.
        assert_eq!(broken(|books| books.attempts[0].tokens = 4), prefix);
        assert_eq!(broken(|books| books.attempts[0].ended = Ended::Fault), prefix);
    }

    #[test]
    fn i3_an_attempt_after_the_first_token_is_found() {
        let late = |mock: &'static str, begun_ns, ending| {
            move |books: &mut Books| {
                let attempt = Attempt { attempt: format!("{mock}-2"), tokens: 0, begun_ns, ..attempt() };
                books.add_mock(if mock == "m" { "gpu-0" } else { "gpu-1" }, vec![attempt]);
                books.accounts[0].ending = ending;
                books.records[0] =
                    Record { attempts: 2, outcome: "upstream_reset".to_owned(), ..books.records[0].clone() };
            }
        };
        let told = || Ending::Error("upstream_reset".to_owned());
        // At the same backend, after the first had ended.
        assert_eq!(broken(late("m", 35, told())), [Invariant::NoLateRetry]);
        // At another one, which the gateway itself says it asked last.
        let elsewhere = |books: &mut Books| {
            late("n", 15, told())(books);
            books.records[0].backend = Some("gpu-1".to_owned());
        };
        assert_eq!(broken(elsewhere), [Invariant::NoLateRetry]);
        // So late that no link can have held it.
        assert_eq!(broken(late("n", 21 + HELD_NS, told())), [Invariant::NoLateRetry]);
        // An attempt that failed before is a retry as it should be, also when its request was held on its way.
        assert_eq!(broken(late("n", 5, told())), []);
        assert_eq!(broken(late("n", 25, told())), []);
    }

    #[test]
    fn i4_missing_doubled_and_foreign_records_are_found() {
        let record_broken = [Invariant::OneRecord];
        assert_eq!(broken(|books| books.records.clear()), record_broken);
        assert_eq!(broken(|books| books.records.push(record())), record_broken);
        let foreign = Record { id: "y".to_owned(), ..record() };
        assert_eq!(broken(|books| books.records.push(foreign)), record_broken);
        let opening = Record { id: "y".to_owned(), ..record() };
        assert_eq!(broken(|books| (books.records.push(opening), books.others.push("y".to_owned())).1), []);
        // The backend was asked for a client that had left without an answer.
        let left = |books: &mut Books| {
            let ending = Ending::Left;
            let (exchange, attempt, first_ns) = (None, None, None);
            books.accounts[0] =
                Account { ending, exchange, attempt, first_ns, tokens: 0, is_answered: false, ..account() };
            books.records.clear();
        };
        assert_eq!(broken(left), record_broken);
        // Nobody was told of anything: the request may never have come.
        assert_eq!(
            broken(|books| {
                left(books);
                books.attempts.clear();
            }),
            []
        );
    }

    #[test]
    fn books_that_count_differently_are_found() {
        let disagree = [Invariant::BooksAgree];
        assert_eq!(broken(|books| books.records[0].delivered = 2), disagree);
        assert_eq!(broken(|books| books.records[0].generated = 2), disagree);
        assert_eq!(broken(|books| (books.records[0].delivered, books.records[0].generated) = (4, 4)), disagree);
        assert_eq!(broken(|books| books.records[0].attempts = 0), disagree);
        assert_eq!(broken(|books| books.records[0].transport = "http2".to_owned()), disagree);
        assert_eq!(broken(|books| books.accounts[0].ending = Ending::Error("internal".to_owned())), disagree);
        // Less came than was delivered: right for a client that left, wrong for one that says it is complete.
        assert_eq!(broken(|books| (books.accounts[0].tokens, books.accounts[0].ending) = (1, Ending::Left)), []);
    }

    #[test]
    fn attempts_that_no_mock_saw_are_allowed() {
        assert_eq!(broken(|books| books.records[0].attempts = 3), []);
    }

    #[test]
    fn a_stream_is_faulted_when_a_backend_was_asked_and_it_did_not_simply_pass() {
        let faulted = |attempts, ending| {
            let mut books = books();
            (books.records[0].attempts, books.accounts[0].ending) = (attempts, ending);
            books.faulted()
        };
        assert_eq!((faulted(2, Ending::Complete), faulted(1, Ending::Abort), faulted(0, Ending::Abort)), (1, 1, 0));
    }
}
