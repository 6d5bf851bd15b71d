//! Tools of a provider's own: it runs them itself, or says what they take (`web_search`, `bash`,
//! `googleSearch`). They go to upstreams of their dialect as they came. Nobody else has them, so the
//! request says by `bound_by` that it has some, and no other candidate gets it.
//!
//! A tool stands in the request's `extra` under its JSON Pointer: `/tools/2`.

use domain::Extra;
use serde_json::Value;

use crate::fields::Path;

pub(crate) fn keep(path: Path<'_>, tool: Value, extra: &mut Extra) {
    extra.insert(path.pointer(), tool);
}

/// Those that were kept, with their places in the caller's list, in its order.
fn kept(extra: &Extra) -> impl Iterator<Item = (usize, &Value)> {
    extra.iter().filter_map(|(name, tool)| {
        let at = name.strip_prefix("/tools/")?.parse().ok()?;
        Some((at, tool))
    })
}

pub(crate) fn are_in(extra: &Extra) -> bool {
    kept(extra).next().is_some()
}

pub(crate) fn has_named(extra: &Extra, name: &str) -> bool {
    kept(extra).any(|(_, tool)| tool.get("name").is_some_and(|own| own == name))
}

/// Puts them where they stood among `tools`.
pub(crate) fn put_back(tools: &mut Vec<Value>, extra: &Extra) {
    for (at, tool) in kept(extra) {
        tools.insert(at.min(tools.len()), tool.clone());
    }
}

/// What binds a request to its dialect: the first such tool, or else a field of the top that is one of
/// `fields`.
pub(crate) fn bound_by(extra: &Extra, fields: &[&str]) -> Option<String> {
    let of_tool = |(at, tool): (usize, &Value)| {
        // Google names a tool by its only member, others by `type`.
        let member = tool.as_object().filter(|tool| !tool.contains_key("type"));
        let path = Path::Field(&Path::Root, "tools");
        let path = path.index(at);
        match member.and_then(|tool| tool.keys().next()) {
            Some(name) => path.field(name).to_string(),
            None => path.to_string(),
        }
    };
    let mut fields = fields.iter();
    let mut field = || fields.find(|name| extra.get(**name).is_some_and(|value| !value.is_null()));
    kept(extra)
        .next()
        .map(of_tool)
        .or_else(|| field().map(|name| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn own_tools_stand_again_where_they_stood() {
        let mut extra = Extra::new();
        let tools = Path::Root.field("tools");
        for at in [0, 2, 3] {
            keep(
                tools.index(at),
                json!({"type": "bash", "name": "b", "at": at}),
                &mut extra,
            );
        }
        extra.insert("/tools/1/cache_control".into(), json!({}));
        let mut list = vec![json!(1), json!(4)];
        put_back(&mut list, &extra);
        let at = |tool: &Value| tool.get("at").cloned().unwrap_or_else(|| tool.clone());
        let places: Vec<Value> = list.iter().map(at).collect();
        assert_eq!(places, [0, 1, 2, 3, 4].map(Value::from));
        assert!(has_named(&extra, "b") && !has_named(&extra, "c"));
    }

    #[test]
    fn what_binds_a_request_is_named_by_its_place() {
        let mut extra = Extra::new();
        assert_eq!(bound_by(&extra, &["container"]), None);
        extra.insert("container".into(), Value::Null);
        assert_eq!(bound_by(&extra, &["container"]), None);
        extra.insert("container".into(), json!("c-1"));
        assert_eq!(
            bound_by(&extra, &["container"]).as_deref(),
            Some("container")
        );
        extra.insert("/tools/3".into(), json!({"googleSearch": {}}));
        let bound = bound_by(&extra, &["container"]);
        assert_eq!(bound.as_deref(), Some("tools[3].googleSearch"));
        extra.insert(
            "/tools/3".into(),
            json!({"type": "bash_20250124", "name": "bash"}),
        );
        assert_eq!(bound_by(&extra, &[]).as_deref(), Some("tools[3]"));
    }
}
