//! What a relay does so that its memory stays its own.

use tracing::warn;

/// No core dumps, and no debugger of the same user: both would read keys and prompts.
#[cfg(target_os = "linux")]
pub fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let is_done = setrlimit(Resource::Core, none).is_ok()
        && set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
    if !is_done {
        warn!("memory could not be kept from dumps; forbid them by other means");
    }
}

#[cfg(not(target_os = "linux"))]
pub fn keep_memory_private() {
    warn!("memory is not kept from dumps on this system; forbid them by other means");
}

/// Without instructions for AES, sealing takes 25 times as long, and its time may tell of keys.
pub fn warn_without_aes() {
    if !has_aes() {
        warn!(
            "this processor has no instructions for AES; sealing is slow, and not safe from who can time it"
        );
    }
}

#[cfg(target_arch = "x86_64")]
pub fn has_aes() -> bool {
    std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
pub fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn has_aes() -> bool {
    false
}
