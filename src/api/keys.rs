//! `/admin/v1/keys` and `/admin/v1/teams`: who may ask, made and changed while the node runs; for the
//! operator alone. A secret is in the answer to whoever had it made, and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use domain::{BadRequest, Fault};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use serde_json::{Map, Value};

use crate::chat::check_media_type;
use crate::desk::{
    Changed, DeskFault, Expiry, KeyChange, KeyDesk, KeysView, NAME_BYTES_MAX, Noun, TeamsView,
};
use crate::error::{missing, refusal, refusal_with_hint, with_status};
use crate::models::json;
use crate::operators::Operator;
use crate::records::{Asked, read_query};
use crate::server::Api;

/// Of a request's body: a key with as many limits as there may be has some 8 KiB.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// Keys or teams of one answer, where the request does not say and where it does.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// A key that is to last longer is one that lasts for ever.
const EXPIRY_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Whoever needs longer to take a new secret makes a second key.
const OVERLAP_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Where a rotation does not say.
const OVERLAP: Duration = Duration::ZERO;

const NO_DESK: &str = "no keys can be made here";
const SPAN_WORDS: &str = "is a number with a unit, as `30d`, `24h`, `90m` or `30s`";

type Answer = Result<Response<Body>, Refused>;
type Named = Result<Path<String>, PathRejection>;
type Sent = Result<Bytes, BytesRejection>;

/// Why there is no answer.
pub(crate) enum Refused {
    Fault(Fault),
    Desk(DeskFault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<BadRequest> for Refused {
    fn from(fault: BadRequest) -> Self {
        Self::Fault(Fault::BadRequest(fault))
    }
}

impl From<DeskFault> for Refused {
    fn from(fault: DeskFault) -> Self {
        Self::Desk(fault)
    }
}

pub(crate) fn answered(answer: Answer) -> Response<Body> {
    match answer {
        Ok(response) => response,
        Err(Refused::Fault(Fault::NotFound)) => refusal_with_hint(&Fault::NotFound, Some(NO_DESK)),
        Err(Refused::Fault(fault)) => refusal(&fault),
        Err(Refused::Desk(fault)) => refused(&fault),
    }
}

fn refused(fault: &DeskFault) -> Response<Body> {
    let conflict = |param: &str, message: String| {
        let fault = BadRequest::at(param, message).with_code("conflict");
        with_status(StatusCode::CONFLICT, &Fault::BadRequest(fault))
    };
    match fault {
        DeskFault::Bad { path, message } => {
            refusal(&Fault::BadRequest(BadRequest::at(path, message)))
        }
        DeskFault::Absent(noun) => missing("name", &format!("there is no {noun} of this name")),
        DeskFault::Taken(noun) => conflict(
            "name",
            format!("there is a {noun} of this name; choose another, or change that one"),
        ),
        DeskFault::OfFile(noun) => conflict(
            "name",
            format!(
                "this {noun} stands in the configuration file, and is changed there alone; `hedge \
                 serve` takes what changed on SIGHUP"
            ),
        ),
        DeskFault::LeftOut(noun) => conflict(
            "name",
            format!(
                "there is a {noun} of this name that another replica made, and it does not go with the \
                 configuration here; change it there, or give all replicas the same keys and teams"
            ),
        ),
        DeskFault::TeamInUse(count) => conflict(
            "name",
            format!("{count} keys are of this team; delete them first"),
        ),
        DeskFault::Rotating => conflict(
            "overlap",
            "the secret before the last one still opens, and a third would too; wait until it is \
             over, or rotate with an overlap of `0s`, which ends both at once"
                .to_owned(),
        ),
        DeskFault::Full { noun, max } => conflict(
            "name",
            format!("there are {max} {noun}s, and no more may be; delete one first"),
        ),
        DeskFault::Unkept => unkept(),
        DeskFault::Away => away(),
    }
}

/// What cannot be written down is not done.
pub(crate) fn unkept() -> Response<Body> {
    not_kept("nothing is changed, for it cannot be written down; the server's log says why")
}

/// Neither is what other replicas would not hear of.
fn away() -> Response<Body> {
    not_kept(
        "keys and teams cannot be changed, for the Postgres that replicas share did not take it; those \
         known go on opening. Try again once `/readyz` says `\"keys\": \"shared\"`, and look first \
         whether the change is in the list: an answer of Postgres may have been lost",
    )
}

fn not_kept(message: &str) -> Response<Body> {
    let fault = BadRequest {
        param: None,
        code: Some("not_kept".to_owned()),
        message: message.to_owned(),
    };
    with_status(StatusCode::SERVICE_UNAVAILABLE, &Fault::BadRequest(fault))
}

pub(crate) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Response<Body> {
    answered(list_of(&api, &uri))
}

fn list_of(api: &Api, uri: &Uri) -> Answer {
    let (desk, (after, count)) = (desk(api)?, page(uri)?);
    let mut keys = desk.keys(&after, count + 1);
    let has_more = keys.len() > count;
    keys.truncate(count);
    let after = keys.last().filter(|_| has_more).map(|it| it.name.clone());
    Ok(json(StatusCode::OK, &KeysView { keys, after }))
}

pub(crate) async fn list_teams(State(api): State<Arc<Api>>, uri: Uri) -> Response<Body> {
    answered(list_teams_of(&api, &uri))
}

fn list_teams_of(api: &Api, uri: &Uri) -> Answer {
    let (desk, (after, count)) = (desk(api)?, page(uri)?);
    let mut teams = desk.teams(&after, count + 1);
    let has_more = teams.len() > count;
    teams.truncate(count);
    let after = teams.last().filter(|_| has_more).map(|it| it.name.clone());
    Ok(json(StatusCode::OK, &TeamsView { teams, after }))
}

pub(crate) async fn show(State(api): State<Arc<Api>>, name: Named) -> Response<Body> {
    let show = || {
        let found = desk(&api)?.key(&named(name)?);
        let found = found.ok_or(DeskFault::Absent(Noun::Key))?;
        Ok(json(StatusCode::OK, &found))
    };
    answered(show())
}

pub(crate) async fn show_team(State(api): State<Arc<Api>>, name: Named) -> Response<Body> {
    let show = || {
        let found = desk(&api)?.team(&named(name)?);
        let found = found.ok_or(DeskFault::Absent(Noun::Team))?;
        Ok(json(StatusCode::OK, &found))
    };
    answered(show())
}

pub(crate) async fn make(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    sent: Sent,
) -> Response<Body> {
    let wish = fields(&headers, sent).and_then(|it| Ok(key_wish(it)?));
    answered(done(&api, &operator, wish, StatusCode::CREATED).await)
}

pub(crate) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    name: Named,
    headers: HeaderMap,
    sent: Sent,
) -> Response<Body> {
    let patch = || Ok(key_patch(named(name)?, fields(&headers, sent)?)?);
    answered(done(&api, &operator, patch(), StatusCode::OK).await)
}

pub(crate) async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    name: Named,
    headers: HeaderMap,
    sent: Sent,
) -> Response<Body> {
    let rotation = || Ok(key_rotation(named(name)?, fields(&headers, sent)?)?);
    answered(done(&api, &operator, rotation(), StatusCode::OK).await)
}

pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    name: Named,
) -> Response<Body> {
    let removal = named(name).map(|name| KeyChange::RemoveKey { name });
    answered(done(&api, &operator, removal, StatusCode::NO_CONTENT).await)
}

pub(crate) async fn make_team(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    sent: Sent,
) -> Response<Body> {
    let wish = || {
        let mut grants = fields(&headers, sent)?;
        let name = given_name(&mut grants)?.ok_or_else(|| BadRequest::at("name", "is required"))?;
        Ok(KeyChange::MakeTeam { name, grants })
    };
    answered(done(&api, &operator, wish(), StatusCode::CREATED).await)
}

pub(crate) async fn change_team(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    name: Named,
    headers: HeaderMap,
    sent: Sent,
) -> Response<Body> {
    let patch = || {
        let name = named(name)?;
        let grants = fields(&headers, sent)?;
        Ok(KeyChange::ChangeTeam { name, grants })
    };
    answered(done(&api, &operator, patch(), StatusCode::OK).await)
}

pub(crate) async fn remove_team(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    name: Named,
) -> Response<Body> {
    let removal = named(name).map(|name| KeyChange::RemoveTeam { name });
    answered(done(&api, &operator, removal, StatusCode::NO_CONTENT).await)
}

async fn done(
    api: &Api,
    operator: &Operator,
    change: Result<KeyChange, Refused>,
    status: StatusCode,
) -> Answer {
    let changed = desk(api)?.change(&operator.name, change?).await?;
    Ok(match changed {
        Changed::Secret(made) => {
            let mut response = json(status, &made);
            let no_store = HeaderValue::from_static("no-store");
            response.headers_mut().insert(CACHE_CONTROL, no_store);
            response
        }
        Changed::Key(key) => json(status, &key),
        Changed::Team(team) => json(status, &team),
        Changed::Removed => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            response
        }
    })
}

fn desk(api: &Api) -> Result<&dyn KeyDesk, Refused> {
    api.desk.as_deref().ok_or(Refused::Fault(Fault::NotFound))
}

fn named(name: Named) -> Result<String, Refused> {
    // What cannot be decoded names nothing.
    let Path(name) = name.map_err(|_| BadRequest::at("name", "is no text in UTF-8"))?;
    Ok(name)
}

fn page(uri: &Uri) -> Result<(String, usize), Fault> {
    let asked = read_query(uri, &["limit", "after"])?;
    let count = count(&asked)?;
    Ok((asked.find("after").unwrap_or_default().to_owned(), count))
}

fn count(asked: &Asked) -> Result<usize, Fault> {
    let Some(text) = asked.find("limit") else {
        return Ok(PAGE);
    };
    let count = text.parse::<usize>().ok();
    let count = count.filter(|count| (1..=PAGE_MAX).contains(count));
    count.ok_or_else(|| {
        let words = format!("must be from 1 to {PAGE_MAX}");
        Fault::BadRequest(BadRequest::at("limit", words))
    })
}

/// The body, which is an object.
pub(crate) fn fields(headers: &HeaderMap, sent: Sent) -> Result<Map<String, Value>, Refused> {
    check_media_type(headers)?;
    let bytes = sent.map_err(|_| Fault::TooLarge {
        bytes_max: BODY_BYTES_MAX as u64,
    })?;
    let whole = |message: String| BadRequest {
        param: None,
        code: None,
        message,
    };
    let body: Value = serde_json::from_slice(&bytes)
        .map_err(|error| whole(format!("the body is no JSON: {error}")))?;
    match body {
        Value::Object(fields) => Ok(fields),
        _ => Err(whole("the body is a JSON object".to_owned()).into()),
    }
}

fn key_wish(mut fields: Map<String, Value>) -> Result<KeyChange, BadRequest> {
    let name = given_name(&mut fields)?;
    let team = match fields.shift_remove("team") {
        Some(Value::String(team)) if !team.is_empty() => team,
        Some(_) => return Err(BadRequest::at("team", "is the name of a team")),
        None => {
            let words = "is required: the name of a team that there is";
            return Err(BadRequest::at("team", words));
        }
    };
    let expiry = expiry(&mut fields)?.unwrap_or(Expiry::Never);
    Ok(KeyChange::MakeKey {
        name,
        team,
        expiry,
        grants: fields,
    })
}

fn key_patch(name: String, mut fields: Map<String, Value>) -> Result<KeyChange, BadRequest> {
    let is_enabled = match fields.shift_remove("enabled") {
        None => None,
        Some(Value::Bool(is_enabled)) => Some(is_enabled),
        Some(_) => return Err(BadRequest::at("enabled", "is true or false")),
    };
    for fixed in ["name", "team"] {
        if fields.contains_key(fixed) {
            let words = "of a key stays as it is; make another key";
            return Err(BadRequest::at(fixed, words));
        }
    }
    let expiry = expiry(&mut fields)?;
    if is_enabled.is_none() && expiry.is_none() && fields.is_empty() {
        return Err(BadRequest {
            param: None,
            code: None,
            message: "the body says nothing that is to be changed".to_owned(),
        });
    }
    Ok(KeyChange::ChangeKey {
        name,
        is_enabled,
        expiry,
        grants: fields,
    })
}

fn key_rotation(name: String, mut fields: Map<String, Value>) -> Result<KeyChange, BadRequest> {
    let overlap = match fields.shift_remove("overlap") {
        None => OVERLAP,
        Some(said) => span(&said).ok_or_else(|| BadRequest::at("overlap", SPAN_WORDS))?,
    };
    if overlap > OVERLAP_MAX {
        return Err(BadRequest::at("overlap", "is 90 days at most"));
    }
    match fields.keys().next() {
        None => Ok(KeyChange::RotateKey { name, overlap }),
        Some(other) => Err(BadRequest::at(
            other,
            "is not known here; there is `overlap`",
        )),
    }
}

/// Letters, digits, `.`, `_` and `-`: a name stands in addresses, headers, logs and metrics.
fn given_name(fields: &mut Map<String, Value>) -> Result<Option<String>, BadRequest> {
    let Some(name) = fields.shift_remove("name") else {
        return Ok(None);
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = |name: &str| {
        let begins = name.starts_with(|it: char| it.is_ascii_alphanumeric());
        begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain)
    };
    match name {
        Value::String(name) if is_name(&name) => Ok(Some(name)),
        _ => {
            let words = format!(
                "is a text of at most {NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, and begins \
                 with one of the first two"
            );
            Err(BadRequest::at("name", words))
        }
    }
}

/// `expires_in` or `expires_at`; `null` is never.
fn expiry(fields: &mut Map<String, Value>) -> Result<Option<Expiry>, BadRequest> {
    let after = fields.shift_remove("expires_in");
    let at = fields.shift_remove("expires_at");
    match (after, at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            let words = "is there beside `expires_in`; one of them is enough";
            Err(BadRequest::at("expires_at", words))
        }
        (Some(Value::Null), None) | (None, Some(Value::Null)) => Ok(Some(Expiry::Never)),
        (Some(said), None) => {
            let span = span(&said).ok_or_else(|| BadRequest::at("expires_in", SPAN_WORDS))?;
            match span {
                Duration::ZERO => {
                    let words = "is more than nothing; to end a key at once, disable it";
                    Err(BadRequest::at("expires_in", words))
                }
                span if span > EXPIRY_MAX => {
                    let words = "is ten years at most; leave it out for ever";
                    Err(BadRequest::at("expires_in", words))
                }
                span => Ok(Some(Expiry::In(span))),
            }
        }
        (None, Some(said)) => {
            let words = "is a whole number of seconds since 1970, or null for never";
            let at = said
                .as_u64()
                .ok_or_else(|| BadRequest::at("expires_at", words))?;
            Ok(Some(Expiry::At(at)))
        }
    }
}

fn span(said: &Value) -> Option<Duration> {
    let text = said.as_str()?;
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    count.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(fields) = value else {
            panic!("an object: {value}");
        };
        fields
    }

    #[test]
    fn a_wish_is_read_and_what_a_key_may_is_left_to_the_desk() {
        let said = json!({
            "name": "ci.2_a-b", "team": "red", "expires_in": "30d", "models": ["a"], "odd": 1
        });
        let wish = key_wish(object(said)).unwrap();
        let expected = KeyChange::MakeKey {
            name: Some("ci.2_a-b".to_owned()),
            team: "red".to_owned(),
            expiry: Expiry::In(Duration::from_secs(30 * 86_400)),
            grants: object(json!({"models": ["a"], "odd": 1})),
        };
        assert_eq!(wish, expected);
    }

    #[test]
    fn what_is_wrong_with_a_wish_is_said_with_its_place() {
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        let names = [
            "",
            " ",
            "a b",
            "a\r\nx: y",
            "a\u{0}",
            "é",
            "'; DROP TABLE keys; --",
            "-a",
            ".",
            "a/b",
            "a%2fb",
            &long,
        ];
        for name in names {
            let fault = key_wish(object(json!({"name": name, "team": "red"}))).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some("name"), "{name}");
        }
        for (said, place) in [
            (json!({}), "team"),
            (json!({"team": ""}), "team"),
            (json!({"team": ["a"]}), "team"),
            (json!({"team": "a", "name": 7}), "name"),
            (json!({"team": "a", "expires_in": 7}), "expires_in"),
            (json!({"team": "a", "expires_in": "0s"}), "expires_in"),
            (json!({"team": "a", "expires_in": "-1d"}), "expires_in"),
            (json!({"team": "a", "expires_in": "1y"}), "expires_in"),
            (json!({"team": "a", "expires_in": "4000d"}), "expires_in"),
            (
                json!({"team": "a", "expires_in": "99999999999999999999d"}),
                "expires_in",
            ),
            (
                json!({"team": "a", "expires_in": "999999999999999999d"}),
                "expires_in",
            ),
            (json!({"team": "a", "expires_at": -1}), "expires_at"),
            (json!({"team": "a", "expires_at": 1.5}), "expires_at"),
            (json!({"team": "a", "expires_at": "1"}), "expires_at"),
            (
                json!({"team": "a", "expires_at": 1, "expires_in": "1d"}),
                "expires_at",
            ),
        ] {
            let fault = key_wish(object(said.clone())).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(place), "{said}");
        }
    }

    #[test]
    fn a_patch_says_something_and_leaves_name_and_team() {
        let patch = |said: Value| key_patch("a".to_owned(), object(said));
        for (said, place) in [
            (json!({}), None),
            (json!({"name": "b"}), Some("name")),
            (json!({"team": "b"}), Some("team")),
            (json!({"enabled": 1}), Some("enabled")),
            (json!({"enabled": null}), Some("enabled")),
        ] {
            let fault = patch(said.clone()).unwrap_err();
            assert_eq!(fault.param.as_deref(), place, "{said}");
        }
        let said = json!({"enabled": false, "expires_at": null, "models": null});
        let expected = KeyChange::ChangeKey {
            name: "a".to_owned(),
            is_enabled: Some(false),
            expiry: Some(Expiry::Never),
            grants: object(json!({"models": null})),
        };
        assert_eq!(patch(said).unwrap(), expected);
    }

    #[test]
    fn a_rotation_has_an_overlap_or_none() {
        let rotation = |said: Value| key_rotation("a".to_owned(), object(said));
        for (said, seconds) in [
            (json!({}), 0),
            (json!({"overlap": "0s"}), 0),
            (json!({"overlap": "24h"}), 86_400),
            (json!({"overlap": "90m"}), 5_400),
        ] {
            let expected = KeyChange::RotateKey {
                name: "a".to_owned(),
                overlap: Duration::from_secs(seconds),
            };
            assert_eq!(rotation(said).unwrap(), expected);
        }
        for (said, place) in [
            (json!({"overlap": "91d"}), "overlap"),
            (json!({"overlap": 5}), "overlap"),
            (json!({"overlap": ""}), "overlap"),
            (json!({"after": "1d"}), "after"),
        ] {
            let fault = rotation(said.clone()).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(place), "{said}");
        }
    }
}
