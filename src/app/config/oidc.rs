//! Sign-in of people to the operator's listener: raw, and judged.

use std::collections::BTreeSet;
use std::time::Duration;

use api::{NamedBy, RoleGrant, RoleHolder, SessionRules, SignInRules};
use oidc::{ClaimPath, ClientSecret, Issuer, ProviderRules, RedirectUrl};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::raw::{RawConfig, RawRole, SecretText};
use super::secret::Surroundings;
use super::sections::{role, within};

/// Of one role's entries: each is held against everybody who signs in.
const ROLES_MAX: usize = 256;
const SCOPES_MAX: usize = 32;
/// Of a claim's value, an address, a subject, a client's name, a claim's path.
const WORD_BYTES_MAX: usize = 255;
/// A week; whoever is away for longer signs in again.
const SESSION_S_MAX: u64 = 7 * 24 * 3600;
const SESSION_S_MIN: u64 = 60;

/// People sign in with OpenID Connect, beside what `tokens` open. Read at the start and on SIGHUP; what changes ends
/// the sessions that there are. See docs/keys.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["issuer", "client_id", "client_secret", "redirect_url", "roles"]))]
pub struct RawOidc {
    /// As the provider writes it: `https://login.example/realms/acme`. Its `/.well-known/openid-configuration` says
    /// the rest. https, but on this machine. Required.
    pub issuer: Option<String>,
    /// By which the provider knows this node. Required.
    pub client_id: Option<String>,
    /// `env:NAME` or `file:/path`. Required.
    pub client_secret: Option<SecretText>,
    /// Where browsers come back to, by the name that they have for this node:
    /// `https://hedge.example/admin/callback`. https, but on this machine; the path is always that. Required.
    pub redirect_url: Option<String>,
    /// Asked of the provider; `openid` among them.
    pub scopes: Vec<String>,
    /// The claim that `roles` may name values of: `groups`, or from a `/` on the way to it, as
    /// `/realm_access/roles`.
    pub roles_claim: Option<String>,
    /// Who may do what. Whoever none of them fits is not let in, and of several the greatest role counts. Required.
    pub roles: Vec<RawRoleGrant>,
    /// What people are called in the audit log.
    pub named_by: RawNamedBy,
    /// A session ends so long after the sign-in, whatever is done with it.
    pub session_s: u64,
    /// And so long after its last request.
    pub session_idle_s: u64,
}

/// Who has a role: one of `claim`, `email` and `subject`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["role"]))]
pub struct RawRoleGrant {
    /// Required.
    pub role: Option<RawRole>,
    /// Everybody with this value in `roles_claim`.
    pub claim: Option<String>,
    /// Whoever has this address, verified by the provider.
    pub email: Option<String>,
    /// The person whom the provider calls so (`sub`).
    pub subject: Option<String>,
}

/// What people are called in the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawNamedBy {
    /// `oidc:` and the subject, which is the same for ever. The default.
    #[default]
    Subject,
    /// `oidc:` and the verified address, or the subject where there is none.
    Email,
}

impl Default for RawOidc {
    fn default() -> Self {
        Self {
            issuer: None,
            client_id: None,
            client_secret: None,
            redirect_url: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).into(),
            roles_claim: None,
            roles: Vec::new(),
            named_by: RawNamedBy::default(),
            session_s: 8 * 3600,
            session_idle_s: 3600,
        }
    }
}

/// With whom people sign in, and what they may do then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    pub provider: ProviderRules,
    pub rules: SignInRules,
}

/// `None` where nobody signs in, or there is a fault.
pub fn oidc(
    raw: &RawConfig,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<OidcSettings> {
    let raw = raw.admin.oidc.as_ref()?;
    let issuer = place("issuer", raw.issuer.as_deref(), Issuer::parse, findings);
    let redirect_url = raw.redirect_url.as_deref();
    let redirect_url = place("redirect_url", redirect_url, RedirectUrl::parse, findings);
    let client_id = client_id(raw, findings);
    let client_secret = client_secret(raw, around, findings);
    let scopes = scopes(&raw.scopes, findings);
    let roles = raw.roles_claim.as_deref();
    let roles = roles.and_then(|path| claim_path(path, findings));
    let grants = grants(raw, findings);
    let lasts = "admin.oidc.session_s";
    let lasts = within(
        lasts,
        raw.session_s,
        SESSION_S_MIN..=SESSION_S_MAX,
        findings,
    );
    let idle = "admin.oidc.session_idle_s";
    let idle = within(
        idle,
        raw.session_idle_s,
        SESSION_S_MIN..=SESSION_S_MAX,
        findings,
    );
    let named_by = match raw.named_by {
        RawNamedBy::Subject => NamedBy::Subject,
        RawNamedBy::Email => NamedBy::Email,
    };
    let names_email = |grant: &RoleGrant| matches!(grant.to, RoleHolder::Email(_));
    let asks_email = named_by == NamedBy::Email || grants.iter().any(names_email);
    let redirect_url = redirect_url?;
    Some(OidcSettings {
        rules: SignInRules {
            origin: redirect_url.origin(),
            grants,
            named_by,
            sessions: SessionRules {
                lasts: Duration::from_secs(lasts),
                idle: Duration::from_secs(idle),
            },
        },
        provider: ProviderRules {
            issuer: issuer?,
            client_id: client_id?,
            client_secret: client_secret?,
            redirect_url,
            scopes,
            roles,
            asks_email,
        },
    })
}

fn place<T>(
    name: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, oidc::PlaceFault>,
    findings: &mut Findings,
) -> Option<T> {
    let path = format!("admin.oidc.{name}");
    let Some(text) = text else {
        findings.fault(path, "is required");
        return None;
    };
    match parse(text) {
        Ok(place) => Some(place),
        Err(fault) => {
            findings.fault(path, fault.to_string());
            None
        }
    }
}

fn client_id(raw: &RawOidc, findings: &mut Findings) -> Option<String> {
    let path = "admin.oidc.client_id";
    let Some(id) = raw.client_id.as_deref().filter(|id| is_word(id)) else {
        findings.fault(path, "is required: what the provider calls this node");
        return None;
    };
    Some(id.to_owned())
}

fn client_secret(
    raw: &RawOidc,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<ClientSecret> {
    let path = "admin.oidc.client_secret";
    let Some(text) = &raw.client_secret else {
        findings.fault(path, "is required: env:NAME or file:/path");
        return None;
    };
    let secret = around.secret(path, text, findings)?;
    Some(ClientSecret::new(secret.expose()))
}

fn scopes(raw: &[String], findings: &mut Findings) -> Vec<String> {
    let path = "admin.oidc.scopes";
    if !raw.iter().any(|scope| scope == "openid") {
        findings.fault(path, "needs `openid` among them");
    }
    if raw.len() > SCOPES_MAX {
        findings.fault(path, format!("has more than {SCOPES_MAX}"));
    }
    // RFC 6749, section 3.3.
    let is_scope_byte = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
    for (at, scope) in raw.iter().enumerate() {
        if !is_word(scope) || !scope.bytes().all(is_scope_byte) {
            findings.fault(format!("{path}[{at}]"), "is no scope, such as email");
        }
    }
    raw.to_vec()
}

fn claim_path(text: &str, findings: &mut Findings) -> Option<ClaimPath> {
    if !is_word(text) || text == "/" {
        findings.fault(
            "admin.oidc.roles_claim",
            "is no claim, such as groups or /realm_access/roles",
        );
        return None;
    }
    Some(ClaimPath::new(text))
}

fn grants(raw: &RawOidc, findings: &mut Findings) -> Vec<RoleGrant> {
    let path = "admin.oidc.roles";
    if raw.roles.is_empty() {
        findings.fault(
            path,
            "is required: without it nobody who signs in may do anything, as { role = \"viewer\", \
             claim = \"staff\" }",
        );
    }
    if raw.roles.len() > ROLES_MAX {
        findings.fault(path, format!("has more than {ROLES_MAX} entries"));
    }
    let mut seen = BTreeSet::new();
    let mut grants = Vec::new();
    for (at, raw_grant) in raw.roles.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let Some(to) = holder(&path, raw_grant, raw.roles_claim.is_some(), findings) else {
            continue;
        };
        let Some(granted) = raw_grant.role else {
            let words = "is required: viewer, operator or owner";
            findings.fault(format!("{path}.role"), words);
            continue;
        };
        if !seen.insert(format!("{to:?}")) {
            findings.fault(path, "says the same of the same as another entry does");
            continue;
        }
        let role = role(granted);
        grants.push(RoleGrant { role, to });
    }
    grants
}

fn holder(
    path: &str,
    raw: &RawRoleGrant,
    has_claim: bool,
    findings: &mut Findings,
) -> Option<RoleHolder> {
    let (name, to) = match (&raw.claim, &raw.email, &raw.subject) {
        (Some(value), None, None) => ("claim", RoleHolder::Claim(value.clone())),
        (None, Some(address), None) => ("email", RoleHolder::Email(address.clone())),
        (None, None, Some(subject)) => ("subject", RoleHolder::Subject(subject.clone())),
        _ => {
            findings.fault(path, "needs one of claim, email and subject, and no more");
            return None;
        }
    };
    let path = format!("{path}.{name}");
    let (RoleHolder::Claim(word) | RoleHolder::Email(word) | RoleHolder::Subject(word)) = &to;
    if !is_word(word) {
        let words = format!("is empty, longer than {WORD_BYTES_MAX} bytes, or no text");
        findings.fault(path, words);
        return None;
    }
    match &to {
        RoleHolder::Claim(_) if !has_claim => {
            findings.fault(
                path,
                "needs admin.oidc.roles_claim, which says where it stands",
            );
            None
        }
        RoleHolder::Email(address) if !address.contains('@') => {
            findings.fault(path, "is no address such as anna@acme.example");
            None
        }
        _ => Some(to),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= WORD_BYTES_MAX && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::Role;

    use super::*;

    const GOOD: &str = "issuer = 'https://login.example'\nclient_id = 'hedge'\nclient_secret = 'env:SECRET'\n\
                        redirect_url = 'https://hedge.example/admin/callback'\n";
    const ROLES: &str = "roles = [{ role = 'viewer', email = 'anna@acme.example' }]\n";

    fn judged(text: &str) -> (Option<OidcSettings>, Findings) {
        let raw: RawConfig = toml::from_str(&format!("[admin.oidc]\n{text}")).unwrap();
        let environment = BTreeMap::from([("SECRET".to_owned(), "s3cret".to_owned())]);
        let around = Surroundings {
            environment: &environment,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        let settings = oidc(&raw, &around, &mut findings);
        (settings, findings)
    }

    #[test]
    fn nobody_signs_in_without_the_section() {
        let around = Surroundings {
            environment: &BTreeMap::new(),
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        assert_eq!(oidc(&RawConfig::default(), &around, &mut findings), None);
        assert!(findings.faults.is_empty());
    }

    #[test]
    fn what_is_left_out_is_as_it_is_at_most_providers_and_secrets_are_not_shown() {
        let (settings, findings) = judged(&format!("{GOOD}{ROLES}"));
        assert!(findings.faults.is_empty() && findings.warnings.is_empty());
        let settings = settings.unwrap();
        assert_eq!(settings.provider.scopes, ["openid", "profile", "email"]);
        assert!(settings.provider.asks_email);
        assert_eq!(settings.rules.origin, "https://hedge.example");
        assert_eq!(settings.rules.grants[0].role, Role::Viewer);
        assert_eq!(settings.rules.named_by, NamedBy::Subject);
        assert_eq!(settings.rules.sessions.lasts, Duration::from_secs(28_800));
        assert_eq!(settings.rules.sessions.idle, Duration::from_secs(3_600));
        assert!(!format!("{settings:?}").contains("s3cret"));

        let more = "roles_claim = '/realm_access/roles'\nnamed_by = 'email'\nroles = [\n\
                    { role = 'owner', claim = 'platform' }, { role = 'operator', subject = 's-1' }]";
        let (settings, findings) = judged(&format!("{GOOD}{more}"));
        assert!(findings.faults.is_empty(), "{findings:?}");
        let settings = settings.unwrap();
        assert_eq!(settings.rules.grants.len(), 2);
        assert!(settings.provider.roles.is_some() && settings.provider.asks_email);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let long = "a".repeat(256);
        let many = "{ role = 'viewer', subject = 's' },".repeat(257);
        let cases = [
            (format!("{GOOD}roles = []"), "admin.oidc.roles"),
            (GOOD.to_owned(), "admin.oidc.roles"),
            (
                format!("{GOOD}roles = [{{ email = 'a@b' }}]"),
                "admin.oidc.roles[0].role",
            ),
            (
                format!("{GOOD}roles = [{{ role = 'owner' }}]"),
                "admin.oidc.roles[0]",
            ),
            (
                format!("{GOOD}roles = [{{ role = 'owner', email = 'a@b', subject = 's' }}]"),
                "admin.oidc.roles[0]",
            ),
            (
                format!("{GOOD}roles = [{{ role = 'owner', claim = 'x' }}]"),
                "admin.oidc.roles[0].claim",
            ),
            (
                format!("{GOOD}roles = [{{ role = 'owner', email = 'anna' }}]"),
                "admin.oidc.roles[0].email",
            ),
            (
                format!("{GOOD}roles = [{{ role = 'owner', subject = '' }}]"),
                "admin.oidc.roles[0].subject",
            ),
            (
                format!("{GOOD}{ROLES}scopes = ['email']"),
                "admin.oidc.scopes",
            ),
            (
                format!("{GOOD}{ROLES}scopes = ['openid', 'a b']"),
                "admin.oidc.scopes[1]",
            ),
            (
                format!("{GOOD}{ROLES}roles_claim = '{long}'"),
                "admin.oidc.roles_claim",
            ),
            (
                format!("{GOOD}{ROLES}session_s = 59"),
                "admin.oidc.session_s",
            ),
            (
                format!("{GOOD}{ROLES}session_idle_s = 604801"),
                "admin.oidc.session_idle_s",
            ),
            (
                format!("{GOOD}{ROLES}").replace("https://login", "http://login"),
                "admin.oidc.issuer",
            ),
            (
                format!("{GOOD}{ROLES}").replace("/admin/callback", "/callback"),
                "admin.oidc.redirect_url",
            ),
            (
                format!("{GOOD}{ROLES}").replace("env:SECRET", "env:NONE"),
                "admin.oidc.client_secret",
            ),
            (
                format!("{GOOD}{ROLES}").replace("'hedge'", "''"),
                "admin.oidc.client_id",
            ),
        ];
        for (text, path) in cases {
            let (_, findings) = judged(&text);
            let paths: Vec<&str> = findings.faults.iter().map(|it| it.path.as_str()).collect();
            assert_eq!(paths, [path], "{text}");
        }
        let (_, findings) = judged(&format!("{GOOD}roles = [{many}]"));
        assert_eq!(findings.faults[0].path, "admin.oidc.roles");
        assert_eq!(findings.faults[1].path, "admin.oidc.roles[1]");
        let (settings, findings) = judged("");
        assert!(settings.is_none());
        let paths = findings.faults.iter().map(|it| it.path.as_str());
        let paths: Vec<&str> = paths.collect();
        let required = [
            "issuer",
            "redirect_url",
            "client_id",
            "client_secret",
            "roles",
        ];
        assert_eq!(paths, required.map(|it| format!("admin.oidc.{it}")));
        // A secret in the file works, and is warned about.
        let (settings, findings) =
            judged(&format!("{GOOD}{ROLES}").replace("env:SECRET", "s3cret"));
        assert!(settings.is_some());
        assert_eq!(findings.warnings[0].path, "admin.oidc.client_secret");
    }
}
