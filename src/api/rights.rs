//! `/admin/v1/data/export` and `/admin/v1/data/erase`: what is kept that is somebody's, handed out or
//! removed; for the operator, and the latter for the owner alone.
//!
//! ```text
//! export ─► written down, a page after the other, through the places in order: limits, records, texts, responses, replies, entries
//! erase ──► written down whom it is about, by what stands for him ─► each place ─► how much went from it
//! ```
//! Both are asked by POST, so that no name stands in an address. Somebody is meant by the word that requests
//! named him by, letter by letter.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use domain::{
    AdminChange, BadRequest, CacheAway, CacheKey, CountsAway, EntryId, Fault, Kept, KeptRecord,
    Marker, Principal, Purge, RecordFault, RecordName, RecordRights, Subject, Tag, TeamId,
    UserCounts, UserId, Who, is_tag,
};
use http::{HeaderMap, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::error;
use wire::responses::response_object;

use crate::kept::cache_away;
use crate::keys::{fields, unkept};
use crate::models;
use crate::operators::Operator;
use crate::records::record_fault;
use crate::server::Api;
use crate::texts::{busy, item as text_item, text_fault};

pub(crate) const EXPORT_PATH: &str = "/admin/v1/data/export";
pub(crate) const ERASE_PATH: &str = "/admin/v1/data/erase";

/// Of a user's name, here. A longer one is not marked, so that nothing on a disk is its.
const NAME_BYTES_MAX: usize = 32 * 1024;

/// Things of one page, where the request does not say and where it does.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// A page ends with what brings it to so many bytes: one response may have some megabytes.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Texts that are looked for at one go.
const TEXTS: usize = 16;

/// Counts of one user's limits that are told.
const LIMITS_MAX: usize = 1_000;

/// When others are at it, or the limits' counter is away.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Where what is somebody's is found and made nobody's, beside what the pipeline has.
pub struct Rights {
    pub marker: Arc<dyn Marker>,
    /// `None`: no records are kept.
    pub records: Option<Arc<dyn RecordRights>>,
    pub counts: Arc<dyn UserCounts>,
    /// What is kept says whose it is. False where marks would be found by none later on.
    pub is_marking: bool,
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights")
            .field("is_marking", &self.is_marking)
            .finish_non_exhaustive()
    }
}

/// One page of what is somebody's.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportView {
    /// Each says in `kept_in` where it is.
    pub items: Vec<Value>,
    /// What the next page comes `after`; `None` at the end.
    pub after: Option<String>,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedView {
    /// Records of exchanges that are nobody's now.
    pub records: u64,
    /// What exchanges said.
    pub texts: u64,
    /// Responses that callers could go on from.
    pub responses: u64,
    /// Replies kept for the same request.
    pub replies: u64,
    /// Replies kept for others.
    pub entries: u64,
    /// Counts of the user's own limits.
    pub limits: u64,
    /// Files that were set aside as damaged.
    pub files: u64,
    /// Nothing is left of it in what was free in the place of the records.
    pub rewritten: bool,
}

impl Api {
    fn marking(&self) -> Option<&Rights> {
        self.rights.as_ref().filter(|rights| rights.is_marking)
    }

    /// The principal with what is kept of its tags.
    pub(crate) fn mark_tags(&self, mut principal: Principal) -> Principal {
        if let Some(rights) = self.marking() {
            let tags = principal.tags.iter();
            let marks = tags.map(|tag| rights.marker.mark(&Who::Tag(tag.clone())));
            principal.marks.tags = marks.collect();
        }
        principal
    }

    /// The same of its user, where the request names one.
    pub(crate) fn mark_user(&self, mut principal: Principal, user: Option<&str>) -> Principal {
        let is_name = |user: &&str| (1..=NAME_BYTES_MAX).contains(&user.len());
        let user = user.filter(is_name);
        if let (Some(rights), Some(user)) = (self.marking(), user) {
            let who = Who::User(user.into());
            principal.marks.user = Some(rights.marker.mark(&who));
            principal.marks.on_replies = Some(rights.marker.mark_on_replies(&who));
        }
        principal
    }
}

pub(crate) async fn export(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    sent: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let asked = fields(&headers, sent).and_then(|fields| Ok(Export::read(fields)?));
    match asked {
        Ok(asked) => answered(exported(&api, &operator, asked).await),
        Err(refused) => crate::keys::answered(Err(refused)),
    }
}

pub(crate) async fn erase(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    sent: Result<Bytes, BytesRejection>,
) -> Response<Body> {
    let asked = fields(&headers, sent).and_then(|mut fields| {
        let subject = subject(&mut fields)?;
        nothing_else(&fields)?;
        Ok(subject)
    });
    match asked {
        Ok(subject) => answered(erased(&api, &operator, &subject).await),
        Err(refused) => crate::keys::answered(Err(refused)),
    }
}

/// Why there is no answer.
enum Stopped {
    Fault(Fault),
    /// It cannot be written down who asks for it.
    Unkept,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<CountsAway> for Stopped {
    fn from(away: CountsAway) -> Self {
        let cause = away.0.to_string();
        error!(cause, "what users used cannot be looked up or forgotten");
        Self::Fault(Fault::Overloaded {
            retry_after: BUSY_WAIT,
        })
    }
}

impl From<CacheAway> for Stopped {
    fn from(away: CacheAway) -> Self {
        Self::Fault(cache_away(&away))
    }
}

fn answered<T: Serialize>(answer: Result<T, Stopped>) -> Response<Body> {
    match answer {
        Ok(view) => models::json(StatusCode::OK, &view),
        Err(Stopped::Unkept) => unkept(),
        Err(Stopped::Fault(fault)) => crate::error::refusal(&fault),
    }
}

fn rights(api: &Api) -> Result<&Rights, Stopped> {
    Ok(api.rights.as_ref().ok_or(Fault::NotFound)?)
}

/// Writes down who asks for what, before it is done.
async fn note(
    api: &Api,
    operator: &Operator,
    what: &'static str,
    subject: &Subject,
) -> Result<(), Stopped> {
    let Some(log) = api.changes.as_deref() else {
        return Ok(());
    };
    log.ready().await.map_err(|_| Stopped::Unkept)?;
    let trace = rights(api)?.marker.trace(subject);
    let team = subject.team.as_ref();
    let of = team.map_or_else(String::new, |team| format!(" of {team}"));
    let is_written = log.note(AdminChange {
        at: SystemTime::now(),
        who: operator.name.to_string(),
        what,
        id: format!("{} {trace}{of}", subject.who.as_label()),
    });
    is_written.await.then_some(()).ok_or(Stopped::Unkept)
}

async fn erased(api: &Api, operator: &Operator, subject: &Subject) -> Result<ErasedView, Stopped> {
    let rights = rights(api)?;
    note(api, operator, "data.erase", subject).await?;
    let (mut replies, mut entries, mut away) = (0, 0, None);
    let marker = &rights.marker;
    let mut marks = vec![
        marker.mark(&subject.who),
        marker.mark_on_replies(&subject.who),
    ];
    // Of a tag its word is looked for, once.
    marks.dedup_by(|mark, other| mark == other || matches!(subject.who, Who::Tag(_)));
    for mark in marks {
        let purge = Purge::Subject(subject.clone(), mark);
        // Whatever cannot be reached, the rest goes.
        match api.pipeline.purge(&purge).await {
            Ok((exact, others)) => {
                replies += exact;
                entries += others;
            }
            Err(fault) => away = Some(Stopped::from(fault)),
        }
    }
    let responses = match &api.shelf {
        Some(shelf) => {
            let (shelf, subject) = (Arc::clone(shelf), subject.clone());
            let forgetting = tokio::task::spawn_blocking(move || shelf.forget(&subject));
            forgetting.await.map_err(|_| Fault::Internal)?
        }
        None => 0,
    };
    let limits = match &subject.who {
        Who::User(user) => {
            let forgotten = rights.counts.forget(subject.team.as_ref(), user).await;
            forgotten.unwrap_or_else(|fault| {
                away = Some(fault.into());
                0
            })
        }
        // What a tag may use the operator's configuration says, and how much of it was used stays.
        Who::Tag(_) => 0,
    };
    let texts = match &api.texts {
        Some(shelf) => {
            let erased = if api.pipeline.until_texts_settled().await {
                let mark = rights.marker.mark(&subject.who);
                let erased = shelf.erase(subject, &mark).await;
                erased.map_err(|fault| text_fault(&fault))
            } else {
                Err(busy())
            };
            erased.unwrap_or_else(|fault| {
                away = Some(fault.into());
                0
            })
        }
        None => 0,
    };
    // Last: of all that ended until now.
    let records = match &rights.records {
        Some(records) => records.erase(subject).await.map_err(record_fault)?,
        None => domain::RecordsErased {
            is_rewritten: true,
            ..domain::RecordsErased::default()
        },
    };
    if let Some(away) = away {
        return Err(away);
    }
    Ok(ErasedView {
        records: records.records,
        texts,
        responses,
        replies,
        entries,
        limits,
        files: records.files,
        rewritten: records.is_rewritten,
    })
}

/// Where things of somebody's are, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Limits,
    Records,
    Texts,
    Responses,
    Replies,
    Entries,
}

impl Place {
    const ALL: [Self; 6] = [
        Self::Limits,
        Self::Records,
        Self::Texts,
        Self::Responses,
        Self::Replies,
        Self::Entries,
    ];

    fn as_label(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Records => "records",
            Self::Texts => "texts",
            Self::Responses => "responses",
            Self::Replies => "replies",
            Self::Entries => "entries",
        }
    }

    fn next(self) -> Option<Self> {
        let mut places = Self::ALL.into_iter().skip_while(|place| *place != self);
        places.nth(1)
    }
}

/// What is asked to be handed out.
#[derive(Debug)]
struct Export {
    subject: Subject,
    place: Place,
    /// In the place's own words; `None`: from its beginning.
    after: Option<After>,
    count: usize,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    /// So many were told.
    Limit(usize),
    Record(RecordName),
    Text(i64),
    Response(TeamId, String),
    Reply(CacheKey),
    Entry(EntryId),
}

impl After {
    fn as_text(&self) -> String {
        match self {
            Self::Limit(told) => told.to_string(),
            Self::Record(name) => name.to_string(),
            Self::Text(seq) => seq.to_string(),
            Self::Response(team, id) => json!([team.as_str(), id]).to_string(),
            Self::Reply(key) => key.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            Self::Entry(id) => id.0.to_string(),
        }
    }

    fn read(place: Place, text: &str) -> Option<Self> {
        match place {
            Place::Limits => text.parse().ok().map(Self::Limit),
            Place::Records => text.parse().ok().map(Self::Record),
            Place::Texts => text.parse().ok().map(Self::Text),
            Place::Responses => {
                let (team, id): (String, String) = serde_json::from_str(text).ok()?;
                Some(Self::Response(TeamId::new(team), id))
            }
            Place::Replies => {
                let is_plain = text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit());
                let mut key = [0; 32];
                for (byte, at) in key.iter_mut().zip(0..) {
                    let pair = text.get(2 * at..2 * at + 2).filter(|_| is_plain)?;
                    *byte = u8::from_str_radix(pair, 16).ok()?;
                }
                Some(Self::Reply(CacheKey(key)))
            }
            Place::Entries => text.parse().ok().map(|id| Self::Entry(EntryId(id))),
        }
    }
}

impl Export {
    fn read(mut fields: Map<String, Value>) -> Result<Self, BadRequest> {
        let subject = subject(&mut fields)?;
        let count = match fields.shift_remove("limit") {
            None => PAGE,
            Some(value) => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                let count = count.filter(|count| (1..=PAGE_MAX).contains(count));
                count.ok_or_else(|| {
                    BadRequest::at("limit", format!("is a number from 1 to {PAGE_MAX}"))
                })?
            }
        };
        let (place, after) = match fields.shift_remove("after") {
            None | Some(Value::Null) => (Place::Limits, None),
            Some(value) => {
                let read = value.as_str().and_then(cursor);
                read.ok_or_else(|| BadRequest::at("after", "is the `after` of an earlier page"))?
            }
        };
        nothing_else(&fields)?;
        Ok(Self {
            subject,
            place,
            after,
            count,
        })
    }
}

/// A place, and what was told of it last.
fn cursor(text: &str) -> Option<(Place, Option<After>)> {
    let (label, rest) = match text.split_once('/') {
        Some((label, rest)) => (label, Some(rest)),
        None => (text, None),
    };
    let place = Place::ALL.into_iter().find(|it| it.as_label() == label)?;
    match rest {
        Some(rest) => Some((place, Some(After::read(place, rest)?))),
        None => Some((place, None)),
    }
}

/// Who is meant: one of `user` and `tag`, and perhaps the `team`.
fn subject(fields: &mut Map<String, Value>) -> Result<Subject, BadRequest> {
    let mut text = |name: &'static str| match fields.shift_remove(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_BYTES_MAX => {
            Ok(Some(text))
        }
        Some(_) => {
            let words = format!("is a text that is not empty, of at most {NAME_BYTES_MAX} bytes");
            Err(BadRequest::at(name, words))
        }
    };
    let (user, tag, team) = (text("user")?, text("tag")?, text("team")?);
    let who = match (user, tag) {
        (Some(user), None) => Who::User(UserId::new(user)),
        (None, Some(tag)) if is_tag(&tag) => Who::Tag(Tag::new(tag)),
        (None, Some(_)) => {
            return Err(BadRequest::at("tag", "is no tag that a request could have"));
        }
        (None, None) => {
            let words = "is required, or `tag`: by which name requests are somebody's";
            return Err(BadRequest::at("user", words));
        }
        (Some(_), Some(_)) => {
            let words = "is one name too many beside `user`; ask for one after the other";
            return Err(BadRequest::at("tag", words));
        }
    };
    Ok(Subject {
        who,
        team: team.map(TeamId::new),
    })
}

fn nothing_else(fields: &Map<String, Value>) -> Result<(), BadRequest> {
    match fields.keys().next() {
        Some(other) => Err(BadRequest::at(
            other.as_str(),
            "is no field of this request",
        )),
        None => Ok(()),
    }
}

async fn exported(api: &Api, operator: &Operator, asked: Export) -> Result<ExportView, Stopped> {
    let Export {
        subject,
        mut place,
        mut after,
        count,
    } = asked;
    // Each page: whoever begins in the middle is written down too.
    note(api, operator, "data.export", &subject).await?;
    let mut items = Vec::new();
    let mut bytes = 0;
    loop {
        let room = count - items.len();
        let found = look(api, operator, &subject, place, after.take(), room).await?;
        // Of fewer than there was room for there are no more.
        let is_whole = found.len() < place.at_once(room);
        let mut last = None;
        let all = found.len();
        let mut told = 0;
        for (name, item) in found {
            bytes += item.to_string().len();
            items.push(item);
            told += 1;
            last = Some(name);
            if bytes >= PAGE_BYTES_MAX {
                break;
            }
        }
        let is_over = is_whole && told == all;
        let next = match last {
            Some(last) if !is_over => Some((place, Some(last))),
            Some(_) | None => place.next().map(|place| (place, None)),
        };
        let Some((next, begin)) = next else {
            return Ok(ExportView { items, after: None });
        };
        if items.len() >= count || bytes >= PAGE_BYTES_MAX {
            let after = match &begin {
                Some(begin) => format!("{}/{}", next.as_label(), begin.as_text()),
                None => next.as_label().to_owned(),
            };
            let after = Some(after);
            return Ok(ExportView { items, after });
        }
        (place, after) = (next, begin);
    }
}

impl Place {
    /// How many are looked for, where there is room for so many.
    fn at_once(self, room: usize) -> usize {
        match self {
            Self::Limits | Self::Records => room,
            Self::Texts | Self::Responses | Self::Replies | Self::Entries => room.min(TEXTS),
        }
    }
}

/// What a place has, in order, each with where the next page would begin.
async fn look(
    api: &Api,
    operator: &Operator,
    subject: &Subject,
    place: Place,
    after: Option<After>,
    room: usize,
) -> Result<Vec<(After, Value)>, Stopped> {
    let rights = rights(api)?;
    let count = place.at_once(room);
    Ok(match (place, after) {
        (Place::Limits, after) => {
            let told = match after {
                Some(After::Limit(told)) => told,
                _ => 0,
            };
            limits(rights, subject, told, count).await?
        }
        (Place::Records, after) => {
            let before = match after {
                Some(After::Record(name)) => Some(name),
                _ => None,
            };
            records(rights, subject, count, before).await?
        }
        (Place::Texts, after) => {
            let before = match after {
                Some(After::Text(seq)) => Some(seq),
                _ => None,
            };
            texts(api, operator, subject, count, before).await?
        }
        (Place::Responses, after) => {
            let after = match after {
                Some(After::Response(team, id)) => Some((team, id)),
                _ => None,
            };
            responses(api, subject, after, count).await?
        }
        (Place::Replies, after) => {
            let after = match after {
                Some(After::Reply(key)) => Some(key),
                _ => None,
            };
            let mark = rights.marker.mark_on_replies(&subject.who);
            let meant = Purge::Subject(subject.clone(), mark);
            let found = api.pipeline.kept(&meant, after, count).await?.into_iter();
            let told = found.map(|(key, kept)| {
                let item = reply(Place::Replies, &kept, None);
                (After::Reply(key), item)
            });
            told.collect()
        }
        (Place::Entries, after) => {
            let after = match after {
                Some(After::Entry(id)) => Some(id),
                _ => None,
            };
            let meant = Purge::Subject(subject.clone(), rights.marker.mark(&subject.who));
            let found = api.pipeline.entries(&meant, after, count).into_iter();
            let told = found.map(|entry| {
                let item = reply(Place::Entries, &entry.kept, Some(&entry.text));
                (After::Entry(entry.id), item)
            });
            told.collect()
        }
    })
}

async fn limits(
    rights: &Rights,
    subject: &Subject,
    told: usize,
    count: usize,
) -> Result<Vec<(After, Value)>, Stopped> {
    let Who::User(user) = &subject.who else {
        return Ok(Vec::new());
    };
    let team = subject.team.as_ref();
    let counted = rights.counts.of(team, user, LIMITS_MAX).await?.into_iter();
    let counted = counted.zip(1..).skip(told).take(count);
    let told = counted.map(|(it, at)| {
        let item = json!({
            "kept_in": Place::Limits.as_label(), "team": it.team, "measure": it.measure, "per": it.per,
            "used": it.used,
        });
        (After::Limit(at), item)
    });
    Ok(told.collect())
}

async fn records(
    rights: &Rights,
    subject: &Subject,
    count: usize,
    before: Option<RecordName>,
) -> Result<Vec<(After, Value)>, Stopped> {
    let Some(records) = &rights.records else {
        return Ok(Vec::new());
    };
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let found = match records.of(subject, count, before).await {
        // Nobody has written one yet.
        Err(RecordFault::Absent) => Vec::new(),
        found => found.map_err(record_fault)?,
    };
    let told = found.into_iter().map(|record| {
        let name = RecordName {
            ended_us: record.ended_us,
            request_id: record.request_id.clone(),
        };
        (After::Record(name), record_item(&record))
    });
    Ok(told.collect())
}

async fn texts(
    api: &Api,
    operator: &Operator,
    subject: &Subject,
    count: usize,
    before: Option<i64>,
) -> Result<Vec<(After, Value)>, Stopped> {
    let Some(shelf) = &api.texts else {
        return Ok(Vec::new());
    };
    if !api.pipeline.until_texts_settled().await {
        return Err(busy().into());
    }
    let mark = rights(api)?.marker.mark(&subject.who);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let found = shelf.of(subject, &mark, count, before).await;
    let found = found.map_err(|fault| text_fault(&fault))?;
    let told = found.into_iter().map(|text| {
        let after = After::Text(text.seq);
        let item = text_item(text, Place::Texts.as_label(), operator.may_read());
        (after, item)
    });
    Ok(told.collect())
}

fn record_item(record: &KeptRecord) -> Value {
    let mut item = json!({ "kept_in": Place::Records.as_label() });
    if let (Some(item), Ok(Value::Object(fields))) =
        (item.as_object_mut(), serde_json::to_value(record))
    {
        item.extend(fields);
    }
    item
}

async fn responses(
    api: &Api,
    subject: &Subject,
    after: Option<(TeamId, String)>,
    count: usize,
) -> Result<Vec<(After, Value)>, Stopped> {
    let Some(shelf) = &api.shelf else {
        return Ok(Vec::new());
    };
    let (shelf, subject) = (Arc::clone(shelf), subject.clone());
    let looking = tokio::task::spawn_blocking(move || shelf.of_subject(&subject, after, count));
    let found = looking.await.map_err(|_| Fault::Internal)?;
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let told = found.into_iter().map(|(team, response)| {
        let whole = response_object(&response.head, &response.output);
        let input: Vec<Value> = response.input.iter().map(|it| read(&it.json)).collect();
        let tags: Vec<&str> = response.tags.iter().map(Tag::as_str).collect();
        let item = json!({
            "kept_in": Place::Responses.as_label(), "team": team, "id": response.id, "tags": tags,
            "response": read(&whole), "input": input,
        });
        (After::Response(team, response.id.clone()), item)
    });
    Ok(told.collect())
}

/// What is kept is of the masked view: values of personal data are placeholders in it.
fn reply(place: Place, kept: &Kept, question: Option<&str>) -> Value {
    let since = kept.kept_at.duration_since(SystemTime::UNIX_EPOCH);
    let kept_s = since.unwrap_or_default().as_secs();
    let mut item = json!({
        "kept_in": place.as_label(), "team": kept.team, "model": kept.model, "tags": kept.tags,
        "kept_s": kept_s, "choices": kept.reply.choices,
    });
    if let (Some(item), Some(question)) = (item.as_object_mut(), question) {
        item.insert("question".to_owned(), question.into());
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(body: Value) -> Map<String, Value> {
        let Value::Object(fields) = body else {
            panic!("it is an object");
        };
        fields
    }

    #[test]
    fn one_name_is_meant_and_every_other_field_is_said() {
        let read = |body| Export::read(object(body)).map(|asked| asked.subject);
        let of = |who, team: Option<&str>| Subject {
            who,
            team: team.map(TeamId::new),
        };
        let anna = Who::User("' OR 1=1 --".into());
        assert_eq!(
            read(json!({"user": "' OR 1=1 --"})),
            Ok(of(anna.clone(), None))
        );
        assert_eq!(
            read(json!({"user": "' OR 1=1 --", "team": "red", "limit": 7, "after": null})),
            Ok(of(anna, Some("red")))
        );
        assert_eq!(
            read(json!({"tag": "spring"})),
            Ok(of(Who::Tag("spring".into()), None))
        );
        for (body, place) in [
            (json!({}), "user"),
            (json!({"user": ""}), "user"),
            (json!({"user": 5}), "user"),
            (json!({"user": "n".repeat(NAME_BYTES_MAX + 1)}), "user"),
            (json!({"tag": "no spaces"}), "tag"),
            (json!({"user": "a", "tag": "b"}), "tag"),
            (json!({"user": "a", "team": null}), "team"),
            (json!({"user": "a", "teams": "b"}), "teams"),
            (json!({"user": "a", "limit": 0}), "limit"),
            (json!({"user": "a", "limit": 1001}), "limit"),
            (json!({"user": "a", "limit": "7"}), "limit"),
            (json!({"user": "a", "after": "elsewhere"}), "after"),
            (json!({"user": "a", "after": "records/x"}), "after"),
            (json!({"user": "a", "after": "limits/x"}), "after"),
            (json!({"user": "a", "after": 5}), "after"),
        ] {
            let fault = read(body.clone()).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(place), "{body}");
        }
    }

    #[test]
    fn a_page_begins_where_the_last_one_ended() {
        let name = RecordName {
            ended_us: 17,
            request_id: "a/b-c".to_owned(),
        };
        for (place, after) in [
            (Place::Limits, After::Limit(7)),
            (Place::Records, After::Record(name)),
            (Place::Texts, After::Text(17)),
            (
                Place::Responses,
                After::Response("r/e d".into(), "resp_\"1".into()),
            ),
            (Place::Replies, After::Reply(CacheKey([0xab; 32]))),
            (Place::Entries, After::Entry(EntryId(u64::MAX))),
        ] {
            let text = format!("{}/{}", place.as_label(), after.as_text());
            assert_eq!(cursor(&text), Some((place, Some(after))), "{text}");
        }
        for place in Place::ALL {
            assert_eq!(cursor(place.as_label()), Some((place, None)));
        }
        for text in ["", "replies/é", "replies/+a", "entries/-1", "responses/[]"] {
            assert_eq!(cursor(text), None, "{text}");
        }
    }
}
