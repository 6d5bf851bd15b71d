//! The canonical form of what cache keys are made of: two are the same bytes when, and only when, they
//! say the same.
//!
//! ```text
//! value = tag, and
//!   none    nothing
//!   some    a value
//!   flag    1 byte
//!   number  8 bytes, little-endian; a fraction by its bits, so no rounding makes two one
//!   text    its length as a number's 8 bytes, UTF-8
//!   list    how many, the elements
//!   fields  how many, each name as text and value, sorted by name
//!   written a number of JSON's, as text
//! ```
//!
//! Every value says how long it is, so none runs into the next. What is made of several stands one after
//! the other in a fixed order, without names; where there are kinds of it, the first is the kind's name and
//! says what comes.

use serde_json::{Map, Value};

const NONE: u8 = 0;
const FLAG: u8 = 1;
const NUMBER: u8 = 2;
const TEXT: u8 = 3;
const LIST: u8 = 4;
const FIELDS: u8 = 5;
const WRITTEN: u8 = 6;
const SOME: u8 = 7;

/// Bytes that most forms fit in.
const USUAL: usize = 1024;

/// A canonical form being written.
pub struct Form(Vec<u8>);

impl Form {
    /// One whose `kind` no other form begins with.
    pub fn new(kind: &str) -> Self {
        let mut form = Self(Vec::with_capacity(USUAL));
        form.put(kind);
        form
    }

    pub fn put<T: Canonical + ?Sized>(&mut self, value: &T) -> &mut Self {
        value.put_in(self);
        self
    }

    /// As many values as it says, each put by `put`.
    pub fn put_each<T>(&mut self, values: &[T], mut put: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.tagged(LIST, values.len() as u64);
        values.iter().for_each(|value| put(self, value));
        self
    }

    /// Those of the fields that are wanted.
    pub fn put_fields(
        &mut self,
        fields: &Map<String, Value>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> &mut Self {
        let mut wanted: Vec<(&String, &Value)> =
            fields.iter().filter(|(name, _)| is_wanted(name)).collect();
        wanted.sort_unstable_by_key(|(name, _)| *name);
        self.tagged(FIELDS, wanted.len() as u64);
        for (name, value) in wanted {
            self.put(name.as_str()).put(value);
        }
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn tagged(&mut self, tag: u8, number: u64) {
        self.0.push(tag);
        self.0.extend_from_slice(&number.to_le_bytes());
    }
}

/// What has a canonical form.
pub trait Canonical {
    fn put_in(&self, form: &mut Form);
}

impl Canonical for str {
    fn put_in(&self, form: &mut Form) {
        form.tagged(TEXT, self.len() as u64);
        form.0.extend_from_slice(self.as_bytes());
    }
}

impl Canonical for String {
    fn put_in(&self, form: &mut Form) {
        form.put(self.as_str());
    }
}

impl<T: Canonical + ?Sized> Canonical for &T {
    fn put_in(&self, form: &mut Form) {
        (**self).put_in(form);
    }
}

impl Canonical for u64 {
    fn put_in(&self, form: &mut Form) {
        form.tagged(NUMBER, *self);
    }
}

impl Canonical for u32 {
    fn put_in(&self, form: &mut Form) {
        form.put(&u64::from(*self));
    }
}

impl Canonical for f32 {
    fn put_in(&self, form: &mut Form) {
        form.put(&self.to_bits());
    }
}

impl Canonical for bool {
    fn put_in(&self, form: &mut Form) {
        form.0.extend_from_slice(&[FLAG, u8::from(*self)]);
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn put_in(&self, form: &mut Form) {
        match self {
            Some(value) => {
                form.0.push(SOME);
                value.put_in(form);
            }
            None => form.0.push(NONE),
        }
    }
}

impl<T: Canonical> Canonical for [T] {
    fn put_in(&self, form: &mut Form) {
        form.put_each(self, |form, value| value.put_in(form));
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn put_in(&self, form: &mut Form) {
        form.put(self.as_slice());
    }
}

impl Canonical for Map<String, Value> {
    fn put_in(&self, form: &mut Form) {
        form.put_fields(self, |_| true);
    }
}

impl Canonical for Value {
    fn put_in(&self, form: &mut Form) {
        match self {
            Value::Null => form.0.push(NONE),
            Value::Bool(is_so) => is_so.put_in(form),
            Value::Number(number) => {
                let written = number.to_string();
                form.0.push(WRITTEN);
                form.put(&written);
            }
            Value::String(text) => text.put_in(form),
            Value::Array(values) => values.put_in(form),
            Value::Object(fields) => fields.put_in(form),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bytes(value: &impl Canonical) -> Vec<u8> {
        Form::new("test").put(value).as_bytes().to_vec()
    }

    #[test]
    fn what_is_other_has_other_bytes() {
        let all = [
            json!(null),
            json!(false),
            json!(0),
            json!(0.0),
            json!("0"),
            json!(""),
            json!([]),
            json!({}),
            json!([null]),
            json!([[], []]),
            json!([[[]]]),
            json!(["ab", "c"]),
            json!(["a", "bc"]),
            json!({ "a": "b" }),
            json!({ "ab": "" }),
            json!(["a", "b"]),
        ];
        let forms: Vec<Vec<u8>> = all.iter().map(bytes).collect();
        for (at, form) in forms.iter().enumerate() {
            assert!(!forms[..at].contains(form), "{}", all[at]);
        }
        assert_ne!(bytes(&0.0f32), bytes(&-0.0f32));
        assert_ne!(bytes(&None::<bool>), bytes(&Some(false)));
        assert_ne!(bytes(&None::<Value>), bytes(&Some(Value::Null)));
        assert_ne!(bytes(&None::<Option<bool>>), bytes(&Some(None::<bool>)));
        assert_ne!(Form::new("a").as_bytes(), Form::new("a").put("").as_bytes());
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ab\\x00-\\x07]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[ab]{0,2}", inner), 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// As it is, or changed by a little.
    fn changed(value: &Value, how: usize) -> Value {
        match value {
            Value::Array(values) if how.is_multiple_of(3) => {
                let (head, tail) = values.split_at(how / 3 % (values.len() + 1));
                json!([head, tail])
            }
            Value::Array(values) if how % 3 == 1 => {
                let changed = values.iter().map(|value| changed(value, how / 3));
                changed.collect::<Vec<_>>().into()
            }
            Value::Object(fields) if how.is_multiple_of(2) => {
                fields.values().cloned().collect::<Vec<_>>().into()
            }
            Value::String(text) if how.is_multiple_of(2) => {
                let at = how / 2 % (text.len() + 1);
                json!([text[..at], text[at..]])
            }
            Value::Null if how.is_multiple_of(2) => json!([]),
            Value::Number(number) if how.is_multiple_of(2) => json!(number.to_string()),
            other => other.clone(),
        }
    }

    proptest! {
        /// Also where a text holds what tags and lengths are made of, and two differ by little.
        #[test]
        fn bytes_are_equal_when_what_is_said_is(one in json_value(), how in 0usize..1_000) {
            let other = changed(&one, how);
            prop_assert_eq!(bytes(&one) == bytes(&other), one == other);
        }

        /// However a row of values is cut into two.
        #[test]
        fn values_do_not_run_together(
            values in prop::collection::vec(json_value(), 1..4),
            cuts in (0usize..4, 0usize..4),
        ) {
            let cut = |at: usize| {
                let (head, tail) = values.split_at(at.min(values.len()));
                (head.to_vec(), tail.to_vec())
            };
            let (one, other) = (cut(cuts.0), cut(cuts.1));
            let form = |(a, b): &(Vec<Value>, Vec<Value>)| Form::new("test").put(a).put(b).as_bytes().to_vec();
            prop_assert_eq!(form(&one) == form(&other), one == other);
        }

        #[test]
        fn the_order_of_fields_says_nothing(
            mut fields in prop::collection::btree_map("[a-d]{0,2}", json_value(), 0..4)
                .prop_map(|it| it.into_iter().collect::<Vec<_>>()),
        ) {
            let object = |fields: &[(String, Value)]| Value::Object(fields.iter().cloned().collect());
            let there = bytes(&object(&fields));
            fields.reverse();
            prop_assert_eq!(bytes(&object(&fields)), there);
        }
    }
}
