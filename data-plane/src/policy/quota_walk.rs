//! Random walks of a tenant's quota beside a model in whole numbers.

use ntonix_fuzz::{Rng, walks};

use super::*;

/// With the 500 walks of `.cargo/config.toml` 256,000 steps.
const STEPS: usize = 512;
/// A request, in the model's units: what comes back in a nanosecond is then the rate per minute.
const REQUEST: i128 = 60_000_000_000;
/// Nearer than this to the limit, the whole numbers and the broken ones may differ.
const NEAR: i128 = REQUEST / 1_000_000;

struct Walk {
    usage: Arc<Usage>,
    per_minute: Option<u32>,
    streams: Option<u32>,
    slots: Vec<Slot>,
    taken: i128,
    at: Instant,
    now: Instant,
    /// What the last refusal for too many requests said.
    told: Option<Duration>,
}

// === impl Walk ===

impl Walk {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            usage: Arc::new(Usage::new()),
            per_minute: Some(60),
            streams: Some(4),
            slots: Vec::new(),
            taken: 0,
            at: now,
            now,
            told: None,
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.u8(0..12) {
            0..=4 => self.ask(),
            5..=7 if !self.slots.is_empty() => drop(self.slots.swap_remove(rng.usize(..self.slots.len()))),
            8 => self.now += Duration::from_millis(rng.u64(0..3_000)),
            9 => self.wait_as_told(),
            10 if rng.u8(0..20) == 0 => self.change_limits(rng),
            _ => self.now += Duration::from_nanos(rng.u64(0..2_000_000_000)),
        }
        assert_eq!(self.usage.streams.load(Ordering::Relaxed), self.slots.len());
    }

    fn change_limits(&mut self, rng: &mut Rng) {
        self.per_minute = rng.bool().then(|| rng.u32(1..2_000));
        self.streams = rng.bool().then(|| rng.u32(1..8));
        self.told = None;
    }

    fn reserve(&mut self) -> Result<(), Refusal> {
        let tenant = Tenant {
            name: "research".into(),
            models: Vec::new(),
            requests_per_minute: self.per_minute,
            streams: self.streams,
            usage: Arc::clone(&self.usage),
        };
        self.usage.reserve(&tenant, self.now).map(|slot| self.slots.push(slot))
    }

    fn ask(&mut self) {
        let has_stream = self.streams.is_none_or(|most| self.slots.len() < most as usize);
        let asked = self.reserve();
        let Some(per_minute) = self.per_minute.map(i128::from).filter(|_| has_stream) else {
            assert_eq!(asked.is_ok(), has_stream, "only streams matter");
            return;
        };
        let elapsed = (self.now - self.at).as_nanos() as i128;
        self.at = self.now;
        self.taken = (self.taken - elapsed * per_minute).max(0);
        let over = self.taken + REQUEST - per_minute * REQUEST;
        match asked {
            Ok(()) => {
                assert!(over <= NEAR, "{over} too many");
                self.taken += REQUEST;
                self.told = None;
            }
            Err(refusal) => {
                assert!(over > -NEAR, "{over}: there was room");
                let wait = refusal.retry_in().unwrap();
                let expected = over.max(0) / per_minute;
                assert!((wait.as_nanos() as i128 - expected).abs() < 1_000_000, "{wait:?}, not {expected} ns");
                self.told = Some(wait);
            }
        }
    }

    /// A client that comes back when it was told to is served, unless others came first.
    fn wait_as_told(&mut self) {
        let Some(wait) = self.told.take() else { return };
        self.now = self.now.max(self.at + wait + Duration::from_micros(1));
        if self.streams.is_none_or(|most| self.slots.len() < most as usize) {
            self.ask();
            assert_eq!(self.told, None, "it came back in time");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_of_the_limiter_goes_as_its_model_does() {
    walks(|rng| {
        let mut walk = Walk::new();
        (0..STEPS).for_each(|_| walk.step(rng));
        walk.slots.clear();
        assert_eq!(walk.usage.streams.load(Ordering::Relaxed), 0);
    });
}
