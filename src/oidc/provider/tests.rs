//! Against a provider that is played in this process: real sockets, real signatures.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Mutex as SyncMutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::mint::Mint;

/// Needs what a form and a header must escape.
const SECRET: &str = "s3cret:%+ é";

/// How the provider behaves, and what it was asked.
struct Script {
    document: Value,
    keys: Vec<Value>,
    /// Signs with this one.
    mint: Mint,
    /// Over those that are right.
    claims: Value,
    userinfo: Value,
    /// Instead of an answer, at these paths.
    statuses: HashMap<&'static str, u16>,
    silent: Option<&'static str>,
    /// Another answer, at this path.
    instead: Option<(&'static str, Value)>,
    /// Tokens name the key that they are signed with.
    is_named: bool,
    /// By the code: the challenge and the nonce of who got it.
    codes: HashMap<String, (String, String)>,
    asked: Vec<String>,
}

struct Fake {
    address: SocketAddr,
    script: Arc<SyncMutex<Script>>,
    _serving: JoinSet<()>,
}

impl Fake {
    async fn begin() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let at = |path: &str| format!("http://{address}/{path}");
        let mint = Mint::new("k1", Algorithm::ES256);
        let script = Arc::new(SyncMutex::new(Script {
            document: json!({
                "issuer": format!("http://{address}"),
                "authorization_endpoint": at("auth?tenant=1"),
                "token_endpoint": at("token"),
                "jwks_uri": at("jwks"),
                "userinfo_endpoint": at("userinfo"),
            }),
            keys: vec![mint.shown(json!({}))],
            mint,
            claims: json!({}),
            userinfo: json!({"sub": "anna"}),
            statuses: HashMap::new(),
            silent: None,
            instead: None,
            is_named: true,
            codes: HashMap::new(),
            asked: Vec::new(),
        }));
        let mut serving = JoinSet::new();
        let shared = Arc::clone(&script);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let script = Arc::clone(&shared);
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(Arc::clone(&script), request));
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self {
            address,
            script,
            _serving: serving,
        }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn provider(&self) -> Provider {
        Provider::new(rules(&format!("http://{}", self.address)), client())
    }

    fn asked(&self, path: &str) -> usize {
        let script = self.script();
        script.asked.iter().filter(|it| *it == path).count()
    }

    /// The provider's own page: somebody proves who he is, and is sent back with a code.
    fn visit(&self, address: &str) -> AuthorizationResponse {
        let url = Url::parse(address).unwrap();
        let fields: HashMap<_, _> = url.query_pairs().into_owned().collect();
        for (name, value) in [
            ("tenant", "1"),
            ("response_type", "code"),
            ("client_id", "hedge"),
            ("redirect_uri", "http://localhost:8788/admin/callback"),
            ("scope", "openid email"),
            ("code_challenge_method", "S256"),
            ("state", "the-state"),
        ] {
            assert_eq!(fields[name], value);
        }
        let mut script = self.script();
        let code = format!("code-{}", script.codes.len());
        let granted = (fields["code_challenge"].clone(), fields["nonce"].clone());
        script.codes.insert(code.clone(), granted);
        AuthorizationResponse { code, issuer: None }
    }

    async fn sign_in(&self, provider: &Provider) -> Result<Identity, SignInFault> {
        let attempt = attempt();
        let address = provider.begin(&attempt).await?;
        let returned = self.visit(&address);
        provider.finish(&attempt, &returned).await
    }
}

async fn answer(
    script: Arc<SyncMutex<Script>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = head.uri.path().to_owned();
    let (status, said) = {
        let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
        script.asked.push(path.clone());
        let is_silent = script.silent == Some(path.as_str());
        let status = script.statuses.get(path.as_str()).copied();
        match (is_silent, status) {
            (true, _) => (None, Value::Null),
            (_, Some(status)) => (Some(status), json!({"error": "broken"})),
            _ => match script.instead.clone() {
                Some((at, answer)) if at == path => (Some(200), answer),
                _ => script.answer(&path, &head.headers, &body),
            },
        }
    };
    let Some(status) = status else {
        std::future::pending::<()>().await;
        unreachable!("nothing wakes it");
    };
    let said = match said {
        Value::String(text) => text,
        value => value.to_string(),
    };
    let response = Response::builder().status(status);
    // Where a client that follows it would end up.
    let response = response.header("location", "http://127.0.0.1:1/");
    Ok(response.body(Full::new(Bytes::from(said))).unwrap())
}

impl Script {
    fn answer(
        &mut self,
        path: &str,
        headers: &hyper::HeaderMap,
        body: &[u8],
    ) -> (Option<u16>, Value) {
        let sent = |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned());
        match path {
            "/.well-known/openid-configuration" => (Some(200), self.document.clone()),
            "/jwks" => (Some(200), json!({"keys": self.keys})),
            "/userinfo" => {
                assert_eq!(sent("authorization").unwrap(), "Bearer the-access-token");
                (Some(200), self.userinfo.clone())
            }
            "/token" => {
                let form = Url::parse(&format!("http://x/?{}", String::from_utf8_lossy(body)));
                let fields: HashMap<_, _> = form.unwrap().query_pairs().into_owned().collect();
                self.redeem(&fields, sent("authorization"))
            }
            other => panic!("{other} was asked for"),
        }
    }

    fn redeem(
        &mut self,
        fields: &HashMap<String, String>,
        authorization: Option<String>,
    ) -> (Option<u16>, Value) {
        let shown = match authorization {
            Some(basic) => {
                let pair = BASE64_STANDARD.decode(basic.strip_prefix("Basic ").unwrap());
                String::from_utf8(pair.unwrap()).unwrap()
            }
            None => format!("{}:{}", fields["client_id"], fields["client_secret"]),
        };
        if shown != "hedge:s3cret%3A%25%2B%20%C3%A9" && shown != format!("hedge:{SECRET}") {
            return (Some(401), json!({"error": "invalid_client"}));
        }
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(sha256(fields["code_verifier"].as_bytes()));
        assert_eq!(fields["grant_type"], "authorization_code");
        assert_eq!(
            fields["redirect_uri"],
            "http://localhost:8788/admin/callback"
        );
        // Once.
        let Some((_, nonce)) = self
            .codes
            .remove(&fields["code"])
            .filter(|(known, _)| *known == challenge)
        else {
            return (Some(400), json!({"error": "invalid_grant"}));
        };
        let now = unix_now();
        let mut claims = json!({
            "iss": self.document["issuer"], "aud": "hedge", "sub": "anna", "nonce": nonce,
            "iat": now, "exp": now + 300,
        });
        for (name, value) in self.claims.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let id = self.is_named.then_some(self.mint.id);
        let id_token = self.mint.sign_as(id, &claims);
        let tokens = json!({
            "token_type": "Bearer", "access_token": "the-access-token", "id_token": id_token,
        });
        (Some(200), tokens)
    }
}

fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.tls_certs_only([]).no_proxy().build().unwrap()
}

fn rules(issuer: &str) -> ProviderRules {
    ProviderRules {
        issuer: Issuer::parse(issuer).unwrap(),
        client_id: "hedge".into(),
        client_secret: ClientSecret::new(SECRET),
        redirect_url: RedirectUrl::parse("http://localhost:8788/admin/callback").unwrap(),
        scopes: vec!["openid".into(), "email".into()],
        roles: Some(ClaimPath::new("groups")),
        asks_email: true,
    }
}

fn attempt() -> Attempt {
    Attempt {
        state: "the-state".into(),
        nonce: "the-nonce".into(),
        verifier: "v".repeat(43),
    }
}

/// What it says in all, as the log has it.
fn said(fault: &SignInFault) -> String {
    let mut words = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[tokio::test]
async fn somebody_is_who_the_provider_says() {
    let fake = Fake::begin().await;
    fake.script().claims = json!({
        "groups": ["sre", "all"], "email": "anna@acme.example", "email_verified": true,
    });
    let provider = fake.provider();
    let anna = Identity {
        subject: "anna".into(),
        email: Some("anna@acme.example".into()),
        roles: vec!["sre".into(), "all".into()],
    };
    for _ in 0..2 {
        assert_eq!(fake.sign_in(&provider).await.unwrap(), anna);
    }
    // What is known is not asked for again, nor is what the token says.
    assert_eq!(fake.asked("/.well-known/openid-configuration"), 1);
    assert_eq!(fake.asked("/jwks"), 1);
    assert_eq!(fake.asked("/userinfo"), 0);
    let shown = format!(
        "{provider:?} {:?} {:?}",
        attempt(),
        fake.visit(&provider.begin(&attempt()).await.unwrap())
    );
    for secret in ["s3cret", "vvvv", "the-nonce", "code-"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn a_secret_goes_into_the_form_where_the_provider_takes_it_there_alone() {
    let fake = Fake::begin().await;
    fake.script().document["token_endpoint_auth_methods_supported"] = json!(["client_secret_post"]);
    fake.script().claims = json!({"groups": [], "email": "a"});
    assert_eq!(
        fake.sign_in(&fake.provider()).await.unwrap().subject,
        "anna"
    );
}

#[tokio::test]
async fn what_the_token_leaves_open_userinfo_says_of_the_same_person() {
    let fake = Fake::begin().await;
    let provider = fake.provider();
    fake.script().userinfo = json!({
        "sub": "anna", "groups": ["sre"], "email": "anna@acme.example", "email_verified": true,
    });
    let identity = fake.sign_in(&provider).await.unwrap();
    assert_eq!(identity.roles, ["sre"]);
    assert_eq!(identity.email.as_deref(), Some("anna@acme.example"));
    fake.script().userinfo["sub"] = json!("otto");
    let fault = fake.sign_in(&provider).await.unwrap_err();
    assert!(matches!(fault, SignInFault::Unproven(_)));
    assert!(said(&fault).contains("somebody else"), "{}", said(&fault));
}

#[tokio::test]
async fn keys_that_the_provider_changes_are_learned_and_old_ones_forgotten() {
    let fake = Fake::begin().await;
    fake.script().claims = json!({"groups": [], "email": "a"});
    let provider = fake.provider();
    fake.sign_in(&provider).await.unwrap();
    let next = Mint::new("k2", Algorithm::EdDSA);
    let old = {
        let mut script = fake.script();
        script.keys = vec![next.shown(json!({}))];
        std::mem::replace(&mut script.mint, next)
    };
    fake.sign_in(&provider).await.unwrap();
    assert_eq!(fake.asked("/jwks"), 2);
    // The old key signs no more, and what it signs has the keys fetched once.
    fake.script().mint = old;
    let fault = fake.sign_in(&provider).await.unwrap_err();
    assert!(
        said(&fault).contains("none of the provider's keys"),
        "{}",
        said(&fault)
    );
    assert_eq!(fake.asked("/jwks"), 3);
    // Another key under the name of a known one.
    fake.script().mint = Mint::new("k2", Algorithm::EdDSA);
    let fault = fake.sign_in(&provider).await.unwrap_err();
    assert!(said(&fault).contains("signature"), "{}", said(&fault));
    assert_eq!(fake.asked("/jwks"), 4);
}

/// What was seen: with a provider whose tokens name no key, or that uses a name again, nobody could sign in
/// for an hour after it had changed its key.
#[tokio::test]
async fn a_new_key_without_a_name_of_its_own_is_learned() {
    for name in [Value::Null, json!("k1")] {
        let fake = Fake::begin().await;
        fake.script().claims = json!({"groups": [], "email": "a"});
        let provider = fake.provider();
        fake.sign_in(&provider).await.unwrap();
        {
            let mut script = fake.script();
            script.mint = Mint::new("k1", Algorithm::ES256);
            script.is_named = name != Value::Null;
            script.keys = vec![script.mint.shown(json!({"kid": name}))];
        }
        fake.sign_in(&provider).await.unwrap();
        assert_eq!(fake.asked("/jwks"), 2, "{name}");
        fake.sign_in(&provider).await.unwrap();
        assert_eq!(fake.asked("/jwks"), 2, "{name}");
    }
}

/// What was seen: words of JSON that was not as it should be, which may be a token, in the log.
#[tokio::test]
async fn what_cannot_be_read_of_a_token_or_of_somebody_is_not_told() {
    let fake = Fake::begin().await;
    let provider = fake.provider();
    for (path, answer) in [
        ("/token", json!("\"sesame\"")),
        (
            "/token",
            json!({"id_token": "sesame", "access_token": 7_353_573}),
        ),
        ("/userinfo", json!("\"sesame\"")),
    ] {
        fake.script().instead = Some((path, answer));
        let fault = fake.sign_in(&provider).await.unwrap_err();
        let said = said(&fault);
        assert!(said.contains("is not the JSON"), "{said}");
        let whole = format!("{said} {fault:?}");
        assert!(
            !whole.contains("sesame") && !whole.contains("7353573"),
            "{whole}"
        );
    }
}

#[tokio::test]
async fn a_token_of_another_sign_in_client_or_time_proves_nothing() {
    let fake = Fake::begin().await;
    let provider = fake.provider();
    for (claims, word) in [
        (json!({"nonce": "another"}), "another sign-in"),
        (json!({"aud": "another"}), "another client"),
        (json!({"iss": "http://127.0.0.1:1"}), "another issuer"),
        (json!({"exp": unix_now() - 600}), "it is over"),
    ] {
        fake.script().claims = claims;
        let fault = fake.sign_in(&provider).await.unwrap_err();
        assert!(matches!(fault, SignInFault::Unproven(_)), "{word}");
        assert!(said(&fault).contains(word), "{}", said(&fault));
    }
}

#[tokio::test]
async fn a_code_is_good_once_and_with_its_own_verifier() {
    let fake = Fake::begin().await;
    fake.script().claims = json!({"groups": [], "email": "a"});
    let provider = fake.provider();
    let returned = fake.visit(&provider.begin(&attempt()).await.unwrap());
    let other = Attempt {
        verifier: "w".repeat(43),
        ..attempt()
    };
    let fault = provider.finish(&other, &returned).await.unwrap_err();
    assert!(
        matches!(fault, SignInFault::Unproven(_)),
        "{}",
        said(&fault)
    );
    let returned = fake.visit(&provider.begin(&attempt()).await.unwrap());
    provider.finish(&attempt(), &returned).await.unwrap();
    let fault = provider.finish(&attempt(), &returned).await.unwrap_err();
    assert!(
        matches!(fault, SignInFault::Unproven(_)),
        "{}",
        said(&fault)
    );
}

#[tokio::test]
async fn a_code_that_another_provider_gave_is_not_shown_to_this_one() {
    let fake = Fake::begin().await;
    fake.script().claims = json!({"groups": [], "email": "a"});
    fake.script().document["authorization_response_iss_parameter_supported"] = json!(true);
    let provider = fake.provider();
    let own = format!("http://{}", fake.address);
    for (issuer, is_good) in [
        (None, false),
        (Some("http://127.0.0.1:1"), false),
        (Some(own.as_str()), true),
    ] {
        let mut returned = fake.visit(&provider.begin(&attempt()).await.unwrap());
        returned.issuer = issuer.map(str::to_owned);
        let tokens = fake.asked("/token");
        let finished = provider.finish(&attempt(), &returned).await;
        assert_eq!(finished.is_ok(), is_good, "{issuer:?}");
        assert_eq!(fake.asked("/token") - tokens, usize::from(is_good));
    }
}

#[tokio::test]
async fn a_provider_that_is_down_or_broken_is_told_from_one_that_is_set_up_wrongly() {
    let nowhere = Provider::new(rules("http://127.0.0.1:1"), client());
    let fault = nowhere.begin(&attempt()).await.unwrap_err();
    assert!(matches!(fault, SignInFault::Away(_)), "{}", said(&fault));
    for (path, status, is_away) in [
        ("/.well-known/openid-configuration", 503, true),
        ("/.well-known/openid-configuration", 404, false),
        // A provider chooses no other place.
        ("/.well-known/openid-configuration", 302, false),
        ("/jwks", 500, true),
        ("/jwks", 403, false),
        ("/token", 502, true),
        ("/token", 429, true),
        ("/token", 307, false),
        ("/userinfo", 500, true),
        ("/userinfo", 401, false),
    ] {
        let fake = Fake::begin().await;
        fake.script().statuses.insert(path, status);
        let fault = fake.sign_in(&fake.provider()).await.unwrap_err();
        assert_eq!(
            matches!(fault, SignInFault::Away(_)),
            is_away,
            "{path} {status}: {}",
            said(&fault)
        );
        assert_eq!(
            matches!(fault, SignInFault::Unusable(_)),
            !is_away,
            "{path} {status}: {}",
            said(&fault)
        );
        // And it goes again once it is well.
        fake.script().statuses.clear();
        fake.script().claims = json!({"groups": [], "email": "a"});
        fake.sign_in(&fake.provider()).await.unwrap();
    }
    let fake = Fake::begin().await;
    let mut wrong = rules(&format!("http://{}", fake.address));
    wrong.client_secret = ClientSecret::new("another");
    let fault = fake
        .sign_in(&Provider::new(wrong, client()))
        .await
        .unwrap_err();
    assert!(matches!(fault, SignInFault::Unusable(_)));
    assert!(said(&fault).contains("client_secret") && !said(&fault).contains("another"));
    for document in [
        json!("no object"),
        json!({"issuer": "http://127.0.0.1:1"}),
        json!({"keys": "x".repeat(300_000)}),
    ] {
        fake.script().document = document;
        let fault = fake.provider().begin(&attempt()).await.unwrap_err();
        assert!(
            matches!(fault, SignInFault::Unusable(_)),
            "{}",
            said(&fault)
        );
    }
}

/// It takes the connection and says nothing.
#[tokio::test]
async fn a_silent_provider_is_waited_for_within_a_time() {
    let waited = ["/.well-known/openid-configuration", "/token"].map(async |path| {
        let fake = Fake::begin().await;
        fake.script().silent = Some(path);
        let begun = Instant::now();
        let fault = fake.sign_in(&fake.provider()).await.unwrap_err();
        assert!(matches!(fault, SignInFault::Away(_)), "{}", said(&fault));
        assert!(begun.elapsed() < STEP_MAX, "{:?}", begun.elapsed());
    });
    let [document, token] = waited;
    tokio::join!(document, token);
}
