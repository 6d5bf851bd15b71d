//! The commands that do not serve.

use std::net::{SocketAddr, TcpListener};
use std::process::Output;

use loadtest::{FakeConfig, FakeUpstream};

use crate::harness::hedge;

fn output(arguments: &[&str], config: &str) -> (Output, String) {
    output_with(arguments, config, &[])
}

/// The same with further variables in the environment.
pub fn output_with(
    arguments: &[&str],
    config: &str,
    variables: &[(&str, &str)],
) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hedge.toml");
    std::fs::write(&file, config).unwrap();
    let output = hedge()
        .args(arguments)
        .env("HEDGE_CONFIG", &file)
        .env("XDG_DATA_HOME", folder.path())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8(said).unwrap();
    (output, said)
}

#[test]
fn check_names_every_fault_at_once_and_keeps_secrets() {
    let config = "listen = \"nowhere\"\n\
                  colour = \"red\"\n\
                  [cache]\nttl_s = \"long\"\n\
                  [[upstreams]]\nname = \"a\"\nbase_url = \"ftp://x\"\nkey = \"sk-inline-secret\"\nmodels = [\"m\"]\n";
    let (output, said) = output(&["check"], config);
    assert!(!output.status.success(), "{said}");
    for path in ["listen", "colour", "cache.ttl_s", "upstreams[0].base_url"] {
        assert!(said.contains(path), "{path} is not named:\n{said}");
    }
    assert!(!said.contains("sk-inline-secret"), "{said}");
}

#[test]
fn doctor_says_of_each_upstream_whether_it_answers_and_of_the_link_what_follows() {
    let fake = FakeUpstream::start(FakeConfig {
        key: Some("sk-right".to_owned()),
        ..FakeConfig::default()
    })
    .unwrap();
    let here = fake.addr();
    // Nobody listens there once it is dropped.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let upstream = |name: &str, addr: SocketAddr, more: &str| {
        format!(
            "[[upstreams]]\nname = \"{name}\"\nbase_url = \"http://{addr}/v1\"\nmodels = [\"m\"]\n\
             trust = \"public\"\n{more}\n"
        )
    };
    let away = upstream("away", gone, "");
    let config = [
        upstream("right", here, "key = \"env:RIGHT_KEY\""),
        upstream("wrong", here, "key = \"env:WRONG_KEY\""),
        upstream(
            "claude",
            here,
            "dialect = \"anthropic\"\nauth = \"header\"\nauth_header = \"x-api-key\"\nkey = \"env:RIGHT_KEY\"",
        ),
        away.clone(),
    ]
    .concat();
    let keys = [("RIGHT_KEY", "sk-right"), ("WRONG_KEY", "sk-wrong")];
    let (output, said) = output_with(&["doctor"], &config, &keys);
    assert!(!output.status.success(), "{said}");
    for line in [
        format!("right (openai at {here}, key set) answers"),
        format!("wrong (openai at {here}, key set) refuses the key"),
        format!("claude (anthropic at {here}, key set) answers"),
        format!("away (openai at {gone}, without a key) cannot be reached: Connection refused"),
        "online: 3 of 4 public upstreams answer".to_owned(),
    ] {
        assert!(said.contains(&line), "{line} is not said:\n{said}");
    }
    assert!(!said.contains("sk-"), "{said}");
    let (_, said) = self::output(&["doctor"], &away);
    let offline = "offline: none of 1 public upstreams can be reached";
    assert!(said.contains(offline), "{said}");
}

/// `hedge check` said ok, and `hedge serve` went down behind its banner.
#[test]
fn check_and_doctor_look_at_the_models_for_embeddings_and_ranking() {
    let ranks = crate::harness::root().join("tests/fixtures/rank-tiny.gguf");
    let ranks = ranks.display();
    for (config, wanted) in [
        (
            format!("[embeddings]\nmodel = '{ranks}'"),
            "is not made for embeddings: it states no pooling of mean, cls or last",
        ),
        (
            "[rerank]\nmodel = '/no/such.gguf'".to_owned(),
            "rerank.model: /no/such.gguf",
        ),
        #[cfg(feature = "llama")]
        (
            format!("[local]\nmodel = 'bundled'\n[rerank]\nmodel = '{ranks}'\nname = 'NAME'"),
            "rerank.name: `NAME` is the name of a chat model",
        ),
    ] {
        let name = "hedge-tiny";
        let (config, wanted) = (config.replace("NAME", name), wanted.replace("NAME", name));
        for command in ["check", "doctor"] {
            let (output, said) = output(&[command], &config);
            assert!(!output.status.success(), "{command}: {said}");
            assert!(said.contains(&wanted), "{command}: {said}");
        }
    }
}

#[test]
fn an_empty_file_is_a_good_one() {
    let (output, said) = output(&["check"], "");
    // Without an engine and without upstreams nothing could answer, and that is a fault.
    assert_eq!(output.status.success(), cfg!(feature = "llama"), "{said}");
}

/// Its aliases name the local model, which only a build with the engine has.
#[cfg(feature = "llama")]
#[test]
fn the_example_is_good() {
    let example = crate::harness::root().join("hedge.example.toml");
    let example = std::fs::read_to_string(example).unwrap();
    // The example reads its key from the environment.
    let example = example.replace("env:OPENAI_API_KEY", "env:PATH");
    let (output, said) = output(&["check"], &example);
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_schema_is_json_and_knows_every_section() {
    let (output, said) = output(&["config", "schema"], "");
    assert!(output.status.success(), "{said}");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for section in ["listen", "local", "upstreams", "routes", "cache", "keys"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    let (output, said) = self::output(&["config", "schema", "--model"], "");
    assert!(output.status.success(), "{said}");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["keep_alive_s"].is_object(), "{said}");
    assert!(schema["properties"]["models_dir"].is_null(), "{said}");
}

#[test]
fn a_further_models_faults_carry_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big.toml");
    std::fs::write(&file, "slots_mx = 2\nkeep_alive_s = -1\n").unwrap();
    let config = format!("[local]\nmodels_dir = {:?}\n", folder.path());
    let (output, said) = output(&["check"], &config);
    assert!(!output.status.success(), "{said}");
    for words in [
        "slots_mx: unknown field",
        "did you mean `slots_max`",
        "keep_alive_s: ",
    ] {
        assert!(said.contains(words), "{words} is not said:\n{said}");
    }
    assert!(said.contains(&file.display().to_string()), "{said}");
}

#[test]
fn help_teaches_and_a_wrong_word_is_refused() {
    let (help, said) = output(&["--help"], "");
    assert!(help.status.success());
    for word in ["serve", "chat", "models", "ps", "doctor", "127.0.0.1:8787"] {
        assert!(said.contains(word), "{word}");
    }
    let (wrong, said) = output(&["serv"], "");
    assert!(!wrong.status.success());
    assert!(said.contains("serve"), "{said}");
}

#[test]
fn a_damaged_model_is_refused_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, Vec<u8>); 3] = [
        ("empty.gguf", Vec::new()),
        ("text.gguf", b"this is no model".to_vec()),
        (
            "header.gguf",
            [b"GGUF".as_slice(), &3u32.to_le_bytes(), &[0xff; 24]].concat(),
        ),
    ];
    for (name, bytes) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let (imported, said) = output(&["models", "import", file.to_str().unwrap()], "");
        assert!(!imported.status.success(), "{name}: {said}");
        assert!(
            said.len() > 20 && !said.contains("panicked"),
            "{name}: {said}"
        );
    }
}

#[test]
fn the_engines_own_command_is_not_for_people() {
    let (_, said) = output(&["--help"], "");
    assert!(!said.contains("engine "), "{said}");
    let (by_hand, said) = output(&["engine"], "");
    assert!(!by_hand.status.success());
    assert!(said.contains("for `hedge serve` to start"), "{said}");
}
