//! How an upstream is told who asks, as it says itself, and beyond that as its provider's file does.

use providers::{Auth, AwsKeys, EntraClient, Key};

use crate::config::faults::Findings;
use crate::config::raw::{RawUpstream, SecretText};
use crate::config::raw_providers::{RawAuth, RawEntra, RawKeyNeed, RawProvider};
use crate::config::secret::Surroundings;

const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

pub fn auth(
    path: &str,
    raw: &RawUpstream,
    provider: &RawProvider,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Auth> {
    match style(raw, provider) {
        RawAuth::None => Some(Auth::None),
        RawAuth::Bearer => match key(path, raw, provider, around, findings)? {
            Found::Key(key) => Some(Auth::Bearer(key)),
            Found::NotNeeded => Some(Auth::None),
        },
        RawAuth::Header => {
            let name = raw.auth_header.as_ref().or(provider.auth_header.as_ref());
            if name.is_none() {
                let path = format!("{path}.auth_header");
                findings.fault(path, "is required with auth = \"header\"");
            }
            match key(path, raw, provider, around, findings)? {
                Found::Key(key) => Some(Auth::Header {
                    name: name?.clone(),
                    key,
                }),
                Found::NotNeeded => Some(Auth::None),
            }
        }
        RawAuth::Aws => aws(path, raw, provider, around, findings).map(Auth::Aws),
        RawAuth::Entra => entra(path, raw, provider, around, findings).map(Auth::Entra),
    }
}

fn style(raw: &RawUpstream, provider: &RawProvider) -> RawAuth {
    if let Some(style) = raw.auth {
        return style;
    }
    if raw.entra.is_some() {
        return RawAuth::Entra;
    }
    match provider.auth {
        // A key of its own stands in for a signature.
        Some(RawAuth::Aws) if raw.key.is_some() => RawAuth::Bearer,
        Some(style) => style,
        None if raw.key.is_some() || raw.provider.is_some() => RawAuth::Bearer,
        None => RawAuth::None,
    }
}

enum Found {
    Key(Key),
    NotNeeded,
}

/// `None` with a fault where there should be one.
fn key(
    path: &str,
    raw: &RawUpstream,
    provider: &RawProvider,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Found> {
    let path = format!("{path}.key");
    if let Some(text) = &raw.key {
        return around.key(&path, text, findings).map(Found::Key);
    }
    let variable = provider.key_env.as_deref();
    match (provider.key, variable) {
        (RawKeyNeed::Optional, None) => Some(Found::NotNeeded),
        (RawKeyNeed::Optional, Some(name)) if !around.has(name) => Some(Found::NotNeeded),
        (_, Some(name)) => {
            let text = SecretText(format!("env:{name}"));
            around.key(&path, &text, findings).map(Found::Key)
        }
        (RawKeyNeed::Required, None) => {
            findings.fault(path, "is required: env:NAME or file:/path");
            None
        }
    }
}

/// Where AWS's services are asked.
pub fn region(raw: &RawUpstream, around: &Surroundings<'_>) -> Option<String> {
    let named = raw.aws.region.clone();
    let mut variables = REGIONS
        .iter()
        .filter_map(|name| around.environment.get(*name));
    named
        .or_else(|| variables.next().cloned())
        .filter(|region| !region.is_empty())
}

fn aws(
    path: &str,
    raw: &RawUpstream,
    provider: &RawProvider,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<AwsKeys> {
    let at = |key: &str| format!("{path}.aws.{key}");
    let from = |text: &Option<SecretText>, name: &str| {
        text.clone()
            .unwrap_or_else(|| SecretText(format!("env:{name}")))
    };
    let access_key = from(&raw.aws.access_key, "AWS_ACCESS_KEY_ID");
    let access_key = around.key(&at("access_key"), &access_key, findings);
    let secret_key = from(&raw.aws.secret_key, "AWS_SECRET_ACCESS_KEY");
    let secret_key = around.key(&at("secret_key"), &secret_key, findings);
    let has_token = raw.aws.session_token.is_some() || around.has("AWS_SESSION_TOKEN");
    let token = from(&raw.aws.session_token, "AWS_SESSION_TOKEN");
    let session_token = if has_token {
        Some(around.key(&at("session_token"), &token, findings)?)
    } else {
        None
    };
    let region = region(raw, around);
    if region.is_none() {
        findings.fault(
            at("region"),
            "is required, such as us-east-1, or AWS_REGION",
        );
    }
    let service = raw.aws.service.clone().or(provider.aws.service.clone());
    if service.is_none() {
        findings.fault(at("service"), "is required, such as bedrock");
    }
    Some(AwsKeys {
        access_key: access_key?,
        secret_key: secret_key?,
        session_token,
        region: region?,
        service: service?,
    })
}

fn entra(
    path: &str,
    raw: &RawUpstream,
    provider: &RawProvider,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<EntraClient> {
    const TENANT: &str = "{tenant}";
    let at = |key: &str| format!("{path}.entra.{key}");
    let said = raw.entra.clone().unwrap_or_default();
    let RawEntra {
        tenant,
        client_id,
        client_secret,
        token_url,
        scope,
    } = said;
    let secret = client_secret.unwrap_or_else(|| SecretText("env:AZURE_CLIENT_SECRET".into()));
    let client_secret = around.key(&at("client_secret"), &secret, findings);
    let mut required = |key: &str, value: Option<String>, example: &str| {
        let value = value.filter(|value| !value.is_empty());
        if value.is_none() {
            findings.fault(at(key), format!("is required, such as {example}"));
        }
        value
    };
    let client_id = required(
        "client_id",
        client_id,
        "00000000-0000-0000-0000-000000000000",
    );
    let scope = required(
        "scope",
        scope.or(provider.entra.scope.clone()),
        "https://cognitiveservices.azure.com/.default",
    );
    let token_url = required(
        "token_url",
        token_url.or(provider.entra.token_url.clone()),
        "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
    );
    let token_url = match token_url {
        Some(url) if url.contains(TENANT) => {
            let tenant = required("tenant", tenant, "00000000-0000-0000-0000-000000000000");
            tenant.map(|tenant| url.replace(TENANT, &tenant))
        }
        url => url,
    };
    if let Some(url) = token_url
        .as_ref()
        .and_then(|url| reqwest::Url::parse(url).ok())
        && let Some(fault) = super::url_fault(&url, raw.allow_http)
    {
        findings.fault(at("token_url"), fault);
    }
    Some(EntraClient {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        scope: scope?,
    })
}
