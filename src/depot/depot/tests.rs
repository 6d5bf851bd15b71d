use super::*;
use crate::gguf::builder::Builder;

struct Bench {
    dir: tempfile::TempDir,
    depot: Depot,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let depot = Depot::open(dir.path().join("models"));
        Self { dir, depot }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn an_imported_model_outlives_its_original_and_can_be_removed() {
    let bench = Bench::new();
    let bytes = Builder::model().build();
    let file = bench.file("My model.gguf", &bytes);
    let entry = bench.depot.import(&file, None).unwrap();
    assert_eq!(entry.name, "My-model");
    assert_eq!(entry.sha256, Some(Sha256Digest::of(&bytes)));
    fs::remove_file(file).unwrap();
    let path = bench.depot.find("My-model").unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    bench.depot.remove("My-model").unwrap();
    assert!(!path.exists());
    assert!(bench.depot.list().unwrap().is_empty());
}

#[test]
fn a_name_is_not_taken_twice_for_different_files() {
    let bench = Bench::new();
    let first = bench.file("a.gguf", &Builder::model().build());
    let other = bench.file(
        "b.gguf",
        &Builder::model().text("general.name", "other").build(),
    );
    bench.depot.import(&first, None).unwrap();
    bench.depot.import(&first, None).unwrap();
    assert_eq!(bench.depot.list().unwrap().len(), 1);
    let error = bench.depot.import(&other, Some("a")).unwrap_err();
    assert!(matches!(error, DepotError::NameTaken(_)), "{error}");
    bench.depot.import(&other, None).unwrap();
    assert_eq!(bench.depot.list().unwrap().len(), 2);
}

#[test]
fn what_is_no_model_does_not_enter() {
    let bench = Bench::new();
    let page = bench.file("a.gguf", b"<html>");
    let error = bench.depot.import(&page, None).unwrap_err();
    assert!(matches!(error, DepotError::Gguf(_)), "{error}");
    let model = bench.file("b.gguf", &Builder::model().build());
    for name in ["../b", "", ".hidden", "a/b", "a b"] {
        let error = bench.depot.import(&model, Some(name)).unwrap_err();
        assert!(matches!(error, DepotError::Name(_)), "{name}: {error}");
    }
    assert!(!bench.depot.dir().exists());
}

#[test]
fn an_unknown_name_brings_the_nearest_one() {
    let bench = Bench::new();
    let error = bench.depot.find("tiny").unwrap_err();
    assert!(matches!(error, DepotError::Unknown { nearest: None, .. }));
    assert!(matches!(
        bench.depot.remove("tiny").unwrap_err(),
        DepotError::Unknown { .. }
    ));
    let file = bench.file("hedge-tiny.gguf", &Builder::model().build());
    bench.depot.import(&file, None).unwrap();
    let error = bench.depot.find("Tiny").unwrap_err();
    assert!(error.to_string().contains("`hedge-tiny`?"), "{error}");
}

#[test]
fn a_damaged_manifest_is_not_overwritten() {
    let bench = Bench::new();
    fs::create_dir_all(bench.depot.dir()).unwrap();
    let manifest = bench.depot.dir().join(MANIFEST);
    fs::write(&manifest, "models = 7").unwrap();
    let file = bench.file("a.gguf", &Builder::model().build());
    let error = bench.depot.import(&file, None).unwrap_err();
    assert!(matches!(error, DepotError::Manifest { .. }), "{error}");
    assert_eq!(fs::read_to_string(manifest).unwrap(), "models = 7");
}

/// `models/manifest.toml` of the project: its digest is checked where its file is there.
#[test]
fn the_bundled_model_is_what_its_manifest_says() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let manifest = Manifest::read(&models.join(MANIFEST)).unwrap();
    let entry = manifest
        .find("hedge-tiny")
        .expect("the bundled model is listed");
    let path = models.join(&entry.file);
    let Ok(metadata) = fs::metadata(&path) else {
        return;
    };
    gguf::inspect(&path).unwrap();
    if let Some(sha256) = entry.sha256 {
        assert_eq!(Sha256Digest::of_file(&path).unwrap(), sha256);
    }
    if let Some(bytes) = entry.bytes {
        assert_eq!(metadata.len(), bytes);
    }
}
