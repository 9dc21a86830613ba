//! The clocks of one stream in one timer: idle, total, heartbeat. Sans-IO but for the one sleep.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// When which clock of a stream runs out.
#[derive(Debug)]
pub(crate) struct Timers {
    idle: Duration,
    heartbeat: Option<Duration>,
    over_at: Instant,
    /// Since when the backend is waited for; `None` while nobody waits for it (the client is the slow one).
    waiting_since: Option<Instant>,
    last_sent: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A clock that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The client has heard nothing for a while: send a heartbeat.
    Heartbeat,
    /// The backend has said nothing for too long.
    Idle,
    /// The whole has taken too long.
    Over,
}

// === impl Timers ===

impl Timers {
    /// Clocks that start now.
    pub(crate) fn new(idle: Duration, heartbeat: Option<Duration>, over_at: Instant) -> Self {
        Self { idle, heartbeat, over_at, waiting_since: None, last_sent: Instant::now(), sleep: None }
    }

    /// Something came from the backend at `now`, and goes to the client.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.waiting_since = None;
        self.last_sent = now;
    }

    /// A heartbeat went to the client at `now`; the backend is still waited for.
    pub(crate) fn beaten(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Nothing is there: waits for the first clock to run out. The timer is set anew only when it fires or must fire
    /// earlier, so that a token costs no timer operation.
    pub(crate) fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Alarm> {
        let now = match self.waiting_since {
            Some(_) => Instant::now(),
            None => *self.waiting_since.insert(Instant::now()),
        };
        if let Some(alarm) = self.due(now) {
            return Poll::Ready(alarm);
        }
        let next = self.next();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if sleep.deadline() > next {
            sleep.as_mut().reset(next);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let (now, next) = (Instant::now(), next);
            if next <= now {
                break;
            }
            sleep.as_mut().reset(next);
        }
        match self.due(Instant::now()) {
            Some(alarm) => Poll::Ready(alarm),
            None => Poll::Pending,
        }
    }

    fn due(&self, now: Instant) -> Option<Alarm> {
        if now >= self.over_at {
            return Some(Alarm::Over);
        }
        if self.idle_at().is_some_and(|at| now >= at) {
            return Some(Alarm::Idle);
        }
        self.heartbeat_at().is_some_and(|at| now >= at).then_some(Alarm::Heartbeat)
    }

    fn next(&self) -> Instant {
        [self.idle_at(), self.heartbeat_at()].into_iter().flatten().fold(self.over_at, Instant::min)
    }

    fn idle_at(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.idle)
    }

    fn heartbeat_at(&self) -> Option<Instant> {
        self.heartbeat.map(|every| self.last_sent + every)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn alarm(timers: &mut Timers) -> Alarm {
        poll_fn(|cx| timers.poll_alarm(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_clock_to_run_out_rings_at_its_time() {
        let start = Instant::now();
        let mut timers = Timers::new(30 * SECOND, Some(15 * SECOND), start + 100 * SECOND);
        assert_eq!(alarm(&mut timers).await, Alarm::Heartbeat);
        assert_eq!(start.elapsed().as_secs(), 15);
        timers.beaten(Instant::now());
        assert_eq!(alarm(&mut timers).await, Alarm::Idle, "both are due, the worse one rings");
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_puts_idle_and_heartbeat_off_but_not_the_end() {
        let start = Instant::now();
        let mut timers = Timers::new(30 * SECOND, None, start + 100 * SECOND);
        for _ in 0..4 {
            let waited = tokio::time::timeout(24 * SECOND, alarm(&mut timers)).await;
            assert!(waited.is_err(), "nothing rings while events come");
            timers.moved(Instant::now());
        }
        assert_eq!(alarm(&mut timers).await, Alarm::Over);
        assert_eq!(start.elapsed().as_secs(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_a_slow_client_takes_is_not_the_backends() {
        let start = Instant::now();
        let mut timers = Timers::new(30 * SECOND, None, start + 1000 * SECOND);
        timers.moved(Instant::now());
        // The client does not read for a while, so nobody polls.
        tokio::time::sleep(100 * SECOND).await;
        assert_eq!(alarm(&mut timers).await, Alarm::Idle);
        assert_eq!(start.elapsed().as_secs(), 130);
    }
}
