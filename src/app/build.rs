//! Puts the bundled model into the binary, where the checkout has one.

use std::path::Path;
use std::{env, fs, io};

/// The binary is copied around; a larger model belongs into the depot.
const MODEL_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[expect(
    clippy::disallowed_methods,
    reason = "Cargo speaks to build scripts through the environment"
)]
fn main() -> io::Result<()> {
    let here = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let models = Path::new(&here).join("../../models");
    let model = models.join("hedge-tiny.gguf");
    let bytes = match fs::metadata(&model) {
        Ok(metadata) if metadata.len() <= MODEL_BYTES_MAX => {
            println!("cargo::rerun-if-changed={}", model.display());
            format!("include_bytes!({:?})", model.canonicalize()?)
        }
        Ok(metadata) => {
            println!(
                "cargo::error=models/hedge-tiny.gguf has {} bytes; the most that is bundled is {MODEL_BYTES_MAX}",
                metadata.len()
            );
            "&[]".to_owned()
        }
        Err(_) => {
            println!("cargo::rerun-if-changed={}", models.display());
            "&[]".to_owned()
        }
    };
    fs::write(
        Path::new(&out).join("bundled.rs"),
        format!("/// The bundled model's file, or nothing.\npub const MODEL: &[u8] = {bytes};\n"),
    )
}
