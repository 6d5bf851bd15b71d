//! What replicas share: whether it answers, and whether it is as they need it.

use domain::chain;
use store::{PostgresAddress, PostgresFault, PostgresLook, RedisAddress, RedisFault, RedisLook};

use super::Line;
use crate::config::Config;

pub async fn look(config: &Config) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(address) = &config.store.postgres {
        lines.push(postgres(address, address.look().await));
    }
    let counts = config.store.redis.as_ref().map(|it| &it.address);
    if let Some(address) = counts {
        lines.push(redis(address, address.look().await, true));
    }
    // Mostly the same one.
    let replies = config.cache.shared.as_ref().map(|it| &it.address);
    let is_counts = |it: &RedisAddress| counts.is_some_and(|at| at.to_string() == it.to_string());
    if let Some(address) = replies.filter(|it| !is_counts(it)) {
        lines.push(redis(address, address.look().await, false));
    }
    lines
}

fn postgres(address: &PostgresAddress, looked: Result<PostgresLook, PostgresFault>) -> Line {
    const WHAT: &str = "postgres";
    let look = match looked {
        Ok(look) => look,
        Err(fault) => {
            return Line::fail(
                WHAT,
                format!("{address}: {}", chain(&fault)),
                "look at store.postgres: address, user, password, database, sslmode and sslrootcert; until \
                 then records wait in a file, and no key is changed",
            );
        }
    };
    let (found, known) = (format!("{address}, Postgres {}", look.server), look.known);
    let next = match look.schema {
        Some(version) if version == known => return Line::ok(WHAT, found),
        Some(version) => {
            format!("the next start brings its schema from version {version} to {known}")
        }
        None => "the first start makes the schema `hedge`".to_owned(),
    };
    match look.may_make {
        true => Line::ok(WHAT, format!("{found}; {next}")),
        false => Line::fail(
            WHAT,
            format!("{found}; its user may neither make nor change the schema `hedge`"),
            "GRANT CREATE ON DATABASE to that user, or give it a schema `hedge` of its own",
        ),
    }
}

/// `counts`: limits are counted there, which must not be lost.
fn redis(address: &RedisAddress, looked: Result<RedisLook, RedisFault>, counts: bool) -> Line {
    const WHAT: &str = "redis";
    let key = if counts { "store.redis" } else { "cache.redis" };
    let look = match looked {
        Ok(look) => look,
        Err(fault) => {
            return Line::fail(
                WHAT,
                format!("{address}: {}", chain(&fault)),
                format!("look at {key}: address, password, and store.redis_ca for rediss://"),
            );
        }
    };
    let found = format!(
        "{address}, Redis {} answers in {:.1} ms",
        look.version,
        look.took.as_secs_f64() * 1e3
    );
    if !look.is_recent() {
        return Line::fail(WHAT, found, "take Redis 5 or later, or Valkey");
    }
    if look.is_replica {
        let found = format!("{found}; it follows another one and takes no writes");
        return Line::fail(WHAT, found, format!("name that one in {key}"));
    }
    if look.evicts && counts {
        return Line::warn(
            WHAT,
            format!("{found}; where it is full it forgets counts of limits, which begin anew"),
            "set its maxmemory-policy to noeviction",
        );
    }
    Line::ok(WHAT, found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::commands::doctor::State;

    #[test]
    fn each_postgres_says_what_to_do() {
        let address: PostgresAddress = "postgres://u:s3cret@db.example/hedge".parse().unwrap();
        let look = |schema, may_make| {
            Ok(PostgresLook {
                server: "15.14".into(),
                schema,
                known: 5,
                may_make,
            })
        };
        for (looked, state, words) in [
            (look(Some(5), false), State::Ok, "Postgres 15.14"),
            (look(Some(4), false), State::Fail, "may neither"),
            (look(None, false), State::Fail, "may neither"),
            (look(Some(4), true), State::Ok, "from version 4 to 5"),
            (look(None, true), State::Ok, "the first start"),
            (Err(PostgresFault::ReadOnly), State::Fail, "standby"),
        ] {
            let line = postgres(&address, looked);
            assert_eq!(line.state, state, "{line}");
            assert!(line.to_string().contains(words), "{line}");
            assert!(!line.to_string().contains("s3cret"), "{line}");
        }
    }

    #[test]
    fn each_redis_says_what_to_do() {
        let address: RedisAddress = "redis://:s3cret@cache.example".parse().unwrap();
        let well = RedisLook {
            version: "7.0.15".into(),
            evicts: false,
            is_replica: false,
            took: Duration::from_micros(240),
        };
        let evicts = RedisLook {
            evicts: true,
            ..well.clone()
        };
        let replica = RedisLook {
            is_replica: true,
            ..well.clone()
        };
        let old = RedisLook {
            version: "4.0.9".into(),
            ..well.clone()
        };
        for (look, counts, state, words) in [
            (well, true, State::Ok, "0.2 ms"),
            (evicts.clone(), true, State::Warn, "noeviction"),
            (evicts, false, State::Ok, "7.0.15"),
            (replica, true, State::Fail, "in store.redis"),
            (old, false, State::Fail, "Redis 5"),
        ] {
            let line = redis(&address, Ok(look), counts);
            assert_eq!(line.state, state, "{line}");
            assert!(line.to_string().contains(words), "{line}");
            assert!(!line.to_string().contains("s3cret"), "{line}");
        }
    }
}
