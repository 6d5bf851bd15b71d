//! `hedge version`.

use crate::{bundled, terminal};

/// The version, and what was built in.
pub fn version() {
    terminal::say(format!("hedge {}", env!("CARGO_PKG_VERSION")));
    for (name, is_on) in features() {
        let state = if is_on { "yes" } else { "no" };
        terminal::say(format!("  {name:<18} {state}"));
    }
    terminal::say(format!(
        "  {:<18} {} bytes",
        "bundled model",
        bundled::MODEL.len()
    ));
}

/// What this build can do.
#[must_use]
pub fn features() -> [(&'static str, bool); 5] {
    [
        ("local engine", cfg!(feature = "llama")),
        ("dynamic back ends", cfg!(feature = "dynamic-backends")),
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
    ]
}
