//! What those who sign in may do, and by what name it is written down. Pure.

use std::sync::Arc;

use domain::Identity;

use crate::operators::Role;

/// Before the name of whoever signed in, in the audit log: no token's name begins so.
const SIGNED_IN: &str = "oidc:";

/// Somebody has a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleGrant {
    pub role: Role,
    pub to: RoleHolder,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleHolder {
    /// Everybody with this value in the claim that roles are read from.
    Claim(String),
    /// Whoever has this address, if the provider has verified it. Its letters' case does not matter.
    Email(String),
    /// One person.
    Subject(String),
}

/// What people are called in the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamedBy {
    #[default]
    Subject,
    /// The verified address, or the subject where there is none.
    Email,
}

impl RoleHolder {
    fn is(&self, identity: &Identity) -> bool {
        match self {
            Self::Claim(value) => identity.roles.contains(value),
            Self::Email(address) => {
                let email = identity.email.as_ref();
                email.is_some_and(|email| email.eq_ignore_ascii_case(address))
            }
            Self::Subject(subject) => identity.subject == *subject,
        }
    }
}

impl NamedBy {
    pub(super) fn name_of(self, identity: &Identity) -> Arc<str> {
        let email = identity.email.as_ref().filter(|_| self == Self::Email);
        let name = email.unwrap_or(&identity.subject);
        format!("{SIGNED_IN}{name}").into()
    }
}

/// The most that anything grants; `None`: nothing.
pub(super) fn role_of(grants: &[RoleGrant], identity: &Identity) -> Option<Role> {
    let granted = grants.iter().filter(|grant| grant.to.is(identity));
    granted.map(|grant| grant.role).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(subject: &str, email: Option<&str>, roles: &[&str]) -> Identity {
        Identity {
            subject: subject.into(),
            email: email.map(str::to_owned),
            roles: roles.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn a_person_has_the_greatest_role_that_anything_grants() {
        let grant = |role, to| RoleGrant { role, to };
        let grants = [
            grant(Role::Viewer, RoleHolder::Claim("staff".into())),
            grant(Role::Owner, RoleHolder::Claim("platform".into())),
            grant(
                Role::Operator,
                RoleHolder::Email("Olga@acme.example".into()),
            ),
            grant(Role::Operator, RoleHolder::Subject("s-1".into())),
        ];
        let cases = [
            (identity("x", None, &[]), None),
            (identity("x", None, &["staff"]), Some(Role::Viewer)),
            (
                identity("x", None, &["staff", "platform"]),
                Some(Role::Owner),
            ),
            (
                identity("x", None, &["platform", "staff"]),
                Some(Role::Owner),
            ),
            // Values are compared whole, and as they are.
            (
                identity("x", None, &["Staff", "staf", "staff,platform", ""]),
                None,
            ),
            (
                identity("x", Some("olga@ACME.example"), &["staff"]),
                Some(Role::Operator),
            ),
            (identity("x", Some("olga@acme.example.evil"), &[]), None),
            (identity("s-1", None, &[]), Some(Role::Operator)),
            (identity("S-1", None, &[]), None),
            // One is not taken for another.
            (identity("staff", Some("platform"), &["s-1"]), None),
        ];
        for (identity, role) in cases {
            assert_eq!(role_of(&grants, &identity), role, "{identity:?}");
            assert_eq!(role_of(&[], &identity), None);
        }
    }

    #[test]
    fn a_name_says_how_it_came_about() {
        let olga = identity("s-1", Some("olga@acme.example"), &[]);
        assert_eq!(&*NamedBy::Subject.name_of(&olga), "oidc:s-1");
        assert_eq!(&*NamedBy::Email.name_of(&olga), "oidc:olga@acme.example");
        let nameless = identity("s-1", None, &[]);
        assert_eq!(&*NamedBy::Email.name_of(&nameless), "oidc:s-1");
    }
}
