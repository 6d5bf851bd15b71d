//! People sign in to the operator's listener, and nobody else comes in with them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::{
    AdminToken, IngressConfig, NamedBy, Role, RoleGrant, RoleHolder, SessionRules, SignIn,
    SignInRules,
};
use async_trait::async_trait;
use domain::{
    AdminChange, Attempt, AuthorizationResponse, ChangeLog, Identity, IdentityProvider, KeyDigest,
    NoLog, SignInFault,
};
use hashing::sha256;

use crate::client::{Raw, ask};
use crate::node::{Node, Recipe};

/// By which browsers know the node.
const HOME: &str = "https://hedge.example";

/// Vouches for whoever the code names, and remembers what it was asked.
#[derive(Default)]
struct Vouches {
    begun: Mutex<Vec<Attempt>>,
    finished: Mutex<Vec<(Attempt, AuthorizationResponse)>>,
    is_silent: bool,
}

#[async_trait]
impl IdentityProvider for Vouches {
    async fn begin(&self, attempt: &Attempt) -> Result<String, SignInFault> {
        self.begun.lock().unwrap().push(attempt.clone());
        if self.is_silent {
            return Err(SignInFault::Away("it sleeps".into()));
        }
        Ok(format!(
            "https://login.example/auth?state={}",
            attempt.state
        ))
    }

    async fn finish(
        &self,
        attempt: &Attempt,
        response: &AuthorizationResponse,
    ) -> Result<Identity, SignInFault> {
        let told = (attempt.clone(), response.clone());
        self.finished.lock().unwrap().push(told);
        match response.code.as_str() {
            "away" => Err(SignInFault::Away("it sleeps".into())),
            "broken" => Err(SignInFault::Unusable("no JSON".into())),
            "forged" => Err(SignInFault::Unproven("wrong nonce".into())),
            name => Ok(Identity {
                subject: name.to_owned(),
                email: Some(format!("{name}@acme.example")),
                roles: vec!["staff".to_owned()],
            }),
        }
    }
}

/// What operators changed; or a log that cannot be written.
#[derive(Default)]
struct Log {
    is_broken: bool,
    /// It was opened while there was room.
    is_full: bool,
    noted: Mutex<Vec<String>>,
}

#[async_trait]
impl ChangeLog for Log {
    async fn ready(&self) -> Result<(), NoLog> {
        match self.is_broken {
            true => Err(NoLog("the disk is full".into())),
            false => Ok(()),
        }
    }

    async fn note(&self, change: AdminChange) -> bool {
        let AdminChange { who, what, id, .. } = change;
        if !self.is_full {
            let line = format!("{who} {what} {id}");
            self.noted.lock().unwrap().push(line);
        }
        !self.is_full
    }
}

fn rules(named_by: NamedBy) -> SignInRules {
    let grant = |role, to| RoleGrant { role, to };
    SignInRules {
        origin: HOME.to_owned(),
        grants: vec![
            grant(Role::Operator, RoleHolder::Subject("olga".into())),
            grant(Role::Viewer, RoleHolder::Email("vera@acme.example".into())),
        ],
        named_by,
        sessions: SessionRules {
            lasts: Duration::from_secs(3_600),
            idle: Duration::from_secs(600),
        },
    }
}

struct Place {
    node: Node,
    provider: Arc<Vouches>,
    log: Arc<Log>,
}

async fn place() -> Place {
    Place::begin(Vouches::default(), Log::default(), NamedBy::Subject).await
}

impl Place {
    async fn begin(provider: Vouches, log: Log, named_by: NamedBy) -> Self {
        let (provider, log) = (Arc::new(provider), Arc::new(log));
        let sign_in = SignIn::new(Arc::clone(&provider) as _, rules(named_by));
        let node = Recipe {
            tokens: vec![AdminToken {
                name: "grafana".into(),
                role: Role::Viewer,
                digest: KeyDigest(sha256("the-token")),
            }],
            sign_in: Some(Arc::new(sign_in)),
            changes: Some(Arc::clone(&log) as _),
            ingress: IngressConfig {
                origins: vec!["https://invited.example".into()],
                ..IngressConfig::default()
            },
            ..Recipe::default()
        };
        Self {
            node: node.start().await,
            provider,
            log,
        }
    }

    /// With these header lines, each ending in CRLF; by the name that browsers have for the node.
    async fn send(&self, method: &str, path: &str, lines: &str, body: &str) -> Raw {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: hedge.example\r\ncontent-length: {length}\r\n"
        );
        let request = format!("{head}{lines}\r\n{body}");
        ask(self.node.admin, request).await
    }

    async fn get(&self, path: &str, lines: &str) -> Raw {
        self.send("GET", path, lines, "").await
    }

    /// The browser's cookie and the state, on its way to the provider.
    async fn set_out(&self) -> (String, String) {
        let raw = self.get("/admin/login", "").await;
        assert_eq!(raw.status, 303, "{}", raw.text());
        let state = raw.header("location").unwrap().split_once("state=");
        (
            cookie(&raw, "__Host-hedge-sign-in"),
            state.unwrap().1.to_owned(),
        )
    }

    async fn come_back(&self, ticket: &str, state: &str, code: &str) -> Raw {
        let path = format!("/admin/callback?state={state}&code={code}&session_state=x");
        self.get(&path, &format!("cookie: {ticket}\r\n")).await
    }

    /// A header line with the session of somebody who has signed in.
    async fn sign_in(&self, name: &str) -> String {
        let (ticket, state) = self.set_out().await;
        let raw = self.come_back(&ticket, &state, name).await;
        assert_eq!(raw.status, 303, "{}", raw.text());
        assert_eq!(raw.header("location"), Some("/admin"));
        format!("cookie: {}\r\n", cookie(&raw, "__Host-hedge-session"))
    }

    async fn purge(&self, lines: &str) -> Raw {
        let lines = format!("content-type: application/json\r\n{lines}");
        let path = "/admin/v1/cache/purge";
        self.send("POST", path, &lines, r#"{"all":true}"#).await
    }
}

/// `name=value` as it was set.
fn cookie(raw: &Raw, name: &str) -> String {
    let lines = raw.headers.iter().filter(|(it, _)| it == "set-cookie");
    let mut pairs = lines.filter_map(|(_, line)| line.split(';').next());
    let pair = pairs.find(|pair| pair.starts_with(&format!("{name}=")));
    pair.unwrap_or_else(|| panic!("no {name} in {:?}", raw.headers))
        .to_owned()
}

#[tokio::test]
async fn a_browser_is_sent_to_the_provider_and_comes_back_with_a_session() {
    let place = place().await;
    let raw = place.get("/admin", "").await;
    assert_eq!(
        (raw.status, raw.header("location")),
        (303, Some("/admin/login"))
    );
    let raw = place.get("/admin/login", "").await;
    let to = raw.header("location").unwrap();
    assert!(to.starts_with("https://login.example/auth?state="), "{to}");
    let set = raw.header("set-cookie").unwrap();
    for word in [
        "__Host-hedge-sign-in=",
        "; Path=/",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Secure",
    ] {
        assert!(set.contains(word), "{set}");
    }
    assert_eq!(raw.header("cache-control"), Some("no-store"));
    assert_eq!(raw.header("referrer-policy"), Some("no-referrer"));

    let session = place.sign_in("olga").await;
    let raw = place.get("/admin", &session).await;
    assert_eq!(raw.status, 200);
    assert!(raw.text().starts_with("<!doctype html>"));
    let raw = place.get("/admin/v1/operator", &session).await;
    let olga = serde_json::json!({"name": "oidc:olga", "role": "operator", "known_by": "session"});
    assert_eq!(raw.json(), olga);
    // What the provider saw at the end is what went out at the beginning, and nothing of it twice.
    let begun = place.provider.begun.lock().unwrap().clone();
    let finished = place.provider.finished.lock().unwrap().clone();
    assert_eq!(finished[0].0, begun[1]);
    assert_ne!(begun[0], begun[1]);
    let noted = place.log.noted.lock().unwrap().clone();
    assert_eq!(noted, ["oidc:olga session.begin operator"]);
}

#[tokio::test]
async fn without_a_session_programs_get_401_and_tokens_go_on_working() {
    let place = place().await;
    let dead = format!("cookie: __Host-hedge-session={}\r\n", "a".repeat(43));
    let plain = place.sign_in("olga").await.replace("__Host-", "");
    for path in [
        "/admin/v1/keys",
        "/metrics",
        "/admin/page.js",
        "/admin/v1/operator",
    ] {
        for lines in [
            "",
            dead.as_str(),
            plain.as_str(),
            "authorization: Bearer other\r\n",
        ] {
            let raw = place.get(path, lines).await;
            assert_eq!(raw.status, 401, "{path} {lines}");
            assert!(
                raw.error("message").contains("sign in at /admin"),
                "{}",
                raw.text()
            );
            // A browser's own question for a password would come before the page could say anything.
            let asks = raw
                .headers
                .iter()
                .filter(|(name, _)| name == "www-authenticate");
            assert_eq!(
                asks.map(|(_, it)| it.as_str()).collect::<Vec<_>>(),
                ["Bearer"]
            );
        }
    }
    let raw = place
        .get("/metrics", "authorization: Bearer the-token\r\n")
        .await;
    assert_eq!(raw.status, 200);
    let raw = place
        .get(
            "/admin/v1/operator",
            "authorization: Basic YTp0aGUtdG9rZW4=\r\n",
        )
        .await;
    assert_eq!(raw.json()["known_by"], "token");
    assert_eq!(
        place
            .purge("authorization: Bearer the-token\r\n")
            .await
            .status,
        403
    );
    assert_eq!(place.purge("").await.status, 401);
    for path in ["/healthz", "/admin/page.css", "/admin/signed-out"] {
        assert_eq!(place.get(path, "").await.status, 200, "{path}");
    }
    // What is open is open to look at.
    assert_eq!(place.send("POST", "/admin/login", "", "").await.status, 401);
    // And callers find nothing of it on their side.
    let raw = ask(
        place.node.client,
        "GET /admin/login HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(raw.status, 404);
    let raw = ask(
        place.node.client,
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(raw.status, 404);
}

#[tokio::test]
async fn a_forged_foreign_or_replayed_return_signs_nobody_in() {
    let place = place().await;
    let (ticket, state) = place.set_out().await;
    let (others_ticket, others_state) = place.set_out().await;
    let twice = format!("{ticket}; {others_ticket}");
    for (cookie, state) in [
        // Another's, made up, cut, none: as when an attacker's link is followed.
        (ticket.as_str(), others_state.as_str()),
        (&others_ticket, &state),
        ("a=b", &state),
        (&ticket, "forged"),
        (&ticket, &state[1..]),
        (&ticket, ""),
        (&twice, &state),
    ] {
        let raw = place.come_back(cookie, state, "olga").await;
        assert_eq!(
            (raw.status, raw.error("code").as_str()),
            (400, "sign_in_stale"),
            "{cookie} {state}"
        );
        assert!(
            raw.headers
                .iter()
                .all(|(_, it)| !it.contains("hedge-session"))
        );
    }
    // Twice in the address.
    let double = format!("{state}&state={state}");
    assert_eq!(place.come_back(&ticket, &double, "olga").await.status, 400);
    // Nothing of that went to the provider.
    assert_eq!(place.provider.finished.lock().unwrap().len(), 0);
    let raw = place.come_back(&ticket, &state, "olga").await;
    assert_eq!(raw.status, 303);
    assert!(
        cookie(&raw, "__Host-hedge-sign-in").ends_with('='),
        "it is taken away"
    );
    let raw = place.come_back(&ticket, &state, "olga").await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (400, "sign_in_stale")
    );
    assert_eq!(place.provider.finished.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn no_other_page_can_use_a_session() {
    let place = place().await;
    let session = place.sign_in("olga").await;
    for origin in [
        "",
        "origin: https://evil.example\r\n",
        // Invited to the callers' side, and a sibling of ours.
        "origin: https://invited.example\r\n",
        "origin: https://other.hedge.example\r\n",
        // Its own name by another way, and no name.
        "origin: http://hedge.example\r\n",
        "origin: null\r\n",
    ] {
        let raw = place.purge(&format!("{session}{origin}")).await;
        assert_eq!(raw.status, 403, "{origin}");
    }
    let raw = place
        .purge(&format!("{session}origin: https://hedge.example\r\n"))
        .await;
    assert_eq!(raw.status, 200, "{}", raw.text());
    // Looking needs no word of where it is from, but a wrong one is no good.
    assert_eq!(place.get("/admin/v1/cache", &session).await.status, 200);
    let invited = format!("{session}origin: https://invited.example\r\n");
    let raw = place.get("/admin/v1/cache", &invited).await;
    assert_eq!(raw.status, 403);
    // A page may not have the cookie's answer: credentials are never allowed.
    assert_eq!(raw.header("access-control-allow-credentials"), None);
    let noted = place.log.noted.lock().unwrap().clone();
    assert_eq!(noted[1..], ["oidc:olga cache.purge all"]);
}

#[tokio::test]
async fn a_viewer_looks_and_whoever_signs_out_is_out() {
    let place = Place::begin(Vouches::default(), Log::default(), NamedBy::Email).await;
    let session = place.sign_in("vera").await;
    let home = format!("{session}origin: {HOME}\r\n");
    assert_eq!(place.get("/admin/v1/cache", &session).await.status, 200);
    let raw = place.purge(&home).await;
    assert_eq!(raw.status, 403);
    assert!(raw.error("message").contains("viewer"), "{}", raw.text());
    // Not from elsewhere, nor by a link.
    assert_eq!(
        place
            .send("POST", "/admin/logout", &session, "")
            .await
            .status,
        403
    );
    assert_eq!(place.get("/admin/logout", &session).await.status, 405);
    assert_eq!(place.get("/admin", &session).await.status, 200);
    let raw = place.send("POST", "/admin/logout", &home, "").await;
    assert_eq!(raw.status, 204);
    assert!(cookie(&raw, "__Host-hedge-session").ends_with('='));
    assert_eq!(place.get("/admin/v1/cache", &session).await.status, 401);
    assert_eq!(place.get("/admin", &session).await.status, 303);
    let noted = place.log.noted.lock().unwrap().clone();
    assert_eq!(
        noted,
        [
            "oidc:vera@acme.example session.begin viewer",
            "oidc:vera@acme.example session.end viewer"
        ]
    );
}

#[tokio::test]
async fn signing_in_again_ends_the_session_before() {
    let place = place().await;
    let first = place.sign_in("olga").await;
    let (ticket, state) = place.set_out().await;
    let both = format!("{ticket}; {}", first.trim_start_matches("cookie: ").trim());
    let raw = place.come_back(&both, &state, "olga").await;
    assert_eq!(raw.status, 303);
    let second = format!("cookie: {}\r\n", cookie(&raw, "__Host-hedge-session"));
    assert_ne!(first, second);
    assert_eq!(place.get("/admin", &first).await.status, 303);
    assert_eq!(place.get("/admin", &second).await.status, 200);
}

#[tokio::test]
async fn what_goes_wrong_is_said_with_what_to_do() {
    let place = place().await;
    for (code, status, said, is_kept) in [
        ("away", 503, "sign_in_away", true),
        ("broken", 502, "sign_in_unusable", false),
        ("forged", 403, "sign_in_unproven", false),
        ("nobody", 403, "no_role", false),
        ("x&error=access_denied", 403, "sign_in_denied", false),
    ] {
        let (ticket, state) = place.set_out().await;
        let raw = place.come_back(&ticket, &state, code).await;
        assert_eq!((raw.status, raw.error("code").as_str()), (status, said));
        assert_eq!(raw.header("retry-after").is_some(), code == "away");
        assert_eq!(raw.header("set-cookie").is_none(), is_kept, "{code}");
        let line = format!("accept: text/html,*/*\r\ncookie: {ticket}\r\n");
        let path = format!("/admin/callback?state={state}&code={code}");
        let raw = place.get(&path, &line).await;
        assert_eq!(raw.status, status);
        assert!(
            raw.text().contains("href=\"/admin/login\""),
            "{}",
            raw.text()
        );
        assert!(raw.header("content-security-policy").is_some());
    }
    let metrics = place
        .get("/metrics", "authorization: Bearer the-token\r\n")
        .await;
    let counted = |result: &str| {
        let line = format!("hedge_http_sign_ins_total{{result=\"{result}\"}} 2\n");
        metrics.text().contains(&line)
    };
    // Of a program and of a browser each.
    for result in ["away", "unusable", "unproven", "no_role", "denied"] {
        assert!(counted(result), "{result}: {}", metrics.text());
    }
    assert!(!counted("signed_in"));
    // What was away may come back with the same code's bearer.
    let (ticket, state) = place.set_out().await;
    assert_eq!(place.come_back(&ticket, &state, "away").await.status, 503);
    assert_eq!(place.come_back(&ticket, &state, "olga").await.status, 303);

    let silent = Vouches {
        is_silent: true,
        ..Vouches::default()
    };
    let place = Place::begin(silent, Log::default(), NamedBy::Subject).await;
    let raw = place.get("/admin/login", "").await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (503, "sign_in_away")
    );
    assert!(raw.error("message").contains("tokens"), "{}", raw.text());
    let raw = place
        .get("/admin", "authorization: Bearer the-token\r\n")
        .await;
    assert_eq!(raw.status, 200);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_no_session() {
    // One that cannot be had; and one whose disk is full since.
    for (is_broken, is_full) in [(true, false), (false, true)] {
        let log = Log {
            is_broken,
            is_full,
            ..Log::default()
        };
        let place = Place::begin(Vouches::default(), log, NamedBy::Subject).await;
        let (ticket, state) = place.set_out().await;
        let raw = place.come_back(&ticket, &state, "olga").await;
        assert_eq!((raw.status, raw.error("code").as_str()), (503, "not_kept"));
        let mut headers = raw.headers.iter();
        assert!(headers.all(|(_, it)| !it.contains("hedge-session")));
    }
}

#[tokio::test]
async fn no_request_says_where_a_browser_goes() {
    let place = place().await;
    let evil =
        "?next=https://evil.example&redirect_uri=https://evil.example&return_to=//evil.example";
    let raw = place.get(&format!("/admin{evil}"), "").await;
    assert_eq!(raw.header("location"), Some("/admin/login"));
    let lines = "x-forwarded-host: evil.example\r\nforwarded: host=evil.example\r\nreferer: https://evil.example/\r\n";
    let raw = place.get(&format!("/admin/login{evil}"), lines).await;
    let to = raw.header("location").unwrap();
    assert!(
        to.starts_with("https://login.example/") && !to.contains("evil"),
        "{to}"
    );
    let (ticket, state) = place.set_out().await;
    let raw = place
        .come_back(&ticket, &format!("{state}&{}", &evil[1..]), "olga")
        .await;
    assert_eq!(raw.header("location"), Some("/admin"));
    let request = "GET /admin/login HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    assert_eq!(ask(place.node.admin, request).await.status, 403);
}

#[tokio::test]
async fn sessions_end_when_sign_in_is_set_up_anew_and_nothing_is_open_after() {
    let place = place().await;
    let session = place.sign_in("olga").await;
    let other = SignIn::new(Arc::clone(&place.provider) as _, rules(NamedBy::Email));
    place.node.api.set_sign_in(Some(Arc::new(other)));
    assert_eq!(place.get("/admin/v1/cache", &session).await.status, 401);
    place.node.api.set_sign_in(None);
    let local = format!("GET /admin/v1/cache HTTP/1.1\r\nhost: localhost\r\n{session}\r\n");
    assert_eq!(ask(place.node.admin, local).await.status, 401);
    for path in ["/admin/login", "/admin/callback", "/admin/signed-out"] {
        let line = "authorization: Bearer the-token\r\n";
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{line}\r\n");
        let raw = ask(place.node.admin, request).await;
        assert_eq!(raw.status, 404, "{path}");
        assert!(
            raw.error("message").contains("admin.oidc"),
            "{}",
            raw.text()
        );
    }
}

/// As many wait for the provider as may, and one more.
#[tokio::test]
async fn no_more_than_so_many_sign_in_at_once() {
    struct Sleeps;

    #[async_trait]
    impl IdentityProvider for Sleeps {
        async fn begin(&self, _: &Attempt) -> Result<String, SignInFault> {
            std::future::pending().await
        }

        async fn finish(
            &self,
            _: &Attempt,
            _: &AuthorizationResponse,
        ) -> Result<Identity, SignInFault> {
            std::future::pending().await
        }
    }
    let place = place().await;
    let sign_in = SignIn::new(Arc::new(Sleeps), rules(NamedBy::Subject));
    place.node.api.set_sign_in(Some(Arc::new(sign_in)));
    let all = (0..17).map(|_| Box::pin(place.get("/admin/login", "")));
    let (first, _, waiting) = futures::future::select_all(all).await;
    assert_eq!(
        (first.status, first.error("code").as_str()),
        (503, "overloaded")
    );
    assert_eq!(first.header("retry-after"), Some("1"));
    // Whoever leaves makes room.
    drop(waiting);
    let at_last = async {
        loop {
            let login =
                tokio::time::timeout(Duration::from_millis(200), place.get("/admin/login", ""));
            if login.await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), at_last)
        .await
        .unwrap();
}
