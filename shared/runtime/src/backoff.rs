//! How long to wait before trying again: exponential with full jitter, so that a herd spreads out.

use std::time::Duration;

/// The waits of one caller. Each is drawn evenly between `min` and a ceiling that doubles up to `max`.
#[derive(Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// Waits from `min` to `max`; equal seeds give equal waits.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let max = max.max(min);
        Self { min, max, ceiling: first_ceiling(min, max), random: fastrand::Rng::with_seed(seed) }
    }

    /// The next wait.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and an iterator would invite `for`")]
    pub fn next(&mut self) -> Duration {
        let span = self.ceiling.saturating_sub(self.min);
        let wait = self.min + span.mul_f64(self.random.f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        wait
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.ceiling = first_ceiling(self.min, self.max);
    }
}

fn first_ceiling(min: Duration, max: Duration) -> Duration {
    min.saturating_mul(2).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn no_wait_leaves_its_bounds() {
        let mut backoff = Backoff::new(MIN, MAX, 1);
        for _ in 0..1000 {
            let wait = backoff.next();
            assert!((MIN..=MAX).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn two_callers_do_not_wait_alike() {
        let (mut one, mut other) = (Backoff::new(MIN, MAX, 1), Backoff::new(MIN, MAX, 2));
        assert_ne!(one.next(), other.next());
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(MIN, MAX, 3);
        for _ in 0..20 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= MIN * 2);
    }

    #[test]
    fn waits_grow_on_the_whole() {
        let mut backoff = Backoff::new(MIN, MAX, 4);
        let early: Duration = (0..4).map(|_| backoff.next()).sum();
        for _ in 0..10 {
            backoff.next();
        }
        let late: Duration = (0..4).map(|_| backoff.next()).sum();
        assert!(late > early);
    }

    #[test]
    fn a_maximum_below_the_minimum_is_the_minimum() {
        assert_eq!(Backoff::new(MIN, Duration::ZERO, 5).next(), MIN);
    }
}
