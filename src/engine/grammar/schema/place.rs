//! Where in a schema something is wrong.

use domain::BadRequest;

/// Where the schema of a format stands in a request.
pub(in crate::grammar) const PLACE: &str = "response_format.json_schema.schema";

/// Characters of one name in a place that is told.
pub(super) const NAME_CHARS_MAX: usize = 64;

/// A place in the schema. It is written out only when something is wrong there.
pub(super) enum Place<'a> {
    /// The schema itself, by its path in the request.
    Root(&'a str),
    Name(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl<'a> Place<'a> {
    pub(super) fn name(&'a self, name: &'a str) -> Place<'a> {
        Place::Name(self, name)
    }

    pub(super) fn index(&'a self, index: usize) -> Place<'a> {
        Place::Index(self, index)
    }

    pub(super) fn path(&self) -> String {
        match self {
            Place::Root(path) => (*path).to_owned(),
            Place::Name(parent, name) => {
                let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                format!("{}.{name}", parent.path())
            }
            Place::Index(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }

    pub(super) fn refuse(&self, said: impl Into<String>) -> BadRequest {
        BadRequest::at(self.path(), said)
    }

    pub(super) fn wants(&self, what: &str) -> BadRequest {
        self.refuse(format!("expected {what}"))
    }
}
