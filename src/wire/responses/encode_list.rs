//! What is said of kept responses besides themselves: their input items, a page at a time, and that
//! they are gone.

use domain::{BadRequest, StoredItem};
use serde_json::json;

use super::encode_reply::put_items;
use crate::request_fault as fault;

/// OpenAI's bound on `limit`, and what stands for none.
const LIMIT_MAX: usize = 100;
const LIMIT_DEFAULT: usize = 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListOrder {
    Ascending,
    /// Also what an absent word means.
    #[default]
    Descending,
}

/// Which items a caller wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    limit: usize,
    /// The item before the page's first.
    after: Option<String>,
    order: ListOrder,
}

impl ListQuery {
    /// Reads the fields of a query, decoded. Unknown ones are left alone.
    ///
    /// # Errors
    /// What is wrong with one, with its name in `param`.
    pub fn read<'q>(
        fields: impl IntoIterator<Item = (&'q str, &'q str)>,
    ) -> Result<Self, BadRequest> {
        let mut query = Self {
            limit: LIMIT_DEFAULT,
            after: None,
            order: ListOrder::default(),
        };
        for (name, value) in fields {
            match (name, value) {
                ("limit", value) => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    let why = format_args!("expected a number from 1 to {LIMIT_MAX}.").to_string();
                    query.limit = limit.ok_or_else(|| fault::invalid(&"limit", why))?;
                }
                ("after", id) => query.after = Some(id.to_owned()),
                ("order", "asc") => query.order = ListOrder::Ascending,
                ("order", "desc") => query.order = ListOrder::Descending,
                ("order", other) => {
                    return Err(fault::not_one_of(&"order", other, &["asc", "desc"]));
                }
                _ => {}
            }
        }
        Ok(query)
    }
}

/// A page of `items`, which stand in the order they were sent in.
///
/// # Errors
/// There is no item that the page could come after.
pub fn encode_list(items: &[StoredItem], query: &ListQuery) -> Result<Vec<u8>, BadRequest> {
    let mut ordered: Vec<&StoredItem> = items.iter().collect();
    match query.order {
        ListOrder::Ascending => {}
        ListOrder::Descending => ordered.reverse(),
    }
    let from = match &query.after {
        None => 0,
        Some(id) => {
            let at = ordered.iter().position(|item| item.id == *id);
            let said = format!("there is no item with the id '{}'.", fault::shown(id));
            at.ok_or_else(|| fault::invalid(&"after", said))? + 1
        }
    };
    let rest = &ordered[from..];
    let page = &rest[..rest.len().min(query.limit)];
    let id_of = |item: Option<&&StoredItem>| item.map_or_else(String::new, |item| item.id.clone());
    let head = json!({
        "object": "list",
        "has_more": page.len() < rest.len(),
        "first_id": id_of(page.first()),
        "last_id": id_of(page.last()),
    });
    let mut list = head.to_string().into_bytes();
    list.pop();
    list.extend_from_slice(b",\"data\":");
    put_items(page.iter().copied(), &mut list);
    list.push(b'}');
    Ok(list)
}

/// What is said when the response `id` was forgotten.
#[must_use]
pub fn encode_deleted(id: &str) -> Vec<u8> {
    let said = json!({"id": id, "object": "response", "deleted": true});
    said.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn items() -> Vec<StoredItem> {
        let item = |at: u32| StoredItem {
            id: format!("msg_{at}"),
            json: json!({ "id": format!("msg_{at}") }).to_string().into(),
        };
        (0..5).map(item).collect()
    }

    fn page(query: &[(&str, &str)]) -> (Vec<String>, bool) {
        let query = ListQuery::read(query.iter().copied()).unwrap();
        let list: Value = serde_json::from_slice(&encode_list(&items(), &query).unwrap()).unwrap();
        let ids = list["data"].as_array().unwrap().iter();
        let ids: Vec<String> = ids.map(|it| it["id"].as_str().unwrap().into()).collect();
        assert_eq!(list["first_id"], ids.first().cloned().unwrap_or_default());
        assert_eq!(list["last_id"], ids.last().cloned().unwrap_or_default());
        let ids = ids.iter().map(|id| id.replace("msg_", "")).collect();
        (ids, list["has_more"].as_bool().unwrap())
    }

    #[test]
    fn a_list_is_read_page_by_page_in_either_order() {
        let check = |query: &[(&str, &str)], ids: &str, has_more| {
            let (got, more) = page(query);
            assert_eq!((got.concat().as_str(), more), (ids, has_more), "{query:?}");
        };
        check(&[], "43210", false);
        check(&[("order", "asc")], "01234", false);
        check(&[("order", "asc"), ("limit", "2")], "01", true);
        check(&[("after", "msg_3"), ("limit", "2")], "21", true);
        check(&[("after", "msg_0")], "", false);
        check(
            &[("after", "msg_3"), ("order", "asc"), ("include", "x")],
            "4",
            false,
        );
    }

    #[test]
    fn faults_of_a_query_name_their_field() {
        for (name, value) in [
            ("limit", "0"),
            ("limit", "101"),
            ("limit", "x"),
            ("order", "up"),
        ] {
            let fault = ListQuery::read([(name, value)]).unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(name), "{value}");
        }
        let query = ListQuery::read([("after", "msg_9")]).unwrap();
        let fault = encode_list(&items(), &query).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("after"));
    }
}
