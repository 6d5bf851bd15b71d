//! What a provider's file says, and the parts of it that an upstream may say, too.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::{RawTrust, SecretText};
use super::trouble::RawContinues;

/// A file of `providers/`, or of `providers_dir`: where a provider is and how it is spoken to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProvider {
    /// As the file is called.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The page that the file was written from.
    pub docs: String,
    /// The day that page was read, as `2026-11-28`.
    pub read: String,
    /// `{region}` stands for `aws.region`, `{model}` for the model.
    pub base_url: Option<String>,
    /// Shown where the address is everyone's own.
    pub base_url_example: Option<String>,
    pub dialect: Option<String>,
    pub auth: Option<RawAuth>,
    pub auth_header: Option<String>,
    /// The variable that mostly holds the key.
    pub key_env: Option<String>,
    pub key: RawKeyNeed,
    pub aws: RawAws,
    pub entra: RawEntra,
    /// Of the address above; another one is trusted as its upstream says.
    pub trust: Option<RawTrust>,
    pub structured_outputs: bool,
    /// Whether it takes images by address, where that is not as usual in its dialect.
    pub image_urls: Option<bool>,
    /// How it goes on with an answer that broke off elsewhere. Left out: not at all.
    pub continues: Option<RawContinues>,
    /// As which provider of the price list it charges, where that is not its own name.
    pub prices: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    pub quirks: RawQuirks,
}

/// Whether a provider answers without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawKeyNeed {
    #[default]
    Required,
    Optional,
}

/// How an upstream is told who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAuth {
    /// Not at all.
    None,
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// The key alone, in the header that `auth_header` names.
    Header,
    /// AWS Signature Version 4, as `aws` says.
    Aws,
    /// A token of Microsoft Entra's, as `entra` says.
    Entra,
}

/// Keys for AWS Signature Version 4.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAws {
    /// As `us-east-1`. Left out: `AWS_REGION`, or `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// Left out: `env:AWS_ACCESS_KEY_ID`.
    pub access_key: Option<SecretText>,
    /// Left out: `env:AWS_SECRET_ACCESS_KEY`.
    pub secret_key: Option<SecretText>,
    /// For keys that end. Left out: `AWS_SESSION_TOKEN`, where it is set.
    pub session_token: Option<SecretText>,
    /// The name that signatures know the service by. Left out: as the provider's file says.
    pub service: Option<String>,
}

/// A client of Microsoft Entra's, which asks for tokens by its own credentials.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawEntra {
    pub tenant: Option<String>,
    pub client_id: Option<String>,
    /// Left out: `env:AZURE_CLIENT_SECRET`.
    pub client_secret: Option<SecretText>,
    /// Left out: as the provider's file says. `{tenant}` stands for the tenant.
    pub token_url: Option<String>,
    /// Left out: as the provider's file says.
    pub scope: Option<String>,
}

/// Where a provider differs from the dialect it speaks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawQuirks {
    /// Fields of a request under other names: `{ max_tokens = "max_completion_tokens" }`.
    pub rename: Option<BTreeMap<String, String>>,
    /// Fields of a request that are left out: hints that the provider does not know.
    pub drop: Option<Vec<String>>,
    /// Fields of a request that the provider cannot do: such a request goes elsewhere, or is a 400.
    pub refuse: Option<Vec<String>>,
    /// As `rename`, of each message.
    pub message_rename: Option<BTreeMap<String, String>>,
    /// As `drop`, of each message.
    pub message_drop: Option<Vec<String>>,
    /// As `drop`, of each tool call of each message.
    pub call_drop: Option<Vec<String>>,
    /// What the roles `system` and `developer` are called.
    pub system_role: Option<String>,
    /// Parts of sentences by which the provider says that a prompt is too long.
    pub context_phrases: Option<Vec<String>>,
}

impl RawQuirks {
    /// What is said here, and beyond that what `file` says.
    pub fn over(self, file: RawQuirks) -> Self {
        Self {
            rename: self.rename.or(file.rename),
            drop: self.drop.or(file.drop),
            refuse: self.refuse.or(file.refuse),
            message_rename: self.message_rename.or(file.message_rename),
            message_drop: self.message_drop.or(file.message_drop),
            call_drop: self.call_drop.or(file.call_drop),
            system_role: self.system_role.or(file.system_role),
            context_phrases: self.context_phrases.or(file.context_phrases),
        }
    }
}
