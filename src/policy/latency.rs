//! How long a model of a provider takes, learnt from its chats.

use std::time::{Duration, Instant};

/// Steps of the histogram to a doubling. An answer read off it is within 19 % of the truth.
const STEPS_PER_DOUBLING: usize = 4;
/// From 1 ms to 2^18 ms, over four minutes.
const STEPS: usize = 18 * STEPS_PER_DOUBLING;
/// At as many samples all counts are halved, so that what is new soon outweighs what is old.
const SAMPLES_MAX: u32 = 1_024;

/// A histogram of durations that forgets: a streaming quantile in constant space.
#[derive(Clone, Debug)]
pub struct Quantiles {
    counts: [u32; STEPS],
    total: u32,
}

impl Default for Quantiles {
    fn default() -> Self {
        Self {
            counts: [0; STEPS],
            total: 0,
        }
    }
}

impl Quantiles {
    pub fn record(&mut self, took: Duration) {
        if self.total >= SAMPLES_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
        self.counts[step(took)] += 1;
        self.total += 1;
    }

    /// Samples that still count.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.total
    }

    /// What `percent` of the samples are within. `None` without any.
    #[must_use]
    pub fn within(&self, percent: u32) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let wanted = f64::from(self.total) * f64::from(percent.min(100)) / 100.0;
        let mut below = 0.0;
        for (at, count) in self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let count = f64::from(*count);
            if below + count >= wanted {
                let share = ((wanted - below) / count).clamp(0.0, 1.0);
                let (from, to) = (edge(at), edge(at + 1));
                return Some(from + (to - from).mul_f64(share));
            }
            below += count;
        }
        None
    }
}

fn step(took: Duration) -> usize {
    let ms = (took.as_secs_f64() * 1e3).max(1.0);
    ((ms.log2() * STEPS_PER_DOUBLING as f64) as usize).min(STEPS - 1)
}

/// Where a step begins. The first begins at nothing.
fn edge(step: usize) -> Duration {
    if step == 0 {
        return Duration::ZERO;
    }
    Duration::from_secs_f64(2_f64.powf(step as f64 / STEPS_PER_DOUBLING as f64) / 1e3)
}

/// After this time a sample weighs 1/e as much in the mean.
const DECAY: Duration = Duration::from_secs(10);

/// Peak-EWMA: a mean that takes a worse sample at once and a better one slowly, as in Twitter's Finagle
/// (its `PeakEwma` load balancer and "Beyond Round Robin: Load Balancing for Latency", Linkerd's blog,
/// 2016). Written from the description.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    mean: Duration,
    at: Option<Instant>,
}

impl PeakEwma {
    pub fn record(&mut self, took: Duration, now: Instant) {
        let mean = self.mean(now);
        self.mean = match self.at {
            Some(at) if took < mean => {
                let weight = decay(now.saturating_duration_since(at)).min(SAMPLE_WEIGHT_MIN);
                mean.mul_f64(weight) + took.mul_f64(1.0 - weight)
            }
            Some(_) | None => took,
        };
        self.at = Some(now);
    }

    /// It fades with time, so that one who was slow is tried again.
    #[must_use]
    pub fn mean(&self, now: Instant) -> Duration {
        match self.at {
            Some(at) => self.mean.mul_f64(decay(now.saturating_duration_since(at))),
            None => Duration::ZERO,
        }
    }
}

/// However quickly samples follow each other, a better one counts for a tenth.
const SAMPLE_WEIGHT_MIN: f64 = 0.9;

fn decay(gone: Duration) -> f64 {
    (-gone.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_within_a_fifth_of_the_truth() {
        let mut quantiles = Quantiles::default();
        assert_eq!(quantiles.within(95), None);
        (1..=1_000).for_each(|ms| quantiles.record(Duration::from_millis(ms)));
        for (percent, truth) in [(50, 0.5), (95, 0.95), (99, 0.99)] {
            let read = quantiles.within(percent).unwrap().as_secs_f64();
            assert!((read / truth - 1.0).abs() < 0.19, "{percent}: {read}");
        }
    }

    #[test]
    fn what_is_new_outweighs_what_is_old() {
        let mut quantiles = Quantiles::default();
        (0..100_000).for_each(|_| quantiles.record(Duration::from_secs(10)));
        (0..3_000).for_each(|_| quantiles.record(Duration::from_millis(20)));
        assert!(quantiles.within(50).unwrap() < Duration::from_millis(25));
        assert!(quantiles.count() <= SAMPLES_MAX);
    }

    #[test]
    fn the_ends_of_the_scale_are_kept_to() {
        let mut quantiles = Quantiles::default();
        quantiles.record(Duration::ZERO);
        assert!(quantiles.within(100).unwrap() <= Duration::from_millis(2));
        quantiles.record(Duration::from_secs(1 << 40));
        assert!(quantiles.within(100).unwrap() > Duration::from_secs(200));
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut load = PeakEwma::default();
        assert_eq!(load.mean(start), Duration::ZERO);
        load.record(ms(100), start);
        load.record(ms(900), start);
        assert_eq!(load.mean(start), ms(900), "worse: at once");
        load.record(ms(100), start);
        assert!(load.mean(start) > ms(800), "better: slowly");
        assert!(load.mean(start + DECAY) < ms(350), "and by itself");
    }
}
