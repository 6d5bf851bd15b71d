//! `/admin/v1/records/{id}/text`: what an exchange said, where it is kept; for the owner alone, and each
//! reading is written down before anything is handed out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use domain::{AdminChange, Fault, FoundText, Said, TextFault, chain};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::error;

use crate::error::{missing, refusal};
use crate::keys::unkept;
use crate::models::json as answer;
use crate::operators::Operator;
use crate::server::Api;

/// What is below is the owner's.
pub(crate) const BELOW_RECORDS: &str = "/admin/v1/records/";

/// Of one answer: callers may give one id to many requests.
const TEXTS_MAX: u32 = 4;

/// When others use the file.
const BUSY_WAIT: Duration = Duration::from_secs(1);

const NO_TEXTS: &str = "no texts are kept here; see retention.enabled";
const UNKNOWN: &str = "no text of such an exchange is kept, or its time is over";

/// What exchanges of one id said, latest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct TextsView {
    pub request_id: String,
    pub texts: Vec<TextView>,
}

/// One of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct TextView {
    /// As of its record: microseconds since 1970.
    pub ended_us: i64,
    /// From then on it is gone.
    pub until_us: i64,
    pub team: String,
    /// `None` where it cannot be read.
    pub said: Option<Said>,
    /// Why it cannot.
    pub trouble: Option<String>,
}

pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path<String>,
) -> Response<Body> {
    let Some(shelf) = &api.texts else {
        return missing("id", NO_TEXTS);
    };
    // What ended just now is in the queue.
    let is_settled = api.pipeline.until_texts_settled().await;
    let found = match shelf.find(&id, TEXTS_MAX).await {
        Ok(found) if found.is_empty() && !is_settled => return refusal(&busy()),
        Ok(found) if found.is_empty() => return missing("id", UNKNOWN),
        Ok(found) => found,
        Err(TextFault::Locked { count }) => {
            let words = format!(
                "{UNKNOWN}; {count} texts are sealed under keys that are none of retention.keys, and this \
                 may be one of them"
            );
            return missing("id", &words);
        }
        Err(fault) => return refusal(&text_fault(&fault)),
    };
    if !note(&api, &operator, &found).await {
        return unkept();
    }
    let texts = found.into_iter().map(view).collect();
    let view = TextsView {
        request_id: id,
        texts,
    };
    answer(StatusCode::OK, &view)
}

/// Writes down who reads which exchanges' texts, by when they ended: ids are of the callers' choice, and may
/// name somebody. False where that cannot be done.
async fn note(api: &Api, operator: &Operator, found: &[FoundText]) -> bool {
    let Some(log) = api.changes.as_deref() else {
        return true;
    };
    if log.ready().await.is_err() {
        return false;
    }
    let ended: Vec<String> = found.iter().map(|it| it.ended_us.to_string()).collect();
    log.note(AdminChange {
        at: SystemTime::now(),
        who: operator.name.to_string(),
        what: "text.read",
        id: ended.join(" "),
    })
    .await;
    true
}

fn view(found: FoundText) -> TextView {
    let (said, trouble) = match found.opened {
        Ok(opened) => (Some(opened.said), None),
        Err(why) => (None, Some(why.to_string())),
    };
    TextView {
        ended_us: found.ended_us,
        until_us: found.until_us,
        team: found.team,
        said,
        trouble,
    }
}

/// One of somebody's, as it is handed out with all else; what it says to those alone who may read it.
pub(crate) fn item(found: FoundText, place: &'static str, may_read: bool) -> Value {
    let mut item = json!({
        "kept_in": place, "team": found.team, "ended_us": found.ended_us, "until_us": found.until_us,
    });
    match found.opened {
        Ok(opened) if may_read => {
            item["request_id"] = opened.request_id.into();
            item["said"] = serde_json::to_value(opened.said).unwrap_or_default();
        }
        Ok(_) => item["trouble"] = "reading it takes the role `owner`".into(),
        Err(why) => item["trouble"] = why.to_string().into(),
    }
    item
}

pub(crate) fn busy() -> Fault {
    Fault::Overloaded {
        retry_after: BUSY_WAIT,
    }
}

pub(crate) fn text_fault(fault: &TextFault) -> Fault {
    match fault {
        TextFault::Busy => busy(),
        TextFault::Locked { .. } => Fault::NotFound,
        TextFault::Unusable(_) => {
            let cause = chain(fault);
            error!(cause, "texts cannot be read or removed");
            Fault::Internal
        }
    }
}
