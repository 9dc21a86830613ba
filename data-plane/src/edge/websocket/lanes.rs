//! The streams of one socket, each with its own waker, served in turn: whoever is ready goes to the end of the line.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Streams by their names, and the line of those that may have something.
#[derive(Debug)]
pub(super) struct Lanes<S> {
    lanes: HashMap<Arc<str>, Entry<S>>,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Entry<S> {
    stream: S,
    call: Arc<Call>,
}

/// Who may have something, in the order in which they said so.
#[derive(Debug, Default)]
struct Line {
    names: Mutex<VecDeque<Arc<Call>>>,
    owner: AtomicWaker,
}

/// The waker of one stream.
#[derive(Debug)]
struct Call {
    name: Arc<str>,
    waiting: AtomicBool,
    /// The line holds those that stand in it: held in return, neither would ever go.
    line: Weak<Line>,
}

// === impl Lanes ===

impl<S> Lanes<S> {
    /// No streams.
    pub(super) fn new() -> Self {
        Self { lanes: HashMap::new(), line: Arc::default() }
    }

    /// A stream joins, at the end of the line.
    pub(super) fn insert(&mut self, name: Arc<str>, stream: S) {
        let line = Arc::downgrade(&self.line);
        let call = Arc::new(Call { name: Arc::clone(&name), waiting: AtomicBool::new(false), line });
        call.queue();
        self.lanes.insert(name, Entry { stream, call });
    }

    /// A stream leaves; with it goes all that it holds.
    pub(super) fn remove(&mut self, name: &str) -> Option<S> {
        self.lanes.remove(name).map(|entry| entry.stream)
    }

    /// All streams leave.
    pub(super) fn take_all(&mut self) -> Vec<(Arc<str>, S)> {
        self.lanes.drain().map(|(name, entry)| (name, entry.stream)).collect()
    }

    /// A stream.
    pub(super) fn get(&self, name: &str) -> Option<&S> {
        self.lanes.get(name).map(|entry| &entry.stream)
    }

    /// A stream that was passed over may be served again.
    pub(super) fn wake(&self, name: &str) {
        if let Some(entry) = self.lanes.get(name) {
            entry.call.queue();
        }
    }

    /// All streams may be served again.
    pub(super) fn wake_all(&self) {
        self.lanes.values().for_each(|entry| entry.call.queue());
    }

    /// Polls those in line, one after the other, until one gives something. A stream that gives something stays in
    /// line, at its end, and whoever polls goes on until nobody is left: it is not woken for it. One that is pending
    /// comes back when it is woken.
    pub(super) fn poll_next<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&Arc<str>, &mut S, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<(Arc<str>, T)> {
        self.line.owner.register(cx.waker());
        while let Some(call) = self.line.next() {
            // Woken from here on, it queues again; a name in line whose stream has left is passed over.
            call.waiting.store(false, Ordering::Release);
            let Some(entry) = self.lanes.get_mut(&call.name).filter(|entry| Arc::ptr_eq(&entry.call, &call)) else {
                continue;
            };
            let waker = Waker::from(Arc::clone(&call));
            if let Poll::Ready(item) = poll(&call.name, &mut entry.stream, &mut Context::from_waker(&waker)) {
                let name = Arc::clone(&call.name);
                self.line.join(call);
                return Poll::Ready((name, item));
            }
        }
        Poll::Pending
    }
}

// === impl Line ===

impl Line {
    fn next(&self) -> Option<Arc<Call>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Puts a stream at the end, unless it stands in line already. Returns whether it did not.
    fn join(&self, call: Arc<Call>) -> bool {
        let joins = !call.waiting.swap(true, Ordering::AcqRel);
        if joins {
            self.names.lock().unwrap_or_else(PoisonError::into_inner).push_back(call);
        }
        joins
    }
}

// === impl Call ===

impl Call {
    fn queue(self: &Arc<Self>) {
        if let Some(line) = self.line.upgrade()
            && line.join(Arc::clone(self))
        {
            line.owner.wake();
        }
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.queue();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.queue();
    }
}

#[cfg(test)]
#[path = "lanes_walk.rs"]
mod walk;

#[cfg(test)]
mod tests {
    use super::*;

    fn next(lanes: &mut Lanes<u32>, pending: &str) -> Option<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = lanes.poll_next(&mut cx, |name, count, _| {
            *count += 1;
            if **name == *pending { Poll::Pending } else { Poll::Ready(()) }
        });
        match polled {
            Poll::Ready((name, ())) => Some(name.to_string()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn streams_that_have_something_take_turns() {
        let mut lanes = Lanes::new();
        ["a", "b", "c"].into_iter().for_each(|name| lanes.insert(name.into(), 0));
        let turns: Vec<_> = (0..6).map(|_| next(&mut lanes, "").unwrap()).collect();
        assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn a_pending_stream_is_not_polled_until_it_is_woken() {
        let mut lanes = Lanes::new();
        ["a", "b"].into_iter().for_each(|name| lanes.insert(name.into(), 0));
        let turns: Vec<_> = (0..3).map(|_| next(&mut lanes, "a").unwrap()).collect();
        assert_eq!(turns, ["b", "b", "b"]);
        assert_eq!(lanes.remove("a"), Some(1), "polled once");
        lanes.insert("a".into(), 0);
        assert_eq!(next(&mut lanes, ""), Some("b".into()));
        assert_eq!(next(&mut lanes, ""), Some("a".into()));
    }

    #[test]
    fn nobody_is_woken_for_a_stream_that_stays_in_line() {
        #[derive(Default)]
        struct Owner(AtomicBool);
        impl Wake for Owner {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (mut lanes, owner) = (Lanes::new(), Arc::<Owner>::default());
        let waker = Waker::from(Arc::clone(&owner));
        let poll = |lanes: &mut Lanes<()>| {
            lanes.poll_next(&mut Context::from_waker(&waker), |_, (), _| Poll::Ready(())).is_ready()
        };
        lanes.insert("a".into(), ());
        assert!(poll(&mut lanes) && poll(&mut lanes), "it has its turns");
        assert!(!owner.0.load(Ordering::Relaxed));
        lanes.insert("b".into(), ());
        assert!(owner.0.load(Ordering::Relaxed), "one that joins is told of");
    }

    /// A socket that is cut leaves streams in its line, and their wakers may live on in whatever would have woken them.
    #[test]
    fn nothing_of_a_socket_stays_when_it_goes() {
        let mut lanes = Lanes::new();
        ["a", "b"].into_iter().for_each(|name| lanes.insert(name.into(), 0));
        let waker = Waker::from(Arc::clone(&lanes.lanes["b"].call));
        let (line, call) = (Arc::downgrade(&lanes.line), Arc::downgrade(&lanes.lanes["a"].call));
        drop(lanes);
        waker.wake_by_ref();
        assert_eq!((line.strong_count(), call.strong_count()), (0, 0));
    }

    #[test]
    fn one_that_left_is_passed_over_although_it_stands_in_line() {
        let mut lanes = Lanes::new();
        lanes.insert("a".into(), 0);
        lanes.remove("a");
        assert_eq!(next(&mut lanes, ""), None);
        lanes.insert("a".into(), 7);
        assert_eq!(next(&mut lanes, ""), Some("a".into()));
        assert_eq!(lanes.remove("a"), Some(8), "the new stream of the same name, polled once");
    }
}
