//! Puts the bundled model into the binary, where the checkout has one, and the files of providers.

use std::fmt::Write;
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
    )?;
    let providers = Path::new(&here).join("../../providers");
    fs::write(
        Path::new(&out).join("providers.rs"),
        provider_files(&providers)?,
    )
}

/// Every file, by its name without the ending. A new one is there with the next build.
fn provider_files(folder: &Path) -> io::Result<String> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path.canonicalize()?);
        }
    }
    paths.sort();
    let mut code = String::from(
        "/// Name and text of every file in `providers/`.\npub const FILES: &[(&str, &str)] = &[\n",
    );
    for path in paths {
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.file_stem().unwrap_or_default();
        let name = name.to_string_lossy();
        writeln!(code, "    ({name:?}, include_str!({path:?})),").map_err(io::Error::other)?;
    }
    code.push_str("];\n");
    Ok(code)
}
