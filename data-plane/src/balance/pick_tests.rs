//! Who is picked, how often, and why nobody is.

use super::*;

fn candidates(weights: &[f64]) -> Vec<Candidate> {
    weights.iter().enumerate().map(|(index, &weight)| Candidate { index, weight, in_flight: 0 }).collect()
}

/// A picker for backends of weight 1.
fn least_loaded(backends: usize) -> Picker {
    Picker::new(Balance::LeastLoaded, &vec![1; backends])
}

fn pick(picker: &Picker, candidates: &[Candidate]) -> usize {
    picker.pick(candidates.len(), |index| Ok(candidates[index])).unwrap()
}

#[test]
fn round_robin_is_smooth_and_exact() {
    let picker = Picker::new(Balance::WeightedRoundRobin, &[5, 1, 1]);
    let candidates = candidates(&[5.0, 1.0, 1.0]);
    let picks: Vec<_> = (0..7).map(|_| pick(&picker, &candidates)).collect();
    assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0], "the order of nginx's smooth weighted round-robin");
}

#[test]
fn of_two_backends_the_less_loaded_for_its_weight_wins() {
    let picker = least_loaded(2);
    let mut candidates = candidates(&[1.0, 1.0]);
    candidates[0].in_flight = 1;
    assert!((0..100).all(|_| pick(&picker, &candidates) == 1));
    candidates[0].weight = 4.0;
    assert!((0..100).all(|_| pick(&picker, &candidates) == 0), "2 / 4 is less than 1 / 1");
}

#[test]
fn with_equal_load_every_backend_gets_traffic() {
    for backends in [4, 40] {
        let (picker, candidates) = (least_loaded(backends), candidates(&vec![1.0; backends]));
        let mut seen = vec![0; backends];
        (0..250 * backends).for_each(|_| seen[pick(&picker, &candidates)] += 1);
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }
}

#[test]
fn nobody_is_picked_from_nothing() {
    assert_eq!(least_loaded(0).pick(0, |_| unreachable!()), Err(Nobody::ModelUnknown));
}

#[test]
fn of_all_reasons_the_one_of_the_backend_that_came_farthest_is_told() {
    for backends in [4, 40] {
        for (others, one) in [
            (Nobody::ModelUnknown, Nobody::Down),
            (Nobody::Down, Nobody::Tried),
            (Nobody::Tried, Nobody::Full),
            (Nobody::ModelUnknown, Nobody::ModelUnknown),
        ] {
            let look = |index| Err(if index == 2 { one } else { others });
            assert_eq!(least_loaded(backends).pick(backends, look), Err(one), "{others:?}");
        }
    }
}

#[test]
fn the_only_one_of_a_large_pool_that_can_be_picked_is_found() {
    let look = |index| {
        let candidate = Candidate { index, weight: 0.1, in_flight: 7 };
        if index == 77 { Ok(candidate) } else { Err(Nobody::Down) }
    };
    assert!((0..100).all(|_| least_loaded(100).pick(100, look) == Ok(77)));
}

#[test]
fn two_of_a_large_pool_are_never_the_same_one() {
    let picker = least_loaded(20);
    let mut candidates = candidates(&[1.0; 20]);
    candidates[3].in_flight = 1;
    assert!((0..10_000).all(|_| pick(&picker, &candidates) != 3), "any other one is less loaded");
}

/// How often each of a pool is the first choice and how often the second one, looked at all or by lots.
fn choices(lots: &Lots, look: &impl Fn(usize) -> Result<Candidate, Nobody>) -> [Vec<f64>; 2] {
    const PICKS: u32 = 200_000;
    const BACKENDS: usize = 16;
    fastrand::seed(7);
    let mut shares = [vec![0.0; BACKENDS], vec![0.0; BACKENDS]];
    let candidates = look_at_all(BACKENDS, look).unwrap();
    for _ in 0..PICKS {
        let first = lots.draw(look, None).unwrap_or_else(|| draw(&candidates, None));
        let second = lots.draw(look, Some(first.index)).unwrap_or_else(|| draw(&candidates, Some(first)));
        shares[0][first.index] += 1.0 / f64::from(PICKS);
        shares[1][second.index] += 1.0 / f64::from(PICKS);
    }
    shares
}

#[test]
fn lots_give_every_backend_the_chances_that_it_has_when_all_are_looked_at() {
    // One of great weight, some of none, one in slow start, some out of order.
    let weights = [40, 1, 1, 2, 0, 3, 1, 1, 5, 1, 1, 0, 8, 1, 1, 1];
    let look = |index: usize| match (index, weights[index]) {
        (1 | 5, _) => Err(Nobody::Tried),
        (_, 0) => Err(Nobody::Down),
        (12, weight) => Ok(Candidate { index, weight: f64::from(weight) * 0.25, in_flight: 0 }),
        (_, weight) => Ok(Candidate { index, weight: f64::from(weight), in_flight: 0 }),
    };
    let by_lots = choices(&Lots::new(&weights).unwrap(), &look);
    let by_all = choices(&Lots(Vec::new()), &look);
    for (by_lots, by_all) in by_lots.iter().flatten().zip(by_all.iter().flatten()) {
        // A share of 200,000 draws is off by 0.0011 in most cases; five times that is not seen by chance.
        assert!((by_lots - by_all).abs() < 0.008, "{by_lots} instead of {by_all}");
    }
}
