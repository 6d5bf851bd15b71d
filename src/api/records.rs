//! `/admin/v1/records`, `/admin/v1/savings` and `/admin/v1/overview`: what exchanges did and cost, for the operator alone.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use domain::{
    BadRequest, Fault, KeptRecord, NoTime, RecordFault, RecordName, Since, SpokenTime, TeamId,
};
use http::{Response, StatusCode, Uri};
use serde::Serialize;
use tracing::{error, warn};

use crate::error::{refusal, refusal_with_hint};
use crate::models::json;
use crate::server::Api;

/// Records of one answer, where the request does not say and where it does.
const RECORDS: u32 = 50;
const RECORDS_MAX: u32 = 1_000;

/// Where a request for savings does not say.
const SINCE: Since = Since::Ago(30 * 86_400);

/// Where there is no file of them.
const NO_RECORDS: &str = "no records are kept here, or none can be written: see records.enabled \
                          and records.dir";

/// When others read.
const BUSY_WAIT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Page {
    records: Vec<Told>,
    /// What the next page comes `before`; `None` at the end.
    before: Option<String>,
}

#[derive(Serialize)]
struct Told {
    ended: SpokenTime,
    #[serde(flatten)]
    record: KeptRecord,
}

pub(crate) async fn latest(State(api): State<Arc<Api>>, uri: Uri) -> Response<Body> {
    answer(latest_of(&api, &uri).await)
}

pub(crate) async fn savings(State(api): State<Arc<Api>>, uri: Uri) -> Response<Body> {
    answer(savings_of(&api, &uri).await)
}

pub(crate) async fn overview(State(api): State<Arc<Api>>) -> Response<Body> {
    let found = match &api.records {
        Some(shelf) => shelf.overview().await.map_err(record_fault),
        None => Err(Fault::NotFound),
    };
    answer(found)
}

fn answer<T: Serialize>(found: Result<T, Fault>) -> Response<Body> {
    match found {
        Ok(found) => json(StatusCode::OK, &found),
        Err(Fault::NotFound) => refusal_with_hint(&Fault::NotFound, Some(NO_RECORDS)),
        Err(fault) => refusal(&fault),
    }
}

async fn latest_of(api: &Api, uri: &Uri) -> Result<Page, Fault> {
    let asked = read_query(uri, &["limit", "before"])?;
    let limit = match asked.find("limit") {
        None => RECORDS,
        Some(text) => {
            let limit = text.parse::<u32>().ok();
            let limit = limit.filter(|count| (1..=RECORDS_MAX).contains(count));
            limit.ok_or_else(|| bad("limit", format!("must be from 1 to {RECORDS_MAX}")))?
        }
    };
    let before: Option<RecordName> = match asked.find("before") {
        None => None,
        Some(text) => {
            let words = "must be the `before` of an earlier answer, or microseconds since 1970";
            Some(
                text.parse::<RecordName>()
                    .map_err(|_: NoTime| bad("before", words))?,
            )
        }
    };
    let shelf = api.records.as_ref().ok_or(Fault::NotFound)?;
    let found = shelf.latest(limit, before).await.map_err(record_fault)?;
    // A page that is not full is the last one.
    let is_full = found.len() == limit as usize;
    let last = found.last().filter(|_| is_full);
    let before = last.map(|last| {
        let name = RecordName {
            ended_us: last.ended_us,
            request_id: last.request_id.clone(),
        };
        name.to_string()
    });
    let told = found.into_iter().map(|record| Told {
        ended: shelf.spoken(record.ended_us),
        record,
    });
    Ok(Page {
        records: told.collect(),
        before,
    })
}

async fn savings_of(api: &Api, uri: &Uri) -> Result<domain::Savings, Fault> {
    let asked = read_query(uri, &["since", "team"])?;
    let since = match asked.find("since") {
        None => SINCE,
        Some(text) => {
            let read = text.parse::<Since>();
            read.map_err(|error: NoTime| bad("since", error.to_string()))?
        }
    };
    let team = asked.find("team").map(TeamId::new);
    let shelf = api.records.as_ref().ok_or(Fault::NotFound)?;
    shelf.savings(since, team).await.map_err(record_fault)
}

fn bad(path: &str, words: impl Into<String>) -> Fault {
    Fault::BadRequest(BadRequest::at(path, words.into()))
}

/// What is said of records that cannot be read.
pub(crate) fn record_fault(fault: RecordFault) -> Fault {
    match fault {
        RecordFault::Absent => Fault::NotFound,
        RecordFault::Unwritten => {
            warn!("records wait to be written, and were neither handed out nor erased");
            Fault::Overloaded {
                retry_after: BUSY_WAIT,
            }
        }
        RecordFault::Busy => Fault::Overloaded {
            retry_after: BUSY_WAIT,
        },
        RecordFault::Away(cause) => {
            let root = cause.source().map(ToString::to_string);
            error!(error = %cause, cause = root, "the database of the records cannot be reached");
            Fault::Overloaded {
                retry_after: BUSY_WAIT,
            }
        }
        RecordFault::NoSuchDay => bad("since", "there is no such day"),
        RecordFault::Unreadable(cause) => {
            let root = cause.source().map(ToString::to_string);
            error!(error = %cause, cause = root, "records cannot be read");
            Fault::Internal
        }
    }
}

/// The fields of a query.
pub(crate) struct Asked(Vec<(String, String)>);

impl Asked {
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }
}

/// # Errors
/// A field that is not `known`, one that is there twice, or words that are no UTF-8.
pub(crate) fn read_query(uri: &Uri, known: &[&str]) -> Result<Asked, Fault> {
    let mut fields: Vec<(String, String)> = Vec::new();
    let query = uri.query().unwrap_or_default();
    for field in query.split('&').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let Some(name) = known.iter().find(|known| **known == name) else {
            let words = format!("has no such field; there are {}", known.join(" and "));
            return Err(bad("query", words));
        };
        if fields.iter().any(|(earlier, _)| earlier == name) {
            return Err(bad(name, "must be given once"));
        }
        let value = decode(value).ok_or_else(|| bad(name, "is not percent-encoded UTF-8"))?;
        fields.push(((*name).to_owned(), value));
    }
    Ok(Asked(fields))
}

/// Undoes percent-encoding, with `+` for a space as forms have it.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                // `from_str_radix` would take a sign.
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                u8::from_str_radix(digits, 16).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Vec<(String, String)>, Fault> {
        let uri = format!("/admin/v1/savings?{query}").parse().unwrap();
        read_query(&uri, &["since", "team"]).map(|asked| asked.0)
    }

    #[test]
    fn fields_are_decoded_and_unknown_ones_are_said() {
        for (query, team) in [
            ("team=red", "red"),
            ("since=1d&team=red+team", "red team"),
            ("&team=%C3%A9t%c3%a9&", "été"),
            ("team=%27%20OR%201%3D1%20--", "' OR 1=1 --"),
            ("team", ""),
        ] {
            let fields = read(query).unwrap();
            let found = fields.iter().find(|(name, _)| name == "team");
            assert_eq!(found.unwrap().1, team, "{query}");
        }
        for query in [
            "teams=red",
            "team=a&team=b",
            "team=%C3",
            "team=%",
            "team=%+1",
            "team=%zz",
        ] {
            assert!(matches!(read(query), Err(Fault::BadRequest(_))), "{query}");
        }
    }
}
