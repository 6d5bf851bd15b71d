//! Others who want the processor: threads of the driver's that do nothing but compute.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// They keep at it for as long as this lives.
#[derive(Debug)]
pub(super) struct Neighbours {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Neighbours {
    pub(super) fn begin(count: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let mut sum = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    // Not a spin-loop hint, which would leave most of a core to others.
                    sum = hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
                }
            })
        });
        Self {
            threads: threads.collect(),
            is_over,
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
