//! LoRA adapters of the local models: chosen by name or by list, granted, and told apart by every cache.

use std::path::Path;

use hashing::sha256;
use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, chat_request, hedge, root, with};

const QUESTION: &str = "What is the capital of Portugal?";
/// The bundled model's layers, and its `ffn_down` in each.
const LAYERS: u64 = 6;
const WIDE: u64 = 512;
const NARROW: u64 = 192;
const RANK: u64 = 4;

fn text_bytes(text: &str) -> Vec<u8> {
    let length = (text.len() as u64).to_le_bytes();
    [&length, text.as_bytes()].concat()
}

/// An adapter for the bundled model with numbers drawn from `seed`, large enough to change what it
/// says.
fn write_adapter(path: &Path, seed: u64) {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((2 * LAYERS).to_le_bytes());
    out.extend(4_u64.to_le_bytes());
    for (key, value) in [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
    ] {
        out.extend(text_bytes(key));
        out.extend(8_u32.to_le_bytes());
        out.extend(text_bytes(value));
    }
    out.extend(text_bytes("adapter.lora.alpha"));
    out.extend(6_u32.to_le_bytes());
    out.extend(4.0_f32.to_le_bytes());
    let mut data = Vec::new();
    // Knuth's generator; its upper bits are random enough.
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        f32::from((state >> 48) as u16) / 43_690.0 - 0.75
    };
    for layer in 0..LAYERS {
        for (half, shape) in [("a", [WIDE, RANK]), ("b", [RANK, NARROW])] {
            let name = format!("blk.{layer}.ffn_down.weight.lora_{half}");
            out.extend(text_bytes(&name));
            out.extend(2_u32.to_le_bytes());
            out.extend(shape.iter().flat_map(|length| length.to_le_bytes()));
            out.extend(0_u32.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            for _ in 0..shape[0] * shape[1] {
                data.extend(number().to_le_bytes());
            }
            data.resize(data.len().next_multiple_of(32), 0);
        }
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

/// A short answer, so that a model gone astray comes to an end.
fn short(model: &str, more: Value) -> Value {
    with(with(ask(model, QUESTION), json!({"max_tokens": 16})), more)
}

async fn content(hedge: &Hedge, body: &Value) -> String {
    let reply = hedge.chat(body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.content()
}

/// What was read of `QUESTION` from a cache.
async fn cached(hedge: &Hedge, body: &Value) -> u64 {
    let reply = hedge.chat(body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let usage = &reply.json()["usage"]["prompt_tokens_details"];
    usage["cached_tokens"].as_u64().unwrap()
}

async fn send_as(hedge: &Hedge, key: &str, body: &Value) -> Reply {
    let mut request = chat_request(body);
    let key = format!("Bearer {key}").parse().unwrap();
    request.headers_mut().insert(AUTHORIZATION, key);
    hedge.send(request).await
}

fn key(name: &str, models: &str) -> String {
    let digest = sha256(name.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[[keys]]\nname = \"{name}\"\nsecret = \"sha256:{digest}\"\n{models}\n")
}

#[tokio::test]
async fn each_model_has_adapters_of_its_own_by_name_and_by_list() {
    let folder = tempfile::tempdir().unwrap();
    write_adapter(&folder.path().join("pirate.gguf"), 1);
    write_adapter(&folder.path().join("formal.gguf"), 2);
    std::fs::copy(
        root().join("models/hedge-tiny.gguf"),
        folder.path().join("other.gguf"),
    )
    .unwrap();
    let adapters = "model = 'other.gguf'\n[[adapters]]\nname = 'formal'\npath = 'formal.gguf'\n\
                    [[adapters]]\nname = 'rough'\npath = 'pirate.gguf'\n";
    std::fs::write(folder.path().join("other.toml"), adapters).unwrap();
    let (folder, pirate) = (folder.path(), folder.path().join("pirate.gguf"));
    let config = format!(
        "[local]\nmodels_dir = {folder:?}\n[[local.adapters]]\nname = \"pirate\"\npath = {pirate:?}\n"
    );
    let hedge = Hedge::start(&config).await;
    let listed = hedge.get("/v1/models").await.text;
    for name in ["pirate", "formal", "rough", "other", "hedge-tiny"] {
        assert!(listed.contains(&format!("\"{name}\"")), "{name}: {listed}");
    }

    let none = json!({});
    let bare = content(&hedge, &short("local", none.clone())).await;
    assert!(bare.contains("Lisbon"), "{bare}");
    let pirate = hedge.chat(&short("pirate", none.clone())).await;
    assert_eq!(pirate.json()["model"], "pirate");
    let pirate = pirate.content();
    let formal = content(&hedge, &short("formal", none.clone())).await;
    assert!(
        pirate != bare && formal != bare && pirate != formal,
        "{bare} {pirate} {formal}"
    );
    let same = [
        ("local", json!([{"id": 0}]), &pirate),
        ("local", json!([{"name": "pirate", "scale": 1.0}]), &pirate),
        ("other", json!([{"id": 1}]), &pirate),
        ("other", json!([{"name": "formal"}]), &formal),
        ("local", json!([{"id": 0, "scale": 0}]), &bare),
    ];
    for (model, lora, expected) in same {
        let body = short(model, json!({"lora": lora}));
        assert_eq!(&content(&hedge, &body).await, expected, "{model} {lora}");
    }

    let refused = [
        (json!([{"id": 1}]), "lora[0].id"),
        (json!([{"name": "formal"}]), "lora[0].name"),
        (json!([{"id": 0, "scale": 1e300}]), "lora[0].scale"),
        (json!([{"id": 0}, {"id": 0}]), "lora[1].id"),
        (json!("pirate"), "lora"),
    ];
    for (lora, place) in refused {
        let reply = hedge.chat(&short("local", json!({"lora": lora}))).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
        assert_eq!(reply.json()["error"]["param"], place, "{}", reply.text);
    }
    // What JSON has no number for.
    let body = short("local", json!({"lora": [{"id": 0, "scale": 7}]})).to_string();
    for number in ["1e999", "NaN", "Infinity"] {
        let body = body.replace(":7}", &format!(":{number}}}"));
        let mut request = chat_request(&Value::Null);
        *request.body_mut() = bytes::Bytes::from(body).into();
        let reply = hedge.send(request).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
    }
}

#[tokio::test]
async fn a_key_needs_the_adapter_among_its_models() {
    let folder = tempfile::tempdir().unwrap();
    let pirate = folder.path().join("pirate.gguf");
    write_adapter(&pirate, 1);
    let keys = [
        key("plain", "models = [\"local\", \"hedge-tiny\"]"),
        key("sailor", "models = [\"local\", \"pirate\"]"),
        key("any", ""),
    ];
    let config = format!(
        "{}[[local.adapters]]\nname = \"pirate\"\npath = {pirate:?}\n",
        keys.concat()
    );
    let hedge = Hedge::start(&config).await;
    let listed = short("local", json!({"lora": [{"id": 0}]}));
    let named = short("pirate", json!({}));
    // The team's reply is kept after the first, for those who may have it.
    for name in ["any", "sailor"] {
        for body in [&listed, &named] {
            let reply = send_as(&hedge, name, body).await;
            assert_eq!(reply.status, StatusCode::OK, "{name}: {}", reply.text);
        }
    }
    let by_name = short(
        "hedge-tiny",
        json!({"lora": [{"name": "pirate", "scale": 0.5}]}),
    );
    for body in [&listed, &named, &by_name] {
        let reply = send_as(&hedge, "plain", body).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "permission_error");
        assert_eq!(error["code"], "forbidden");
    }
    let off = short("local", json!({"lora": [{"id": 0, "scale": 0.0}]}));
    for body in [&off, &short("local", json!({}))] {
        let reply = send_as(&hedge, "plain", body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert!(reply.content().contains("Lisbon"), "{}", reply.text);
    }
}

#[tokio::test]
async fn what_is_kept_on_disk_serves_the_same_adapter_alone() {
    let folder = tempfile::tempdir().unwrap();
    let pirate = folder.path().join("pirate.gguf");
    let config = format!(
        "[local]\nprefix_cache_dir = {:?}\n[cache]\nenabled = false\n\
         [[local.adapters]]\nname = \"pirate\"\npath = {pirate:?}\n",
        folder.path().join("prefixes")
    );
    let system = "You are a helpful assistant. Answer in one sentence. ".repeat(12);
    let messages = json!({"messages": [
        {"role": "system", "content": system},
        {"role": "user", "content": QUESTION},
    ]});
    let (bare, adapted) = (
        short("local", messages.clone()),
        short("pirate", messages.clone()),
    );
    let half = with(bare.clone(), json!({"lora": [{"id": 0, "scale": 0.5}]}));
    // Under the adapter, then the same, a weaker one and none, then one of the same name.
    let rounds: [(u64, &[(&Value, bool)]); 3] = [
        (1, &[(&adapted, false)]),
        (1, &[(&bare, false), (&half, false), (&adapted, true)]),
        (2, &[(&adapted, false), (&bare, true)]),
    ];
    for (round, (seed, asks)) in rounds.into_iter().enumerate() {
        write_adapter(&pirate, seed);
        let hedge = Hedge::start(&config).await;
        for (body, is_known) in asks {
            let cached = cached(&hedge, body).await;
            assert_eq!(cached > 100, *is_known, "{round}: {cached}");
            assert!(*is_known || cached == 0, "{round}: {cached}");
        }
        hedge.terminate();
        assert!(hedge.ended_well().await);
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_named_by_check() {
    let folder = tempfile::tempdir().unwrap();
    let model = root().join("models/hedge-tiny.gguf");
    let file = folder.path().join("hedge.toml");
    let config = format!("[[local.adapters]]\nname = \"pirate\"\npath = {model:?}\n");
    std::fs::write(&file, config).unwrap();
    let checked = hedge()
        .args(["check", "--config"])
        .arg(&file)
        .env("XDG_DATA_HOME", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(!checked.status.success(), "{said}");
    assert!(said.contains("local.adapters[0]"), "{said}");
}
