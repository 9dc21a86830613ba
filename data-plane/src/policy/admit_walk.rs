//! Random walks of the admission beside a model of a fair queue: clients come, leave, wait in vain, and limits change.

use std::pin::Pin;

use futures_util::poll;
use ntonix_fuzz::{Rng, Seed, cases};
use tokio::time::{Instant, advance};

use super::tests::limits;
use super::*;

/// With the 500 walks of `.cargo/config.toml` 256,000 steps.
const STEPS: usize = 512;
const WAIT: Duration = Duration::from_secs(1);

type Asked = Pin<Box<dyn Future<Output = Result<Place, Refusal>>>>;

struct Waiting {
    asked: Asked,
    until: Instant,
}

struct Walk {
    admission: Arc<Admission>,
    limits: Limits,
    /// Places that are held; what the model counts as well.
    held: Vec<Place>,
    /// The model's queue, and what waits in it.
    queue: VecDeque<Waiting>,
}

// === impl Walk ===

impl Walk {
    fn new() -> Self {
        let admission = Arc::new(Admission::new(Metrics::new()));
        Self { admission, limits: limits(3, 4), held: Vec::new(), queue: VecDeque::new() }
    }

    async fn step(&mut self, rng: &mut Rng) {
        match rng.u8(0..12) {
            0..=4 => self.ask().await,
            5..=7 => self.end(rng).await,
            8 => self.leave(rng),
            9 if rng.u8(0..10) == 0 => self.limits = limits(rng.u32(1..8), rng.u32(0..6)),
            _ => self.pass_time(rng).await,
        }
        for waiting in &mut self.queue {
            assert!(poll!(&mut waiting.asked).is_pending(), "nobody else has a place or an answer");
        }
        assert_eq!(self.admission.lock().taken as usize, self.held.len());
        assert_eq!(self.admission.metrics.queued.get(), i64::try_from(self.queue.len()).unwrap());
    }

    async fn ask(&mut self) {
        let (admission, limits) = (Arc::clone(&self.admission), self.limits.clone());
        let mut asked: Asked = Box::pin(async move { admission.place(&limits).await });
        let answer = poll!(&mut asked);
        // It brings the limits of its revision. Whoever waited longer is served first under them.
        self.serve().await;
        match answer {
            Poll::Ready(Ok(place)) => self.held.push(place),
            Poll::Ready(Err(_)) => {
                assert!(self.is_full(), "refused although there is a place");
                assert!(self.queue.len() >= self.limits.queue as usize, "refused although the queue has room");
                return;
            }
            Poll::Pending => {
                assert!(self.is_full(), "it waits although there is a place");
                self.queue.push_back(Waiting { asked, until: Instant::now() + WAIT });
                assert!(self.queue.len() <= self.limits.queue as usize, "the queue is too long");
                return;
            }
        }
        assert!(self.held.len() <= self.limits.streams as usize, "more places than there are");
    }

    fn is_full(&self) -> bool {
        self.held.len() >= self.limits.streams as usize
    }

    /// Gives places to those who wait, the first to come first, as long as there are any.
    async fn serve(&mut self) {
        while !self.is_full() && !self.queue.is_empty() {
            let mut first = self.queue.pop_front().unwrap();
            let Poll::Ready(Ok(place)) = poll!(&mut first.asked) else { panic!("the first in line has no place") };
            self.held.push(place);
        }
    }

    async fn end(&mut self, rng: &mut Rng) {
        if self.held.is_empty() {
            return;
        }
        let place = self.held.swap_remove(rng.usize(..self.held.len()));
        // Whoever asked last has said which limits are in force.
        let most = self.admission.lock().most as usize;
        drop(place);
        if self.held.len() < most
            && let Some(mut first) = self.queue.pop_front()
        {
            let Poll::Ready(Ok(place)) = poll!(&mut first.asked) else { panic!("the first in line has no place") };
            self.held.push(place);
        }
    }

    fn leave(&mut self, rng: &mut Rng) {
        if !self.queue.is_empty() {
            drop(self.queue.remove(rng.usize(..self.queue.len())));
        }
    }

    async fn pass_time(&mut self, rng: &mut Rng) {
        advance(Duration::from_millis(rng.u64(0..400))).await;
        while self.queue.front().is_some_and(|first| first.until <= Instant::now()) {
            let mut first = self.queue.pop_front().unwrap();
            let Poll::Ready(Err(refusal)) = poll!(&mut first.asked) else { panic!("it waits beyond its time") };
            assert_eq!(refusal.kind(), Kind::Overloaded);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_of_the_admission_goes_as_its_model_does() {
    // As `walks` does, with awaits between.
    for _ in 0..cases() {
        let seed = Seed::pick();
        let (mut rng, mut walk) = (seed.rng(), Walk::new());
        for _ in 0..STEPS {
            walk.step(&mut rng).await;
        }
        walk.held.clear();
        walk.queue.clear();
        assert_eq!(walk.admission.lock().taken, 0);
    }
}
