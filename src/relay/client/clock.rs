//! The edge's clock, as far as one relay's differs from it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use crate::manifest::MANIFEST_LIFE_MAX;
use crate::time::UnixTime;

/// How far the two may be apart, in seconds: with more no manifest would have been believed.
const OFFSET_MAX: i64 = MANIFEST_LIFE_MAX.as_secs() as i64;

/// Learnt from what a relay says within the ciphertext, and from nothing else.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Added to this machine's time, in seconds.
    offset: AtomicI64,
}

impl Clock {
    pub(super) fn now(&self) -> UnixTime {
        shifted(machine(), self.offset.load(Ordering::Relaxed))
    }

    /// The relay's time is `theirs`. Whether that can be.
    pub(super) fn correct(&self, theirs: UnixTime) -> bool {
        match offset(machine(), theirs) {
            Some(offset) => {
                self.offset.store(offset, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }
}

fn machine() -> UnixTime {
    SystemTime::now().into()
}

fn shifted(now: UnixTime, offset: i64) -> UnixTime {
    UnixTime(now.0.saturating_add_signed(offset))
}

fn offset(ours: UnixTime, theirs: UnixTime) -> Option<i64> {
    let offset = theirs.0.checked_signed_diff(ours.0)?;
    (offset.abs() <= OFFSET_MAX).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_follows_a_relays_within_bounds() {
        let ours = UnixTime(1_800_000_000);
        for seconds in [600, -600, 0, OFFSET_MAX, -OFFSET_MAX] {
            let theirs = shifted(ours, seconds);
            assert_eq!(offset(ours, theirs), Some(seconds));
        }
        for seconds in [OFFSET_MAX + 1, -OFFSET_MAX - 1] {
            assert_eq!(offset(ours, shifted(ours, seconds)), None);
        }
        assert_eq!(offset(ours, UnixTime(u64::MAX)), None);
        assert_eq!(shifted(UnixTime(5), -9), UnixTime(0));
    }
}
