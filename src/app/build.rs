//! Puts the bundled model into the binary, where the checkout has one, and the files of providers.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

/// The binary is copied around; a larger model belongs into the depot.
const MODEL_BYTES_MAX: u64 = 8 * 1024 * 1024;
const ENCODER_BYTES_MAX: u64 = 12 * 1024 * 1024;

#[expect(
    clippy::disallowed_methods,
    reason = "Cargo speaks to build scripts through the environment"
)]
fn main() -> io::Result<()> {
    let here = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let models = Path::new(&here).join("../../models");
    let chat = bundled(&models, "hedge-tiny.gguf", MODEL_BYTES_MAX)?;
    let encoder = bundled(&models, "hedge-encoder.gguf", ENCODER_BYTES_MAX)?;
    fs::write(
        Path::new(&out).join("bundled.rs"),
        format!(
            "/// The bundled model's file, or nothing.\npub const MODEL: &[u8] = {chat};\n\n\
             /// The bundled encoder's file, or nothing.\npub const ENCODER: &[u8] = {encoder};\n"
        ),
    )?;
    let providers = Path::new(&here).join("../../providers");
    fs::write(
        Path::new(&out).join("providers.rs"),
        provider_files(&providers)?,
    )
}

/// Code that has the file's bytes; none where the checkout has no such file.
fn bundled(models: &Path, name: &str, bytes_max: u64) -> io::Result<String> {
    let model = models.join(name);
    match fs::metadata(&model) {
        Ok(metadata) if metadata.len() <= bytes_max => {
            println!("cargo::rerun-if-changed={}", model.display());
            Ok(format!("include_bytes!({:?})", model.canonicalize()?))
        }
        Ok(metadata) => {
            println!(
                "cargo::error=models/{name} has {} bytes; the most that is bundled is {bytes_max}",
                metadata.len()
            );
            Ok("&[]".to_owned())
        }
        Err(_) => {
            println!("cargo::rerun-if-changed={}", models.display());
            Ok("&[]".to_owned())
        }
    }
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
