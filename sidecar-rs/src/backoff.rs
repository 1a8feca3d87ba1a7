//! How long to wait before the next try: doubling steps with full jitter, so that peers that lost the same registry do not
//! come back in the same instant.

use std::time::Duration;

/// Counts failures and gives waits. Pure: chance and durations are passed in.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    stable: Duration,
    failures: u32,
}

impl Backoff {
    /// Makes one that waits from `min` to at most `max` and starts over after a life of `stable`.
    pub fn new(min: Duration, max: Duration, stable: Duration) -> Self {
        Self { min, max: max.max(min), stable, failures: 0 }
    }

    /// For the registry: 0.5 to 30 s, starting over after 60 s of connection.
    pub fn for_registry() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30), Duration::from_secs(60))
    }

    /// Gives the next wait. `chance` is uniform in 0..1; other values are taken as the nearest end.
    pub fn next(&mut self, chance: f64) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.failures.min(20));
        let ceiling = doubled.saturating_mul(2).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let chance = if chance.is_nan() { 1.0 } else { chance.clamp(0.0, 1.0) };
        self.min + (ceiling - self.min).mul_f64(chance)
    }

    /// Takes note that a connection lived for `life`; a short one counts as one more failure.
    pub fn lived(&mut self, life: Duration) {
        if life >= self.stable {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_stay_in_bounds() {
        let mut backoff = Backoff::for_registry();
        let longest: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(longest, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.next(0.0).as_millis(), 500);
        for chance in [-1.0, 2.0, f64::NAN, f64::INFINITY] {
            let wait = backoff.next(chance).as_millis();
            assert!((500..=30_000).contains(&wait), "{chance} gave {wait}");
        }
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX, Duration::ZERO);
        backoff.failures = u32::MAX;
        assert!(backoff.next(1.0) >= Duration::from_secs(1));
    }

    #[test]
    fn only_a_stable_connection_starts_over() {
        let mut backoff = Backoff::for_registry();
        backoff.next(1.0);
        backoff.lived(Duration::from_secs(59));
        assert_eq!(backoff.next(1.0).as_secs(), 2);
        backoff.lived(Duration::from_secs(60));
        assert_eq!(backoff.next(1.0).as_secs(), 1);
    }
}
