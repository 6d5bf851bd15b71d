//! An object's members taken apart and put together again, each value byte for byte.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Begins the object with the first member.
pub(crate) fn put_member(out: &mut BytesMut, name: &str, put_value: impl FnOnce(&mut BytesMut)) {
    out.put_u8(if out.is_empty() { b'{' } else { b',' });
    put_json(out, name);
    out.put_u8(b':');
    put_value(out);
}

pub(crate) fn put_json(out: &mut BytesMut, text: &str) {
    serde_json::to_writer(out.writer(), text).expect("writing strings to memory cannot fail");
}

/// An object's members in the order they stand, values unparsed.
pub(crate) struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = fields.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
