use std::io;

use super::*;

fn judged(text: &str, environment: &[(&str, &str)]) -> (Option<Config>, Findings) {
    let environment: BTreeMap<String, String> = environment
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut findings = Findings::default();
    let table = read::parse(text, &mut findings);
    let changes = overlay::from_environment(&environment, &table);
    let raw = read::read(table, &changes, &mut findings);
    let around = Surroundings {
        environment: &environment,
        read_file: &|path| match path.to_str() {
            Some("/run/key") => Ok("from-file\n".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        },
    };
    let config = Config::judge(&raw, &around, &mut findings);
    (config, findings)
}

pub(crate) fn accepted(text: &str, environment: &[(&str, &str)]) -> (Config, Vec<String>) {
    let (config, findings) = judged(text, environment);
    assert_eq!(findings.faults, [], "{text}");
    let warnings = findings.warnings.iter().map(ToString::to_string).collect();
    (config.expect("no faults"), warnings)
}

pub(super) fn refused(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let (config, findings) = judged(text, environment);
    assert!(config.is_none(), "{text}");
    findings.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_serves_the_bundled_model_to_this_machine() {
    let (config, warnings) = accepted("", &[("HOME", "/home/u")]);
    assert_eq!(config.listen, "127.0.0.1:8787".parse().ok());
    assert_eq!(
        config.admin,
        AdminListen::Offered("127.0.0.1:8788".parse().unwrap())
    );
    assert_eq!(config.local.unwrap().source, ModelSource::Bundled);
    assert_eq!(
        config.depot_dir,
        Path::new("/home/u/.local/share/hedge/models")
    );
    assert!(config.routes.text.contains("rule"));
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn models_that_make_vectors_and_scores_run_where_the_chat_model_does() {
    let text = "
        [local]
        isolation = 'thread'
        hang_ms_max = 5000
        [embeddings]
        model = '/m/e.gguf'
        [rerank]
        model = '/m/r.gguf'
        also = ['rerank-english-v3.0']
        input_tokens_max = 512";
    let (config, _) = accepted(text, &[]);
    let (embeddings, rerank) = (config.embeddings.unwrap(), config.rerank.unwrap());
    for settings in [&embeddings, &rerank] {
        assert_eq!(settings.isolation, Isolation::Thread);
        assert_eq!(settings.hang_max, Duration::from_secs(5));
    }
    assert_eq!(rerank.input_tokens_max, Some(512));
    assert_eq!(rerank.also, ["rerank-english-v3.0".into()]);
    let refusals = refused(
        "[rerank]\nname = 'local'\n[embeddings]\nmodel = 'bundled'\nalso = ['a/b']\nthreads = 0",
        &[],
    );
    for path in [
        "rerank.model",
        "embeddings.model",
        "embeddings.also[0]",
        "embeddings.threads",
    ] {
        assert!(
            refusals.iter().any(|fault| fault.starts_with(path)),
            "{path}: {refusals:?}"
        );
    }
}

#[test]
fn every_section_reports_its_faults_at_once() {
    let text = "
        listen = 'nowhere'
        [ingress]
        origins = ['https://a.example/path']
        body_bytes_max = 1
        [local]
        name = 'auto'
        slots_max = 0
        prompt_delay_ms_max = 5
        temperature_default = nan
        [[keys]]
        secret = 'sha256:abc'
        [[keys]]
        name = 'k'
        [[upstreams]]
        name = 'a/b'
        base_url = 'http://far.example/v1'
        models = ['m']
        default_model = 'other'
        dialect = 'pidgin'
        [[upstreams]]
        name = 'b'
        base_url = 'https://u:p@far.example'
        key = 'env:ABSENT'
        connect_timeout_ms = 0
        [routes]
        file = '/no/such'
        [cache]
        ttl_s = 0
        [limits]
        exchanges_max = 0
        [[privacy.custom]]
        name = 'x'
        [log]
        format = 'xml'
        level = 'loud=='
    ";
    let found = refused(text, &[]);
    for wanted in [
        "listen: `nowhere` is not ADDR:PORT",
        "ingress.origins[0]: is not an origin",
        "ingress.body_bytes_max: 1 is out of range",
        "local.name: `auto` cannot name a model",
        "local.slots_max: 0 is out of range",
        "local.prompt_delay_ms_max: 5 is out of range",
        "local.temperature_default: NaN is out of range",
        "keys[0].name: is required",
        "keys[0].secret: sha256: is followed by 64",
        "keys[1].secret: is required",
        "upstreams[0].name: takes letters",
        "upstreams[0].base_url: is plain HTTP to another machine",
        "upstreams[0].default_model: `other` is not among",
        "upstreams[0].dialect: `pidgin` is none of openai",
        "upstreams[1].base_url: must not hold a user name",
        "upstreams[1].key: the environment has no ABSENT",
        "upstreams[1].models: name at least one model",
        "upstreams[1].connect_timeout_ms: 0 is out of range",
        "routes.file: `/no/such` is neither",
        "cache.ttl_s: 0 is out of range",
        "limits.exchanges_max: 0 is out of range",
        "privacy.custom[0].pattern: is required",
        "log.level: `loud==` is not",
        "log.format: unknown variant `xml`",
    ] {
        assert!(
            found.iter().any(|fault| fault.starts_with(wanted)),
            "{wanted}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 24, "{found:#?}");
}

#[test]
fn a_pools_faults_are_reported_at_once_with_their_paths() {
    let text = "
        [[upstreams]]
        name = 'taken'
        base_url = 'https://u.example/v1'
        models = ['m']
        [[pools]]
        name = 'taken'
        kind = 'vllm'
        trust = 'public'
        attempts_max = 0
        spill_factor = 0.5
        affinity_bytes = 1_000_000
        endpoints = [
            'http://10.0.0.5:8000/v1',
            'nowhere',
            'http://127.0.0.1:8000',
            'http://127.0.0.1:1/v1',
            'http://127.0.0.1:1/v1/',
            'https://u:p@e.example/v1',
        ]
        [pools.health]
        interval_ms = 0
        eject_ms = 60_000
        [[pools]]
        endpoints = ['http://127.0.0.1:1/v1']
        dns = 'http://engines.internal/v1'
        key = 'env:ABSENT'
        [[pools]]
        name = 'c'
        kind = 'ollama'
        models = ['m']
        dns = 'https://engines.internal/v1'
        [[pools]]
        name = 'd'
        kind = 'sglang'
        models = ['m']
        allow_http = true
        dns = 'http://10.0.0.5/v1'
        dns_refresh_s = 0
        [[pools]]
        name = 'e'
        kind = 'sglang'
        models = ['m']
    ";
    let found = refused(text, &[]);
    let wanted = [
        "pools[0].name: `taken` is the name of another",
        "pools[0].trust: a pool is machines of your own",
        "pools[0].attempts_max: 0 is out of range",
        "pools[0].spill_factor: 0.5 is out of range",
        "pools[0].affinity_bytes: 1000000 is out of range",
        "pools[0].endpoints[0]: is plain HTTP to another machine",
        "pools[0].endpoints[1]: is not a URL",
        "pools[0].endpoints[2]: must end in /v1",
        "pools[0].endpoints[4]: is listed twice",
        "pools[0].endpoints[5]: must not hold a user name",
        "pools[0].models: name at least one model",
        "pools[0].health.interval_ms: 0 is out of range",
        "pools[0].health.eject_ms: is more than eject_ms_max",
        "pools[1].name: is required",
        "pools[1].kind: is required: one of vllm, llama-server, ollama, sglang",
        "pools[1].models: name at least one model",
        "pools[1].dns: stands beside `endpoints`",
        "pools[1].key: the environment has no ABSENT",
        "pools[2].dns: must begin with http://",
        "pools[3].dns: is an address",
        "pools[3].dns_refresh_s: 0 is out of range",
        "pools[4].endpoints: name at least one",
    ];
    for wanted in wanted {
        assert!(
            found.iter().any(|fault| fault.starts_with(wanted)),
            "{wanted}: {found:#?}"
        );
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    let unknown = refused(
        "[[pools]]\nkind = 'vlm'\nendpoint = ['a']\n[pools.health]\nintervall_ms = 1",
        &[],
    );
    let has = |wanted: &str| unknown.iter().any(|fault| fault.contains(wanted));
    assert!(has("did you mean `vllm`?"), "{unknown:#?}");
    assert!(has("did you mean `endpoints`?"), "{unknown:#?}");
    assert!(has("did you mean `interval_ms`?"), "{unknown:#?}");
}

#[test]
fn a_pool_is_as_trusted_as_a_tenants_machine_unless_told_otherwise() {
    let text = "
        [local]
        enabled = false
        [[pools]]
        name = 'gpu'
        kind = 'llama-server'
        models = ['large', 'small']
        endpoints = ['http://127.0.0.1:8080/v1/', 'https://b.example/x/v1']
        key = 'env:K'
        [[pools]]
        name = 'near'
        kind = 'ollama'
        models = ['m']
        trust = 'device'
        allow_http = true
        dns = 'http://engines.internal:11434/v1'
    ";
    let (config, warnings) = accepted(text, &[("K", "sk-very-secret")]);
    assert_eq!(warnings, Vec::<String>::new());
    let [gpu, near] = config.pools.as_slice() else {
        panic!("two pools: {:?}", config.pools);
    };
    assert_eq!(gpu.asked.trust, domain::Trust::Tenant);
    assert_eq!(gpu.asked.default_model, "large");
    assert_eq!(
        gpu.members,
        providers::Members::Listed(vec![
            "http://127.0.0.1:8080/v1".to_owned(),
            "https://b.example/x/v1".to_owned()
        ])
    );
    assert_eq!(near.asked.trust, domain::Trust::Device);
    let takes_constraints = |text: &str| -> Vec<bool> {
        let (config, _) = accepted(text, &[("K", "k")]);
        let pools = config.pools.iter();
        pools.map(|it| it.asked.structured_outputs).collect()
    };
    assert_eq!(takes_constraints(text), [false, false]);
    let vllm = text.replace("'llama-server'", "'vllm'");
    assert_eq!(takes_constraints(&vllm), [true, false]);
    let said = text.replace(
        "models = ['m']",
        "models = ['m']\nstructured_outputs = true",
    );
    assert_eq!(takes_constraints(&said), [false, true]);
    assert!(!format!("{config:?}").contains("sk-very-secret"));

    let hasty = format!("{text}\n[limits]\nfirst_content_last_ms_max = 80_000");
    let (_, warnings) = accepted(&hasty, &[("K", "k")]);
    assert!(
        warnings[0].starts_with(
            "pools[0].first_event_timeout_ms: attempts_max = 3 of these take 90000 ms"
        ),
        "{warnings:?}"
    );
    let beside = text.replace("enabled = false", "");
    let (_, warnings) = accepted(&beside, &[("K", "k")]);
    assert!(warnings[0].contains("means the pool `gpu`"), "{warnings:?}");
}

#[test]
fn secrets_come_from_the_environment_or_a_file_and_never_print() {
    let text = "
        [[upstreams]]
        name = 'a'
        base_url = 'https://a.example/v1'
        models = ['m']
        key = 'env:A_KEY'
        [[upstreams]]
        name = 'b'
        base_url = 'http://127.0.0.1:9/v1'
        models = ['m']
        key = 'file:/run/key'
        [[upstreams]]
        name = 'c'
        base_url = 'https://c.example/v1'
        models = ['m']
        key = 'sk-inline'
    ";
    let (config, warnings) = accepted(text, &[("A_KEY", "from-env")]);
    let keys: Vec<String> = config
        .upstreams
        .iter()
        .map(|upstream| upstream.auth.header().unwrap().1)
        .collect();
    assert_eq!(
        keys,
        ["Bearer from-env", "Bearer from-file", "Bearer sk-inline"]
    );
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("upstreams[2].key: "),
        "{warnings:?}"
    );
    let shown = format!("{config:?} {warnings:?}");
    assert!(!shown.contains("sk-inline") && !shown.contains("from-env"));
    let (raw_text, findings) = {
        let mut findings = Findings::default();
        let raw = read::read(read::parse(text, &mut findings), &[], &mut findings);
        (
            format!("{raw:?}{}", toml::to_string_pretty(&raw).unwrap()),
            findings,
        )
    };
    assert_eq!(findings.faults, []);
    assert!(raw_text.contains("env:A_KEY") && !raw_text.contains("sk-inline"));
}

#[test]
fn a_key_may_be_kept_as_its_digest_alone() {
    let digest = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683";
    let text = format!(
        "[[keys]]\nname = 'a'\nsecret = 'sha256:{digest}'\n[[keys]]\nname = 'b'\nsecret = 'env:K'\npriority = 'batch'"
    );
    let (config, _) = accepted(&text, &[("K", "key")]);
    assert_eq!(config.keys[0].digest, config.keys[1].digest);
    assert_eq!(
        [config.keys[0].priority, config.keys[1].priority],
        domain::Priority::ALL
    );
}

#[test]
fn operators_beyond_this_machine_have_tokens_or_sign_in() {
    let listen = "[admin]\nlisten = '0.0.0.0:8788'\n";
    let faults = refused(listen, &[]);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("admin.listen: 0.0.0.0:8788 can be reached from beyond"));
    let token = "tokens = [{ name = 'anna', secret = 'env:TOKEN' }]\n";
    let sign_in = "[admin.oidc]\nissuer = 'https://login.example'\nclient_id = 'hedge'\n\
                   client_secret = 'env:TOKEN'\n\
                   redirect_url = 'https://hedge.example/admin/callback'\n\
                   roles = [{ role = 'owner', subject = 's-1' }]\n";
    for either in [token, sign_in] {
        let (config, warnings) = accepted(&format!("{listen}{either}"), &[("TOKEN", "s3cret")]);
        assert_eq!(config.oidc.is_some(), either == sign_in);
        assert_eq!(warnings, Vec::<String>::new());
        assert!(!format!("{config:?}").contains("s3cret"));
    }
    // Nobody's token is called as people are who sign in.
    let named = token.replace("anna", "oidc:anna");
    let faults = refused(&format!("{listen}{named}"), &[("TOKEN", "s3cret")]);
    assert!(
        faults[0].starts_with("admin.tokens[0].name: "),
        "{faults:?}"
    );
}

#[test]
fn addresses_beyond_this_machine_need_keys_or_a_plain_word() {
    let open = "listen = '0.0.0.0:8787'";
    assert!(refused(open, &[])[0].contains("allow_open"));
    let (_, warnings) = accepted(&format!("{open}\n[ingress]\nallow_open = true"), &[]);
    assert!(warnings[0].contains("answers anyone"));
    let keyed = format!("{open}\n[[keys]]\nname = 'k'\nsecret = 'env:K'");
    let (config, _) = accepted(&keyed, &[("K", "s")]);
    assert_eq!(
        config.admin,
        AdminListen::Offered("127.0.0.1:0".parse().unwrap())
    );
}

#[test]
fn replies_are_drafted_unless_told_otherwise() {
    let speculation = |text| accepted(text, &[]).0.local.unwrap().speculation;
    assert_eq!(speculation(""), Speculation::Lookup);
    assert_eq!(
        speculation("[local]\nspeculation = 'lookup'"),
        Speculation::Lookup
    );
    assert_eq!(
        speculation("[local]\nspeculation = 'off'"),
        Speculation::Off
    );
    let found = refused("[local]\nspeculation = 'wild'", &[]);
    assert!(found[0].starts_with("local.speculation: "), "{found:?}");
}

#[test]
fn replies_end_with_their_context_unless_told_otherwise() {
    let shift = |text| accepted(text, &[]).0.local.unwrap().context_shift;
    assert_eq!(shift(""), ContextShift::Refuse);
    assert_eq!(
        shift("[local]\ncontext_shift = 'shift'"),
        ContextShift::Shift
    );
    let found = refused("[local]\ncontext_shift = true", &[]);
    assert!(found[0].starts_with("local.context_shift: "), "{found:?}");
}

#[test]
fn the_cache_is_kept_as_the_operator_says() {
    let kv = |text| accepted(text, &[]).0.local.unwrap().kv;
    assert_eq!(kv(""), engine::KvConfig::default());
    let text = "[local]\nkv_type_k = 'q8_0'\nkv_type_v = 'iq4_nl'\nflash_attention = 'on'\n\
                kv_unified = false";
    let said = engine::KvConfig {
        type_k: engine::KvType::Q8_0,
        type_v: engine::KvType::Iq4Nl,
        flash_attention: engine::FlashAttention::On,
        unified: Some(false),
    };
    assert_eq!(kv(text), said);
    assert_eq!(kv("[local]\nkv_unified = 'auto'").unified, None);
    let from_environment = [("HEDGE_LOCAL__KV_UNIFIED", "true")];
    let (config, _) = accepted("", &from_environment);
    assert_eq!(config.local.unwrap().kv.unified, Some(true));
}

#[test]
fn layers_are_fitted_unless_they_are_counted() {
    use engine::GpuLayers::{Count, Fitted};

    let layers = |text, environment| {
        let local = accepted(text, environment).0.local;
        local.unwrap().gpu_layers
    };
    assert_eq!(layers("", &[]), Fitted);
    assert_eq!(layers("[local]\ngpu_layers = 'auto'", &[]), Fitted);
    assert_eq!(layers("[local]\ngpu_layers = 0", &[]), Count(0));
    let from_environment = [("HEDGE_LOCAL__GPU_LAYERS", "20")];
    assert_eq!(layers("", &from_environment), Count(20));
    for wrong in ["-1", "'all'", "true"] {
        let found = refused(&format!("[local]\ngpu_layers = {wrong}"), &[]);
        assert!(found[0].starts_with("local.gpu_layers: "), "{found:?}");
    }
}

#[test]
fn a_cache_that_cannot_be_is_refused_with_its_path() {
    let cases = [
        ("kv_type_k = 'q3_k'", "local.kv_type_k: "),
        (
            "kv_type_v = 'q8_0'\nflash_attention = 'off'",
            "local.kv_type_v: `kv_type_v = \"q8_0\"` needs flash attention",
        ),
        ("kv_unified = 'no'", "local.kv_unified: "),
        ("flash_attention = true", "local.flash_attention: "),
    ];
    for (line, path) in cases {
        let found = refused(&format!("[local]\n{line}"), &[]);
        assert!(found[0].starts_with(path), "{found:?}");
    }
}

#[test]
fn the_model_has_a_process_of_its_own_unless_told_otherwise() {
    let isolation = |text| accepted(text, &[]).0.local.unwrap().isolation;
    assert_eq!(isolation(""), Isolation::Process);
    assert_eq!(
        isolation("[local]\nisolation = 'process'"),
        Isolation::Process
    );
    assert_eq!(
        isolation("[local]\nisolation = 'thread'"),
        Isolation::Thread
    );
    let found = refused("[local]\nisolation = 'fibre'", &[]);
    assert!(found[0].starts_with("local.isolation: "), "{found:?}");
}

#[test]
fn prefixes_are_kept_per_team_and_off_the_disk_unless_told_otherwise() {
    let local = |text| accepted(text, &[]).0.local.unwrap();
    let settings = local("");
    assert_eq!(settings.prefix_scope, PrefixScope::Team);
    assert_eq!(
        (settings.prefix_bytes_max, settings.prefix_dir),
        (None, None)
    );
    let text = "[local]\nprefix_scope = 'global'\nprefix_cache_dir = '/var/p'";
    let settings = local(text);
    assert_eq!(settings.prefix_scope, PrefixScope::Global);
    assert_eq!(settings.prefix_dir, Some("/var/p".into()));
    let text = "[local]\nprefix_cache_dir = '/var/p'\nprefix_cache_bytes_max = 0";
    let found = refused(text, &[]);
    assert!(
        found[0].starts_with("local.prefix_cache_dir: "),
        "{found:?}"
    );
}

#[test]
fn nothing_to_answer_with_is_a_fault() {
    let found = refused("[local]\nenabled = false", &[]);
    assert!(found[0].contains("nothing could answer"));
}

#[test]
fn the_environment_wins_over_the_file() {
    let (config, _) = accepted(
        "listen = '127.0.0.1:1'",
        &[
            ("HEDGE_LISTEN", "127.0.0.1:2"),
            ("HEDGE_LOCAL__MODEL", "./a.gguf"),
        ],
    );
    assert_eq!(config.listen.unwrap().port(), 2);
    assert_eq!(
        config.local.unwrap().source,
        ModelSource::Path("./a.gguf".into())
    );
}

#[test]
fn an_unknown_variable_is_a_fault_that_names_it() {
    let found = refused("", &[("HEDGE_LISTN", "127.0.0.1:2")]);
    assert!(
        found[0].starts_with("listn (from HEDGE_LISTN): ") && found[0].contains("`listen`?"),
        "{found:?}"
    );
}

#[test]
fn the_schema_knows_every_section_and_what_is_required() {
    let schema = serde_json::to_value(schemars::schema_for!(RawConfig)).unwrap();
    let sections = schema["properties"].as_object().unwrap();
    for section in [
        "listen",
        "admin",
        "ingress",
        "keys",
        "local",
        "upstreams",
        "pools",
        "prices",
        "savings",
        "records",
        "retention",
        "aliases",
        "balance",
        "routes",
        "retry",
        "cache",
        "responses",
        "privacy",
        "audit",
        "limits",
        "rescue",
        "offline",
        "images",
        "shutdown",
        "reload",
        "log",
        "telemetry",
        "depot",
    ] {
        assert!(sections.contains_key(section), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
    let required = schema["$defs"]["RawKey"]["required"].to_string();
    assert!(required.contains("secret"), "{required}");
    let dialects = schema["$defs"]["RawUpstream"]["properties"]["dialect"]["enum"].to_string();
    assert!(dialects.contains("openai"), "{dialects}");
}

#[test]
fn equals_are_aliases_with_weights_and_retries_have_a_budget() {
    let upstream = "[[upstreams]]\nname = 'a'\nbase_url = 'https://a.example/v1'\nmodels = ['m']\n\
                    idempotent = true\n";
    let text = format!(
        "{upstream}[balance.both]\nmodels = ['a/m', {{ name = 'local', weight = 3 }}]\n\
         [retry]\nbudget_percent = 5"
    );
    let (config, _) = accepted(&text, &[]);
    assert_eq!(config.aliases["both"], ["a/m", "local"]);
    assert_eq!(config.shares["both"], [1, 3]);
    assert_eq!((config.retry.budget_percent, config.retry.burst), (5, 10));
    assert!(config.upstreams[0].is_idempotent);
    let text = "
        [aliases]
        both = 'local'
        [balance.both]
        models = [{ name = 'local', weight = 0 }]
        [balance.none]
        [retry]
        budget_percent = 101
    ";
    let found = refused(text, &[]);
    let wanted = [
        "balance.both: `both` is the name of an alias",
        "balance.both.models[0].weight: 0 is out of range",
        "balance.none.models: 0 models; from 1 to 64",
        "retry.budget_percent: 101 is out of range",
    ];
    for wanted in wanted {
        let is_said = found.iter().any(|fault| fault.starts_with(wanted));
        assert!(is_said, "{wanted}\n{found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
}

#[test]
fn the_example_file_is_accepted() {
    let text = include_str!("../../../hedge.example.toml");
    accepted(text, &[("OPENAI_API_KEY", "k")]);
}

#[test]
fn adapters_have_a_name_and_a_file_each() {
    let text = "
        [local]
        name = 'base'
        [[local.adapters]]
        name = 'pirate'
        path = '/models/pirate.gguf'
        [[local.adapters]]
        name = 'formal'
        path = 'formal-in-depot'
        scale = -0.5
    ";
    let (config, _) = accepted(text, &[("HEDGE_LOCAL__ADAPTERS__0__SCALE", "2")]);
    let local = config.local.unwrap();
    let adapters: Vec<_> = local
        .adapters
        .iter()
        .map(|adapter| (adapter.name.as_str(), adapter.source.clone(), adapter.scale))
        .collect();
    let depot = ModelSource::Depot("formal-in-depot".to_owned());
    let path = ModelSource::Path("/models/pirate.gguf".into());
    assert_eq!(adapters, [("pirate", path, 2.0), ("formal", depot, -0.5)]);

    let text = "
        [local]
        name = 'base'
        [[pools]]
        name = 'gpu'
        kind = 'vllm'
        endpoints = ['http://127.0.0.1:1/v1']
        models = ['m']
        [aliases]
        fast = 'local'
        [[local.adapters]]
        [[local.adapters]]
        name = 'auto'
        path = ''
        scale = 17
        [[local.adapters]]
        name = 'base'
        path = 'a.gguf'
        [[local.adapters]]
        name = 'fast'
        path = 'a.gguf'
        [[local.adapters]]
        name = 'a'
        path = 'bundled'
        [[local.adapters]]
        name = 'a'
        path = 'a.gguf'
        scale = nan
        [[local.adapters]]
        name = 'gpu'
        path = 'a.gguf'
    ";
    let found = refused(text, &[]);
    let wanted = [
        "local.adapters[0].name: is required",
        "local.adapters[0].path: is required",
        "local.adapters[1].name: is required",
        "local.adapters[1].path: is required",
        "local.adapters[1].scale: 17 is out of range; from -16 to 16",
        "local.adapters[2].name: `base` is the name of the model itself",
        "local.adapters[3].name: `fast` is the name of an alias",
        "local.adapters[4].path: is required",
        "local.adapters[5].name: `a` is the name of another adapter",
        "local.adapters[5].scale: NaN is out of range",
        "local.adapters[6].name: `gpu` is the name of a pool",
    ];
    for wanted in wanted {
        let is_said = found.iter().any(|fault| fault.starts_with(wanted));
        assert!(is_said, "{wanted}\n{found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    let many = "[[local.adapters]]\nname = 'a'\npath = 'a.gguf'\n".repeat(17);
    let found = refused(&many, &[]);
    assert!(
        found[0].starts_with("local.adapters: 17 adapters; the most is 16"),
        "{found:?}"
    );
}

#[test]
fn trouble_is_bounded_and_spelt_as_in_the_schema() {
    let text = "[rescue]\nattempts_max = 0\n[offline]\nretry_ms = 1\nidle_probe_ms = 0\n\
                [[upstreams]]\nname = 'm'\nbase_url = 'https://m.example/v1'\nmodels = ['a']\n\
                continues = 'prefix-repeated'\n";
    let (config, found) = judged(text, &[]);
    assert!(config.is_none());
    let paths: Vec<&str> = found.faults.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["rescue.attempts_max", "offline.retry_ms"]);
    for continues in providers::Continues::ALL {
        let word = continues.as_label();
        let text = format!(
            "[[upstreams]]\nname = 'm'\nbase_url = 'https://m.example/v1'\nmodels = ['a']\n\
             continues = '{word}'\n"
        );
        let (config, found) = judged(&text, &[]);
        assert_eq!(
            config.unwrap().upstreams[0].continues,
            continues,
            "{found:?}"
        );
    }
}

#[test]
fn an_upstream_may_judge_texts_and_take_images_as_bytes() {
    let text = "
        [[upstreams]]
        provider = 'openai'
        models = ['m']
        moderation_models = ['omni']
        image_urls = false
        [[prices]]
        upstream = 'openai'
        models = ['m']
        input = 1
    ";
    let (config, _) = accepted(text, &[("OPENAI_API_KEY", "k")]);
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.moderation_models, ["omni"]);
    assert_eq!(upstream.image_urls, Some(false));
    let text = "
        [[upstreams]]
        provider = 'anthropic'
        models = ['m']
        moderation_models = ['']
    ";
    let found = refused(text, &[("ANTHROPIC_API_KEY", "k")]);
    let path = "upstreams[0].moderation_models";
    let wanted = [
        format!("{path}: holds an empty name"),
        format!("{path}: what is spoken there judges no texts"),
    ];
    assert_eq!(found, wanted);
}

#[test]
fn a_provider_goes_on_as_its_file_says_unless_its_upstream_says_otherwise() {
    use providers::Continues;
    for (provider, own, expected) in [
        ("mistral", "", Continues::PrefixRepeated),
        ("groq", "", Continues::Message),
        ("vllm", "", Continues::FinalMessage),
        ("llama-server", "", Continues::Message),
        ("openai", "", Continues::Never),
        ("anthropic", "", Continues::Never),
        ("mistral", "continues = 'never'", Continues::Never),
        ("anthropic", "continues = 'message'", Continues::Message),
    ] {
        let text =
            format!("[[upstreams]]\nprovider = '{provider}'\nkey = 'k'\nmodels = ['a']\n{own}\n");
        let (config, found) = judged(&text, &[]);
        let config = config.unwrap_or_else(|| panic!("{provider}: {found:?}"));
        assert_eq!(config.upstreams[0].continues, expected, "{provider} {own}");
    }
}

#[test]
fn the_audit_log_has_a_place_and_bounds() {
    let (config, _) = accepted("", &[("HOME", "/home/u")]);
    let rules = config.audit.unwrap();
    assert_eq!(rules.dir, Path::new("/home/u/.local/share/hedge/audit"));
    assert_eq!(
        (rules.file_bytes_max, rules.keep_files),
        (64 << 20, Some(64))
    );
    let (config, _) = accepted("[audit]\nkeep_files = 0\ndir = '/a'", &[]);
    let rules = config.audit.unwrap();
    assert_eq!(
        (rules.dir.as_path(), rules.keep_files),
        (Path::new("/a"), None)
    );
    let (config, _) = accepted("[audit]\nenabled = false", &[]);
    assert_eq!(config.audit, None);
    let found = refused("[audit]\nkeep_files = 1\nfile_bytes_max = 1\ndir = ''", &[]);
    let paths: Vec<&str> = found
        .iter()
        .filter_map(|it| it.split(": ").next())
        .collect();
    assert_eq!(
        paths,
        ["audit.file_bytes_max", "audit.keep_files", "audit.dir"]
    );
}

#[test]
fn a_key_has_its_own_limits_its_teams_and_everybodys() {
    use domain::{Measure, Period, Scope, WhenSpent};
    let text = "
        [organisation]
        time_zone = 'Europe/Lisbon'
        limits = [{ count = 'cost', usd = 1000, per = 'month', when_spent = 'local' }]
        [[teams]]
        name = 'research'
        limits = [{ count = 'tokens', amount = 100000, per = 'hour' }]
        [[keys]]
        name = 'ci'
        team = 'research'
        secret = 'file:/run/key'
        output_tokens_max = 512
        limits = [
            { count = 'requests', amount = 605, per = 'minute' },
            { count = 'cost', usd = 2.5, per = 'day' },
            { count = 'concurrency', amount = 4 },
        ]";
    let (config, warnings) = accepted(text, &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let key = &config.keys[0];
    assert_eq!(key.output_tokens_max, Some(domain::Tokens(512)));
    let seen = key.limits.iter().map(|limit| {
        let (scope, measure) = (limit.scope.clone(), limit.measure);
        (scope, measure, limit.amount, limit.per, limit.burst)
    });
    let own = || Scope::Key("ci".into());
    let expected = [
        (own(), Measure::Requests, 605, Period::Minute, 61),
        (own(), Measure::Cost, 2_500_000, Period::Day, 2_500_000),
        (own(), Measure::Concurrency, 4, Period::Ever, 4),
        (
            Scope::Team("research".into()),
            Measure::Tokens,
            100_000,
            Period::Hour,
            100_000,
        ),
        (
            Scope::Organisation,
            Measure::Cost,
            1_000_000_000,
            Period::Month,
            1_000_000_000,
        ),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!(key.limits[4].when_spent, WhenSpent::Free);
    // Callers without a key are of the team `default`.
    let text = "[[teams]]\nname = 'default'\nlimits = [{ count = 'concurrency', amount = 1 }]";
    let (config, _) = accepted(text, &[]);
    assert_eq!(config.quotas.of_anyone().0.len(), 1);
    assert!(config.has_limits());
    assert!(!accepted("", &[]).0.has_limits());
}

#[test]
fn users_tags_and_models_have_limits() {
    use domain::{Measure, WhenSpent};
    let text = "
        [organisation]
        user_limits = [
            { count = 'cost', usd = 5.0, per = 'day', warn_at = [0.95, 0.8] },
            { count = 'requests', amount = 60, per = 'minute', when_spent = 'queue' },
        ]
        [[teams]]
        name = 'default'
        user_required = true
        user_limits = [{ count = 'cost', usd = 1.0, per = 'day' }]
        [[tags]]
        name = 'batch'
        limits = [{ count = 'concurrency', amount = 4, when_spent = 'queue' }]
        [[models]]
        name = 'fast'
        limits = [{ count = 'tokens', amount = 1000, per = 'day' }]
        [limits]
        queue_ms_max = 500
        queue_max = 7
        user_accounts_max = 50";
    let (config, _) = accepted(text, &[]);
    assert!(config.has_limits());
    let rules = config.quotas.rules(&"default".into());
    assert!(rules.is_user_required);
    // The team's own first, and of the organisation's what it says nothing of.
    let users = rules.each_user.iter();
    let users: Vec<_> = users.map(|it| (it.measure, it.amount)).collect();
    assert_eq!(users, [(Measure::Cost, 1_000_000), (Measure::Requests, 60)]);
    let others = config.quotas.rules(&"other".into());
    assert!(!others.is_user_required);
    assert_eq!(others.each_user[0].amount, 5_000_000);
    let parts: Vec<u16> = others.each_user[0].warn_at.iter().collect();
    assert_eq!(parts, [800, 950]);
    assert_eq!(others.each_user[1].when_spent, WhenSpent::Queue);
    let named: Vec<String> = others.named().map(|limit| limit.account()).collect();
    assert_eq!(
        named,
        ["concurrency/ever/tag:batch", "tokens/day/model:fast"]
    );
    let queueing = config.limits.queueing;
    assert_eq!(
        (queueing.wait_max.as_millis(), queueing.waiting_max),
        (500, 7)
    );
    assert_eq!(config.limits.user_accounts_max, 50);
    // Only users of everybody: a node with limits all the same.
    let text = "[organisation]\nuser_limits = [{ count = 'concurrency', amount = 1 }]";
    assert!(accepted(text, &[]).0.has_limits());
}

#[test]
fn events_are_sent_where_the_address_is_safe_and_the_secret_long() {
    let around = [("SECRET", "sixteen bytes or more"), ("SHORT", "short")];
    let (config, _) = accepted(
        "[events]\nwebhook = 'https://ops.example/x'\nsecret = 'env:SECRET'",
        &around,
    );
    assert_eq!(
        format!("{:?}", config.webhook),
        "Some(WebhookRules(ops.example))"
    );
    let (config, _) = accepted(
        "[events]\nwebhook = 'http://127.0.0.1:9/x'\nsecret = 'env:SECRET'",
        &around,
    );
    assert!(config.webhook.is_some());
    assert!(accepted("", &[]).0.webhook.is_none());
    for (webhook, secret, fault) in [
        (
            "http://ops.example/x",
            "env:SECRET",
            "events.webhook: is no https",
        ),
        (
            "https://a:b@ops.example",
            "env:SECRET",
            "events.webhook: is no https",
        ),
        ("ops.example", "env:SECRET", "events.webhook: is no https"),
        (
            "https://ops.example",
            "env:SHORT",
            "events.secret: is shorter",
        ),
    ] {
        let text = format!("[events]\nwebhook = '{webhook}'\nsecret = '{secret}'");
        let faults = refused(&text, &around);
        assert!(faults[0].starts_with(fault), "{webhook}: {faults:?}");
    }
    let faults = refused("[events]\nwebhook = 'https://ops.example'", &[]);
    assert_eq!(
        faults,
        ["events.secret: is required: env:NAME or file:/path"]
    );
}

#[test]
fn what_names_no_tag_or_model_is_refused() {
    for (text, fault) in [
        ("[[tags]]", "tags[0].name: is required"),
        ("[[tags]]\nname = 'a b'", "tags[0].name: is required"),
        ("[[models]]", "models[0].name: is required"),
        (
            "[[models]]\nname = 'm'\n[[models]]\nname = 'm'",
            "models[1].name: `m` is the name of another model",
        ),
        (
            "[[tags]]\nname = 't'\nlimits = [{ count = 'requests' }]",
            "tags[0].limits[0].per: is required",
        ),
        (
            "[[teams]]\nname = 't'\nuser_limits = [{ count = 'requests' }]",
            "teams[0].user_limits[0].per: is required",
        ),
        (
            "[limits]\nqueue_max = 0",
            "limits.queue_max: 0 is out of range",
        ),
        (
            "[limits]\nuser_accounts_max = 0",
            "limits.user_accounts_max: 0 is out of range",
        ),
    ] {
        let faults = refused(text, &[]);
        let is_said = faults.iter().any(|it| it.starts_with(fault));
        assert!(is_said, "{text}: {faults:?}");
    }
}

#[test]
fn a_limit_that_makes_no_sense_is_refused_with_its_place() {
    let limit = |limit: &str| refused(&format!("[organisation]\nlimits = [{{ {limit} }}]"), &[]);
    for (text, key) in [
        ("amount = 1, per = 'day'", "count: is required"),
        ("count = 'requests', amount = 1", "per: is required"),
        ("count = 'requests', per = 'day'", "amount: is required"),
        (
            "count = 'requests', amount = 0, per = 'day'",
            "amount: is required, and at least 1",
        ),
        (
            "count = 'requests', usd = 1.0, per = 'day'",
            "usd: is for `cost` alone",
        ),
        (
            "count = 'cost', amount = 5, per = 'day'",
            "amount: is not for `cost`",
        ),
        (
            "count = 'cost', usd = -0.5, per = 'day'",
            "usd: is required",
        ),
        ("count = 'cost', usd = nan, per = 'day'", "usd: is required"),
        (
            "count = 'cost', usd = 1e12, per = 'day'",
            "usd: is required",
        ),
        (
            "count = 'cost', usd = 1.0, per = 'minute'",
            "per: is `day`, `month` or `ever`",
        ),
        (
            "count = 'concurrency', amount = 1, per = 'day'",
            "per: is not for `concurrency`",
        ),
        (
            "count = 'tokens', amount = 1, per = 'day', burst = 1",
            "burst: is for what refills",
        ),
        (
            "count = 'tokens', amount = 1, per = 'hour', burst = 0",
            "burst: is at least 1",
        ),
        (
            "count = 'tokens', amount = 1, per = 'day', when_spent = 'local'",
            "when_spent: is `local` for `cost` alone",
        ),
        (
            "count = 'cost', usd = 1.0, per = 'day', when_spent = 'queue'",
            "when_spent: is `queue` for what refills",
        ),
        (
            "count = 'tokens', amount = 1, per = 'hour', warn_at = [0.5]",
            "warn_at: is for what is counted per `day`",
        ),
        (
            "count = 'tokens', amount = 1, per = 'day', warn_at = [80]",
            "warn_at: is up to 4 parts",
        ),
        (
            "count = 'tokens', amount = 1, per = 'day', warn_at = [-0.5]",
            "warn_at: is up to 4 parts",
        ),
    ] {
        let faults = limit(text);
        let expected = format!("organisation.limits[0].{key}");
        assert!(
            faults.iter().any(|fault| fault.starts_with(&expected)),
            "{text}: {faults:?}"
        );
    }
    let twice = "{ count = 'requests', amount = 1, per = 'day' }";
    let faults = refused(&format!("[organisation]\nlimits = [{twice}, {twice}]"), &[]);
    assert!(
        faults[0].starts_with("organisation.limits[1]: counts the same"),
        "{faults:?}"
    );
    let faults = refused("[organisation]\ntime_zone = 'Mars/Olympus'", &[]);
    assert!(
        faults[0].starts_with("organisation.time_zone"),
        "{faults:?}"
    );
    let faults = refused(
        "[[teams]]\nname = 'a'\n[[teams]]\nname = 'a'\n[[teams]]\n",
        &[],
    );
    assert_eq!(faults.len(), 2, "{faults:?}");
    let (_, warnings) = accepted("[[teams]]\nname = 'a'", &[]);
    assert!(
        warnings[0].contains("is the team of no key"),
        "{warnings:?}"
    );
}
const RELAY: &str = "[[relays]]\nname = 'hq'\nmodels = ['auto', 'local']\nmembers = ['relay-hq']\n";

#[test]
fn relays_are_backends_with_members_in_their_usual_place() {
    let environment = [("XDG_DATA_HOME", "/data")];
    let (config, warnings) = accepted(RELAY, &environment);
    assert_eq!(warnings, Vec::<String>::new());
    let relay = &config.relays[0];
    assert_eq!(relay.members, [Path::new("/data/hedge/relays/relay-hq")]);
    assert_eq!(relay.asked.default_model, "auto");
    assert_eq!(relay.suites_min, relay::Kem::XWing);
    assert_eq!(relay.shape.to_string(), "cells;size=512");
    assert_eq!(relay.asked.base_url, "https://relay.invalid/v1");
    let text = RELAY.replace("relay-hq", "./here/hq");
    let (config, _) = accepted(&text, &environment);
    assert_eq!(config.relays[0].members, [Path::new("./here/hq")]);
    let anthropic = format!("{RELAY}dialect = 'anthropic'");
    let (config, _) = accepted(&anthropic, &environment);
    assert_eq!(config.relays[0].asked.base_url, "https://relay.invalid");
}

#[test]
fn every_fault_of_a_relay_is_named() {
    for (text, faults) in [
        (
            "[[relays]]\nname = 'auto'\nshape = 'round'\nsuites_min = 'rsa'\nrequest_pad = 'none'",
            &[
                "relays[0].name",
                "relays[0].shape",
                "relays[0].suites_min",
                "relays[0].request_pad",
                "relays[0].models",
                "relays[0].members",
            ][..],
        ),
        (
            "[[upstreams]]\nname = 'hq'\nbase_url = 'https://a.example/v1'\nmodels = ['m']\n\
             [[relays]]\nname = 'hq'\nmodels = ['m']\nmembers = ['a', 'a', '']\ndialect = 'gemini'",
            &[
                "relays[0].name",
                "relays[0].members[1]",
                "relays[0].members[2]",
                "relays[0].dialect",
            ],
        ),
    ] {
        let found = refused(text, &[]);
        for fault in faults {
            assert!(
                found.iter().any(|it| it.starts_with(&format!("{fault}: "))),
                "{fault}: {found:?}"
            );
        }
        assert_eq!(found.len(), faults.len(), "{found:?}");
    }
}

#[test]
fn a_relay_has_clients_only_where_it_says_so() {
    let relay = "[gateway]\nrelay_id = 'relay-hq'\n";
    let (config, warnings) = accepted(relay, &[]);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.listen, None);
    assert_eq!(
        config.admin,
        AdminListen::Offered("127.0.0.1:8789".parse().unwrap())
    );
    let gateway = config.gateway.unwrap();
    assert_eq!(gateway.listen, "127.0.0.1:8443".parse().unwrap());
    assert!(gateway.has_tls && gateway.requires_certificate);
    assert_eq!(gateway.kems, relay::Kem::ALL);
    assert_eq!(gateway.shapes.len(), relay::shape::Shape::all().len());
    let (config, _) = accepted(&format!("listen = '127.0.0.1:1'\n{relay}"), &[]);
    assert_eq!(config.listen, "127.0.0.1:1".parse().ok());
}

#[test]
fn every_fault_of_a_gateway_is_named() {
    let found = refused(
        "[gateway]\nlisten = 'x'\ndir = ''\nrelay_id = 'a b'\nurl = 'https://a/b'\ntls = false\n\
         client_certificates = true\nkems = []\nshapes = ['off', 'x']\nrequests_max = 0",
        &[],
    );
    let paths: Vec<&str> = found
        .iter()
        .filter_map(|fault| fault.split(": ").next())
        .collect();
    let keys = [
        "listen",
        "relay_id",
        "dir",
        "url",
        "client_certificates",
        "kems",
        "shapes[1]",
        "default_shape",
        "requests_max",
    ];
    let wanted: Vec<String> = keys.iter().map(|key| format!("gateway.{key}")).collect();
    assert_eq!(paths, wanted, "{found:?}");
    assert_eq!(
        refused("[gateway]", &[]),
        ["gateway.relay_id: is required, such as relay-hq"]
    );
}

#[test]
fn a_relay_in_the_clear_is_said() {
    let text =
        "[gateway]\nrelay_id = 'r'\nlisten = '0.0.0.0:80'\ntls = false\ninterop_suites = true";
    let (config, warnings) = accepted(text, &[]);
    assert!(!config.gateway.unwrap().requires_certificate);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let near = text.replace("0.0.0.0", "127.0.0.1");
    let (_, warnings) = accepted(&near, &[]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn replies_are_reused_where_it_is_asked_for() {
    let reuse = |text: &str| accepted(&format!("[cache]\n{text}"), &[]).0.cache.reuse;
    assert!(reuse("").is_none());
    if crate::bundled::has_encoder() {
        let set = reuse("semantic = true").unwrap();
        assert_eq!(set.encoder.source, ModelSource::Bundled);
    }
    let set = reuse("encoder = './e.gguf'").unwrap();
    assert_eq!(set.acceptance.max_wrong_rate, 0.01);
    assert_eq!(set.encoder.source, ModelSource::Path("./e.gguf".into()));
    assert!(reuse("encoder = './e.gguf'\nsemantic = false").is_none());
    assert!(reuse("encoder = './e.gguf'\nenabled = false").is_none());
    let set = reuse(
        "encoder = 'minilm'\ncompartment = 'shared'\nshared_writers_min = 5\n\
         ttl_by_class_s = { fact = 60 }",
    );
    let set = set.unwrap();
    assert_eq!(
        (set.scope, set.writers_min),
        (policy::ReuseScope::Shared, 5)
    );
    assert_eq!(set.ttl_by_class["fact"], Duration::from_secs(60));
}

#[test]
fn reuse_that_cannot_be_is_refused_with_its_path() {
    for (line, path) in [
        ("max_wrong_rate = 1.5", "cache.max_wrong_rate: "),
        ("max_wrong_rate = nan", "cache.max_wrong_rate: "),
        ("shadow_rate = -0.1", "cache.shadow_rate: "),
        ("compartment = 'everybody'", "cache.compartment: "),
        ("shared_writers_min = 0", "cache.shared_writers_min: "),
        ("shared_writers_min = 17", "cache.shared_writers_min: "),
        ("replay = 'slow'", "cache.replay: "),
        ("look_up_ms_max = 0", "cache.look_up_ms_max: "),
        (
            "ttl_by_class_s = { facts = 60 }",
            "cache.ttl_by_class_s.facts: ",
        ),
        (
            "ttl_by_class_s = { fact = 0 }",
            "cache.ttl_by_class_s.fact: ",
        ),
        ("semantic = true\nenabled = false", "cache.semantic: "),
    ] {
        let found = refused(&format!("[cache]\n{line}"), &[]);
        assert!(found[0].starts_with(path), "{line}: {found:?}");
    }
}

#[test]
fn retention_is_off_and_says_what_it_needs() {
    let (config, _) = accepted("", &[]);
    assert!(config.retention.is_none());
    let text = "
        [retention]
        enabled = true
        keep_days = 30
        teams = ['red']
        keys = [
          { command = ['kms', 'decrypt'], environment = ['REGION'] },
          { file = '/k/1' },
        ]";
    let (config, warnings) = accepted(text, &[("REGION", "eu"), ("HOME", "/h"), ("OTHER", "o")]);
    let settings = config.retention.unwrap();
    assert_eq!(settings.rules.view, domain::TextView::Masked);
    assert_eq!(settings.rules.keep, Duration::from_secs(30 * 86_400));
    assert!(settings.rules.covers(&"red".into()) && !settings.rules.covers(&"blue".into()));
    let TextKeySource::Command { environment, .. } = &settings.keys[0] else {
        panic!("the first is a command");
    };
    let given: Vec<&str> = environment.keys().map(String::as_str).collect();
    assert_eq!(given, ["HOME", "REGION"], "and none else");
    assert_eq!(settings.keys[1], TextKeySource::File("/k/1".into()));
    assert!(!format!("{settings:?}").contains("eu"));
    assert_eq!(warnings, Vec::<String>::new());

    let (config, warnings) = accepted("[retention]\nkeep_days = 3", &[]);
    assert!(config.retention.is_none());
    assert!(warnings[0].starts_with("retention.enabled: is false"));
    let raw = "[retention]\nenabled = true\nkeep_days = 1\nview = 'raw'\nkeys = [{ file = 'k' }]";
    assert!(accepted(raw, &[]).1[0].starts_with("retention.view: is raw"));

    let text = "
        [retention]
        enabled = true
        teams = []
        text_bytes_max = 10
        bytes_max = 10
        dir = ''
        keys = [
          {},
          { file = 'a', command = ['b'] },
          { command = [''] },
          { command = ['kms'], environment = ['NONE', 'HEDGE_ADMIN_TOKEN'] },
          { file = 'a' },
          { file = 'a' },
        ]";
    let found = refused(text, &[("HEDGE_ADMIN_TOKEN", "secret")]);
    let wanted = [
        "retention.keep_days: is required",
        "retention.teams: is empty",
        "retention.text_bytes_max: 10 is out of range",
        "retention.bytes_max: 10 is out of range",
        "retention.dir: must not be empty",
        "retention.keys[0]: is one of `file` and `command`",
        "retention.keys[1]: is one of `file` and `command`",
        "retention.keys[2].command: is a program",
        "retention.keys[3].environment[0]: the environment has no NONE",
        "retention.keys[3].environment[1]: is hedge's own",
        "retention.keys[5]: is there twice",
    ];
    for wanted in wanted {
        let is_said = found.iter().any(|fault| fault.starts_with(wanted));
        assert!(is_said, "{wanted}\n{found:#?}");
    }
    let found = refused("[retention]\nenabled = true\nkeep_days = 0", &[]);
    assert!(
        found
            .iter()
            .any(|it| it.starts_with("retention.keys: is empty"))
    );
    assert!(
        found
            .iter()
            .any(|it| it.starts_with("retention.keep_days: 0 is out of range"))
    );
}
